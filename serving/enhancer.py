"""Enhancer: a loaded model that enhances photos of any size; the one path for archive, HTTP and evaluation.

G runs at the working resolution it was trained at, so a photo gets the same look at any size; `apply` carries its change to
the photo itself.
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
    """An enhanced photo as a file's bytes, and its size."""

    data: bytes
    megapixels: float


class Enhancer:
    """Enhances photos with one model bundle. `version` names the model in reports and headers."""

    def __init__(self, bundle: Bundle, *, version: str) -> None:
        self.bundle = bundle
        self.version = version
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # A copy: the bundle itself stays on the CPU, from where it can be sent to other processes.
        self._generator = copy.deepcopy(bundle.generator).to(self._device)

    @classmethod
    def load(cls, uri: str) -> Enhancer:
        """From what `load_model` takes."""
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
        """A photo file in, the enhanced photo in the same format with everything else that it holds out.

        Strength 0 gives the very same bytes. The file says what was done to it, and is refused the next time; `ImageError`
        says why, and what else cannot be enhanced. quality, drop_extras: see `images.encode`. photos_only: refuse
        screenshots and graphics. exact: see `enhance`. source: what the caller knows the file by, kept in the stamp.
        """
        check_strength(strength)
        photo = decode(data)
        refuse_to_rewrite(photo, drop_extras=drop_extras)
        if photos_only and is_graphic(photo):
            raise ImageError(Reason.GRAPHIC, "a screenshot or graphic, by its flat colours")
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
        """Enhance an upright photo, H×W×3 or H×W×4 (the fourth channel is kept) uint8 or uint16; a new array like it.

        strength: 0 gives the same pixels, 1 the model's result, up to 1.5 beyond it. icc_profile: how the pixels are encoded
        (None: sRGB), and the result too. exact: run G on every pixel; slow, and the look depends on the photo's size.
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
        """The first corrected image: G on sRGB pixels, H×W×3 uint8 in and out."""
        return to_pixels(generate(self._generator, to_tensor(pixels[None], self._device)))[0]


def check_strength(strength: float) -> None:
    if not 0 <= strength <= MAX_STRENGTH:
        raise UserError(f"strength {strength}: must be between 0 (unchanged) and {MAX_STRENGTH}; 1 is the model's own")
