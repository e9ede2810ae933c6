"""Enhancer: a loaded model that enhances photos of any size. Archive, HTTP service and evaluation all use it.

G runs at the working resolution that it was trained at, so a photo gets the same look at any size. The module `apply`
transfers G's change to the full-size photo.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.photo.colour import from_srgb, to_srgb
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.encode import Extras, convert, encode, refuse_to_rewrite
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
    """The bytes of an enhanced photo file, the photo's size in megapixels, and the version of the model."""

    data: bytes
    megapixels: float
    version: str


@dataclass(frozen=True, kw_only=True)
class Correction:
    """A photo at the working resolution before and after G, H×W×3 uint8, and the version of the model."""

    before: np.ndarray
    after: np.ndarray
    version: str


def _ignore(stage: str) -> None:
    """Nobody watches."""


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
        format: str | None = None,
        extras: Extras = "keep",
        photos_only: bool = False,
        exact: bool = False,
        source: str = "",
        watch: Callable[[str], None] = _ignore,
    ) -> EnhancedFile:
        """Enhance a photo file; returns it with all its metadata, in the same format unless `format` names another.

        A stamp in the result says what was done, so the result is refused when it is enhanced again. Strength 0 returns
        the same bytes. `ImageError` if the photo cannot be enhanced, `UserError` for a strength out of range. strength,
        exact: see `enhance`. quality, extras: see `encode`. format: see `convert`. photos_only: refuse screenshots and
        graphics. source: the caller's name for the file, kept in the stamp. watch: called with the name of each stage that
        has ended (decode, network, apply, encode); what it raises ends the work.
        """
        check_strength(strength)
        photo = decode(data)
        refuse_to_rewrite(photo, extras=extras)
        if photos_only and is_graphic(photo):
            raise ImageError(Reason.GRAPHIC, "its flat colours are those of a screenshot or graphic")
        watch("decode")
        if strength == 0:
            if format is not None:
                data = convert(photo, photo.packed, format=format, quality=quality, extras=extras)
            return EnhancedFile(data=data, megapixels=photo.megapixels, version=self.version)
        correction = self.correction(photo.packed, icc_profile=photo.icc_profile, exact=exact)
        watch("network")
        pixels = _carry_over(photo.packed, correction, strength, exact=exact)
        watch("apply")
        stamp = Stamp(model=correction.version, strength=strength, source=source)
        if format is None:
            enhanced = encode(photo, pixels, stamp=stamp, quality=quality, extras=extras)
        else:
            enhanced = convert(photo, pixels, format=format, stamp=stamp, quality=quality, extras=extras)
        watch("encode")
        return EnhancedFile(data=enhanced, megapixels=photo.megapixels, version=correction.version)

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
        correction = self.correction(pixels, icc_profile=icc_profile, exact=exact)
        return _carry_over(pixels, correction, strength, exact=exact)

    def correction(self, pixels: np.ndarray, *, icc_profile: bytes | None, exact: bool = False) -> Correction:
        """Shrink a photo to the working resolution, unless `exact`, and run G on it. Arguments: see `enhance`."""
        before = pixels if exact else shrink(pixels, self.bundle.working_resolution)
        before = np.ascontiguousarray(to_8bit(before[..., :3]))
        after = from_srgb(self.correct(to_srgb(before, icc_profile)), icc_profile)
        return Correction(before=before, after=after, version=self.version)

    def correct(self, pixels: np.ndarray) -> np.ndarray:
        """Run G on sRGB pixels; returns the first corrected image. H×W×3 uint8 in and out."""
        return to_pixels(generate(self._generator, to_tensor(pixels[None], self._device)))[0]

    @torch.inference_mode()
    def correct_batch(self, pixels: np.ndarray) -> np.ndarray:
        """Run G on several sRGB photos of the same size at once. N×H×W×3 uint8 in and out."""
        return to_pixels(self._generator(to_tensor(pixels, self._device)))


def _carry_over(pixels: np.ndarray, correction: Correction, strength: float, *, exact: bool) -> np.ndarray:
    """Transfer the change to the full-size photo; returns a new array like `pixels`."""
    if exact:
        return add_change(pixels, correction.before, correction.after, strength)
    return apply_models(pixels, affine_models(correction.before, correction.after), strength)


def check_strength(strength: float) -> None:
    if not 0 <= strength <= MAX_STRENGTH:
        raise UserError(f"strength {strength}: must be between 0 (unchanged) and {MAX_STRENGTH}; 1 is the full result")
