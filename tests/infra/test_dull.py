"""Dulled copies: another picture of the same scene, from the seed alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from naturaltone.infra import dull


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000))
def test_a_dulled_copy_is_the_same_scene_and_another_picture(seed: int, photo: np.ndarray) -> None:
    for change in (dull.dull, dull.vary):
        copy = change(photo, np.random.default_rng(seed))
        assert copy.shape == photo.shape and copy.dtype == np.uint8
        assert np.array_equal(copy, change(photo, np.random.default_rng(seed))), "from the seed alone"
        assert np.abs(copy.astype(int) - photo).mean() > 0.3
        assert np.corrcoef(copy.mean(axis=2).ravel(), photo.mean(axis=2).ravel())[0, 1] > 0.6


def test_dulled_copies_have_less_contrast_on_the_whole(photo: np.ndarray) -> None:
    spreads = [dull.dull(photo, np.random.default_rng(seed)).std() for seed in range(40)]
    assert np.mean(spreads) < 0.9 * photo.std()
