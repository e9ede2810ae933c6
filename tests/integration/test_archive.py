"""Archives under everything that happens to them overnight: kills, full disks, odd names, broken files, two at once."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import ray

from naturaltone import cli
from naturaltone.infra import exit_codes, local
from naturaltone.pipeline import storage
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.formats import SUFFIXES
from naturaltone.serving.archive import job as archive
from naturaltone.serving.archive import plan as archive_plan
from naturaltone.serving.archive import preview
from naturaltone.serving.archive.job import enhance_archive
from naturaltone.serving.archive.plan import Options
from naturaltone.serving.archive.report import FOLDER, LOCK, Report
from naturaltone.serving.enhancer import Enhancer
from tests.fault_proxy import Faults, fault_proxy
from tests.mutations import mutations, samples

pytestmark = pytest.mark.usefixtures("ray_cluster")

ROOT = Path(__file__).parents[2]
ToFile = Callable[..., bytes]
_DRIVER = """
import sys
import ray
from naturaltone.infra.local import cores, ray_session
from naturaltone.serving.archive.job import enhance_archive
from naturaltone.serving.enhancer import Enhancer
source, target, model = sys.argv[1:]
enhancer = Enhancer.load(model)
with ray_session():
    # The tests' Ray has three CPUs a core, and each worker begins by importing torch.
    ray.data.DataContext.get_current().execution_options.resource_limits = ray.data.ExecutionResources(cpu=cores())
    print(enhance_archive(source, target, enhancer).counts)
"""


@pytest.fixture(scope="module")
def enhancer(bundle_folder: Path) -> Enhancer:
    return Enhancer.load(str(bundle_folder))


@pytest.fixture(scope="module")
def large_photos(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray, to_file: ToFile) -> Path:
    """48 different photos that take a tenth of a second each."""
    folder = tmp_path_factory.mktemp("large")
    for number in range(48):
        window = astronaut[number : number + 300, 2 * number : 2 * number + 400]
        (folder / f"{number:02}.jpg").write_bytes(to_file(cv2.resize(window, (2000, 1500)), quality=85))
    return folder


def outputs(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and FOLDER not in path.parts
    }


def statuses(target: Path) -> dict[str, tuple[str, str]]:
    return {row["source"]: (row["status"], row["reason"]) for row in Report(str(target)).table.to_pylist()}


@pytest.fixture
def cluster_address() -> Iterator[None]:
    """Drivers of their own share the tests' Ray."""
    with local.environment({"RAY_ADDRESS": ray.get_runtime_context().gcs_address}):
        yield


