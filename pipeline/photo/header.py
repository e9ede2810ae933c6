"""What a photo file's header says, before a pixel is decoded: format, size, depth, and why it would be refused."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
from PIL import Image, UnidentifiedImageError

from naturaltone.pipeline.photo import avif, container, heif_layout, jpeg, png, tiff
from naturaltone.pipeline.photo.formats import (
    FORMATS,
    HAS_HEIF,
    HEIF,
    HEIF_BRANDS,
    NAMED_FORMATS,
    RAW,
    READABLE,
    SIGNATURES,
)
from naturaltone.pipeline.photo.refusals import MIN_SIDE, ImageError
from naturaltone.pipeline.photo.xmp import Stamp, read_stamp
from naturaltone.pipeline.reasons import Reason

if HAS_HEIF:  # the optional extra [heif]
    import pillow_heif

    # No code here uses thumbnails or depth maps, so they are not decoded.
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)

# Pillow's own limit is off: `refuse_unsupported` checks the size in the header before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # ImageError reports what OpenCV would log


_NEW_SUBFILE_TYPE, _BITS_PER_SAMPLE, PHOTOMETRIC, PLANES, _SUB_IFDS, _DNG_VERSION = 254, 258, 262, 284, 330, 50706
_EXTRA_SAMPLES, _ASSOCIATED, _PHOTOSHOP_LAYERS = 338, 1, 37724
_RAW_PHOTOMETRICS = (32803, 34892)
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
_SAMPLE_FORMAT = 339
_IS_HDR = {
    "JPEG": jpeg.is_hdr,
    "MPO": jpeg.is_hdr,
    "PNG": png.is_hdr,
    "HEIF": heif_layout.is_hdr,
    "AVIF": heif_layout.is_hdr,
}
# Pillow takes signed 8-bit samples for unsigned ones: −1 would become white. 4 means undefined; Pillow opens no such file.
_OTHER_SAMPLES = {2: "signed integers", 3: "floating-point numbers", 5: "complex integers", 6: "complex numbers"}


@contextlib.contextmanager
def reading_header() -> Iterator[None]:
    """Turn any error of Pillow's parsers on a broken header into an `ImageError`."""
    try:
        yield
    except (ImageError, UnidentifiedImageError):
        raise
    except Exception as error:
        what = str(error) or type(error).__name__
        raise ImageError(
            Reason.TRUNCATED, f"the header cannot be read ({what}); restore the file from a backup"
        ) from None


def size(data: bytes) -> tuple[int, int]:
    """Width and height of a photo file, from its header; `ImageError` if it is no photo of a known format."""
    with reading_header():
        return open_image(data).size


def memory_megapixels(data: bytes) -> float:
    """The size of the JPEG that takes as much memory to enhance as this photo; `ImageError` as of `size`.

    Measured (RESULTS.md, 2026-11-28): a HEIC of one picture takes up to 1.6 times a JPEG's room of 20 bytes a pixel, one of
    tiles with 10 bits 1.4 times, and one picture with 10 bits 2.6 times.
    """
    with reading_header():
        image = open_image(data)
        share = 1.0
        if image.format == "HEIF":
            share = (1.0 if heif_layout.is_tiled(data) else 1.75) * (1.5 if bit_depth(image, data) > 8 else 1.0)
        return share * image.width * image.height / 1e6


def stamp_of(data: bytes) -> Stamp | None:
    """The stamp in a photo file, from its header; None if it has no stamp or is no photo."""
    try:
        with reading_header():
            return stamp_in(open_image(data), data)
    except ImageError:
        return None


def stamp_in(image: Image.Image, data: bytes) -> Stamp | None:
    # pillow_heif takes any item with a media type for XMP.
    known = None if image.format == "HEIF" else image.info.get("xmp")
    return read_stamp(known or container.read(data).xmp)


def open_image(data: bytes) -> Image.Image:
    """Open a photo file with Pillow, without decoding its pixels; `ImageError` if it is no photo of a known format."""
    for offset, signature, reason, detail in SIGNATURES:
        if data.startswith(signature, offset) and not (detail is HEIF and HAS_HEIF):
            raise ImageError(reason, detail)
    try:
        with reading_header():
            return Image.open(io.BytesIO(data), formats=(*FORMATS - {"MPO"}, *NAMED_FORMATS))
    except UnidentifiedImageError:
        pass
    if data.startswith(b"ftyp", 4) and data.startswith(HEIF_BRANDS, 8):
        detail = "libheif cannot read this HEIC; restore the file from a backup"
        raise heif_layout.unreadable(data) or ImageError(Reason.TRUNCATED, detail)
    if data[:4] in _TIFF:
        _refuse_other_samples(_sample_formats(data))
        detail = f"this kind of TIFF cannot be read; save it as a plain TIFF of 8 or 16 bits a channel. It may be {RAW}"
        raise ImageError(Reason.UNSUPPORTED_FORMAT, detail)
    raise ImageError(Reason.NOT_AN_IMAGE, f"the bytes are no photo of a known format; {READABLE}, or remove the file")


