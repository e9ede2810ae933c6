"""A decoded photo: its pixels, and everything needed to write it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.pipeline.photo.xmp import Stamp


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A decoded photo, upright, and everything needed to write it again.

    `packed` is H×W×3 or H×W×4. It is uint8, or uint16 if the file has more than 8 bits a channel. The fourth channel is opacity
    if `has_alpha`, and unused otherwise. The values are encoded in the photo's own `icc_profile` (sRGB if None). A grey photo
    has three equal channels. `orientation` is the EXIF orientation (1–8) of the pixels in the file. `coding` holds the options
    that code new pixels like the old ones. `original` is the file's bytes. `extras` names what else the file holds
    (`container.extras`). `stamp` says what was done to the photo before. `read_only` is the error for a photo that can be read
    but not written again, None for any other.
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
