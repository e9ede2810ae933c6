"""Change arrays of pixels: shrink them, round them to 8 bits, put them over white, turn them upright and back."""

from __future__ import annotations

import cv2
import numpy as np

from naturaltone.pipeline.photo.colour import to_srgb
from naturaltone.pipeline.photo.photo import Photo
from naturaltone.pipeline.photo.refusals import MIN_SIDE

_BOTH, _UPSIDE_DOWN, _SIDEWAYS = -1, 0, 1
# What EXIF orientations flip, after the transposition that 5 to 8 ask for.
_FLIPS = {2: _SIDEWAYS, 3: _BOTH, 4: _UPSIDE_DOWN, 6: _SIDEWAYS, 7: _BOTH, 8: _UPSIDE_DOWN}


def training_pixels(photo: Photo) -> np.ndarray:
    """The photo as the networks see it: H×W×3 uint8 sRGB. Transparent areas lie over white, as viewers show them."""
    pixels = to_srgb(to_8bit(photo.pixels), photo.icc_profile)
    if photo.alpha is None:
        return pixels
    opacity = to_8bit(photo.alpha)[..., None]
    if opacity.min() == 255:
        return pixels
    share = opacity.astype(np.uint32)
    return ((pixels * share + 255 * (255 - share) + 127) // 255).astype(np.uint8)


def to_8bit(values: np.ndarray) -> np.ndarray:
    """Round uint16 values to uint8. Returns a uint8 array as it is."""
    return values if values.dtype == np.uint8 else ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an array as EXIF orientation 1–8 asks; returns the same array if nothing has to be turned."""
    # NumPy's views cost nothing, but their copies take four times as long as OpenCV's.
    if orientation >= 5:
        values = cv2.transpose(values)
    return cv2.flip(values, _FLIPS[orientation]) if orientation in _FLIPS else values


def as_stored(values: np.ndarray, orientation: int) -> np.ndarray:
    """The inverse of `upright`."""
    if orientation in _FLIPS:
        values = cv2.flip(values, _FLIPS[orientation])
    return cv2.transpose(values) if orientation >= 5 else values


def shrink(pixels: np.ndarray, long_side: int) -> np.ndarray:
    """Shrink pixels until the long side is at most `long_side`, by averaging; no side gets below `MIN_SIDE`.

    A very long strip is squeezed lengthwise, because the networks cannot see a thinner one. Returns the same array if its size
    does not change.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, long_side / max(height, width))
    size = max(MIN_SIDE, round(width * scale)), max(MIN_SIDE, round(height * scale))
    return pixels if size == (width, height) else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
