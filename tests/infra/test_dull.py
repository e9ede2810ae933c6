"""A dulled copy shows the same scene in other pixels, and depends only on the seed."""

from __future__ import annotations

import numpy as np
import pytest
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


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_a_portrait_of_low_key_has_its_face_at_most_half_a_stop_darker_and_all_else_more(
    seed: int, photo: np.ndarray
) -> None:
    height, width = photo.shape[:2]
    face = (0.4 * width, 0.3 * height, 0.2 * width, 0.3 * height)
    copy = dull.low_key(photo, face, np.random.default_rng(seed))
    middle = slice(int(0.4 * height), int(0.5 * height)), slice(int(0.45 * width), int(0.55 * width))
    light, left = (((picture[middle] / 255) ** 2.2).mean() for picture in (photo, copy))
    assert 2**-0.55 < left / light < 1.02
    corner = slice(0, 10), slice(0, 10)
    assert copy[corner].mean() < 0.8 * photo[corner].mean() + 1


def test_two_stops_take_three_quarters_of_the_light(photo: np.ndarray) -> None:
    dark = dull.underexpose(photo, 2.0, np.random.default_rng(0))
    light, taken = ((picture / 255.0) ** 2.2 for picture in (photo, dark))
    assert taken.mean() / light.mean() == pytest.approx(0.25, rel=0.02)


def test_dulled_copies_have_less_contrast_on_average(photo: np.ndarray) -> None:
    spreads = [dull.dull(photo, np.random.default_rng(seed)).std() for seed in range(40)]
    assert np.mean(spreads) < 0.9 * photo.std()
