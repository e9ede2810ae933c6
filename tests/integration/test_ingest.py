"""Ingest with real Ray tasks: nothing is read twice, nothing is lost, and a killed ingest leaves no trace."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from naturaltone.infra import local
from naturaltone.pipeline import storage, stream, tone
from naturaltone.pipeline.dataset import forget, ingest, shards, summary
from naturaltone.pipeline.photo.stored import decode_rgb, encode_jpeg
from naturaltone.serving.sheet import store as store_page

pytestmark = pytest.mark.usefixtures("ray_cluster")

LONG_SIDE = 96


@pytest.fixture
def folder(photo_folder: Path, tmp_path: Path) -> Path:
    """Its own copy of the 24 photos."""
    return Path(shutil.copytree(photo_folder, tmp_path / "photos"))


@pytest.fixture
def small_waves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "WAVE_PHOTOS", 10)
    monkeypatch.setattr(shards, "SHARD_PHOTOS", 4)


def run(folder: Path, store: Path, role: str = "natural", **options: object) -> ingest.IngestReport:
    return ingest.ingest(str(folder), role=role, store=str(store), long_side=LONG_SIDE, **options)  # type: ignore[arg-type]


def content(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def names(store: Path, role: str = "natural") -> list[str]:
    opened = shards.open_store(str(store))
    return sorted(row["source"].rpartition("/")[2] for split in ("train", "test") for row in opened.photos(role, split))


def test_known_files_are_not_read_again_and_changed_ones_are(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert run(folder, store).added == 24
    silently, openly = folder / "01.jpg", folder / "02.jpg"
    stat = silently.stat()
    silently.write_bytes(bytes(stat.st_size))
    os.utime(silently, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    openly.write_bytes((folder / "03.jpg").read_bytes() + b"\0")
    again = run(folder, store)
    assert (again.added, again.unchanged, again.rejects.num_rows) == (1, 23, 0), "size and time say nothing happened"
    thorough = run(folder, store, full=True)
    assert (thorough.added, thorough.duplicates) == (0, 23)
    assert thorough.rejects["reason"].to_pylist() == ["not_an_image"]
    assert len(names(store)) == 25, "what was ingested stays until it is forgotten"


def test_an_objects_etag_tells_that_it_changed(object_store: local.ObjectStore, folder: Path, tmp_path: Path) -> None:
    source = storage.join(object_store.uri, "incremental")
    for name in ("01.jpg", "02.jpg"):
        storage.write_bytes(storage.join(source, name), (folder / name).read_bytes())
    store = str(tmp_path / "store")
    assert ingest.ingest(source, role="natural", store=store).added == 2
    storage.write_bytes(storage.join(source, "02.jpg"), (folder / "03.jpg").read_bytes())
    report = ingest.ingest(source, role="natural", store=store)
    assert (report.added, report.unchanged) == (1, 1)


def test_the_same_content_is_stored_once_whatever_wave_or_folder_it_comes_in(
    folder: Path, tmp_path: Path, small_waves: None
) -> None:
    store = tmp_path / "store"
    shutil.copy(folder / "01.jpg", folder / "01 again.jpg")  # in the same wave
    shutil.copy(folder / "01.jpg", folder / "zz.jpg")  # in a later one
    report = run(folder, store)
    assert (report.found, report.added, report.duplicates) == (26, 24, 2)
    elsewhere = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    report = run(elsewhere, store)
    assert (report.added, report.duplicates) == (0, 26)
    assert run(elsewhere, store).unchanged == 26, "duplicates are known too"


def test_every_file_that_is_not_in_the_store_is_listed_with_its_reason(
    folder: Path, tmp_path: Path, small_waves: None
) -> None:
    (folder / "raw.NEF").write_bytes(b"MM\0*" + bytes(100))
    Image.new("P", (40, 40)).save(folder / "drawing.gif")
    (folder / "text.jpg").write_text("no photo")
    (folder / "text again.jpg").write_text("no photo")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "letter.txt").write_text("Dear all")
    for _ in range(2):
        report = run(folder, tmp_path / "store")
        reasons = {row["source"].rpartition("/")[2]: row["reason"] for row in report.rejects.to_pylist()}
        assert reasons == {
            "raw.NEF": "raw",
            "drawing.gif": "unsupported_format",
            "gone.jpg": "unreadable",
            "text.jpg": "not_an_image",
            "text again.jpg": "not_an_image",
        }
        kept = pq.read_table(tmp_path / "store" / shards.REJECTS)
        assert sorted(kept["reason"].to_pylist()) == sorted(reasons.values())
        assert report.other_files == 1
    shutil.copy(folder / "01.jpg", folder / "text.jpg")
    run(folder, tmp_path / "store")
    kept = pq.read_table(tmp_path / "store" / shards.REJECTS)
    assert len(kept) == 4, "a file that was mended is off the list"


def test_several_ingests_add_up_and_a_forgotten_source_is_gone(folder: Path, tmp_path: Path, small_waves: None) -> None:
    store, second = tmp_path / "store", tmp_path / "second"
    second.mkdir()
    for name in ("01.jpg", "02.jpg"):
        shutil.copy(folder / name, second / f"also {name}")
    shutil.move(folder / "05.jpg", second / "05.jpg")
    run(folder, store)
    run(second, store)
    (folder / "text.jpg").write_text("no photo")
    run(folder, store)
    assert len(names(store)) == 24
    assert forget.forget(str(folder), role="natural", store=str(store)) == 21
    assert names(store) == ["05.jpg", "also 01.jpg", "also 02.jpg"]
    opened = shards.open_store(str(store))
    assert opened.origins["natural"] == (str(second),)
    named = {*opened.row_groups["file"].to_pylist(), *opened.sources["natural"], shards.MANIFEST, shards.REJECTS}
    assert set(content(store)) == named, "neither shards nor lists of the forgotten photos stay behind"
    assert pq.read_table(store / shards.REJECTS).num_rows == 0
    assert run(folder, store).added == 21, "forgotten photos can come back"
    with pytest.raises(storage.StorageError, match="knows no natural photos from there"):
        forget.forget("/never/ingested", role="natural", store=str(store))


def test_forgetting_one_of_two_copies_keeps_every_photo(folder: Path, tmp_path: Path, small_waves: None) -> None:
    store, copy = tmp_path / "store", Path(shutil.copytree(folder, tmp_path / "copy"))
    run(folder, store)
    run(copy, store)
    assert forget.forget(str(folder), role="natural", store=str(store)) == 0
    opened = shards.open_store(str(store))
    rows = [row for split in ("train", "test") for row in opened.photos("natural", split)]
    assert len(rows) == 24 and all(row["source"].startswith(str(copy)) for row in rows)


def test_a_retried_file_is_not_known_before_its_photo_is_in_the_store(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between writing the list of sources and the manifest, when an earlier list of the same file exists."""
    store, target = tmp_path / "store", tmp_path / "elsewhere.jpg"
    (folder / "link.jpg").symlink_to(target)
    for _ in range(3):
        assert run(folder, store).rejects["reason"].to_pylist() == ["unreadable"]
    assert len(shards.open_store(str(store)).sources["natural"]) == 2, "the same outcome again adds no list"
    with monkeypatch.context() as patched:
        patched.setattr(shards, "update_manifest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        patched.setattr(storage, "list_files", _with_version_of(storage.list_files, "link.jpg"))
        target.write_bytes((folder / "01.jpg").read_bytes() + b"\0")
        with pytest.raises(KeyboardInterrupt):
            run(folder, store)
    monkeypatch.setattr(storage, "list_files", _with_version_of(storage.list_files, "link.jpg"))
    assert run(folder, store).added == 1
    assert len(names(store)) == 25


def _with_version_of(list_files: Callable[..., Iterator[storage.File]], name: str) -> Callable[..., object]:
    """The listing in which one file keeps the size and version of the broken link it was."""

    def listed(*arguments: object, **options: object) -> Iterator[storage.File]:
        for file in list_files(*arguments, **options):
            same = Path(file.uri).lstat()
            is_it = file.relative == name
            yield dataclasses.replace(file, size=same.st_size, version=str(same.st_mtime_ns)) if is_it else file

    return listed


def test_full_stores_new_content_of_an_unchanged_name_once(
    folder: Path, tmp_path: Path, to_file: Callable[..., bytes]
) -> None:
    store, changed = tmp_path / "store", folder / "01.jpg"
    run(folder, store)
    stat = changed.stat()
    changed.write_bytes(to_file(np.full((40, 40, 3), 90, np.uint8)).ljust(stat.st_size, b"\0"))
    os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert [run(folder, store, full=True).added for _ in range(3)] == [1, 0, 0]
    assert len(names(store)) == 25


def test_copies_of_a_raw_file_are_both_rejected_as_raw(folder: Path, tmp_path: Path) -> None:
    for name in ("a.dng", "b.dng"):
        (folder / name).write_bytes(b"II*\0" + bytes(100))
    assert run(folder, tmp_path / "store").rejects["reason"].to_pylist() == ["raw", "raw"]


def test_a_wave_committed_twice_is_in_the_store_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the answer to the manifest's write is lost, and another writer was faster than its repetition."""
    update = shards.update_manifest
    monkeypatch.setattr(shards, "update_manifest", lambda store, change: update(store, lambda s: change(change(s))))
    run(folder, tmp_path / "store")
    assert shards.open_store(str(tmp_path / "store")).count("natural") == 24


@pytest.mark.parametrize("moment", ["before the manifest", "after the manifest"])
def test_an_ingest_that_dies_at_a_commit_goes_on_to_the_same_store(
    moment: str, folder: Path, tmp_path: Path, small_waves: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(folder, tmp_path / "undisturbed")
    update, commits = shards.update_manifest, iter(range(9))

    def dying(*arguments: object) -> object:
        dies = next(commits) == 1
        if dies and moment == "before the manifest":
            raise KeyboardInterrupt
        result = update(*arguments)  # type: ignore[arg-type]
        if dies:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(shards, "update_manifest", dying)
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "store")
    monkeypatch.setattr(shards, "update_manifest", update)
    (tmp_path / "store" / "natural" / "train-0123.parquet.ab12.tmp").write_bytes(b"half a shard")
    (tmp_path / "store" / f".cd34cd34{storage.TEMPORARY_SUFFIX}").write_bytes(b"half a manifest")
    run(folder, tmp_path / "store")
    assert content(tmp_path / "store") == content(tmp_path / "undisturbed")


_INGEST = """
import sys
from naturaltone.infra.local import ray_session
from naturaltone.pipeline.dataset import ingest, shards
ingest.WAVE_PHOTOS, shards.SHARD_PHOTOS = 6, 3
with ray_session():
    ingest.ingest(sys.argv[1], role="natural", store=sys.argv[2], long_side=96)
"""


def test_a_killed_ingest_run_again_gives_the_store_of_an_undisturbed_one(folder: Path, tmp_path: Path) -> None:
    def start(store: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", _INGEST, str(folder), str(tmp_path / store)],
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
        )

    assert start("undisturbed").wait() == 0
    killed = start("store")
    while not (tmp_path / "store" / shards.MANIFEST).exists():
        assert killed.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)  # somewhere in the second wave
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert content(tmp_path / "store") != content(tmp_path / "undisturbed")
    assert start("store").wait() == 0
    assert content(tmp_path / "store") == content(tmp_path / "undisturbed")


