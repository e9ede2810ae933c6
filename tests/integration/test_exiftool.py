"""ExifTool finds the same metadata in a file before and after; it reads more metadata than any other program."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from naturaltone.pipeline.photo import container
from naturaltone.pipeline.photo.xmp import Stamp, read_stamp
from naturaltone.serving.enhancer import Enhancer
from naturaltone.training.checkpoint import Bundle
from tests.pipeline.photo.files import PROFILE, STAMP, exif, jpeg, mpf, png
from tests.pipeline.photo.heif_files import heic, needs_heif, scene

pytestmark = pytest.mark.skipif(
    shutil.which("exiftool") is None, reason="needs ExifTool: apt-get install libimage-exiftool-perl"
)

SIZE = (40, 24)
HEICS = [pytest.param(kind, marks=needs_heif) for kind in ("HEIF of tiles", "HEIF of 10 bits")]
WRITTEN = {
    "Make": "Maker", "Model": "Camera 5", "Orientation#": "6", "Software": "Some Editor 1.0", "Artist": "Åsa",
    "Copyright": "© Åsa", "ImageDescription": "a description", "DateTimeOriginal": "2019:07:21 14:03:12",
    "OffsetTimeOriginal": "+02:00", "ModifyDate": "2020:01:02 03:04:05", "ExposureTime": "1/250", "FNumber": "2.8",
    "ISO": "400", "LensModel": "35mm", "UserComment": "写真", "GPSLatitude": "47.37", "GPSLatitudeRef": "N",
    "GPSLongitude": "8.54", "GPSLongitudeRef": "E", "GPSAltitude": "408.5", "GPSAltitudeRef": "0", "XResolution": "240",
    "XMP-xmp:Rating": "5", "XMP-dc:Subject": "lake", "XMP-dc:Title": "Zürich", "XMP-xmp:CreatorTool": "Some Tool",
    "XMP-photoshop:City": "Zürich", "XMP-mwg-rs:RegionName": "Åsa", "XMP-xmpMM:HistoryAction": "saved",
}  # fmt: skip
IPTC = {"IPTC:ObjectName": "title", "IPTC:Keywords": "lake", "IPTC:City": "Zürich", "IPTC:DateCreated": "2019:07:21"}
ALSO: dict[str, dict[str, str]] = {
    "JPEG": {"Comment": "by hand", **IPTC},
    "PNG": {"PNG:Author": "Åsa", "PNG:Comment": "by hand", "PNG:CreationTime": "2019:07:21 14:03:12"},
    "WEBP": {},
    "TIFF": {**IPTC, "PageName": "one", "DocumentName": "doc"},
}
# Tags that may change: those of the file itself, of the stamp and of how the pixels are coded.
ALLOWED = {
    *("SourceFile", "System:FileName", "System:Directory", "System:FileSize", "System:FileModifyDate"),
    *("System:FileAccessDate", "System:FileInodeChangeDate", "System:FilePermissions"),
    *("XMP-naturaltone:Model", "XMP-naturaltone:Strength", "XMP-naturaltone:Source"),
}
ALLOWED_IN: dict[str, set[str]] = {
    "JPEG": set(),
    "PNG": set(),
    # The EXIF block follows the pixels, so the thumbnail's offset in the file changes.
    "WEBP": {"IFD1:ThumbnailOffset"},
    "TIFF": {f"IFD0:{name}" for name in ("Compression", "StripOffsets", "StripByteCounts", "RowsPerStrip", "Predictor")}
    | {f"IFD0:Tile{name}" for name in ("Width", "Length", "Offsets", "ByteCounts")}
    | {"IFD0:PlanarConfiguration", "IFD0:SampleFormat"},  # both only state the default
    # The coded pixels, and what their coder says of itself.
    "HEIF": {f"QuickTime:MediaData{part}" for part in ("", "Size", "Offset")}
    | {
        f"QuickTime:{name}"
        for name in ("GeneralProfileIDC", "GenProfileCompatibilityFlags", "ConstraintIndicatorFlags")
    }
    | {f"QuickTime:{name}" for name in ("GeneralLevelIDC", "TemporalIDNested")},
    "AVIF": {f"QuickTime:MediaData{part}" for part in ("", "Size", "Offset")},  # the coded pixels
}


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3)).astype(np.uint8))


def coded(format: str, seed: int, order: str = "<", **options: Any) -> bytes:
    buffer = io.BytesIO()
    if format == "TIFF":
        pixels = np.asarray(picture(seed))
        tifffile.imwrite(
            buffer, pixels, byteorder=order, photometric="rgb", metadata=None, software=False, rowsperstrip=8, **options
        )
    else:
        picture(seed).save(buffer, format, **options)
    return buffer.getvalue()


def write(file: Path, tags: dict[str, str], *options: str) -> None:
    arguments = [f"-{name}={value}" for name, value in tags.items()]
    subprocess.run(
        ["exiftool", "-q", "-q", "-m", "-overwrite_original", *options, *arguments, str(file)],
        check=True, capture_output=True,
    )  # fmt: skip


def tags(file: Path) -> dict[str, Any]:
    # -a: repeated tags too; -u: tags without a name too. -b is left out: it would turn binary values into base64.
    command = ["exiftool", "-j", "-G1", "-a", "-u", "-s", "-struct", "-D", "-api", "LargeFileSupport=1", str(file)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True).stdout)[0])


def compare(tmp_path: Path, old: bytes, new: bytes, format: str, *, also_allowed: frozenset[str] = frozenset()) -> None:
    """Replace the pixels, and compare what ExifTool reads in the old and the new file."""
    compare_files(
        tmp_path, old, container.replace_pixels(old, new, stamp=STAMP), format, STAMP, also_allowed=also_allowed
    )


def compare_files(
    tmp_path: Path, old: bytes, data: bytes, format: str, done: Stamp, *, also_allowed: frozenset[str] = frozenset()
) -> None:
    before_file, after_file = tmp_path / "before", tmp_path / "after"
    before_file.write_bytes(old)
    after_file.write_bytes(data)
    before, after = tags(before_file), tags(after_file)
    allowed = ALLOWED | ALLOWED_IN[format] | also_allowed
    changed = {
        name: (before.get(name), after.get(name))
        for name in before.keys() | after.keys()
        if before.get(name) != after.get(name) and name not in allowed
    }
    assert not changed
    stamp = {name.removeprefix("XMP-naturaltone:"): tag for name, tag in after.items() if "XMP-naturaltone" in name}
    assert {name: str(tag["val"]) for name, tag in stamp.items()} == {
        "Model": done.model, "Strength": str(done.strength), "Source": done.source,
    }  # fmt: skip
    validated = ["exiftool", "-validate", "-warning", "-a", "-s3", "-m"]
    warnings = [
        set(subprocess.run([*validated, str(file)], check=True, capture_output=True, text=True).stdout.splitlines()[1:])
        for file in (before_file, after_file)
    ]
    assert warnings[1] <= warnings[0], "ExifTool warns of the new file, but not of the old one"


@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize("with_xmp", [True, False])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_tag_stays_as_it_was(format: str, with_xmp: bool, order: str, tmp_path: Path) -> None:
    sign = "<" if order == "II" else ">"
    options = {"compression": "zlib", "predictor": True} if format == "TIFF" else {"icc_profile": PROFILE}
    file = tmp_path / f"photo.{format.lower()}"
    file.write_bytes(coded(format, 1, sign, **options))
    (tmp_path / "thumbnail.jpg").write_bytes(coded("JPEG", 3))
    (tmp_path / "profile.icc").write_bytes(PROFILE)
    written = {name: value for name, value in (WRITTEN | ALSO[format]).items() if with_xmp or "XMP" not in name}
    more = [f"-icc_profile<={tmp_path / 'profile.icc'}"] if format == "TIFF" else []
    more += [f"-ThumbnailImage<={tmp_path / 'thumbnail.jpg'}"] if format != "TIFF" else []
    write(file, written, "-api", f"ByteOrder={order}", *more)
    old = file.read_bytes()
    found = tags(file)
    assert len(found) > 60 and found["ExifIFD:DateTimeOriginal"]["val"] == "2019:07:21 14:03:12"
    assert order in found["File:ExifByteOrder"]["val"]
    new_xmp = frozenset() if with_xmp else frozenset({"RIFF:WebP_Flags"})  # one flag says that there is a packet
    compare(tmp_path, old, coded(format, 2, sign), format, also_allowed=new_xmp)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "PNG of 16 bits", "WEBP", "TIFF", "TIFF of 16 bits", "AVIF", *HEICS])
def test_every_tag_outlives_the_enhancer(kind: str, bundle: Bundle, tmp_path: Path) -> None:
    """Decode, enhance and encode a photo of every format and depth that can be written."""
    format = kind.partition(" ")[0]
    file = tmp_path / f"photo.{format.lower()}"
    deep = np.random.default_rng(4).integers(0, 2**16, (SIZE[1], SIZE[0], 3), np.uint16)
    if kind == "PNG of 16 bits":
        file.write_bytes(cv2.imencode(".png", deep)[1].tobytes())
    elif kind == "TIFF of 16 bits":
        tifffile.imwrite(file, deep, byteorder=">", photometric="rgb", metadata=None, software=False)
    elif format == "TIFF":
        file.write_bytes(coded(format, 1))
    elif format == "HEIF":
        options = {"thumbnails": [64], "tile_size": 64} if kind == "HEIF of tiles" else {"depth": 10}
        file.write_bytes(heic(scene(), icc_profile=PROFILE, **options))
    else:
        file.write_bytes(coded(format, 1, icc_profile=PROFILE))
    written = WRITTEN | ALSO.get(format, {})
    if format in ("AVIF", "HEIF"):  # such a file keeps its orientation in a box outside the EXIF block
        written = {name: value for name, value in written.items() if name != "Orientation#"}
    write(file, written)
    done = Stamp(model="tiny", strength=1.0, source="12ab")
    enhanced = Enhancer(bundle, version="tiny").enhance_file(file.read_bytes(), source="12ab").data
    compare_files(tmp_path, file.read_bytes(), enhanced, format, done)


@pytest.mark.parametrize("order", "<>")
def test_a_maker_note_with_offsets_in_it_can_still_be_read(order: str, tmp_path: Path) -> None:
    """A note like Nikon's: the offsets in its directory count from the note, and a thumbnail follows it."""
    old = jpeg((0xE1, exif(order)), jfif=True)
    compare(tmp_path, old, coded("JPEG", 2, quality=75), "JPEG")
    compare(tmp_path, png("RGB", (b"eXIf", exif(order)[6:])), coded("PNG", 2), "PNG")


