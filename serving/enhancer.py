"""Enhancer: a loaded model that enhances photos of any size. Archive, HTTP service and evaluation all use it.

G runs at the working resolution that it was trained at, so a photo gets the same look at any size. The module `apply`
transfers G's change to the full-size photo.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch

from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.photo.colour import from_srgb, to_srgb
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.encode import encode, refuse_to_rewrite
from naturaltone.pipeline.photo.graphic import is_graphic
from naturaltone.pipeline.photo.pixels import shrink, to_8bit
from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.pipeline.photo.xmp import Stamp
from naturaltone.pipeline.reasons import Reason
from naturaltone.serving.apply import add_change, affine_models, apply_models
from naturaltone.serving.exact import generate
from naturaltone.serving.registry import load_model
from naturaltone.training.checkpoint import Bundle
from naturaltone.training.step import to_pixels, to_tensor

MAX_STRENGTH = 1.5


@dataclass(frozen=True, kw_only=True)
class EnhancedFile:
    """The bytes of an enhanced photo file, and the photo's size in megapixels."""

    data: bytes
    megapixels: float


class Enhancer:
    """Enhances photos with one model bundle. `version` names the model in reports and headers."""

    def __init__(self, bundle: Bundle, *, version: str) -> None:
        self.bundle = bundle
        self.version = version
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # A copy: the bundle itself stays on the CPU, so that it can be sent to other processes.
        self._generator = copy.deepcopy(bundle.generator).to(self._device)

    @classmethod
    def load(cls, uri: str) -> Enhancer:
        """Load the model that `uri` names; see `registry.load_model`."""
        bundle, version = load_model(uri)
        return cls(bundle, version=version)

    def enhance_file(
        self,
        data: bytes,
        *,
        strength: float = 1.0,
        quality: int | None = None,
        drop_extras: bool = False,
        photos_only: bool = False,
        exact: bool = False,
        source: str = "",
    ) -> EnhancedFile:
        """Enhance a photo file; returns it in the same format, with all its metadata.

        A stamp in the result says what was done, so the result is refused when it is enhanced again. Strength 0 returns
        the same bytes. `ImageError` if the photo cannot be enhanced, `UserError` for a strength out of range. strength,
        exact: see `enhance`. quality, drop_extras: see `encode`. photos_only: refuse screenshots and graphics. source:
        the caller's name for the file, kept in the stamp.
        """
        check_strength(strength)
        photo = decode(data)
        refuse_to_rewrite(photo, drop_extras=drop_extras)
        if photos_only and is_graphic(photo):
            raise ImageError(Reason.GRAPHIC, "its flat colours are those of a screenshot or graphic")
        if strength == 0:
            return EnhancedFile(data=data, megapixels=photo.megapixels)
        pixels = self.enhance(photo.packed, strength=strength, icc_profile=photo.icc_profile, exact=exact)
        stamp = Stamp(model=self.version, strength=strength, source=source)
        enhanced = encode(photo, pixels, stamp=stamp, quality=quality, drop_extras=drop_extras)
        return EnhancedFile(data=enhanced, megapixels=photo.megapixels)

    def enhance(
        self,
        pixels: np.ndarray,
        *,
        strength: float = 1.0,
        icc_profile: bytes | None = None,
        exact: bool = False,
    ) -> np.ndarray:
        """Enhance the pixels of an upright photo; returns a new array like `pixels`.

        pixels: H×W×3 or H×W×4, uint8 or uint16; the fourth channel is kept. strength: 0 to 1.5; 0 gives the same
        pixels, 1 the model's result. icc_profile: the colour profile of the pixels and of the result; None for sRGB.
        exact: run G on every pixel, which is slow and makes the look depend on the photo's size. `UserError` for a
        strength out of range.
        """
        check_strength(strength)
        if strength == 0:
            return pixels.copy()
        before = pixels if exact else shrink(pixels, self.bundle.working_resolution)
        before = np.ascontiguousarray(to_8bit(before[..., :3]))
        after = from_srgb(self.correct(to_srgb(before, icc_profile)), icc_profile)
        if exact:
            return add_change(pixels, before, after, strength)
        return apply_models(pixels, affine_models(before, after), strength)

    def correct(self, pixels: np.ndarray) -> np.ndarray:
        """Run G on sRGB pixels; returns the first corrected image. H×W×3 uint8 in and out."""
        return to_pixels(generate(self._generator, to_tensor(pixels[None], self._device)))[0]


def check_strength(strength: float) -> None:
    if not 0 <= strength <= MAX_STRENGTH:
        raise UserError(f"strength {strength}: must be between 0 (unchanged) and {MAX_STRENGTH}; 1 is the full result")
