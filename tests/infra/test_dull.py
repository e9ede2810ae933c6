"""A dulled copy shows the same scene in other pixels, and depends only on the seed."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from naturaltone.infra import dull


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000))
def test_a_copy_shows_the_same_scene_in_other_pixels(seed: int, photo: np.ndarray) -> None:
    for change in (dull.dull, dull.vary):
        copy = change(photo, np.random.default_rng(seed))
        assert copy.shape == photo.shape and copy.dtype == np.uint8
        assert np.array_equal(copy, change(photo, np.random.default_rng(seed))), "depends only on the seed"
        assert np.abs(copy.astype(int) - photo).mean() > 0.3
        assert np.corrcoef(copy.mean(axis=2).ravel(), photo.mean(axis=2).ravel())[0, 1] > 0.6


def test_dulled_copies_have_less_contrast_on_average(photo: np.ndarray) -> None:
    spreads = [dull.dull(photo, np.random.default_rng(seed)).std() for seed in range(40)]
    assert np.mean(spreads) < 0.9 * photo.std()
