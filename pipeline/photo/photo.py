"""A decoded photo: its pixels, and all that it takes to write it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.pipeline.photo.xmp import Stamp


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A decoded photo, upright, and what it takes to write it again.

    `packed` is H×W×3 or H×W×4 (the fourth channel is opacity if `has_alpha`, else nothing) uint8, uint16 if the file has more
    than 8 bits, encoded in the photo's own `icc_profile` (sRGB if there is none); a grey photo has three equal channels.
    `orientation` is that of the file's own pixels. `extras` are what else the file holds (`container.extras`). `stamp` says
    what was done to it before. `read_only` says why `encode` would refuse it, None if it would not.
    """

    packed: np.ndarray
    has_alpha: bool
    format: str
    icc_profile: bytes | None
    is_grey: bool
    orientation: int
    coding: dict[str, Any]
    original: bytes
    extras: tuple[str, ...]
    stamp: Stamp | None
    read_only: ImageError | None

    @property
    def pixels(self) -> np.ndarray:
        """H×W×3."""
        return self.packed[..., :3]

    @property
    def alpha(self) -> np.ndarray | None:
        """H×W opacity, None if the file has none."""
        return self.packed[..., 3] if self.has_alpha else None

    @property
    def megapixels(self) -> float:
        return self.packed.shape[0] * self.packed.shape[1] / 1e6
