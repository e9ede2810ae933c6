"""The self-test lets good models pass, and stops those that would destroy photos."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.selftest import ModelRefused, self_test
from naturaltone.training.checkpoint import Bundle


def changed(bundle: Bundle, **weights: float) -> Enhancer:
    """The model with other values in the last layer."""
    generator = copy.deepcopy(bundle.generator)
    with torch.no_grad():
        for name, value in weights.items():
            getattr(generator.decoder[-1], name).fill_(value)
    return Enhancer(dataclasses.replace(bundle, generator=generator), version="changed")


def test_the_pretrained_and_an_untrained_model_pass(enhancer: Enhancer) -> None:
    self_test(Enhancer.load("pretrained"))
    self_test(enhancer)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_model_that_gives_no_numbers_is_refused(value: float, bundle: Bundle) -> None:
    with pytest.raises(ModelRefused, match="NaN or infinite"):
        self_test(changed(bundle, bias=value))


class Painter(torch.nn.Module):
    """Paints the same over each photo."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.how == "grey":
            return torch.zeros_like(pixels)
        return -pixels if self.how == "negative" else torch.flip(pixels, [-2, -1])


@pytest.mark.parametrize("how", ["grey", "negative", "upside down"])
def test_a_model_that_destroys_the_photo_is_refused(how: str, bundle: Bundle) -> None:
    broken = dataclasses.replace(bundle, generator=Painter(how))  # type: ignore[arg-type]
    with pytest.raises(ModelRefused, match=r"contrast|not recognisable"):
        self_test(Enhancer(broken, version="broken"))
