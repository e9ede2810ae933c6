"""Tests a model on a reference photo before it serves: damaged or failed models must not reach a user's photos."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import cv2
import numpy as np
import torch

from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.pixels import shrink
from naturaltone.serving.enhancer import Enhancer
from naturaltone.training.step import to_tensor

# A model that serves changes tone, not content. These bounds are wide: untrained networks stay within them.
_LEAST_CORRELATION = 0.5  # of the lightness before and after
_LEAST_CONTRAST = 0.25  # of the standard deviation before


class ModelRefused(ValueError):
    """The model failed its self-test. The message says how."""


def self_test(enhancer: Enhancer) -> None:
    """Raise `ModelRefused` if the model gives numbers that are no pixels, or a picture that is not its photo any more."""
    photo = shrink(decode(_reference_file()).pixels, enhancer.bundle.working_resolution)
    with torch.inference_mode():
        output = enhancer.bundle.generator(to_tensor(photo[None], torch.device("cpu")))
    if not torch.isfinite(output).all():
        raise ModelRefused("its network gives NaN or infinite values for the reference photo")
    # A whole file: this also compiles, or loads, the kernel for the first request.
    enhanced = shrink(decode(enhancer.enhance_file(_reference_file()).data).pixels, enhancer.bundle.working_resolution)
    before, after = (cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float64) for pixels in (photo, enhanced))
    contrast = after.std() / before.std()
    if contrast < _LEAST_CONTRAST:
        raise ModelRefused(
            f"the reference photo keeps {contrast:.0%} of its contrast; the least is {_LEAST_CONTRAST:.0%}"
        )
    correlation = float(np.corrcoef(before.ravel(), after.ravel())[0, 1])
    if correlation < _LEAST_CORRELATION:
        raise ModelRefused(
            f"the reference photo is not recognisable (correlation {correlation:.2f}; the least is {_LEAST_CORRELATION})"
        )


@cache
def _reference_file() -> bytes:
    """A real photo of scikit-image: the astronaut Eileen Collins, by NASA; 512×512, PNG."""
    return files("skimage.data").joinpath("astronaut.png").read_bytes()
