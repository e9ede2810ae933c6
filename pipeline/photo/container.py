"""Put the coded pixels of one file into another photo file, and keep the rest of that file byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from naturaltone.pipeline.photo import heif, heif_rewrite, jpeg, png, tiff, webp
from naturaltone.pipeline.photo.hevc import Picture
from naturaltone.pipeline.photo.xmp import Stamp, stamped, without_extras

_AVIF = (b"avif", b"avis")


@dataclass(frozen=True)
class Metadata:
    """A file's EXIF block without its prefix, and its XMP packet.

    A TIFF has the structure of an EXIF block, so its `exif` is the whole file.
    """

    exif: bytes | None
    xmp: bytes | None


def replace_pixels(
    original: bytes,
    encoded: bytes | dict[int, Picture],
    *,
    stamp: Stamp | None,
    thumbnail: Callable[[int], bytes] | None = None,
    drop_extras: bool = False,
) -> bytes:
    """Return `original` with the coded pixels of `encoded`; everything else stays byte for byte.

    encoded: a file of the same format without metadata; for a HEIF, its coded pictures by the numbers of their items. stamp: a
    note that is added to the XMP packet. thumbnail: a function that gets a limit in bytes and returns a JPEG of the new pixels
    within that limit, or b"" if it cannot; this JPEG replaces the thumbnail in the EXIF block. drop_extras: leave out gain
    maps, videos, other pictures and all bytes after a JPEG's own picture or a HEIF's boxes, and what the XMP packet says about
    them. Even without it, a JPEG loses its previews, which show the old pixels.

    `ValueError` says why a file cannot be rewritten.
    """
    format = _format(original)

    def edit_xmp(packet: bytes | None) -> bytes | None:
        if drop_extras and packet is not None:
            packet = without_extras(packet)
        return stamped(packet, stamp) if stamp else packet

    if isinstance(encoded, dict):
        return heif_rewrite.replace_pixels(
            original, encoded, edit_xmp=edit_xmp, thumbnail=thumbnail, drop_extras=drop_extras
        )
    if format not in ("JPEG", "PNG", "WebP", "TIFF") or _format(encoded) != format:
        raise ValueError("the old and the new file must have the same format: JPEG, PNG, WebP or TIFF")
    if format == "JPEG":
        return jpeg.replace_pixels(original, encoded, edit_xmp=edit_xmp, thumbnail=thumbnail, drop_extras=drop_extras)
    if format == "PNG":
        return png.replace_pixels(original, encoded, edit_xmp=edit_xmp, thumbnail=thumbnail)
    if format == "WebP":
        return webp.replace_pixels(original, encoded, edit_xmp=edit_xmp, thumbnail=thumbnail)
    return tiff.replace_pixels(original, encoded, edit_xmp=edit_xmp)


def extras(data: bytes) -> tuple[str, ...]:
    """Name what a file holds besides the photo: "HDR gain map", "motion video", "other pictures", "preview".

    Empty for every format but JPEG, HEIF and AVIF.
    """
    if data.startswith(b"ftyp", 4):
        return heif.extras(data)
    return jpeg.extras(data) if _format(data) == "JPEG" else ()


def read(data: bytes) -> Metadata:
    """Read the metadata blocks of a file; both are None if the file cannot be read."""
    format = _format(data)
    try:
        if format == "JPEG":
            return Metadata(*jpeg.read(data))
        if format == "PNG":
            return Metadata(*png.read(data))
        if format == "WebP":
            return Metadata(*_without_prefix(*webp.read(data)))
        if format == "HEIF":
            return Metadata(*_without_prefix(*heif.read(data)))
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
    if data.startswith(b"ftyp", 4):
        return None if data.startswith(_AVIF, 8) else "HEIF"
    return "TIFF" if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")) else None
