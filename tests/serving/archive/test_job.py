"""An archive is enhanced beside its originals, a run can be resumed, and the report names every file left alone."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from naturaltone.infra import local
from naturaltone.pipeline import storage
from naturaltone.pipeline.errors import RunFailed
from naturaltone.pipeline.photo.decode import decode
from naturaltone.serving.archive import job as archive
from naturaltone.serving.archive import options
from naturaltone.serving.archive.file import Job, unread_entry
from naturaltone.serving.archive.job import enhance_archive
from naturaltone.serving.archive.options import ArchiveOptions
from naturaltone.serving.archive.report import FOLDER, JSON_LINES, PARQUET, Entry
from naturaltone.serving.archive.task import FileTask
from naturaltone.serving.enhancer import Enhancer
from tests.archives import outputs, rows, statuses
from tests.mutations import mutations, samples
from tests.pipeline.photo.heif_files import needs_heif

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def archive_folder(tmp_path: Path, photo: np.ndarray, to_file: Callable[..., bytes]) -> Path:
    """An archive with photos of three formats, metadata, a damaged photo and a text file."""
    folder = tmp_path / "my photos"
    (folder / "2026" / "summer ☀").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9003] = "2019:07:21 14:03:12"
    (folder / "2026" / "turned.jpg").write_bytes(to_file(photo, exif=exif, quality=95))
    (folder / "2026" / "summer ☀" / "a b.png").write_bytes(to_file(photo, "PNG"))
    (folder / "wide.webp").write_bytes(to_file(photo, "WEBP", icc_profile=b""))
    (folder / "cut.jpg").write_bytes(to_file(photo)[:600])
    (folder / "notes.txt").write_text("keep")
    return folder


def test_an_archive_is_enhanced_beside_untouched_originals(
    archive_folder: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in archive_folder.rglob("*") if path.is_file()}
    target, enhancer = tmp_path / "enhanced", Enhancer.load(str(bundle_folder))
    report = archive.enhance_archive(str(archive_folder), str(target), enhancer)
    assert (report.counts, report.unchanged) == ({"enhanced": 3, "failed": 1, "skipped": 1}, 0)
    assert report.reasons == {"truncated": 1, "not_a_photo": 1}
    assert [(entry.source, entry.reason) for entry in report.failures] == [("cut.jpg", "truncated")]
    assert {path: path.read_bytes() for path in archive_folder.rglob("*") if path.is_file()} == before

    turned = Image.open(target / "2026" / "turned.jpg")
    original = decode((archive_folder / "2026" / "turned.jpg").read_bytes())
    assert turned.size == original.pixels.shape[:2], "stored as the camera did, with the orientation tag"
    assert turned.getexif()[0x0112] == 6 and turned.getexif().get_ifd(0x8769)[0x9003] == "2019:07:21 14:03:12"
    for name in ("2026/summer ☀/a b.png", "wide.webp"):
        after = decode((target / name).read_bytes()).pixels.astype(int)
        assert np.abs(after - decode(before[archive_folder / name]).pixels).mean() > 2


def test_a_run_processes_missing_and_new_files_and_files_with_changed_settings(
    archive_folder: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    target, enhancer = tmp_path / "enhanced", Enhancer.load(str(bundle_folder))
    archive.enhance_archive(str(archive_folder), str(target), enhancer)
    (target / "wide.webp").unlink()
    shutil.copy(archive_folder / "2026" / "turned.jpg", archive_folder / "new.jpg")
    again = archive.enhance_archive(str(archive_folder), str(target), enhancer)
    assert (again.counts, again.unchanged) == ({"enhanced": 2, "failed": 1}, 3)
    first = (target / "new.jpg").read_bytes()
    softer = archive.enhance_archive(str(archive_folder), str(target), enhancer, ArchiveOptions(strength=0.5))
    assert (softer.counts["enhanced"], softer.unchanged) == (4, 1) and (target / "new.jpg").read_bytes() != first
    back = archive.enhance_archive(str(archive_folder), str(target), enhancer)
    assert (back.counts["enhanced"], back.unchanged) == (4, 1) and (target / "new.jpg").read_bytes() == first
    lines = [json.loads(line) for line in (target / FOLDER / JSON_LINES).read_text().splitlines()]
    assert [json.loads(line["settings"])["strength"] for line in lines if line["source"] == "new.jpg"] == [1.0]
    assert pq.read_table(target / FOLDER / PARQUET).to_pylist() == lines


IDENTIFIER = b"Apple iOS\0 8C2E4F5B-content-identifier"


@pytest.fixture
def phone_folder(tmp_path: Path, photo: np.ndarray, to_file: Callable[..., bytes]) -> Path:
    """Photos as they come from phones, from a camera and from Google Takeout, with what belongs to them."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x927C] = IDENTIFIER  # in the maker note
    files = {
        "DCIM/IMG_1.JPG": to_file(photo, exif=exif),
        "DCIM/IMG_1.MOV": b"\0\0\0\x14ftypqt  " + IDENTIFIER,
        "DCIM/IMG_1.AAE": b"<plist/>",
        "DCIM/IMG_2.HEIC": to_file(photo, "HEIF"),
        "DCIM/IMG_2.MOV": b"\0\0\0\x14ftypqt  2",
        "DCIM/IMG_3.MOV": b"\0\0\0\x14ftypqt  3",
        "camera/DSC_1.JPG": to_file(photo),
        "camera/DSC_1.NEF": b"II*\0",
        "Takeout/IMG.jpg": to_file(photo),
        "Takeout/IMG.jpg.supplemental-metadata.json": b'{"title": "IMG.jpg"}',
        "Takeout/IMG(1).jpg": to_file(photo[::-1].copy()),
        "Takeout/IMG.jpg.supplemental-metadata(1).json": b'{"title": "IMG.jpg", "number": 1}',
        "Takeout/metadata.json": b'{"title": "album"}',
    }
    for name, data in files.items():
        path = tmp_path / "phone" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (1_500_000_000, 1_500_000_000))
    return tmp_path / "phone"


