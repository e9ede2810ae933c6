"""Each file of an archive is enhanced, copied or left alone, and reported."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFile

from naturaltone.pipeline.reasons import Reason
from naturaltone.serving import room
from naturaltone.serving.archive import file
from naturaltone.serving.archive.file import Job, process_file
from naturaltone.serving.archive.job import enhance_archive
from naturaltone.serving.archive.options import ArchiveOptions
from naturaltone.serving.archive.report import Entry
from naturaltone.serving.archive.task import FileTask, Kind
from naturaltone.serving.enhancer import Enhancer
from tests.archives import outputs, rows, statuses
from tests.pipeline.photo.files import chunk
from tests.pipeline.photo.heif_files import apple_note, built, hdr_parts, needs_heif, scene

pytestmark = pytest.mark.usefixtures("ray_cluster")
ToFile = Callable[..., bytes]


def test_files_that_are_not_enhanced_are_reported_with_a_reason_and_copied_on_request(
    mixed: Path, enhancer: Enhancer, tmp_path: Path
) -> None:
    before = {path: (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in mixed.rglob("*")}
    target = tmp_path / "target"
    enhance_archive(str(mixed), str(target), enhancer, ArchiveOptions(photos_only=True, hdr="skip"))
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
    copying = ArchiveOptions(photos_only=True, hdr="skip", copy_others=True, keep_mtime=False)
    more = enhance_archive(str(mixed), str(target), enhancer, copying)
    assert more.unchanged == 2, "the two enhanced photos"
    for name in ("2019/raw.NEF", "2019/video.mp4", "Screenshot.png", "hdr.jpg"):
        assert (target / name).read_bytes() == (mixed / name).read_bytes() and statuses(target)[name][0] == "copied"
    assert (target / "2019" / "video.mp4").stat().st_mtime > 1_600_000_000
    kept = enhance_archive(str(mixed), str(target), enhancer)
    assert kept.counts["enhanced"] == 2, "the HDR photo and the screenshot"
    assert b"hdrgm" in (target / "hdr.jpg").read_bytes()
    assert {row.source: row.detail for row in rows(target) if row.detail.startswith("kept")} == {
        "hdr.jpg": "kept: HDR gain map"
    }
    dropped = enhance_archive(str(mixed), str(target), enhancer, ArchiveOptions(hdr="drop"))
    assert dropped.counts["enhanced"] == 4 and b"hdrgm" not in (target / "hdr.jpg").read_bytes()
    assert {
        path: (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in mixed.rglob("*")
    } == before


@needs_heif
def test_heics_become_jpegs_beside_their_movies_and_no_photo_loses_its_name(
    photo: np.ndarray, to_file: ToFile, enhancer: Enhancer, tmp_path: Path
) -> None:
    source, target = tmp_path / "phone", tmp_path / "target"
    source.mkdir()
    (source / "IMG_1.HEIC").write_bytes(to_file(photo, "HEIF", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"))
    (source / "IMG_1.MOV").write_bytes(b"\0\0\0\x14ftypqt  moving")
    (source / "IMG_2.heic").write_bytes(to_file(photo, "HEIF"))
    (source / "IMG_2.jpg").write_bytes(to_file(photo, quality=90))
    hdr = hdr_parts(np.zeros((64, 64), np.uint8), scene(128, 128), note=apple_note((33, 101, 100), (48, 1, 1)))
    (source / "IMG_3.heic").write_bytes(built(hdr))
    options = ArchiveOptions(heic="jpeg")
    first = enhance_archive(str(source), str(target), enhancer, options)
    assert statuses(target) == {
        "IMG_1.HEIC": ("enhanced", ""),
        "IMG_1.MOV": ("copied", ""),
        "IMG_2.heic": ("failed", "name_collision"),
        "IMG_2.jpg": ("enhanced", ""),
        "IMG_3.heic": ("enhanced", ""),
    }
    assert set(outputs(target)) == {"IMG_1.jpg", "IMG_1.MOV", "IMG_2.jpg", "IMG_3.jpg"}
    assert (target / "IMG_1.jpg").read_bytes().startswith(b"\xff\xd8") and first.counts["enhanced"] == 3
    assert {row.source for row in rows(target) if row.detail == "kept: HDR gain map"} == {"IMG_3.heic"}
    assert b"hdrgm" in (target / "IMG_3.jpg").read_bytes()
    assert enhance_archive(str(source), str(target), enhancer, options).unchanged == 4
    (target / "IMG_1.jpg").unlink()
    again = enhance_archive(str(source), str(target), enhancer, options)
    assert again.counts["enhanced"] == 1 and (target / "IMG_1.jpg").exists()
    own = enhance_archive(str(source), str(target), enhancer, ArchiveOptions())
    assert own.counts["enhanced"] == 4 and {"IMG_1.HEIC", "IMG_2.heic"} < set(outputs(target))


def test_an_enhanced_archive_is_not_enhanced_again(photo_folder: Path, enhancer: Enhancer, tmp_path: Path) -> None:
    enhance_archive(str(photo_folder), str(tmp_path / "once"), enhancer)
    again = enhance_archive(str(tmp_path / "once"), str(tmp_path / "twice"), enhancer)
    assert again.reasons == {"already_enhanced": 24, "not_followed": 3} and outputs(tmp_path / "twice") == {}
    copied = enhance_archive(
        str(tmp_path / "once"), str(tmp_path / "twice"), enhancer, ArchiveOptions(copy_others=True)
    )
    assert copied.counts == {"copied": 24, "skipped": 3} and outputs(tmp_path / "twice") == outputs(tmp_path / "once")


def processed(data: bytes, folder: Path, enhancer: Enhancer) -> Entry:
    """The entry of one photo."""
    (folder / "a.png").write_bytes(data)
    task = FileTask(source="a.png", fingerprint="1", name=b"a.png", kind=Kind.PHOTO, size=len(data), modified=0.0)
    job = Job(source=str(folder), target=str(folder / "target"), model="m", options=ArchiveOptions())
    return process_file(task, job, enhancer)


def test_a_photo_that_is_refused_from_its_header_does_not_wait_for_room(
    enhancer: Enhancer, photo: np.ndarray, to_file: ToFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(file, "room_for", lambda megapixels: asked.append(megapixels) or room.room_for(megapixels))
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", b"")
    )
    assert processed(bomb, tmp_path, enhancer).reason == "too_large" and asked == []
    assert processed(to_file(photo, "PNG"), tmp_path, enhancer).status == "enhanced" and len(asked) == 1


def test_a_photo_that_did_not_fit_into_memory_is_tried_again(
    enhancer: Enhancer, photo: np.ndarray, to_file: ToFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(image: ImageFile.ImageFile) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", no_memory)
    entry = processed(to_file(photo, "PNG"), tmp_path, enhancer)
    assert entry.status == "failed" and "too little free memory" in entry.detail
    assert not Reason(entry.reason).lasts and entry.reason != Reason.INTERNAL, "no bug, and not for good"