def refuse_unsupported(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Raise `ImageError` if the header shows a format, size, depth or layout that `decode` does not support."""
    width, height = image.size
    if image.format not in FORMATS:
        raise ImageError(Reason.UNSUPPORTED_FORMAT, f"{image.format}; {READABLE}")
    if width * height > max_pixels:
        raise ImageError(Reason.TOO_LARGE, f"{width}×{height} pixels; the limit is {max_pixels / 1e6:.0f} megapixels")
    if min(width, height) < MIN_SIDE:
        raise ImageError(Reason.TOO_SMALL, f"{width}×{height} pixels; each side needs at least {MIN_SIDE}")
    if image.format == "TIFF" and _is_raw(image.tag_v2):  # type: ignore[attr-defined]
        raise ImageError(Reason.RAW, RAW)
    if image.format == "TIFF":
        _refuse_other_samples(image.tag_v2.get(_SAMPLE_FORMAT, ()))  # type: ignore[attr-defined]
    if image.format not in ("MPO", "HEIF") and getattr(image, "n_frames", 1) > 1:
        raise ImageError(Reason.ANIMATED, "the file holds several frames; save the one you want as a photo")
    if image.format == "HEIF" and (unreadable := heif_layout.unreadable(data)):
        raise unreadable
    is_hdr = _IS_HDR.get(str(image.format))
    if is_hdr and is_hdr(data):
        how = "PQ, HLG, or a gain map that makes the SDR picture"
        raise ImageError(
            Reason.HDR_STILL, f"its pixels are made for HDR screens ({how}); save it as an SDR photo first"
        )
    if image.mode in ("I", "F"):
        raise ImageError(Reason.UNSUPPORTED_DEPTH, "32 bits a channel; save it with 8 or 16")
    if image.mode in ("LAB", "HSV"):
        raise ImageError(Reason.UNSUPPORTED_MODE, f"pixel layout {image.mode}; save it as RGB or grey")


def _is_raw(tags: Any) -> bool:
    # DNG, NEF, ARW and PEF are TIFFs: Pillow would open the sensor's mosaic or a thumbnail.
    is_thumbnail = bool(tags.get(_NEW_SUBFILE_TYPE, 0) & 1) and _SUB_IFDS in tags
    return _DNG_VERSION in tags or tags.get(PHOTOMETRIC) in _RAW_PHOTOMETRICS or is_thumbnail


def _refuse_other_samples(formats: Iterable[int]) -> None:
    """Refuse a TIFF with samples that are not unsigned integers. formats: one for all channels, or one for each."""
    for what in (_OTHER_SAMPLES[each] for each in formats if each in _OTHER_SAMPLES):
        detail = f"its samples are {what}; save it with unsigned integers of 8 or 16 bits a channel"
        raise ImageError(Reason.UNSUPPORTED_DEPTH, detail)


def _sample_formats(data: bytes) -> tuple[int, ...]:
    """The sample formats of a TIFF that Pillow does not open; empty if it does not say, is broken, or is a BigTIFF."""
    try:
        order = tiff.byte_order(data)
        entries, _ = tiff.directory(data, tiff.first_directory(data, order), order)
    except ValueError:
        return ()
    return tiff.numbers(data, tiff.by_tag(entries).get(_SAMPLE_FORMAT), order)


def bit_depth(image: Image.Image, data: bytes) -> int:
    """Bits a channel, from the file's own header, since Pillow silently opens deeper photos as 8-bit."""
    if image.format == "PNG":
        return png.bit_depth(data)
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))))  # type: ignore[attr-defined]
    if image.format == "AVIF":
        return avif.coding(data).depth
    return int(image.info.get("bit_depth", 8))


def read_only(image: Image.Image, data: bytes, depth: int) -> ImageError | None:
    """The `ImageError` for a photo that can be read but not written again; None for any other photo."""
    if image.format == "HEIF":
        return heif_layout.refusal(data)
    if image.mode == "CMYK":
        return ImageError(Reason.UNSUPPORTED_MODE, "CMYK: its inks would be lost; convert it to RGB first")
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        if _PHOTOSHOP_LAYERS in tags:
            return ImageError(Reason.UNSUPPORTED_MODE, "layers, which fit only the old pixels; save it without layers")
        if depth == 8 and _ASSOCIATED in tuple(tags.get(_EXTRA_SAMPLES, ())):
            what = "opacity multiplied into the colours; save it with plain (unassociated) opacity"
            return ImageError(Reason.UNSUPPORTED_MODE, what)
    if depth > 8 and image.format not in ("PNG", "TIFF"):
        return ImageError(Reason.UNSUPPORTED_DEPTH, f"{depth} bits a channel would be cut to 8; save it with 8 bits")
    return None
