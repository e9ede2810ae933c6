"""TMQI: naturalness and fidelity against the paper's formulas and values worked out by hand."""

from __future__ import annotations

import warnings

import cv2
import numpy as np
import pytest

from naturaltone.training.measures import tmqi


def test_naturalness_is_1_at_the_usual_mean_and_spread() -> None:
    # Blocks of 11×11 at mean 115.94 whose deviation is the Beta density's peak, 64.29·3.4/12.5 = 17.487.
    block = np.where(np.arange(121).reshape(11, 11) % 2, -1.0, 1.0)
    block = (block - block.mean()) / block.std(ddof=1) * 64.29 * 3.4 / 12.5
    pixels = np.repeat((115.94 + np.tile(block, (6, 6)))[..., None], 3, axis=2).round().astype(np.uint8)
    assert tmqi.naturalness(pixels) == pytest.approx(1, abs=0.01)


def test_naturalness_falls_for_dark_flat_and_harsh_pictures(astronaut: np.ndarray) -> None:
    usual = tmqi.naturalness(astronaut)
    assert tmqi.naturalness(astronaut // 4) < usual
    assert tmqi.naturalness((astronaut * 0.2 + 100).astype(np.uint8)) < usual
    assert tmqi.naturalness(np.zeros((64, 64, 3), np.uint8)) == 0


def test_a_picture_is_faithful_to_itself(astronaut: np.ndarray, photo: np.ndarray) -> None:
    for pixels in (astronaut, photo):
        assert tmqi.structural_fidelity(pixels, pixels) == pytest.approx(1, abs=1e-4)


def test_fidelity_falls_with_blur_and_lost_contrast(astronaut: np.ndarray) -> None:
    blurred = [tmqi.structural_fidelity(cv2.GaussianBlur(astronaut, (0, 0), s), astronaut) for s in (0.5, 1, 2, 4)]
    assert blurred == sorted(blurred, reverse=True)
    assert blurred[0] < 0.999
    flattened = [
        tmqi.structural_fidelity((128 + share * (astronaut - 128.0)).round().astype(np.uint8), astronaut)
        for share in (0.5, 0.2, 0.1, 0.05)
    ]
    assert flattened == sorted(flattened, reverse=True)
    assert flattened[-1] < 0.6


def test_fidelity_forgives_a_smooth_curve_and_not_an_inversion(astronaut: np.ndarray) -> None:
    brightened = (255 * (astronaut / 255) ** 0.8).round().astype(np.uint8)
    assert tmqi.structural_fidelity(brightened, astronaut) > 0.95
    assert tmqi.structural_fidelity(255 - astronaut, astronaut) < 0.1


def test_a_contrast_is_seen_half_of_the_time_at_its_threshold() -> None:
    # A(8) = 2.6·(0.0192 + 0.912)·exp(−0.912^1.1) = 0.98078; τ = 128/(√2·98.078) = 0.92283.
    threshold = tmqi.contrast_threshold(8)
    assert threshold == pytest.approx(0.92283, abs=1e-5)
    seen = tmqi._visibility(np.array([threshold, 4 / 3 * threshold, 0, 99]), 8)
    np.testing.assert_allclose(seen, [0.5, 0.841345, 0.00135, 1], atol=1e-5)


def test_fidelity_without_any_contrast_is_that_of_the_constants() -> None:
    # One picture is noise of σ 40, the other is flat. A picture of 16×16 has one scale, so
    # S = (2·1·Φ(−3) + C1)/(1 + Φ(−3)² + C1) · (0 + C2)/(0 + C2), Φ(−3) = 0.00134990.
    noise = np.random.default_rng(0).normal(128, 40, (16, 16, 1)).clip(0, 255).astype(np.uint8).repeat(3, axis=2)
    flat = np.full_like(noise, 128)
    assert tmqi.structural_fidelity(flat, noise) == pytest.approx(0.0126998 / 1.0100018, abs=1e-4)


def test_small_pictures_use_the_scales_that_fit(photo: np.ndarray) -> None:
    for height, width in ((16, 16), (17, 90), (45, 31), (101, 141)):
        small = np.ascontiguousarray(photo[:height, :width])
        assert tmqi.structural_fidelity(small, small) == pytest.approx(1, abs=1e-4)
        assert 0 < tmqi.structural_fidelity(cv2.GaussianBlur(small, (0, 0), 2), small) < 0.99


def test_constant_pictures_have_values(photo: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for level in (0, 128, 255):
            flat = np.full_like(photo, level)
            assert tmqi.structural_fidelity(flat, flat) == pytest.approx(1, abs=1e-4)
            assert 0 <= tmqi.quality(flat, photo) < 0.5
            assert 0 <= tmqi.quality(photo, flat) < 1


def test_quality_combines_the_two_by_the_formula(astronaut: np.ndarray) -> None:
    assert tmqi.combine(1, 1) == pytest.approx(1)
    assert tmqi.combine(1, 0) == pytest.approx(0.8012)
    assert tmqi.combine(0, 1) == pytest.approx(0.1988)
    # 0.8012·0.5^0.3046 + 0.1988·0.25^0.7088 = 0.8012·0.80966 + 0.1988·0.37436
    assert tmqi.combine(0.5, 0.25) == pytest.approx(0.72312, abs=1e-4)
    darker = astronaut // 2
    fidelity, natural = tmqi.structural_fidelity(darker, astronaut), tmqi.naturalness(darker)
    assert tmqi.quality(darker, astronaut) == tmqi.combine(fidelity, natural)
