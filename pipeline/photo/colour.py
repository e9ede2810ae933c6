"""Colour profiles: pixels to sRGB and back, and inks to sRGB."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms

from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.pipeline.reasons import Reason

_SRGB = ImageCms.createProfile("sRGB")


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
        transform, mode = _transform(icc_profile, into_srgb)
        if transform is None:
            return pixels
        if mode == "L":  # a grey profile: one channel on its side of the conversion
            image = Image.fromarray(np.ascontiguousarray(pixels[..., 0]) if into_srgb else pixels)
        else:
            image = Image.fromarray(pixels)
        converted = transform.apply(image)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise ImageError(Reason.BAD_PROFILE, f"the embedded colour profile cannot be used ({error})") from None
    return np.asarray(converted.convert("RGB"))


@functools.lru_cache(maxsize=8)
def _transform(icc_profile: bytes, into_srgb: bool) -> tuple[ImageCms.ImageCmsTransform | None, str]:
    """The conversion between a profile and sRGB (None: it is sRGB) and its own side's mode; archives repeat a few."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
    space = profile.profile.xcolor_space.strip()
    if space not in ("RGB", "GRAY"):
        raise ValueError(f"it is for {space} on pixels that are not")
    mode = "L" if space == "GRAY" else "RGB"
    ends = (profile, _SRGB, mode, "RGB") if into_srgb else (_SRGB, profile, "RGB", mode)
    transform = ImageCms.buildTransform(*ends)
    if mode == "RGB":  # sRGB by what it does, since there are many of that name
        swatch = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        if np.abs(np.asarray(transform.apply(Image.fromarray(swatch))).astype(int) - swatch).max() <= 1:
            return None, mode
    return transform, mode


def from_inks(image: Image.Image) -> np.ndarray:
    """sRGB pixels of a CMYK image: by its profile, or plainly where it has none."""
    profile = image.info.get("icc_profile")
    if not profile:
        return np.asarray(image.convert("RGB"))
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        raise ImageError(Reason.BAD_PROFILE, f"the embedded colour profile cannot be used ({error})") from None
    return np.asarray(converted)
