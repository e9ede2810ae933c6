"""Write new pixels into a photo's own file, and keep everything else in the file."""

from __future__ import annotations

import dataclasses
import io
import struct
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

from naturaltone.pipeline.photo import container, heif_gain_map, tiff, ultra_hdr
from naturaltone.pipeline.photo.coding import code, pillow_bytes
from naturaltone.pipeline.photo.header import (
    bit_depth,
    open_image,
    read_only,
    reading_header,
    refuse_unsupported,
    stamp_in,
)
from naturaltone.pipeline.photo.photo import Photo
from naturaltone.pipeline.photo.pixels import as_stored, to_8bit
from naturaltone.pipeline.photo.refusals import MAX_PIXELS, ImageError, check_bytes
from naturaltone.pipeline.photo.xmp import Stamp, stamped, with_gain_map, without_extras
from naturaltone.pipeline.reasons import Reason

CONVERTIBLE = ("JPEG", "PNG", "WEBP", "AVIF")
_EXIF = b"Exif\0\0"
# Description, maker, model, orientation, software, date, artist, rating, copyright; then the IFDs of camera and GPS.
_TIFF_FIELDS = (270, 271, 272, 274, 305, 306, 315, 18246, 18249, 33432)
_TIFF_IFDS = (0x8769, 0x8825)
_THUMBNAIL = 160  # pixels of the long side, as DCF requires of cameras
Extras = Literal["keep", "skip", "drop"]  # what becomes of a photo with HDR gain maps, motion videos and other pictures

_EXTRAS = {
    "HDR gain map": (Reason.HDR_GAIN_MAP, "an HDR gain map"),
    "motion video": (Reason.MOTION_VIDEO, "a motion video"),
    "other pictures": (Reason.OTHER_PICTURES, "another picture (depth, stereo or panorama)"),
}


def encode(
    photo: Photo,
    pixels: np.ndarray,
    *,
    stamp: Stamp | None = None,
    quality: int | None = None,
    extras: Extras = "keep",
) -> bytes:
    """Return the photo's own file with new pixels; everything else in it stays.

    pixels: upright, H×W×3 or H×W×4, with the size and the dtype of `photo.packed`. With H×W×3, the photo keeps its opacity.
    stamp: a note in the file that says what was done. quality: 1 to 100, not for PNG and TIFF. By default, a JPEG and a HEIF
    keep their own quality, a lossless WebP stays lossless, and others get 95. extras: keep the HDR gain map, the motion video
    and other pictures beside the photo, drop them, or skip a photo that has one of them. A gain map stays as it is: it says how
    much lighter than the photo the HDR picture is at each point, so the new photo carries its change into the HDR picture.

    `ImageError` if the photo cannot be written again.
    """
    refuse_to_rewrite(photo, extras=extras)
    if photo.has_alpha and pixels.shape[2] == 3:
        pixels = np.dstack([pixels, photo.packed[..., 3]])
    stored = np.ascontiguousarray(as_stored(pixels, photo.orientation))
    try:
        if photo.format == "AVIF":
            return pillow_bytes(photo, stored, quality, **_with_thumbnail(_stamped_info(photo, stamp), stored))
        coded = code(photo, stored, quality)
        return container.replace_pixels(
            photo.original,
            coded,
            stamp=stamp,
            thumbnail=lambda limit: _thumbnail(stored, limit),
            drop_extras=extras == "drop",
        )
    except (OSError, ValueError, RuntimeError, struct.error) as error:
        raise ImageError(Reason.UNWRITABLE, f"the photo cannot be written again as {photo.format} ({error})") from None


def convert(
    photo: Photo,
    pixels: np.ndarray,
    *,
    format: str,
    stamp: Stamp | None = None,
    quality: int | None = None,
    extras: Extras = "keep",
) -> bytes:
    """Return the photo with new pixels as a file of another format, with 8 bits a channel; EXIF, XMP and profile are kept.

    format: one of `CONVERTIBLE`. The other arguments: see `encode`. The photo's own format gives the same as `encode`. A JPEG
    of a HEIF also has its gain map, unless it is to be dropped, or it is not known what its values mean. `ImageError` if the
    format cannot hold the photo.
    """
    if format == photo.format:
        return encode(photo, pixels, stamp=stamp, quality=quality, extras=extras)
    refuse_to_rewrite(photo, extras=extras)
    is_heif = photo.format == "HEIF"
    # Whoever asks for another format than HEIF, which few programs read, accepts the loss of what only a HEIF can hold.
    if not is_heif and (held := next((name for name in photo.extras if name in _EXTRAS), None)):
        reason, what = _EXTRAS[held]
        raise ImageError(reason, f"{format} cannot hold {what}; keep the photo's own format")
    if photo.has_alpha and format == "JPEG":
        raise ImageError(
            Reason.BAD_PARAMETER, "the photo is partly transparent, which JPEG cannot hold; use png or webp"
        )
    if photo.has_alpha and pixels.shape[2] == 3:
        pixels = np.dstack([pixels, photo.packed[..., 3]])
    # pillow_heif gives the EXIF block of a HEIF without its orientation.
    orientation = 1 if is_heif else photo.orientation
    stored = np.ascontiguousarray(to_8bit(as_stored(pixels, orientation)))
    target = dataclasses.replace(photo, format=format, coding={} if format == "PNG" else {"quality": 95})
    gain_map = _gain_map(photo) if is_heif and format == "JPEG" and extras == "keep" else None
    try:
        info = _stamped_info(photo, stamp)
        if gain_map:
            info["xmp"] = with_gain_map(info.get("xmp"), len(gain_map))
        if exif := _exif(photo):
            info = _with_thumbnail(info | {"exif": exif}, stored)
        if format == "PNG" and "xmp" in info:
            text = PngImagePlugin.PngInfo()
            text.add_itxt("XML:com.adobe.xmp", info.pop("xmp").decode("utf-8", "replace"))
            info["pnginfo"] = text
        data = pillow_bytes(target, stored, quality, **info)
        return ultra_hdr.joined(data, gain_map) if gain_map else data
    except (OSError, ValueError, TypeError, RuntimeError, struct.error) as error:
        raise ImageError(Reason.UNWRITABLE, f"the photo cannot be written as {format} ({error})") from None