def test_both_roles_can_be_ingested_at_once_and_one_role_only_once(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    threads = [threading.Thread(target=run, args=(folder, store, role)) for role in shards.ROLES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(store, "input")) == len(names(store, "natural")) == 24
    with storage.locked(str(store / "natural")):
        with pytest.raises(storage.StorageError, match="another process is writing there"):
            run(folder, store)


@pytest.fixture(scope="module")
def stores(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, shards.Store]]:
    """The same photos with cached and with streamed intermediates."""
    opened = {}
    for kind in shards.INTERMEDIATES:
        store = tmp_path_factory.mktemp(kind) / "store"
        for role in shards.ROLES:
            run(photo_folder, store, role, intermediates=kind)
        opened[kind] = shards.open_store(str(store))
    yield opened


def test_streamed_intermediates_are_the_cached_ones(stores: dict[str, shards.Store]) -> None:
    group = stores["stream"].select("input").to_pylist()[0]
    stored = shards.read_row_group(stores["stream"].uri, group["file"], group["row_group"], ["intermediate"])
    assert stored["intermediate"].null_count == stored.num_rows
    plans = [
        stream.make_plan(stores["cached"], batch=4, crop=32, seed=1),
        stream.make_plan(stores["stream"], batch=4, crop=32, seed=1),
        stream.make_plan(stores["cached"], batch=4, crop=32, seed=1, intermediates="stream"),
    ]
    samples = [stream.read_positions(plan, np.arange(60)) for plan in plans]
    for name in stream.COLUMNS:
        assert np.array_equal(samples[0][name], samples[1][name]) and np.array_equal(samples[0][name], samples[2][name])


