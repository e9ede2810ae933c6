"""Cut random square windows out of stored pictures, and decode only the rows that a window needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from naturaltone.pipeline.photo.stored import decode_rgb, decode_rows


@dataclass(frozen=True)
class Crop:
    """A square window of a picture.

    size: the picture is enlarged to this height and width first; None if it is large enough. side: in pixels. mirrored:
    the window is flipped left to right.
    """

    size: tuple[int, int] | None
    top: int
    left: int
    side: int
    mirrored: bool


def random_crop(size: tuple[int, int], side: int, random: np.random.Generator) -> Crop:
    """A random window of a picture of `size` (height, width); a smaller picture is enlarged to hold the window."""
    scale = side / min(size)
    height, width = (max(side, round(length * scale)) for length in size) if scale > 1 else size
    return Crop(
        size=(height, width) if scale > 1 else None,
        top=int(random.integers(height - side + 1)),
        left=int(random.integers(width - side + 1)),
        side=side,
        mirrored=bool(random.integers(2)),
    )


def cut(picture: bytes, crop: Crop) -> np.ndarray:
    """The window of a stored picture, side×side×3 uint8; only its rows are decoded."""
    if crop.size:
        return cut_pixels(decode_rgb(picture), crop)
    return cut_pixels(decode_rows(picture, crop.top, crop.top + crop.side), replace(crop, top=0))


def cut_pixels(pixels: np.ndarray, crop: Crop) -> np.ndarray:
    """The window of H×W×3 uint8 pixels."""
    if crop.size:
        pixels = cv2.resize(pixels, crop.size[::-1], interpolation=cv2.INTER_LINEAR)
    window = pixels[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
    return cv2.flip(window, 1) if crop.mirrored else window  # NumPy takes thirty times as long