@needs_heif
def test_what_belongs_to_a_photo_comes_with_it_and_is_copied_once(
    phone_folder: Path, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, enhancer = tmp_path / "target", Enhancer.load(str(bundle_folder))
    enhance_archive(str(phone_folder), str(target), enhancer)
    sidecars = {
        *("DCIM/IMG_1.MOV", "DCIM/IMG_1.AAE", "DCIM/IMG_2.MOV"),
        *("Takeout/IMG.jpg.supplemental-metadata.json", "Takeout/IMG.jpg.supplemental-metadata(1).json"),
    }
    left_alone = {
        "DCIM/IMG_3.MOV": ("skipped", "not_a_photo"),
        "camera/DSC_1.NEF": ("skipped", "raw"),
        "Takeout/metadata.json": ("skipped", "not_a_photo"),
    }
    enhanced = {"DCIM/IMG_1.JPG", "DCIM/IMG_2.HEIC", "camera/DSC_1.JPG", "Takeout/IMG.jpg", "Takeout/IMG(1).jpg"}
    assert statuses(target) == {
        **dict.fromkeys(enhanced, ("enhanced", "")), **dict.fromkeys(sidecars, ("copied", "")), **left_alone
    }  # fmt: skip
    for name in enhanced | sidecars:
        assert (target / name).stat().st_mtime == 1_500_000_000
        assert ((target / name).read_bytes() == (phone_folder / name).read_bytes()) == (name in sidecars)
    assert all(IDENTIFIER in (target / f"DCIM/IMG_1.{suffix}").read_bytes() for suffix in ("JPG", "MOV")), "a pair"

    def inodes() -> dict[str, int]:
        return {name: (target / name).stat().st_ino for name in enhanced | sidecars}

    before = inodes()
    again = enhance_archive(str(phone_folder), str(target), enhancer)
    assert (again.counts, again.unchanged) == ({}, 13)
    shutil.rmtree(target / FOLDER)
    assert enhance_archive(str(phone_folder), str(target), enhancer).counts["copied"] == 5
    monkeypatch.setattr(options, "__version__", "another")
    retried = enhance_archive(str(phone_folder), str(target), enhancer)
    assert (retried.counts, retried.unchanged) == ({"copied": 5, "skipped": 3}, 5)
    assert inodes() == before, "no file was written again"
    monkeypatch.undo()
    (phone_folder / "DCIM" / "IMG_1.AAE").write_bytes(b"<plist>edited again</plist>")
    assert enhance_archive(str(phone_folder), str(target), enhancer).counts["copied"] >= 1
    assert (target / "DCIM" / "IMG_1.AAE").read_bytes() == b"<plist>edited again</plist>"
    assert {name for name, inode in inodes().items() if inode != before[name]} == {"DCIM/IMG_1.AAE"}


def test_source_and_target_may_be_object_storage(
    object_store: local.ObjectStore, bundle_folder: Path, photo: np.ndarray, to_file: Callable[..., bytes]
) -> None:
    source, target = (storage.join(object_store.uri, name) for name in ("originals", "results"))
    storage.write_bytes(storage.join(source, "a/b.jpg"), to_file(photo))
    report = archive.enhance_archive(source, target, Enhancer.load(str(bundle_folder)))
    assert report.counts == {"enhanced": 1}
    assert decode(storage.read_bytes(storage.join(target, "a/b.jpg"))).pixels.shape == photo.shape


ToFile = Callable[..., bytes]


def test_a_full_disk_stops_the_run_and_free_space_lets_it_resume(
    photo_folder: Path, enhancer: Enhancer, disk: Callable[[int], Path]
) -> None:
    target = disk(60_000)
    with pytest.raises(archive.ArchiveStopped, match=r"no space left .*free some space and run the same command again"):
        enhance_archive(str(photo_folder), str(target / "enhanced"), enhancer)
    for name, data in outputs(target / "enhanced").items():
        assert decode(data).pixels.any(), f"{name} is whole"
    disk(10_000_000)
    summary = enhance_archive(str(photo_folder), str(target / "enhanced"), enhancer)
    assert set(summary.counts) == {"enhanced"} and summary.counts["enhanced"] + summary.unchanged == 24
    assert len(outputs(target / "enhanced")) == 24


def test_a_full_temporary_disk_ends_a_run_with_one_line_that_names_it(
    enhancer: Enhancer, disk: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target, full = tmp_path / "source", tmp_path / "target", disk(400_000)
    source.mkdir()
    for number in range(2000):
        (source / f"{number}.txt").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(full))
    message = rf"'{full}': .*free some space, or set TMPDIR"

    def run_on_a_full_disk() -> None:
        disk(50_000_000)
        with archive.prepared(str(source), str(target), enhancer.version, ArchiveOptions()) as run:
            disk(shutil.disk_usage(full).used + 4096)
            archive.run_archive(run, enhancer)

    with pytest.raises(RunFailed, match=message):  # while it plans
        enhance_archive(str(source), str(target), enhancer)
    with pytest.raises(RunFailed, match=message):  # while it writes the report
        run_on_a_full_disk()

    def stopped_at_the_end(task: FileTask, job: Job) -> Entry:
        if task.source == "999.txt":
            raise KeyboardInterrupt
        return unread_entry(task, job)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # the full disk does not hide Ctrl-C
        patch.setattr(archive, "unread_entry", stopped_at_the_end)
        run_on_a_full_disk()
    disk(50_000_000)
    assert enhance_archive(str(source), str(target), enhancer).counts == {"skipped": 2000}


def test_a_thousand_damaged_photos_are_all_in_the_report_and_no_worker_dies(
    photo: np.ndarray, enhancer: Enhancer, tmp_path: Path
) -> None:
    source, target = tmp_path / "damaged", tmp_path / "target"
    source.mkdir()
    for name, data in mutations(samples(photo), 1000, seed=8):
        (source / name).write_bytes(data)
    summary = enhance_archive(str(source), str(target), enhancer)
    assert sum(summary.counts.values()) == 1000 and summary.counts["failed"] > 300 and summary.counts["enhanced"] > 100
    found = rows(target)
    assert not [row for row in found if row.reason in ("internal", "unreadable")]
    assert len(found) == 1000 and all(row.reason and row.detail for row in found if row.status != "enhanced")
    assert set(outputs(target)) == {row.source for row in found if row.status == "enhanced"}
    for data in list(outputs(target).values())[::10]:
        decode(data)


def test_very_long_and_odd_names_do_not_end_the_run(
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


def test_a_lost_report_is_rebuilt_from_the_photos(
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
    assert {path: path.stat().st_ino for path in inodes} == inodes, "stamped photos are not written again"


def test_a_source_without_files_is_an_error(photo_folder: Path, enhancer: Enhancer, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(storage.StorageError, match="no files; check the path"):
        enhance_archive(str(tmp_path / "empty"), str(tmp_path / "target"), enhancer)
    with pytest.raises(storage.StorageError, match="no files that --include and --exclude let through"):
        enhance_archive(str(photo_folder), str(tmp_path / "target"), enhancer, ArchiveOptions(include=("*.nef",)))
