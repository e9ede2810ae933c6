"""Measures of a picture, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from training import metrics


def test_doubling_the_distance_to_grey_doubles_the_local_contrast(photo: np.ndarray) -> None:
    low = (128 + (photo.astype(int) - 128) // 4).astype(np.uint8)
    high = (128 + 2 * (low.astype(int) - 128)).astype(np.uint8)
    assert metrics.local_contrast_gain(high, low) == pytest.approx(2, abs=1e-3)


def test_a_photo_gains_nothing_over_itself(photo: np.ndarray) -> None:
    assert metrics.local_contrast_gain(photo, photo) == 1


def test_clipped_pixels_are_white_in_one_channel_or_black_in_all() -> None:
    pixels = np.full((10, 10, 3), 100, np.uint8)
    pixels[0, 0] = (255, 10, 10)  # a blown channel
    pixels[0, 1] = (0, 0, 0)
    pixels[0, 2] = (0, 90, 90)  # a deep colour, nothing lost
    assert metrics.clipped_fraction(pixels) == pytest.approx(0.02)


def test_tmqi_naturalness_is_1_at_the_usual_mean_and_spread() -> None:
    # Blocks of 11×11 at mean 115.94 whose deviation is the Beta density's peak, 64.29·3.4/12.5 = 17.487.
    block = np.where(np.arange(121).reshape(11, 11) % 2, -1.0, 1.0)
    block = (block - block.mean()) / block.std(ddof=1) * 64.29 * 3.4 / 12.5
    pixels = np.repeat((115.94 + np.tile(block, (6, 6)))[..., None], 3, axis=2).round().astype(np.uint8)
    assert metrics.tmqi_naturalness(pixels) == pytest.approx(1, abs=0.01)


def test_tmqi_naturalness_falls_for_dark_flat_and_harsh_pictures(astronaut: np.ndarray) -> None:
    usual = metrics.tmqi_naturalness(astronaut)
    assert metrics.tmqi_naturalness(astronaut // 4) < usual
    assert metrics.tmqi_naturalness((astronaut * 0.2 + 100).astype(np.uint8)) < usual
    assert metrics.tmqi_naturalness(np.zeros((64, 64, 3), np.uint8)) == 0
