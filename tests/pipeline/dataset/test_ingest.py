"""An ingest adds new photos, names the photos that it leaves out, and may die at any moment."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image

from naturaltone.infra import local
from naturaltone.pipeline import lease, storage, tone
from naturaltone.pipeline.dataset import digests, ingest, ledger, shards
from naturaltone.pipeline.listing import File, list_files
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.pixels import shrink
from naturaltone.pipeline.photo.stored import decode_rgb, encode_jpeg
from naturaltone.pipeline.private_folder import private_folder
from naturaltone.pipeline.reasons import Reason
from naturaltone.pipeline.stream.plan import make_plan
from naturaltone.pipeline.stream.samples import _row_group, read_samples
from tests.ingests import run
from tests.mutations import mutations, samples
from tests.processes import title
from tests.stores import LONG_SIDE, content, names, photos_of

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_a_cached_intermediate_is_made_from_the_whole_stored_photo(store: str) -> None:
    row = next(shards.open_store(store).photos("input", "train"))
    photo = decode(storage.read_bytes(row["source"])).pixels
    stored = encode_jpeg(shrink(photo, 128))
    assert row["image"] == stored
    assert row["intermediate"] == encode_jpeg(tone.intermediate(decode_rgb(stored), tone.KEYED_LAPLACIAN))


@pytest.mark.skipif(local.cores() < 2, reason="takes two cores")
def test_all_cores_prepare_photos(tmp_path: Path, astronaut: np.ndarray, to_file: Callable[..., bytes]) -> None:
    """Ray Data sets CPUs aside for each stage; of two cores, one could rest."""
    (tmp_path / "photos").mkdir()
    for number in range(64):  # four tasks
        pixels = np.ascontiguousarray(np.roll(astronaut, number, axis=1))
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(to_file(pixels, quality=92))
    most, is_over = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not is_over.wait(0.05):
            children = psutil.Process().children(recursive=True)
            most = max(most, sum(ingest._prepare_batch.__name__ in title(child) for child in children))

    watching = threading.Thread(target=watch)
    watching.start()
    ingest.ingest(str(tmp_path / "photos"), role="input", store=str(tmp_path / "store"), long_side=512)
    is_over.set()
    watching.join()
    assert most >= 2


def test_known_photos_are_not_added_twice(store: str, photo_folder: Path) -> None:
    report = ingest.ingest(str(photo_folder), role="input", store=store, long_side=128)
    assert (report.added, report.unchanged, report.duplicates) == (0, 24, 0)
    assert len(photos_of(store, "input")) == 24


def test_a_store_made_with_other_options_is_refused(store: str, photo_folder: Path) -> None:
    with pytest.raises(storage.StorageError, match="made with long side 128, this ingest would use 64"):
        ingest.ingest(str(photo_folder), role="input", store=store, long_side=64)


def test_bad_photos_are_listed_with_their_reason_and_the_rest_goes_through(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: Counter[str] = Counter()
    monkeypatch.setattr(
        ingest.INGESTED, "add", lambda count, *, role, outcome, reason: counted.update({reason or outcome: count})
    )
    folder = tmp_path / "mixed"
    folder.mkdir()
    good = (photo_folder / "01.jpg").read_bytes()
    (folder / "good.jpg").write_bytes(good)
    (folder / "same again.jpg").write_bytes(good)
    (folder / "cut.jpg").write_bytes(good[: len(good) // 2])
    (folder / "text.jpg").write_text("no photo")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    store = str(tmp_path / "store")
    for _ in range(2):
        report = ingest.ingest(str(folder), role="natural", store=store)
        reasons = {row["source"].rpartition("/")[2]: row["reason"] for row in report.rejects.to_pylist()}
        assert reasons == {"cut.jpg": "truncated", "text.jpg": "not_an_image", "dot.png": "too_small"}
    assert [row["source"].rpartition("/")[2] for row in photos_of(store, "natural")] == ["good.jpg"]
    kept = pq.read_table(tmp_path / "store" / shards.REJECTS)
    assert sorted(kept["reason"].to_pylist()) == sorted(reasons.values())
    told = {"added": 1, "duplicate": 1, "truncated": 1, "not_an_image": 1, "too_small": 1}
    assert counted == told, "Prometheus gets them once: the second ingest reads nothing"


def test_nothing_is_started_if_no_file_has_to_be_read(folder: Path, tmp_path: Path) -> None:
    started: list[str] = []
    assert run(folder, tmp_path / "store", before_work=lambda: started.append("Ray")).added == 24
    assert started == ["Ray"]
    assert run(folder, tmp_path / "store", before_work=lambda: started.append("Ray")).unchanged == 24
    assert started == ["Ray"]


def test_known_files_are_not_read_again_and_changed_ones_are(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert run(folder, store).added == 24
    silently, openly = folder / "01.jpg", folder / "02.jpg"
    stat = silently.stat()
    silently.write_bytes(bytes(stat.st_size))
    os.utime(silently, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    openly.write_bytes((folder / "03.jpg").read_bytes() + b"\0")
    again = run(folder, store)
    assert (again.added, again.unchanged, again.rejects.num_rows) == (1, 23, 0), (
        "the size and time of 01.jpg did not change"
    )
    thorough = run(folder, store, full=True)
    assert (thorough.added, thorough.duplicates) == (0, 23)
    assert thorough.rejects["reason"].to_pylist() == ["not_an_image"]
    assert len(names(store)) == 25, "an ingested photo stays until it is forgotten"


def test_an_object_with_a_new_etag_is_read_again(object_store: local.ObjectStore, folder: Path, tmp_path: Path) -> None:
    source = storage.join(object_store.uri, "incremental")
    for name in ("01.jpg", "02.jpg"):
        storage.write_bytes(storage.join(source, name), (folder / name).read_bytes())
    store = str(tmp_path / "store")
    assert ingest.ingest(source, role="natural", store=store).added == 2
    storage.write_bytes(storage.join(source, "02.jpg"), (folder / "03.jpg").read_bytes())
    report = ingest.ingest(source, role="natural", store=store)
    assert (report.added, report.unchanged) == (1, 1)


def test_the_same_content_is_stored_once_across_waves_and_folders(
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


def test_a_retried_file_is_not_known_before_its_photo_is_in_the_store(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ingest is killed between writing the list of sources and the manifest. An earlier list names the same file."""
    store, target = tmp_path / "store", tmp_path / "elsewhere.jpg"
    (folder / "link.jpg").symlink_to(target)
    for _ in range(3):
        assert run(folder, store).rejects["reason"].to_pylist() == ["unreadable"]
    assert len(shards.open_store(str(store)).sources["natural"]) == 2, "the same outcome again adds no list"
    with monkeypatch.context() as patched:
        patched.setattr(shards, "update_manifest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        patched.setattr(ingest, "list_files", _with_version_of(list_files, "link.jpg"))
        target.write_bytes((folder / "01.jpg").read_bytes() + b"\0")
        with pytest.raises(KeyboardInterrupt):
            run(folder, store)
    monkeypatch.setattr(ingest, "list_files", _with_version_of(list_files, "link.jpg"))
    assert run(folder, store).added == 1
    assert len(names(store)) == 25


def _with_version_of(list_files: Callable[..., Iterator[File]], name: str) -> Callable[..., object]:
    """The listing, but one file has the size and version of its link, which was broken before."""

    def listed(*arguments: object, **options: object) -> Iterator[File]:
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
    """This happens if the answer to the manifest's write is lost, and another writer is faster than the retry."""
    update = shards.update_manifest
    monkeypatch.setattr(shards, "update_manifest", lambda store, change: update(store, lambda s: change(change(s))))
    run(folder, tmp_path / "store")
    assert shards.open_store(str(tmp_path / "store")).count("natural") == 24


def test_an_ingest_that_loses_its_lock_just_before_its_commit_changes_nothing(
    folder: Path, object_store: local.ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = storage.join(object_store.uri, tmp_path.name)
    write_sources = ledger.write_sources

    def write_slowly(*arguments: Any) -> str:
        file = write_sources(*arguments)
        storage.write_bytes(storage.join(store, "locks", "natural.json"), b'{"token": "other"}')
        monkeypatch.setattr(lease, "_SURE_SECONDS", 0.0)  # as if it took minutes: the next check asks the server
        return file

    monkeypatch.setattr(ledger, "write_sources", write_slowly)
    with pytest.raises(lease.LeaseLost):
        ingest.ingest(str(folder), role="natural", store=store, long_side=LONG_SIDE)
    assert not storage.exists(storage.join(store, shards.MANIFEST))


@pytest.mark.parametrize("moment", ["before the manifest", "after the manifest"])
def test_an_ingest_that_dies_at_a_commit_and_runs_again_makes_the_same_store(
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


def test_both_roles_can_be_ingested_at_once_but_not_one_role_twice(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    threads = [threading.Thread(target=run, args=(folder, store, role)) for role in shards.ROLES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(store, "input")) == len(names(store, "natural")) == 24
    with ledger.hold(str(store), "natural"):
        with pytest.raises(storage.StorageError, match=r"store' \(natural photos\): process .* is writing there"):
            run(folder, store)


@pytest.mark.parametrize("name", ["shift_scale", "clahe"])
def test_another_algorithm_makes_another_store(name: str, photo_folder: Path, tmp_path: Path) -> None:
    run(photo_folder, tmp_path / "store", "input", algorithm=name)
    opened = shards.open_store(str(tmp_path / "store"))
    assert opened.algorithm == tone.algorithm_id(tone.ALGORITHMS[name])
    row = next(opened.photos("input", "train"))
    made = tone.intermediate(decode_rgb(row["image"]), tone.ALGORITHMS[name])
    assert row["intermediate"] == encode_jpeg(made)
    with pytest.raises(storage.StorageError, match="made with algorithm"):
        run(photo_folder, tmp_path / "store", "input", algorithm=tone.KEYED_LAPLACIAN.name)


def test_a_store_keeps_its_algorithm_and_a_new_one_gets_the_keyed_one(tmp_path: Path) -> None:
    for store, algorithm in (("old", tone.LOCAL_LAPLACIAN), ("new", tone.KEYED_LAPLACIAN)):
        if store == "old":
            made = shards.empty_store(str(tmp_path / store), algorithm=tone.algorithm_id(algorithm), long_side=1024)
            shards.update_manifest(made, lambda store: store)
        assert ingest.open_or_new(str(tmp_path / store), role="input").algorithm == tone.algorithm_id(algorithm)


def test_a_store_can_be_read_while_it_grows(folder: Path, tmp_path: Path, to_file: Callable[..., bytes]) -> None:
    """Shards never change, so an earlier plan still reads the photos that it was made from."""
    store = tmp_path / "store"
    for role in shards.ROLES:
        run(folder, store, role)
    plan = make_plan(shards.open_store(str(store)), batch=4, crop=32, seed=1)
    before = read_samples(plan, np.arange(8))
    (folder / "new.png").write_bytes(to_file(np.full((40, 40, 3), 90, np.uint8), "PNG"))
    for role in shards.ROLES:
        assert run(folder, store, role).added == 1
    _row_group.cache.clear()  # type: ignore[attr-defined]
    assert np.array_equal(read_samples(plan, np.arange(8))["input"], before["input"])


@pytest.mark.usefixtures("ray_cluster")
def test_a_thousand_damaged_photos_are_each_in_the_store_or_rejected_with_a_reason(
    photo: np.ndarray, tmp_path: Path
) -> None:
    folder, store = tmp_path / "damaged", tmp_path / "store"
    folder.mkdir()
    for name, data in mutations(samples(photo), 1000, seed=7):
        (folder / name).write_bytes(data)
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    report = ingest.ingest(str(folder), role="input", store=str(store), long_side=96)
    assert report.found == 1000 == report.added + report.duplicates + report.rejects.num_rows
    assert report.added > 100 and report.rejects.num_rows > 300
    assert all(row["reason"] and row["detail"] for row in report.rejects.to_pylist())
    reasons = Counter(report.rejects["reason"].to_pylist())
    assert {"not_an_image", "truncated"} <= set(reasons) and "unreadable" not in reasons
    assert pq.read_table(store / shards.REJECTS).num_rows == report.rejects.num_rows
    workers = [p for p in psutil.Process().children(recursive=True) if p.pid in before and p.is_running()]
    assert max(process.memory_info().rss for process in workers) < 2**30
    opened = shards.open_store(str(store))
    assert sum(1 for split in ("train", "test") for _ in opened.photos("input", split)) == report.added


def test_too_little_memory_does_not_condemn_a_good_photo(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(data: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr(ingest, "decode", no_memory)
    source = photo_folder / "01.jpg"
    row = {"source": str(source), "key": "1", "size": source.stat().st_size}
    known_ids = ingest._KnownIds.of(digests.DigestSet(tmp_path))
    rejected = ingest._prepare(row, long_side=128, algorithm=None, known_ids=known_ids)
    assert rejected["reason"] == Reason.UNREADABLE and not Reason.UNREADABLE.lasts


def test_known_files_and_photos_are_found_when_they_do_not_fit_into_memory(
    folder: Path, tmp_path: Path, small_waves: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wave's tasks look up the photos of earlier waves and folders in files, through an actor."""
    expected = run(Path(shutil.copytree(folder, tmp_path / "copy")), tmp_path / "in memory")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # other runs on this machine have folders there
    monkeypatch.setattr(digests, "_RECENT", 5)
    monkeypatch.setattr(digests, "_MOST_RUNS", 2)
    store = tmp_path / "store"
    for name in ("01 again.jpg", "zz.jpg"):
        shutil.copy(folder / "01.jpg", folder / name)
    report = run(folder, store)
    assert (report.found, report.added, report.duplicates) == (26, expected.added, 2)
    again = run(folder, store)
    assert (again.unchanged, again.added) == (26, 0)
    assert run(tmp_path / "copy", store).duplicates == 24
    assert run(tmp_path / "copy", store, full=True).duplicates == 24
    assert list(private_folder("known").iterdir()) == [], "the files are removed"