def test_a_store_without_intermediates_cannot_be_read_as_if_it_had_them(stores: dict[str, shards.Store]) -> None:
    with pytest.raises(ValueError, match="holds no intermediates; use --intermediates stream"):
        stream.make_plan(stores["stream"], batch=4, crop=32, seed=1, intermediates="cached")


@pytest.mark.parametrize("name", ["shift_scale", "clahe"])
def test_another_algorithm_makes_another_store(name: str, photo_folder: Path, tmp_path: Path) -> None:
    run(photo_folder, tmp_path / "store", "input", algorithm=name)
    opened = shards.open_store(str(tmp_path / "store"))
    assert opened.algorithm == tone.algorithm_id(tone.ALGORITHMS[name])
    row = next(opened.photos("input", "train"))
    made = tone.intermediate(decode_rgb(row["image"]), tone.ALGORITHMS[name])
    assert row["intermediate"] == encode_jpeg(made)
    with pytest.raises(storage.StorageError, match="made with algorithm"):
        run(photo_folder, tmp_path / "store", "input")


def test_a_store_says_and_shows_what_it_holds(stores: dict[str, shards.Store]) -> None:
    for store in stores.values():
        numbers = summary.summarize(store)
        for role in shards.ROLES:
            assert sum(split["photos"] for split in numbers["photos"][role].values()) == 24
        assert "local_laplacian/1-" in summary.format_summary(numbers)
        page = store_page.page(store, pairs=2, seed=0)
        assert page.count("<img") == 6 and page != store_page.page(store, pairs=2, seed=1)


def test_a_store_can_be_read_while_it_grows(folder: Path, tmp_path: Path, to_file: Callable[..., bytes]) -> None:
    """Shards are never changed: a plan made before goes on over the photos that it was made of."""
    store = tmp_path / "store"
    for role in shards.ROLES:
        run(folder, store, role)
    plan = stream.make_plan(shards.open_store(str(store)), batch=4, crop=32, seed=1)
    before = stream.read_positions(plan, np.arange(8))
    (folder / "new.png").write_bytes(to_file(np.full((40, 40, 3), 90, np.uint8), "PNG"))
    for role in shards.ROLES:
        assert run(folder, store, role).added == 1
    stream._row_group.cache.clear()  # type: ignore[attr-defined]
    assert np.array_equal(stream.read_positions(plan, np.arange(8))["input"], before["input"])