def test_a_cameras_previews_and_their_index_are_all_that_a_jpeg_loses(tmp_path: Path) -> None:
    old = mpf([0x010002], [coded("JPEG", 4)], (0xE1, exif()), (0xFE, b"by hand"), trailer=b"")
    (tmp_path / "old").write_bytes(old)
    lost = frozenset(name for name in tags(tmp_path / "old") if name.startswith(("MPF0", "MPImage")))
    assert lost
    compare(tmp_path, old, coded("JPEG", 2), "JPEG", also_allowed=lost)


def test_the_thumbnail_that_exiftool_takes_out_is_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(coded("JPEG", 1))
    (tmp_path / "thumbnail.jpg").write_bytes(coded("JPEG", 3, quality=95))
    write(file, WRITTEN, f"-ThumbnailImage<={tmp_path / 'thumbnail.jpg'}")
    thumbnail = coded("JPEG", 2, quality=50)
    data = container.replace_pixels(file.read_bytes(), coded("JPEG", 2), stamp=STAMP, thumbnail=lambda limit: thumbnail)
    file.write_bytes(data)
    command = ["exiftool", "-b", "-ThumbnailImage", str(file)]
    assert subprocess.run(command, check=True, capture_output=True).stdout == thumbnail


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_stamp_outlives_an_edit_with_exiftool(format: str, tmp_path: Path) -> None:
    file = tmp_path / f"photo.{format.lower()}"
    file.write_bytes(container.replace_pixels(coded(format, 1), coded(format, 2), stamp=STAMP))
    write(file, {"XMP-xmp:Rating": "3"})
    assert tags(file)["XMP-xmp:Rating"]["val"] == 3
    assert read_stamp(container.read(file.read_bytes()).xmp) == STAMP
    again = container.replace_pixels(file.read_bytes(), coded(format, 3), stamp=Stamp(model="other", strength=1.0))
    file.write_bytes(again)
    found = tags(file)
    assert (found["XMP-naturaltone:Model"]["val"], found["XMP-xmp:Rating"]["val"]) == ("other", 3)
