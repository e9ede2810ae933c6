"""Each file of an archive is enhanced, copied or left alone, and reported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from naturaltone.serving.archive.job import enhance_archive
from naturaltone.serving.archive.options import ArchiveOptions
from naturaltone.serving.enhancer import Enhancer
from tests.archives import outputs, statuses

pytestmark = pytest.mark.usefixtures("ray_cluster")
ToFile = Callable[..., bytes]


def test_files_that_are_not_enhanced_are_reported_with_a_reason_and_copied_on_request(
    mixed: Path, enhancer: Enhancer, tmp_path: Path
) -> None:
    before = {path: (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in mixed.rglob("*")}
    target = tmp_path / "target"
    enhance_archive(str(mixed), str(target), enhancer, ArchiveOptions(photos_only=True))
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
        str(mixed), str(target), enhancer, ArchiveOptions(photos_only=True, copy_others=True, keep_mtime=False)
    )
    assert more.unchanged == 2, "the two enhanced photos"
    for name in ("2019/raw.NEF", "2019/video.mp4", "Screenshot.png", "hdr.jpg"):
        assert (target / name).read_bytes() == (mixed / name).read_bytes() and statuses(target)[name][0] == "copied"
    assert (target / "2019" / "video.mp4").stat().st_mtime > 1_600_000_000
    dropped = enhance_archive(str(mixed), str(target), enhancer, ArchiveOptions(drop_hdr=True))
    assert dropped.counts["enhanced"] == 2 and b"hdrgm" not in (target / "hdr.jpg").read_bytes()
    assert {
        path: (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in mixed.rglob("*")
    } == before


def test_an_enhanced_archive_is_not_enhanced_again(photo_folder: Path, enhancer: Enhancer, tmp_path: Path) -> None:
    enhance_archive(str(photo_folder), str(tmp_path / "once"), enhancer)
    again = enhance_archive(str(tmp_path / "once"), str(tmp_path / "twice"), enhancer)
    assert again.reasons == {"already_enhanced": 24, "not_followed": 3} and outputs(tmp_path / "twice") == {}
    copied = enhance_archive(
        str(tmp_path / "once"), str(tmp_path / "twice"), enhancer, ArchiveOptions(copy_others=True)
    )
    assert copied.counts == {"copied": 24, "skipped": 3} and outputs(tmp_path / "twice") == outputs(tmp_path / "once")
