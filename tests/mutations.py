"""Makes small photo files of every format, and damages them as disks, memory cards and attackers do; the damage is seeded."""

from __future__ import annotations

import io
import random
import re
import struct
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageCms

from naturaltone.pipeline.photo.header import HAS_HEIF
from tests.pipeline.photo.files import FTYP
from tests.pipeline.photo.gain_maps import ultra_hdr

_HEADER = 64
_SUFFIXES = {"jpeg": "jpg", "png": "png", "tiff": "tif", "webp": "webp", "avif": "avif", "heic": "heic"}


def samples(photo: np.ndarray) -> dict[str, bytes]:
    """One file of each kind, made of `photo` (H×W×3 uint8, small). It has EXIF and a colour profile if its kind can.

    Returns the files by kind. The name of a kind starts with its format: "jpeg-baseline", "png-16".
    """
    image = Image.fromarray(photo)
    grey = image.convert("L")
    deep = photo.astype(np.uint16) * 257
    see_through = image.copy()
    see_through.putalpha(grey)
    of_rgb = {"exif": _exif(), "icc_profile": _profile()}
    of_grey = {"exif": _exif(), "icc_profile": _grey_profile()}
    return {
        "jpeg-baseline": _pillow(image, "JPEG", quality=90, **of_rgb),
        "jpeg-progressive": _pillow(image, "JPEG", quality=90, progressive=True, **of_rgb),
        "jpeg-grey": _pillow(grey, "JPEG", quality=90, **of_grey),
        "jpeg-cmyk": _pillow(image.convert("CMYK"), "JPEG", quality=90, exif=_exif()),  # Pillow adds the Adobe marker
        "jpeg-ultra-hdr": ultra_hdr(photo, photo[::4, ::4].mean(axis=2) / 128, most=2.0, trailer=FTYP),
        "png-8": _pillow(image, "PNG", **of_rgb),
        "png-16": _opencv_png(cv2.cvtColor(deep, cv2.COLOR_RGB2BGR), _profile()),
        "png-palette": _pillow(image.quantize(64), "PNG", **of_rgb),
        "png-rgba": _pillow(see_through, "PNG", **of_rgb),
        "png-grey": _pillow(grey, "PNG", **of_grey),
        "png-grey-16": _opencv_png(cv2.cvtColor(deep, cv2.COLOR_RGB2GRAY), _grey_profile()),
        "tiff-8": _pillow(image, "TIFF", compression="tiff_lzw", **of_rgb | {"exif": _flat_exif().tobytes()}),
        "tiff-16": _deep_tiff(deep),
        "webp-lossy": _pillow(image, "WEBP", quality=85, **of_rgb),
        "webp-lossless-alpha": _pillow(see_through, "WEBP", lossless=True, **of_rgb),
        "avif": _pillow(image, "AVIF", quality=80, **of_rgb),
        **(_heics(image, deep, of_rgb) if HAS_HEIF else {}),
    }


