"""Tell screenshots and drawings from photos."""

from __future__ import annotations

import numpy as np

from naturaltone.pipeline.photo.photo import Photo

_GRAPHIC_ROWS, _GRAPHIC_SHARE, _GRAPHIC_LEAST = 200, 0.6, 0.2


def is_graphic(photo: Photo) -> bool:
    """Whether the picture is a screenshot or a drawing: most pixels equal their left neighbour exactly.

    In a photo, the camera's noise makes neighbours differ, even in a sky. Pixels clipped to white or black are not counted.
    """
    pixels = photo.pixels[:: max(1, len(photo.packed) // _GRAPHIC_ROWS)]
    is_same = (pixels[:, 1:] == pixels[:, :-1]).all(axis=2)
    white = np.iinfo(pixels.dtype).max
    counts = ~((pixels[:, 1:] == white).all(axis=2) | (pixels[:, 1:] == 0).all(axis=2))
    # A page of text is nearly all white. All pixels are counted if no more than 20% are neither white nor black.
    share = is_same[counts].mean() if counts.mean() > _GRAPHIC_LEAST else is_same.mean()
    return bool(share > _GRAPHIC_SHARE)
