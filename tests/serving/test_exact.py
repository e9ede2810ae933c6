"""The network runs on every pixel, in tiles without seams."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from naturaltone.serving import exact
from naturaltone.serving.enhancer import Enhancer
from naturaltone.training.checkpoint import Bundle
from naturaltone.training.step import to_tensor


@pytest.fixture(scope="module")
def tiny(bundle: Bundle) -> Enhancer:
    return Enhancer(bundle, version="tiny")


@pytest.mark.parametrize(("shape", "tile"), [((512, 512), 128), ((200, 333), 64), ((97, 450), 96), ((33, 41), 8)])
def test_tiles_leave_no_seams(shape: tuple[int, int], tile: int, tiny: Enhancer, astronaut: np.ndarray) -> None:
    """The residual blocks use the mean of the whole photo, not the mean of a tile."""
    image = to_tensor(astronaut[None, : shape[0], : shape[1]], torch.device("cpu"))
    with torch.inference_mode():
        whole = tiny.bundle.generator(image)
    assert torch.allclose(exact.generate(tiny.bundle.generator, image, tile=tile), whole, atol=1e-5)


def test_exact_runs_g_on_every_pixel(tiny: Enhancer, astronaut: np.ndarray) -> None:
    expected = tiny.correct(astronaut).astype(int)
    room = (np.minimum(astronaut, 255 - astronaut.astype(int)) * 0.6 > np.abs(expected - astronaut) + 2).all(axis=2)
    assert room.mean() > 0.1
    result = tiny.enhance(astronaut, exact=True).astype(int)
    assert np.abs(result - expected)[room].max() <= 1
    assert np.array_equal(tiny.enhance(astronaut, exact=True, strength=0), astronaut)