def mutations(files: dict[str, bytes], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of `count` damaged copies of `files`, which must be of at least two formats.

    The copies cycle through the files, and each file through the kinds of damage. The same arguments give the same bytes.
    """
    chance = random.Random(seed)
    kinds = list(files)
    damages = list(_DAMAGES)
    for number in range(count):
        turn, index = divmod(number, len(kinds))
        kind, damage = kinds[index], damages[(turn + index) % len(damages)]
        data = bytearray(files[kind])
        other = files[chance.choice([name for name in kinds if _format(name) != _format(kind)])]
        name = f"{kind}-{number:04}-{damage}.{_SUFFIXES[_format(kind)]}"
        yield name, bytes(_DAMAGES[damage](data, other, chance))


def _flips(data: bytearray, other: bytes, chance: random.Random) -> bytearray:
    return _flip(data, len(data), chance)


def _header_flips(data: bytearray, other: bytes, chance: random.Random) -> bytearray:
    return _flip(data, _HEADER, chance)


def _flip(data: bytearray, end: int, chance: random.Random) -> bytearray:
    for _ in range(chance.randint(1, 32)):
        data[chance.randrange(end)] ^= 1 << chance.randrange(8)
    return data


def _truncated(data: bytearray, other: bytes, chance: random.Random) -> bytearray:
    return data[: chance.randrange(1, len(data))]


def _block(data: bytearray, chance: random.Random) -> slice:
    size = chance.randint(16, 64)
    start = chance.randrange(len(data) - size)
    return slice(start, start + size)


def _zeroed(data: bytearray, other: bytes, chance: random.Random) -> bytearray:
    block = _block(data, chance)
    data[block] = bytes(block.stop - block.start)
    return data


def _duplicated(data: bytearray, other: bytes, chance: random.Random) -> bytearray:
    block = _block(data, chance)
    return data[: block.stop] + data[block.start :]


def _wrong_header(data: bytearray, other: bytes, chance: random.Random) -> bytearray:
    data[:16] = other[:16]
    return data


def _huge(data: bytearray, other: bytes, chance: random.Random) -> bytearray:
    sizes = _size_field(data)
    for _ in range(chance.randint(1, 3)):
        value = chance.choice((0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, chance.randrange(2**24, 2**32)))
        offset = chance.choice((chance.randrange(_HEADER - 4), sizes + chance.randrange(16)))
        struct.pack_into(chance.choice("<>") + "I", data, offset, value)
    return data


def _size_field(data: bytearray) -> int:
    """The offset of the fields for width and height; some formats have them after EXIF and profile."""
    if data.startswith(b"II*\0"):
        return int(struct.unpack_from("<I", data, 4)[0]) + 2
    found = re.search(rb"\xff[\xc0\xc2]\0[\x0b\x11\x14]\x08|IHDR|VP8X|ispe", data)
    assert found, "not a file that samples() made"
    return found.start() + 4


def _appended(data: bytearray, other: bytes, chance: random.Random) -> bytearray:
    return data + chance.randbytes(chance.randint(1, 4096))


def _empty(data: bytearray, other: bytes, chance: random.Random) -> bytearray:
    return bytearray()


_DAMAGES: dict[str, Callable[[bytearray, bytes, random.Random], bytearray]] = {
    "flips": _flips,
    "header-flips": _header_flips,
    "truncated": _truncated,
    "zeroed": _zeroed,
    "duplicated": _duplicated,
    "wrong-header": _wrong_header,
    "huge": _huge,
    "appended": _appended,
    "empty": _empty,
}


def _format(kind: str) -> str:
    return kind.split("-")[0]


def _pillow(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def _heics(image: Image.Image, deep: np.ndarray, options: dict[str, object]) -> dict[str, bytes]:
    """With a thumbnail, and with tiles as phones write them."""
    import pillow_heif

    buffer = io.BytesIO()
    size = (deep.shape[1], deep.shape[0])
    pillow_heif.encode("RGB;16", size, deep.tobytes(), buffer, quality=80, **options)
    return {
        "heic-8": _pillow(image, "HEIF", quality=80, thumbnails=[max(image.size) // 2], **options),
        "heic-10": buffer.getvalue(),
        "heic-grid": _pillow(image, "HEIF", quality=80, tile_size=64, **options),
    }


def _opencv_png(pixels: np.ndarray, profile: bytes) -> bytes:
    """Pillow cannot write PNG with 16-bit colours."""
    kinds = [cv2.IMAGE_METADATA_EXIF, cv2.IMAGE_METADATA_ICCP]
    metadata = [np.frombuffer(_exif().removeprefix(b"Exif\0\0"), np.uint8), np.frombuffer(profile, np.uint8)]
    return cv2.imencodeWithMetadata(".png", pixels, kinds, metadata)[1].tobytes()


def _deep_tiff(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    # The first EXIF directory is that of the TIFF itself.
    tags = [(0x010F, "s", 0, "Test", True), (0x0112, "H", 1, 6, True)]
    tifffile.imwrite(buffer, pixels, photometric="rgb", compression="zlib", iccprofile=_profile(), extratags=tags)
    return buffer.getvalue()


def _exif() -> bytes:
    """Maker, orientation 6, exposure time and a GPS position: text, numbers and nested directories."""
    exif = _flat_exif()
    exif.get_ifd(0x8769)[0x829A] = 0.005
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 14.25), 3: "E", 4: (11.0, 34.0, 31.5)})
    return exif.tobytes()


def _flat_exif() -> Image.Exif:
    """Without nested directories, which Pillow cannot write into a compressed TIFF."""
    exif = Image.Exif()
    exif[0x010F] = "Test"
    exif[0x0112] = 6
    return exif


def _profile() -> bytes:
    """sRGB under another name, so that readers must convert with it and cannot recognise it by its name."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile[:24] + bytes(12) + profile[36:]  # no creation time, so that the files are always the same
    return profile.replace("sRGB".encode("utf-16-be"), "Test".encode("utf-16-be"))


def _grey_profile() -> bytes:
    """The same tone curve for one channel: lcms reads it from the tag kTRC and ignores the tags for colours."""
    return _profile().replace(b"RGB XYZ ", b"GRAYXYZ ").replace(b"rTRC", b"kTRC")
