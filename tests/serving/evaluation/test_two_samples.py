"""A new discriminator tells pictures of two kinds apart, and only those."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from naturaltone.serving.evaluation import two_samples
from naturaltone.serving.evaluation.two_samples import LEAST, as_sample, told_apart

SIDE = 48


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_samples, "SIDE", SIDE)
    monkeypatch.setattr(two_samples, "_STEPS", 25)
    monkeypatch.setattr(two_samples, "_FOLDS", 2)


def pictures(level: float, *, seed: int) -> list[np.ndarray]:
    """Noise around a level of grey."""
    random = np.random.default_rng(seed)
    return [random.normal(level, 40, (SIDE, SIDE + 20, 3)).clip(0, 255).astype(np.uint8) for _ in range(LEAST)]


def test_pictures_of_another_kind_are_told_apart() -> None:
    assert told_apart(pictures(90, seed=0), pictures(160, seed=1), seed=0) == 1


def test_pictures_of_the_same_kind_are_not() -> None:
    right = [told_apart(pictures(128, seed=seed), pictures(128, seed=seed + 9), seed=seed) for seed in range(3)]
    assert 0.2 < np.mean(right) < 0.8


def test_the_larger_kind_has_no_more_weight() -> None:
    """A discriminator that finds all pictures natural is right about half of the kinds, not about most of the pictures."""
    many = pictures(128, seed=0) * 4
    assert told_apart([np.zeros_like(picture) for picture in many], [np.zeros_like(many[0])] * LEAST, seed=0) == 0.5


def test_a_seed_gives_the_same_number_and_leaves_the_random_numbers_of_others_alone() -> None:
    ours, theirs = pictures(120, seed=0), pictures(136, seed=1)
    before = torch.get_rng_state()
    assert told_apart(ours, theirs, seed=3) == told_apart(ours, theirs, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_too_few_pictures_say_nothing() -> None:
    assert math.isnan(told_apart(pictures(90, seed=0)[1:], pictures(160, seed=1), seed=0))


@pytest.mark.parametrize("size", [(100, 300), (600, 400), (SIDE, SIDE), (20, 2000)])
def test_a_sample_has_the_short_side_that_the_discriminator_sees(size: tuple[int, int]) -> None:
    sample = as_sample(np.zeros((*size, 3), np.uint8))
    assert min(sample.shape[:2]) == SIDE and sample.dtype == np.uint8
