"""Photo files to upright RGB arrays and back, with their metadata; the only file that imports PIL."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

# The limit is ours: decode() reads the size from the header and refuses before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None

MAX_PIXELS = 200_000_000
MIN_SIDE = 16
FORMATS = {"JPEG", "MPO", "PNG", "TIFF", "WEBP"}
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
# Width, length, bits, compression, photometry, strips, tiles, planes, predictor, samples and their kinds, YCbCr.
_TIFF_LAYOUT = (*range(254, 260), 262, 266, 273, 277, 278, 279, 284, 317, *range(322, 326), 338, 339, *range(529, 533))
_SRGB = ImageCms.createProfile("sRGB")


class ImageError(ValueError):
    """A photo that cannot be used, with a stable reason code for reports and HTTP."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageError, (self.reason, self.detail)


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A decoded photo and what must survive when it is written again.

    `pixels` is H×W×3 uint8, upright, encoded in the photo's own `icc_profile` (sRGB if there is none).
    """

    pixels: np.ndarray
    format: str
    icc_profile: bytes | None
    save_options: dict[str, Any]
    is_grey: bool


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Photo:
    """Decode an 8-bit RGB or grey photo; `ImageError` says why another file is refused."""
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise ImageError(
            "not_an_image", "the bytes are no image that Pillow knows; remove or replace the file"
        ) from None
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise ImageError("truncated", f"the header cannot be read ({error}); restore the file from a backup") from None
    _refuse_unsupported(image, data, max_pixels)
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise ImageError("truncated", f"the pixels cannot be read ({error}); restore the file from a backup") from None
    return Photo(
        pixels=np.asarray(upright.convert("RGB")),
        format=str(image.format),
        icc_profile=image.info.get("icc_profile"),
        save_options=_save_options(image),
        is_grey=image.mode == "L",
    )


def encode(photo: Photo, pixels: np.ndarray) -> bytes:
    """Write `pixels` (H×W×3 uint8) as a file of `photo`'s format, with `photo`'s metadata and profile."""
    if photo.format == "MPO":
        raise ImageError(
            "unsupported_format",
            "a multi-picture JPEG (HDR gain map, portrait or stereo): rewriting it would lose its other pictures",
        )
    image = Image.fromarray(pixels)
    if photo.is_grey:
        image = image.convert("L")
    buffer = io.BytesIO()
    try:
        image.save(buffer, format=photo.format, **photo.save_options)
    except (OSError, ValueError, struct.error) as error:
        raise ImageError("unwritable", f"its metadata cannot be written again as {photo.format} ({error})") from None
    return buffer.getvalue()


def encode_jpeg(pixels: np.ndarray, *, quality: int = 95) -> bytes:
    """H×W×3 uint8 sRGB pixels as a JPEG without chroma subsampling: how shards and sheets store pictures."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def decode_rgb(data: bytes) -> np.ndarray:
    """H×W×3 uint8 pixels of a picture that this project wrote itself (`encode_jpeg`)."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def to_srgb(pixels: np.ndarray, icc_profile: bytes | None) -> np.ndarray:
    """Convert pixels encoded in `icc_profile` to sRGB; the same array when they already are."""
    return _convert(pixels, icc_profile, into_srgb=True)


def from_srgb(pixels: np.ndarray, icc_profile: bytes | None) -> np.ndarray:
    """Convert sRGB pixels to the encoding of `icc_profile`; the inverse of `to_srgb` inside its gamut."""
    return _convert(pixels, icc_profile, into_srgb=False)


def _convert(pixels: np.ndarray, icc_profile: bytes | None, *, into_srgb: bool) -> np.ndarray:
    if icc_profile is None:
        return pixels
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
        # A grey profile on pixels that decode() made RGB: its tone curve is close to sRGB's, its colours are not ours.
        if profile.profile.xcolor_space.strip() != "RGB" or "sRGB" in (profile.profile.profile_description or ""):
            return pixels
        source, target = (profile, _SRGB) if into_srgb else (_SRGB, profile)
        converted = ImageCms.profileToProfile(Image.fromarray(pixels), source, target)
    except (ImageCms.PyCMSError, OSError) as error:
        raise ImageError("bad_profile", f"the embedded colour profile cannot be used ({error})") from None
    return np.asarray(converted)


def _refuse_unsupported(image: Image.Image, data: bytes, max_pixels: int) -> None:
    width, height = image.size
    if image.format not in FORMATS:
        raise ImageError("unsupported_format", f"{image.format}; use one of {', '.join(sorted(FORMATS - {'MPO'}))}")
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise ImageError("animated", "the file holds several frames; save the one you want as a photo")
    if width * height > max_pixels:
        raise ImageError("too_large", f"{width}×{height} pixels; the limit is {max_pixels / 1e6:.0f} megapixels")
    if min(width, height) < MIN_SIDE:
        raise ImageError("too_small", f"{width}×{height} pixels; each side needs at least {MIN_SIDE}")
    if _bit_depth(image, data) > 8:
        raise ImageError("unsupported_depth", f"{_bit_depth(image, data)} bits a channel; save it with 8")
    if image.mode not in ("RGB", "L") or "transparency" in image.info:
        raise ImageError("unsupported_mode", f"pixel layout {image.mode}; save it as RGB or grey without transparency")


def _bit_depth(image: Image.Image, data: bytes) -> int:
    # Pillow opens 16-bit RGB as 8-bit without a word, so the header is asked.
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,)))  # type: ignore[attr-defined]
    return 8


def _save_options(image: Image.Image) -> dict[str, Any]:
    """Everything that `Image.save` forgets unless it is told (profile, EXIF, XMP, resolution, quality)."""
    options: dict[str, Any] = {}
    exif = image.info.get("exif") or _own_tags(image)
    if exif:
        options["exif"] = _upright_exif(exif)
    for name in ("icc_profile", "xmp", "dpi", "comment"):
        if image.info.get(name):
            options[name] = image.info[name]
    if image.format in ("JPEG", "MPO"):
        # The source's own tables: no coarser than it was, and the file stays of its size.
        options["qtables"] = image.quantization  # type: ignore[attr-defined]
        options["subsampling"] = max(JpegImagePlugin.get_sampling(image), 0)
        options["progressive"] = bool(image.info.get("progressive"))
    if image.format == "PNG":
        options["pnginfo"] = _png_text(image)
    if image.format == "WEBP":
        options["quality"] = 95
    if image.format == "TIFF":
        options["compression"] = "tiff_lzw"
    return options


def _own_tags(image: Image.Image) -> bytes:
    """The tags of a TIFF (its EXIF is its directory) without those that describe how its old pixels were laid out."""
    exif = image.getexif()
    for tag in _TIFF_LAYOUT:
        exif.pop(tag, None)
    return exif.tobytes() if len(exif) else b""


def _png_text(image: Image.Image) -> PngImagePlugin.PngInfo:
    """The text chunks of a PNG, among which is its XMP."""
    info = PngImagePlugin.PngInfo()
    for name, text in getattr(image, "text", {}).items():
        if not name.startswith("Raw profile"):  # ImageMagick's copies of EXIF and ICC, which are written anyway
            info.add_itxt(name, str(text))
    return info


def _upright_exif(exif: bytes) -> bytes:
    """The same EXIF block with Orientation 1, patched in place so that maker notes keep their offsets."""
    start = 6 if exif.startswith(b"Exif\0\0") else 0
    order = {b"II": "<", b"MM": ">"}.get(exif[start : start + 2])
    if order is None:
        return exif
    patched = bytearray(exif)
    try:
        ifd = start + struct.unpack_from(order + "I", exif, start + 4)[0]
        for index in range(struct.unpack_from(order + "H", exif, ifd)[0]):
            entry = ifd + 2 + 12 * index
            if struct.unpack_from(order + "H", exif, entry)[0] == _ORIENTATION:
                struct.pack_into(order + "H", patched, entry + 8, 1)
    except struct.error:  # a block that ends early has no orientation that any reader would find
        return exif
    return bytes(patched)
