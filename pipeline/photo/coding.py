"""Find out how a photo file codes its pixels, and code new pixels in the same way, without metadata."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import tifffile
from PIL import Image, JpegImagePlugin

from naturaltone.pipeline.photo import avif, heif_pixels, webp
from naturaltone.pipeline.photo.hevc import Picture
from naturaltone.pipeline.photo.photo import Photo

_COMPRESSION, _UNCOMPRESSED = 259, 1


def coding_of(image: Image.Image, data: bytes) -> dict[str, Any]:
    """How the file codes its pixels, as options for Pillow's `save` (for a TIFF: tifffile's `imwrite`)."""
    if image.format in ("JPEG", "MPO"):
        # The file's own tables keep its quality and roughly its size.
        return {
            "qtables": image.quantization,  # type: ignore[attr-defined]
            "subsampling": max(JpegImagePlugin.get_sampling(image), 0),
            "progressive": bool(image.info.get("progressive")),
        }
    if image.format == "WEBP":
        return {"lossless": True} if webp.is_lossless(data) else {"quality": 95}
    if image.format == "AVIF":
        return {"quality": 95, "subsampling": avif.coding(data).subsampling}
    if image.format == "TIFF":
        is_plain = image.tag_v2.get(_COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED  # type: ignore[attr-defined]
        return {"compression": None if is_plain else "adobe_deflate", "predictor": None if is_plain else True}
    return {}


def code(photo: Photo, stored: np.ndarray, quality: int | None) -> bytes | dict[int, Picture]:
    """Code pixels as a file of the photo's format, without metadata; for a HEIF, as its pictures (`heif_pixels.code`).

    stored: H×W×3 or H×W×4, uint8 or uint16, turned as they are in the file. quality: 1 to 100, for JPEG, WebP and
    HEIF; None keeps the photo's own coding.
    """
    if photo.format == "HEIF":
        return heif_pixels.code(photo.original, stored, quality)
    if photo.format == "TIFF":
        return _tiff_bytes(photo, stored)
    if stored.dtype == np.uint16:
        values = (
            stored[..., 1] if photo.is_grey and not photo.has_alpha else stored[..., [2, 1, 0, 3][: stored.shape[2]]]
        )
        # 6 is zlib's default, which Pillow uses for 8 bits.
        return bytes(cv2.imencode(".png", values, [cv2.IMWRITE_PNG_COMPRESSION, 6])[1])
    return pillow_bytes(photo, stored, quality)


def pillow_bytes(photo: Photo, stored: np.ndarray, quality: int | None, **metadata: Any) -> bytes:
    """Code 8-bit pixels with Pillow, as `code` does; `metadata` goes to Pillow's `save` unchanged."""
    image = _to_image(stored, "RGBA" if photo.has_alpha else "RGB")
    if photo.is_grey:
        image = image.convert("LA" if photo.has_alpha else "L")
    options = dict(photo.coding)
    if quality is not None and photo.format != "PNG" and not options.get("lossless"):
        options.pop("qtables", None)
        options["quality"] = quality
    buffer = io.BytesIO()
    image.save(buffer, format=photo.format, **options, **metadata)
    return buffer.getvalue()


def _tiff_bytes(photo: Photo, stored: np.ndarray) -> bytes:
    values = stored if photo.has_alpha else stored[..., :3]
    if photo.is_grey:
        values = values[..., [1, 3]] if photo.has_alpha else values[..., 1]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        np.ascontiguousarray(values),
        byteorder=">" if photo.original.startswith(b"MM") else "<",
        photometric="minisblack" if photo.is_grey else "rgb",
        planarconfig=None if values.ndim == 2 else "contig",
        extrasamples=["unassalpha"] if photo.has_alpha else None,
        rowsperstrip=max(1, 2**18 // values[0].nbytes),
        metadata=None,
        software=False,
        **photo.coding,
    )
    return buffer.getvalue()


def _to_image(packed: np.ndarray, mode: str) -> Image.Image:
    """H×W×3 or H×W×4 uint8 as an RGB or RGBA image."""
    if packed.shape[2] == 3:
        return Image.fromarray(packed)
    values = pa.FixedSizeListArray.from_arrays(pa.array(packed.reshape(-1)), 4)
    return Image.fromarrow(values, mode, (packed.shape[1], packed.shape[0]))
