"""A crop is the same window, whether all of a picture is decoded or the needed rows alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from naturaltone.pipeline.photo.stored import decode_rgb, encode_jpeg
from naturaltone.pipeline.stream.crop import cut, cut_pixels, random_crop


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), side=st.integers(1, 1024), seed=st.integers(0, 2**32))
def test_a_window_lies_within_its_picture(height: int, width: int, side: int, seed: int) -> None:
    crop = random_crop((height, width), side, np.random.default_rng(seed))
    held = crop.size or (height, width)
    assert 0 <= crop.top <= held[0] - side and 0 <= crop.left <= held[1] - side
    assert (crop.size is None) == (min(height, width) >= side), "only what is too small is enlarged"


def test_a_window_of_a_file_is_that_of_its_pixels(photo: np.ndarray) -> None:
    picture = encode_jpeg(photo)
    for seed in range(20):
        for side in (32, 120):  # within the picture; more than its height
            crop = random_crop(photo.shape[:2], side, np.random.default_rng(seed))
            window = cut(picture, crop)
            assert window.shape == (side, side, 3)
            assert np.array_equal(window, cut_pixels(decode_rgb(picture), crop))
