"""Screenshots and drawings told from photos."""

from __future__ import annotations

import numpy as np

from naturaltone.pipeline.photo.photo import Photo

_GRAPHIC_ROWS, _GRAPHIC_SHARE, _GRAPHIC_LEAST = 200, 0.6, 0.2


def is_graphic(photo: Photo) -> bool:
    """Whether it is a screenshot or a drawing rather than a photo: most pixels are exactly like the one beside them.

    A camera's noise makes neighbours differ, in a sky too; what it clips to white is left out of the count.
    """
    pixels = photo.pixels[:: max(1, len(photo.packed) // _GRAPHIC_ROWS)]
    is_same = (pixels[:, 1:] == pixels[:, :-1]).all(axis=2)
    white = np.iinfo(pixels.dtype).max
    counts = ~((pixels[:, 1:] == white).all(axis=2) | (pixels[:, 1:] == 0).all(axis=2))
    # Text on white has little else than white: what is flat and white counts if hardly anything else is there.
    share = is_same[counts].mean() if counts.mean() > _GRAPHIC_LEAST else is_same.mean()
    return bool(share > _GRAPHIC_SHARE)
