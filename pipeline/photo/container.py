"""A photo file with other pixels: its container stays byte for byte, and the coded pixels of another file are put into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from naturaltone.pipeline.photo import jpeg, png, tiff, webp
from naturaltone.pipeline.photo.xmp import Stamp, stamped, without_extras


@dataclass(frozen=True)
class Metadata:
    """A file's EXIF block, without a prefix (of a TIFF: the file, which is one), and its XMP packet."""

    exif: bytes | None
    xmp: bytes | None


def replace_pixels(
    original: bytes,
    encoded: bytes,
    *,
    stamp: Stamp | None,
    thumbnail: Callable[[int], bytes] | None = None,
    icc: bool = True,
    drop_extras: bool = False,
) -> bytes:
    """`original` with the coded pixels of `encoded` (the same format, no metadata of its own); all else stays byte for byte.

    stamp: added to the XMP packet. thumbnail: gives a JPEG of the new pixels of at most so many bytes, empty if it cannot;
    it takes the place of the EXIF block's. icc: keep the colour profile. drop_extras: leave out gain maps, videos and all
    else that stands behind a JPEG. `ValueError` says why a file cannot be taken apart.
    """
    format = _format(original)
    if format is None or _format(encoded) != format:
        raise ValueError("the old and the new file are not both JPEG, PNG, WebP or TIFF")

    def edit_xmp(packet: bytes | None) -> bytes | None:
        if drop_extras and packet is not None:
            packet = without_extras(packet)
        return stamped(packet, stamp) if stamp else packet

    if format == "JPEG":
        return jpeg.replace_pixels(
            original, encoded, edit_xmp=edit_xmp, thumbnail=thumbnail, icc=icc, drop_extras=drop_extras
        )
    if format == "PNG":
        return png.replace_pixels(original, encoded, edit_xmp=edit_xmp, thumbnail=thumbnail, icc=icc)
    if format == "WebP":
        return webp.replace_pixels(original, encoded, edit_xmp=edit_xmp, thumbnail=thumbnail, icc=icc)
    return tiff.replace_pixels(original, encoded, edit_xmp=edit_xmp, icc=icc)


def extras(data: bytes) -> tuple[str, ...]:
    """What else than the photo a file holds: "HDR gain map", "motion video", "other pictures", "preview"; only JPEGs do."""
    return jpeg.extras(data) if _format(data) == "JPEG" else ()


def read(data: bytes) -> Metadata:
    """The metadata blocks of a file, from its headers; none of a file that cannot be read."""
    format = _format(data)
    try:
        if format == "JPEG":
            return Metadata(*jpeg.read(data))
        if format == "PNG":
            return Metadata(*png.read(data))
        if format == "WebP":
            return Metadata(*_without_prefix(*webp.read(data)))
        if format == "TIFF":
            return Metadata(data, tiff.read_xmp(data))
    except ValueError:
        pass
    return Metadata(None, None)


def _without_prefix(exif: bytes | None, xmp: bytes | None) -> tuple[bytes | None, bytes | None]:
    return (exif.removeprefix(tiff.EXIF_PREFIX) if exif else exif), xmp


def _format(data: bytes) -> str | None:
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(png.SIGNATURE):
        return "PNG"
    if data.startswith(b"RIFF") and data.startswith(b"WEBP", 8):
        return "WebP"
    return "TIFF" if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")) else None