def test_twenty_kills_change_no_byte_and_have_no_photo_done_twice(
    large_photos: Path, enhancer: Enhancer, bundle_folder: Path, tmp_path: Path, cluster_address: None
) -> None:
    enhance_archive(str(large_photos), str(tmp_path / "calm"), enhancer)
    expected, target, chance = outputs(tmp_path / "calm"), tmp_path / "rough", random.Random(11)
    first_seen: dict[str, int] = {}
    kills = {"driver": 0, "worker": 0}

    def look() -> int:
        for path in target.glob("*.jpg") if target.exists() else ():
            first_seen.setdefault(path.name, path.stat().st_ino)
        return len(first_seen)

    for _ in range(100):  # ends far earlier
        process = subprocess.Popen(
            [sys.executable, "-c", _DRIVER, str(large_photos), str(target), str(bundle_folder)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        while process.poll() is None and sum(kills.values()) < 20:
            wanted = look() + chance.randint(0, 3)
            while process.poll() is None and look() < wanted:
                threading.Event().wait(0.01)
            threading.Event().wait(chance.uniform(0, 0.2))
            workers = [p for p in psutil.Process().children(recursive=True) if "_do_chunk" in _name(p)]
            if workers and kills["worker"] < 16:
                chance.choice(workers).kill()
                kills["worker"] += 1
            if kills["worker"] >= 4 * (kills["driver"] + 1) or wanted >= len(expected) - 6:
                process.kill()
                kills["driver"] += 1
        output = process.communicate(timeout=300)[0]
        look()
        if process.returncode == 0:
            break
    assert process.returncode == 0, output
    assert sum(kills.values()) == 20 and min(kills.values()) >= 4, kills
    assert outputs(target) == expected
    assert {path.name: path.stat().st_ino for path in target.glob("*.jpg")} == first_seen, "written once each"
    assert statuses(target) == {name: ("enhanced", "") for name in expected}
    assert not list(target.rglob("*.tmp"))


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_a_network_that_fails_changes_no_byte_of_an_archive(
    object_store: local.ObjectStore, photo_folder: Path, enhancer: Enhancer, bundle_folder: Path, cluster_address: None
) -> None:
    source = storage.join(object_store.uri, "faulty", "photos")
    for path in photo_folder.rglob("*.*"):
        storage.write_bytes(storage.join(source, path.name), path.read_bytes())
    calm, rough = (storage.join(object_store.uri, "faulty", name) for name in ("calm", "rough"))
    assert enhance_archive(source, calm, enhancer).counts == {"enhanced": 24}
    with fault_proxy(
        object_store.environment["AWS_ENDPOINT_URL"], Faults(share=0.05, seed=4, stall_seconds=2.0)
    ) as proxy:
        process = subprocess.run(
            [sys.executable, "-c", _DRIVER, source, rough, str(bundle_folder)],
            env={**os.environ, "AWS_ENDPOINT_URL": proxy.url},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert process.returncode == 0, process.stderr
    assert "{'enhanced': 24}" in process.stdout and sum(proxy.injected.values()) >= 3

    def photos(uri: str) -> dict[str, bytes]:
        found = storage.list_files(uri, suffixes=SUFFIXES)
        return {file.relative: storage.read_bytes(file.uri) for file in found}

    assert photos(rough) == photos(calm)
    assert enhance_archive(source, rough, enhancer).unchanged == 24


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(
    photo_folder: Path, enhancer: Enhancer, disk: Callable[[int], Path]
) -> None:
    target = disk(60_000)
    with pytest.raises(archive.ArchiveStopped, match=r"no space left .*make room and give the same command again"):
        enhance_archive(str(photo_folder), str(target / "enhanced"), enhancer)
    for name, data in outputs(target / "enhanced").items():
        assert decode(data).pixels.any(), f"{name} is whole"
    disk(10_000_000)
    summary = enhance_archive(str(photo_folder), str(target / "enhanced"), enhancer)
    assert set(summary.counts) == {"enhanced"} and summary.counts["enhanced"] + summary.unchanged == 24
    assert len(outputs(target / "enhanced")) == 24


def test_two_runs_at_once_on_one_target_are_one_too_many(
    photo_folder: Path, bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from naturaltone.pipeline import lease

    target = tmp_path / "enhanced"
    with lease.hold(str(target / FOLDER / LOCK)):
        command = ["enhance", str(photo_folder), str(target), "--model", str(bundle_folder)]
        assert cli.main(command) == exit_codes.WRONG_USAGE
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"process {os.getpid()} on" in line and "is writing there" in line and str(target) in line
    assert outputs(target) == {}


_ODD_NAMES = [
    b"a b.jpg", b"quote'\".jpg", b"new\nline.jpg", "gr\u00fc\u00dfe \N{SMILING FACE WITH SUNGLASSES}.jpg".encode(),
    b"not utf-8 \xff\xfe.jpg", b"back\\xff.jpg", b"%20#?.jpg", b"-rf.jpg", b"A.jpg", b"a.jpg", b".hidden.jpg",
]  # fmt: skip
_HDR = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"/></rdf:RDF></x:xmpmeta>'
)


def test_every_name_that_a_disk_holds_goes_through(
    photo: np.ndarray, to_file: ToFile, enhancer: Enhancer, tmp_path: Path
) -> None:
    source, target = os.fsencode(tmp_path / "source"), os.fsencode(tmp_path / "target")
    os.mkdir(source)
    for number, name in enumerate(_ODD_NAMES):
        with open(os.path.join(source, name), "wb") as file:
            file.write(to_file(np.roll(photo, number, axis=1)))
    summary = enhance_archive(os.fsdecode(source), os.fsdecode(target), enhancer)
    assert summary.counts == {"enhanced": len(_ODD_NAMES)}
    assert sorted(set(os.listdir(target)) - {FOLDER.encode()}) == sorted(_ODD_NAMES)
    assert enhance_archive(os.fsdecode(source), os.fsdecode(target), enhancer).unchanged == len(_ODD_NAMES)
    page = preview.contact_sheet(os.fsdecode(source), os.fsdecode(target), Report(os.fsdecode(target)))
    assert page.count('class="photo"') == len(_ODD_NAMES)


def test_names_that_differ_in_case_alone_do_not_overwrite_each_other_where_the_disk_folds_case(
    photo: np.ndarray, to_file: ToFile, enhancer: Enhancer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    for name in ("IMG.jpg", "img.jpg", "other.jpg"):
        (tmp_path / "source" / name).write_bytes(to_file(photo))
    monkeypatch.setattr(archive_plan, "_folds_case", lambda target: True)  # as macOS' and Windows' disks do
    summary = enhance_archive(str(tmp_path / "source"), str(tmp_path / "target"), enhancer)
    assert summary.counts == {"enhanced": 2, "failed": 1}
    assert statuses(tmp_path / "target")["img.jpg"] == ("failed", "name_collision")
    assert enhance_archive(str(tmp_path / "source"), str(tmp_path / "target"), enhancer).counts == {"failed": 1}
    assert not (tmp_path / "target" / "img.jpg").exists(), "nor in the next run, when the first of them is done"


def test_a_thousand_damaged_photos_are_each_in_the_report_and_no_worker_is_lost(
    photo: np.ndarray, enhancer: Enhancer, tmp_path: Path
) -> None:
    source, target = tmp_path / "damaged", tmp_path / "target"
    source.mkdir()
    for name, data in mutations(samples(photo), 1000, seed=8):
        (source / name).write_bytes(data)
    summary = enhance_archive(str(source), str(target), enhancer)
    assert sum(summary.counts.values()) == 1000 and summary.counts["failed"] > 300 and summary.counts["enhanced"] > 100
    assert "internal" not in summary.reasons and "unreadable" not in summary.reasons, summary.failures
    rows = Report(str(target)).table.to_pylist()
    assert len(rows) == 1000 and all(row["reason"] and row["detail"] for row in rows if row["status"] != "enhanced")
    assert set(outputs(target)) == {row["source"] for row in rows if row["status"] == "enhanced"}
    for data in list(outputs(target).values())[::10]:
        decode(data)


@pytest.fixture
def mixed(tmp_path: Path, photo: np.ndarray, to_file: ToFile) -> Path:
    """A folder as people have them."""
    folder = tmp_path / "mixed"
    (folder / "2019").mkdir(parents=True)
    (folder / "2019" / "IMG_1.jpg").write_bytes(to_file(photo, quality=90))
    (folder / "2019" / "IMG_1.jpg.xmp").write_text("<x:xmpmeta/>")
    (folder / "2019" / "IMG_1.xmp").write_text("<x:xmpmeta/>")
    (folder / "2019" / "video.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    (folder / "2019" / "raw.NEF").write_bytes(b"II*\0")
    (folder / "hdr.jpg").write_bytes(to_file(photo, xmp=_HDR))
    drawing = np.full((120, 160, 3), 230, np.uint8)
    drawing[20:60, 30:90] = (20, 60, 200)
    (folder / "Screenshot.png").write_bytes(to_file(drawing, "PNG"))
    os.symlink("/etc", folder / "out")
    os.symlink("2019/IMG_1.jpg", folder / "inside.jpg")
    for path in folder.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (1_500_000_000, 1_500_000_000))
    return folder


def test_what_is_not_enhanced_is_named_with_its_reason_and_copied_if_asked_for(
    mixed: Path, enhancer: Enhancer, tmp_path: Path
) -> None:
    before = {path: (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in mixed.rglob("*")}
    target = tmp_path / "target"
    enhance_archive(str(mixed), str(target), enhancer, Options(photos_only=True))
    assert statuses(target) == {
        "2019/IMG_1.jpg": ("enhanced", ""),
        "2019/IMG_1.jpg.xmp": ("copied", ""),
        "2019/IMG_1.xmp": ("copied", ""),
        "2019/raw.NEF": ("skipped", "raw"),
        "2019/video.mp4": ("skipped", "not_a_photo"),
        "Screenshot.png": ("skipped", "graphic"),
        "hdr.jpg": ("skipped", "hdr_gain_map"),
        "inside.jpg": ("enhanced", ""),
        "out": ("skipped", "not_followed"),
    }
    assert (target / "2019" / "IMG_1.jpg").stat().st_mtime == 1_500_000_000
    more = enhance_archive(
        str(mixed), str(target), enhancer, Options(photos_only=True, copy_others=True, keep_mtime=False)
    )
    assert more.unchanged == 2, "the enhanced ones"
    for name in ("2019/raw.NEF", "2019/video.mp4", "Screenshot.png", "hdr.jpg"):
        assert (target / name).read_bytes() == (mixed / name).read_bytes() and statuses(target)[name][0] == "copied"
    assert (target / "2019" / "video.mp4").stat().st_mtime > 1_600_000_000
    dropped = enhance_archive(str(mixed), str(target), enhancer, Options(drop_hdr=True))
    assert dropped.counts["enhanced"] == 2 and b"hdrgm" not in (target / "hdr.jpg").read_bytes()
    assert {
        path: (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in mixed.rglob("*")
    } == before


def test_an_enhanced_archive_is_not_enhanced_again(photo_folder: Path, enhancer: Enhancer, tmp_path: Path) -> None:
    enhance_archive(str(photo_folder), str(tmp_path / "once"), enhancer)
    again = enhance_archive(str(tmp_path / "once"), str(tmp_path / "twice"), enhancer)
    assert again.reasons == {"already_enhanced": 24, "not_followed": 3} and outputs(tmp_path / "twice") == {}
    copied = enhance_archive(str(tmp_path / "once"), str(tmp_path / "twice"), enhancer, Options(copy_others=True))
    assert copied.counts == {"copied": 24, "skipped": 3} and outputs(tmp_path / "twice") == outputs(tmp_path / "once")


def test_a_file_that_is_not_ours_is_not_overwritten(
    photo: np.ndarray, to_file: ToFile, enhancer: Enhancer, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target):
        folder.mkdir()
    (source / "a.jpg").write_bytes(to_file(photo))
    (target / "a.jpg").write_bytes(b"somebody's only copy")
    summary = enhance_archive(str(source), str(target), enhancer)
    assert summary.reasons == {"output_exists": 1} and (target / "a.jpg").read_bytes() == b"somebody's only copy"
    (target / "a.jpg").unlink()
    assert enhance_archive(str(source), str(target), enhancer).counts == {"enhanced": 1}


def test_originals_are_safe_where_the_target_is_another_name_for_them(
    photo: np.ndarray, to_file: ToFile, enhancer: Enhancer, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "sub").mkdir(parents=True)
    target.mkdir()
    data = to_file(photo)
    (source / "sub" / "a.jpg").write_bytes(data)
    (source / "sub" / "a.jpg.xmp").write_text("<x/>")
    os.symlink(source / "sub", target / "sub")
    summary = enhance_archive(str(source), str(target), enhancer)
    assert summary.reasons == {"output_exists": 1} and (source / "sub" / "a.jpg").read_bytes() == data
    os.symlink(source, tmp_path / "also source")
    for place in (tmp_path / "also source", tmp_path / "also source" / "sub"):
        with pytest.raises(ValueError, match="lie in each other"):
            enhance_archive(str(source), str(place), enhancer)


def test_a_plain_copy_of_the_photos_in_the_target_is_not_overwritten(
    photo_folder: Path, enhancer: Enhancer, tmp_path: Path
) -> None:
    shutil.copytree(photo_folder, tmp_path / "target")
    before = outputs(tmp_path / "target")
    assert enhance_archive(str(photo_folder), str(tmp_path / "target"), enhancer).reasons == {"output_exists": 24}
    assert outputs(tmp_path / "target") == before


def test_names_as_long_or_as_odd_as_they_can_be_do_not_end_the_run(
    photo: np.ndarray, to_file: ToFile, enhancer: Enhancer, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    long, odd = "l" * 251 + ".jpg", os.fsdecode(b"caf\xe9.jpg")
    for name in (long, odd):
        (source / name).write_bytes(to_file(photo))
    (target / odd).write_bytes(b"not ours")
    summary = enhance_archive(str(source), str(target), enhancer)
    assert summary.counts == {"enhanced": 1, "failed": 1} and "\\udce9" in summary.failures[0].detail


def test_a_single_photo_is_not_written_over_another_and_takes_no_options_of_a_folder(
    photo_folder: Path, bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, other = tmp_path / "a.jpg", tmp_path / "b.jpg"
    for file in (photo, other):
        shutil.copy(photo_folder / "01.jpg", file)
    command = ["enhance", str(photo), str(other), "--model", str(bundle_folder)]
    for more, words in (([], "exists, and naturaltone did not make it"), (["--dry-run"], "--dry-run is for a folder"),
                        (["--quality", "500"], "--quality 500: must be between 1 and 100")):  # fmt: skip
        assert cli.main([*command, *more]) == exit_codes.WRONG_USAGE
        assert words in capsys.readouterr().err
    assert other.read_bytes() == photo.read_bytes()
    new = ["enhance", str(photo), str(tmp_path / "new.jpg"), "--model", str(bundle_folder)]
    assert cli.main(new) == cli.main(new) == exit_codes.OK, "its own earlier result may go"


def test_limits_and_globs_choose_and_new_and_changed_photos_are_done_next_time(
    photo_folder: Path, enhancer: Enhancer, photo: np.ndarray, to_file: ToFile, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(photo_folder, source)
    some = enhance_archive(
        str(source), str(target), enhancer, Options(include=("below/*", "0[1-4].jpg"), exclude=("*3*",))
    )
    assert some.counts == {"enhanced": 5} and set(outputs(target)) == {
        "below/00.png", "below/12.png", "01.jpg", "02.jpg", "04.jpg",
    }  # fmt: skip
    assert enhance_archive(str(source), str(target), enhancer, Options(limit=4)).counts == {"enhanced": 4}
    assert enhance_archive(str(source), str(target), enhancer).counts == {"enhanced": 15}
    (source / "new.jpg").write_bytes(to_file(photo))
    (source / "01.jpg").write_bytes(to_file(photo[::-1].copy()))
    assert enhance_archive(str(source), str(target), enhancer).counts == {"enhanced": 2}


def test_a_lost_report_is_found_again_in_the_photos(
    photo: np.ndarray, to_file: ToFile, enhancer: Enhancer, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for format in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF"):
        (source / f"a.{format.lower()}").write_bytes(to_file(photo, format))
    enhance_archive(str(source), str(target), enhancer)
    inodes = {path: path.stat().st_ino for path in target.rglob("*.*") if FOLDER not in path.parts}
    shutil.rmtree(target / FOLDER)
    assert enhance_archive(str(source), str(target), enhancer).counts == {"enhanced": 5}
    assert {path: path.stat().st_ino for path in inodes} == inodes, "their stamps say so; none was written again"


def test_a_folder_that_cannot_be_read_is_named_and_the_rest_goes_on(photo_folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to other users
        source = Path(place, "source")
        shutil.copytree(photo_folder, source)
        for folder in (place, str(source)):
            os.chmod(folder, 0o755)
        (source / "below").chmod(0)
        (source / "closed").mkdir()
        (source / "closed" / "a.jpg").touch()
        (source / "closed").chmod(0o444)  # its names can be read, its files cannot
        os.mkfifo(source / "pipe.jpg")
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            if os.getuid() == 0:
                os.setuid(65534)  # root reads everything
            found = {file.relative: file.problem for file in storage.list_files(str(source), stay=True)}
            os.write(writing, json.dumps(found).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            found = json.load(pipe)
        os.waitpid(child, 0)
        for name in ("below", "closed"):
            (source / name).chmod(0o755)
    assert found.pop("pipe.jpg").startswith("not_followed: a pipe")
    assert found.pop("closed/a.jpg").startswith("unreadable: it cannot be looked at (permission denied)")
    assert found.pop("below").startswith("unreadable: the folder cannot be listed (permission denied)")
    assert len(found) == 22 and not any(found.values())


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    mixed: Path, bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "target"
    command = ["enhance", str(mixed), str(target), "--model", str(bundle_folder), "--dry-run"]
    assert cli.main(command) == exit_codes.OK
    said = capsys.readouterr().out
    for words in (
        "4  photos to enhance",
        "2  sidecars",
        "1 hdr_gain_map",
        "1  other files",
        "RAW",
        "nothing was written",
    ):
        assert words in said, said
    assert not target.exists()
    target.mkdir()
    (target / ".01234567.naturaltone.tmp").write_bytes(b"of a run that is going on")
    assert cli.main(command) == exit_codes.OK
    assert [path.name for path in target.iterdir()] == [".01234567.naturaltone.tmp"]


def test_nothing_to_do_is_said_not_passed_over(photo_folder: Path, enhancer: Enhancer, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(storage.StorageError, match="no files; check the path"):
        enhance_archive(str(tmp_path / "empty"), str(tmp_path / "target"), enhancer)
    with pytest.raises(storage.StorageError, match="no files that --include and --exclude leave"):
        enhance_archive(str(photo_folder), str(tmp_path / "target"), enhancer, Options(include=("*.nef",)))


def test_the_command_ends_with_a_summary_a_sheet_and_the_right_code(
    photo_folder: Path, bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target, sheet = tmp_path / "source", tmp_path / "target", tmp_path / "sheet.html"
    shutil.copytree(photo_folder, source)
    (source / "cut.jpg").write_bytes((source / "01.jpg").read_bytes()[:700])
    command = [sys.executable, "-m", "naturaltone", "enhance", str(source), str(target), "--model", str(bundle_folder)]
    done = subprocess.run([*command, "--sheet", str(sheet)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == exit_codes.SOME_FAILED, done.stderr
    assert "24 enhanced, 0 copied, 0 left alone, 1 failed (1 truncated), 0 done before" in done.stdout
    assert "failed cut.jpg: truncated:" in done.stderr and "Traceback" not in done.stderr
    assert sheet.read_text().count('class="photo"') == 24
    again = subprocess.run([*command, "--exclude", "cut.jpg"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert again.returncode == exit_codes.OK and "24 done before" in again.stdout, again.stderr
