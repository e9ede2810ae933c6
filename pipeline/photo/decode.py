"""Decode a photo file to upright pixels."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from naturaltone.pipeline.photo import container, heif_layout
from naturaltone.pipeline.photo.coding import coding_of
from naturaltone.pipeline.photo.colour import from_inks
from naturaltone.pipeline.photo.formats import HAS_HEIF
from naturaltone.pipeline.photo.header import (
    PHOTOMETRIC,
    PLANES,
    bit_depth,
    open_image,
    read_only,
    refuse_unsupported,
    stamp_in,
)
from naturaltone.pipeline.photo.photo import Photo
from naturaltone.pipeline.photo.pixels import upright
from naturaltone.pipeline.photo.refusals import MAX_BYTES, MAX_PIXELS, ImageError, check_bytes
from naturaltone.pipeline.reasons import Reason

if HAS_HEIF:
    import pillow_heif

# Pillow then holds a picture in one piece of memory, which NumPy can view. A copy would take as long as the decoding.
Image.core.set_use_block_allocator(1)


_ORIENTATION = 0x0112
_MIN_IS_WHITE, _SEPARATE_PLANES = 0, 2


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Photo:
    """Decode a photo file of any format in `FORMATS`.

    `ImageError` says why a file is refused. The header is checked first, before a pixel is decoded.
    """
    check_bytes(len(data), max_bytes=max_bytes)
    image = open_image(data)
    try:
        refuse_unsupported(image, data, max_pixels)
        depth = bit_depth(image, data)
        coding = coding_of(image, data)
        is_heif = image.format == "HEIF"
        orientation = heif_layout.orientation_of(data) if is_heif else image.getexif().get(_ORIENTATION, 1)
        turn = 1 if is_heif else orientation  # libheif turns the pixels itself
        # Pillow would copy what libheif has decoded. Opacity that is multiplied into the colours is work for Pillow.
        is_by_libheif = is_heif and (depth > 8 or image.mode != "RGBa")
        # Deep formats too: Pillow refuses a truncated file, but OpenCV would leave its missing part blank. libheif refuses it.
        if not is_by_libheif:
            image.load()
        if depth > 8 or is_by_libheif:
            packed, has_alpha, is_grey = _other_arrays(image, data, depth, turn)
        else:
            # `exif_transpose` copies the photo even when nothing has to be turned.
            packed, has_alpha, is_grey = _arrays(ImageOps.exif_transpose(image) if turn != 1 else image)
    except (ImageError, MemoryError):  # too little memory says nothing about the file
        raise
    except Exception as error:  # Pillow's parsers raise all kinds of errors on broken files
        what = str(error) or type(error).__name__
        raise ImageError(
            Reason.TRUNCATED, f"the pixels cannot be read ({what}); restore the file from a backup"
        ) from None
    return Photo(
        packed=packed,
        has_alpha=has_alpha,
        format="JPEG" if image.format == "MPO" else str(image.format),
        # The inks of a CMYK photo are converted to sRGB, so its profile no longer applies.
        # Some HEICs have an empty profile, which says as much as none.
        icc_profile=None if image.mode == "CMYK" else image.info.get("icc_profile") or None,
        is_grey=is_grey,
        orientation=orientation if orientation in range(1, 9) else 1,
        coding=coding,
        original=data,
        extras=container.extras(data),
        stamp=stamp_in(image, data),
        read_only=read_only(image, data, depth),
    )


def _arrays(image: Image.Image) -> tuple[np.ndarray, bool, bool]:
    """The pixels of any 8-bit mode (H×W×4 uint8, CMYK H×W×3), whether they have opacity, and whether the photo is grey."""
    if image.mode == "CMYK":
        return from_inks(image), False, False
    is_grey = image.mode in ("1", "L", "LA", "La")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        if image.mode == "La":  # Pillow cannot convert La to RGBA directly
            image = image.convert("LA")
        return _packed(image if image.mode == "RGBA" else image.convert("RGBA")), True, is_grey
    return _packed(image if image.mode == "RGB" else image.convert("RGB")), False, is_grey


def _packed(image: Image.Image) -> np.ndarray:
    """A view of an RGB or RGBA image's memory as H×W×4 uint8, without a copy."""
    return np.asarray(pa.array(image).flatten()).reshape(image.height, image.width, 4)


def _other_arrays(image: Image.Image, data: bytes, depth: int, orientation: int) -> tuple[np.ndarray, bool, bool]:
    """Like `_arrays`, for more than 8 bits a channel (uint16) and for HEIFs: H×W×3 or H×W×4.

    Pillow has no colour images of more than 8 bits, so OpenCV and libheif decode them.
    """
    if image.mode == "CMYK" or "transparency" in image.info:
        raise ImageError(
            Reason.UNSUPPORTED_MODE,
            f"{depth} bits a channel as CMYK or with a transparent colour; save it as plain RGB or with 8 bits",
        )
    if image.format == "HEIF":
        values = np.asarray(pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False))
        # libheif shifts deep values up to 16 bits. The low bits are filled here, so that white becomes 65535.
        values = values | (values >> depth) if depth > 8 else values
    else:
        if image.format == "TIFF" and image.tag_v2.get(PLANES) == _SEPARATE_PLANES:  # type: ignore[attr-defined]
            raise ImageError(
                Reason.UNSUPPORTED_DEPTH, f"{depth} bits in separate planes; save it interleaved or with 8 bits"
            )
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if decoded is None or decoded.dtype != np.uint16:
            raise ImageError(Reason.UNSUPPORTED_DEPTH, f"{depth} bits a channel; save it with 8 or 16")
        values = decoded if decoded.ndim == 2 else decoded[..., [2, 1, 0, 3][: decoded.shape[2]]]
        if image.format == "TIFF":
            # OpenCV turns a TIFF upright and shifts its values up, as libheif does.
            orientation = 1
            values = values | (values >> depth) if depth < 16 else values
            if image.tag_v2.get(PHOTOMETRIC) == _MIN_IS_WHITE:  # type: ignore[attr-defined]
                values = 65535 - values
        elif depth < 16:
            values = (values.astype(np.uint32) * 65535 // (2**depth - 1)).astype(np.uint16)
    values = upright(values, orientation)
    if values.ndim == 2:
        return np.repeat(values[..., None], 3, axis=2), False, True
    return np.ascontiguousarray(values), values.shape[2] == 4, image.mode in ("LA", "I;16")