def _gain_map(photo: Photo) -> bytes | None:
    """The gain map of a HEIF as the second picture of an Ultra HDR JPEG; None if it has none that is known."""
    try:
        found = heif_gain_map.read(photo.original)
    except MemoryError:  # says nothing about the file
        raise
    except Exception as error:  # libheif raises all kinds of errors on broken files
        detail = f"its HDR gain map cannot be read ({error}); --hdr drop leaves it out"
        raise ImageError(Reason.TRUNCATED, detail) from None
    return ultra_hdr.coded(*found) if found else None


def refuse_to_rewrite(photo: Photo, *, extras: Extras = "keep") -> None:
    """Raise the `ImageError` with which `encode` would refuse the photo, before any work is done."""
    _refuse_to_rewrite(photo.read_only, photo.stamp, photo.format, photo.extras, extras)


def check_rewritable(data: bytes, *, extras: Extras = "keep", format: str | None = None) -> tuple[str, ...]:
    """Raise the `ImageError` of `decode` or `refuse_to_rewrite` if the file's header already shows the reason.

    Returns what the enhanced file will keep beside the photo, such as "HDR gain map". format: see `convert`; None for `encode`.
    """
    check_bytes(len(data))
    with reading_header():
        image = open_image(data)
        refuse_unsupported(image, data, MAX_PIXELS)
        refusal, stamp = read_only(image, data, bit_depth(image, data)), stamp_in(image, data)
    held = container.extras(data)
    _refuse_to_rewrite(refusal, stamp, str(image.format), held, extras)
    if format and image.format == "HEIF":
        held = ("HDR gain map",) if format == "JPEG" and heif_gain_map.is_known(data) else ()
    return tuple(name for name in held if name in _EXTRAS) if extras == "keep" else ()


def _refuse_to_rewrite(
    read_only: ImageError | None, stamp: Stamp | None, format: str, held: tuple[str, ...], extras: Extras
) -> None:
    if stamp is not None:
        raise ImageError(Reason.ALREADY_ENHANCED, f"by {stamp.model}; enhance the original instead")
    if read_only:
        raise read_only
    # An AVIF is written anew, by Pillow, which writes the photo alone.
    can_keep = format != "AVIF"
    first = next((name for name in held if name in _EXTRAS), None)
    if first and (extras == "skip" or (extras == "keep" and not can_keep)):
        reason, what = _EXTRAS[first]
        remedy = "--hdr keep enhances the photo and keeps it" if can_keep else "--hdr drop leaves it out"
        raise ImageError(reason, f"the file holds {what} beside the photo; {remedy}")


def recode(source: str, target: str) -> None:
    """Decode a JPEG file and encode it again with its own quality: Pillow's cost alone, for comparison."""
    image = Image.open(source)
    image.load()
    image.save(target, quality="keep")


def _stamped_info(photo: Photo, stamp: Stamp | None) -> dict[str, Any]:
    """The metadata for Pillow to write into an AVIF or another format than the photo's."""
    info = Image.open(io.BytesIO(photo.original)).info
    kept = {name: info[name] for name in ("exif", "icc_profile") if info.get(name)}
    xmp = info.get("xmp")
    if photo.format == "HEIF":  # pillow_heif takes any item with a media type for XMP
        packet = container.read(photo.original).xmp
        xmp = without_extras(packet) if packet else None
    return kept | ({"xmp": stamped(xmp, stamp)} if stamp else {"xmp": xmp} if xmp else {})


def _with_thumbnail(info: dict[str, Any], stored: np.ndarray) -> dict[str, Any]:
    """Let the thumbnail in the EXIF block, if there is one, show the new pixels."""
    exif = info.get("exif")
    return info | {"exif": tiff.with_thumbnail(exif, lambda limit: _thumbnail(stored, limit))} if exif else info


def _exif(photo: Photo) -> bytes:
    """The EXIF block in the form in which all formats take it; empty if the photo has none."""
    image = Image.open(io.BytesIO(photo.original))
    if photo.format != "TIFF":
        block = bytes(image.info.get("exif") or b"")
        return block if not block or block.startswith(_EXIF) else _EXIF + block  # WebP has it without this prefix
    # A TIFF has no block: its fields stand among those that describe the pixels.
    found, kept = image.getexif(), Image.Exif()
    for tag in _TIFF_FIELDS:
        if tag in found:
            kept[tag] = found[tag]
    for tag in _TIFF_IFDS:
        kept.get_ifd(tag).update(found.get_ifd(tag))
    return kept.tobytes()


def _thumbnail(stored: np.ndarray, limit: int) -> bytes:
    """A JPEG of at most `limit` bytes for the EXIF block; empty if even the lowest quality needs more."""
    scale = _THUMBNAIL / max(stored.shape[:2])
    size = [max(1, round(side * scale)) for side in stored.shape[1::-1]]
    small = to_8bit(cv2.resize(stored, size, interpolation=cv2.INTER_AREA))
    for quality in (90, 75, 50, 25):
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(small[..., :3])).save(buffer, format="JPEG", quality=quality)
        if buffer.tell() <= limit:
            return buffer.getvalue()
    return b""
