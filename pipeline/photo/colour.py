"""Convert pixels from a colour profile to sRGB and back, and CMYK inks to sRGB."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms

from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.pipeline.reasons import Reason

_SRGB = ImageCms.createProfile("sRGB")


def to_srgb(pixels: np.ndarray, icc_profile: bytes | None) -> np.ndarray:
    """Convert H×W×3 uint8 pixels from `icc_profile` to sRGB.

    Returns the same array if the profile is None or sRGB. `ImageError` if the profile cannot be used.
    """
    return _convert(pixels, icc_profile, into_srgb=True)


def from_srgb(pixels: np.ndarray, icc_profile: bytes | None) -> np.ndarray:
    """Convert sRGB pixels to `icc_profile`: the inverse of `to_srgb` for colours inside the profile's gamut."""
    return _convert(pixels, icc_profile, into_srgb=False)


def _convert(pixels: np.ndarray, icc_profile: bytes | None, *, into_srgb: bool) -> np.ndarray:
    if icc_profile is None:
        return pixels
    try:
        transform, mode = _transform(icc_profile, into_srgb)
        if transform is None:
            return pixels
        if mode == "L":  # a grey profile has one channel on its side of the conversion
            image = Image.fromarray(np.ascontiguousarray(pixels[..., 0]) if into_srgb else pixels)
        else:
            image = Image.fromarray(pixels)
        converted = transform.apply(image)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise ImageError(
            Reason.BAD_PROFILE, f"the embedded colour profile cannot be used ({error}); save the photo as sRGB"
        ) from None
    return np.asarray(converted.convert("RGB"))


@functools.lru_cache(maxsize=8)
def _transform(icc_profile: bytes, into_srgb: bool) -> tuple[ImageCms.ImageCmsTransform | None, str]:
    """The conversion between a profile and sRGB (None if the profile is sRGB), and the profile's image mode.

    The results are cached because an archive has few profiles.
    """
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
    space = profile.profile.xcolor_space.strip()
    if space not in ("RGB", "GRAY"):
        raise ValueError(f"it is for {space}, but the pixels are RGB or grey")
    mode = "L" if space == "GRAY" else "RGB"
    ends = (profile, _SRGB, mode, "RGB") if into_srgb else (_SRGB, profile, "RGB", mode)
    transform = ImageCms.buildTransform(*ends)
    if mode == "RGB":
        # Many different profiles are called sRGB, so test what this one does to colours.
        swatch = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        if np.abs(np.asarray(transform.apply(Image.fromarray(swatch))).astype(int) - swatch).max() <= 1:
            return None, mode
    return transform, mode


def from_inks(image: Image.Image) -> np.ndarray:
    """Convert a CMYK image to H×W×3 uint8 sRGB pixels by its profile, or by Pillow's simple formula if it has none.

    `ImageError` if the profile cannot be used.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return np.asarray(image.convert("RGB"))
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        raise ImageError(
            Reason.BAD_PROFILE, f"the embedded colour profile cannot be used ({error}); save the photo as sRGB"
        ) from None
    return np.asarray(converted)
