"""Measures of a picture, checked against scikit-image, published tables and values worked out by hand."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from naturaltone.training.measures import metrics

# Sharma, Wu & Dalal, "The CIEDE2000 Color-Difference Formula", Color Research & Application 2005, table 1.
SHARMA = np.array(
    [
        (50.0000, 2.6772, -79.7751, 50.0000, 0.0000, -82.7485, 2.0425),
        (50.0000, 3.1571, -77.2803, 50.0000, 0.0000, -82.7485, 2.8615),
        (50.0000, 2.8361, -74.0200, 50.0000, 0.0000, -82.7485, 3.4412),
        (50.0000, -1.3802, -84.2814, 50.0000, 0.0000, -82.7485, 1.0000),
        (50.0000, -1.1848, -84.8006, 50.0000, 0.0000, -82.7485, 1.0000),
        (50.0000, -0.9009, -85.5211, 50.0000, 0.0000, -82.7485, 1.0000),
        (50.0000, 0.0000, 0.0000, 50.0000, -1.0000, 2.0000, 2.3669),
        (50.0000, -1.0000, 2.0000, 50.0000, 0.0000, 0.0000, 2.3669),
        (50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0009, 7.1792),
        (50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0010, 7.1792),
        (50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0011, 7.2195),
        (50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0012, 7.2195),
        (50.0000, -0.0010, 2.4900, 50.0000, 0.0009, -2.4900, 4.8045),
        (50.0000, -0.0010, 2.4900, 50.0000, 0.0010, -2.4900, 4.8045),
        (50.0000, -0.0010, 2.4900, 50.0000, 0.0011, -2.4900, 4.7461),
        (50.0000, 2.5000, 0.0000, 50.0000, 0.0000, -2.5000, 4.3065),
        (50.0000, 2.5000, 0.0000, 73.0000, 25.0000, -18.0000, 27.1492),
        (50.0000, 2.5000, 0.0000, 61.0000, -5.0000, 29.0000, 22.8977),
        (50.0000, 2.5000, 0.0000, 56.0000, -27.0000, -3.0000, 31.9030),
        (50.0000, 2.5000, 0.0000, 58.0000, 24.0000, 15.0000, 19.4535),
        (50.0000, 2.5000, 0.0000, 50.0000, 3.1736, 0.5854, 1.0000),
        (50.0000, 2.5000, 0.0000, 50.0000, 3.2972, 0.0000, 1.0000),
        (50.0000, 2.5000, 0.0000, 50.0000, 1.8634, 0.5757, 1.0000),
        (50.0000, 2.5000, 0.0000, 50.0000, 3.2592, 0.3350, 1.0000),
        (60.2574, -34.0099, 36.2677, 60.4626, -34.1751, 39.4387, 1.2644),
        (63.0109, -31.0961, -5.8663, 62.8187, -29.7946, -4.0864, 1.2630),
        (61.2901, 3.7196, -5.3901, 61.4292, 2.2480, -4.9620, 1.8731),
        (35.0831, -44.1164, 3.7933, 35.0232, -40.0716, 1.5901, 1.8645),
        (22.7233, 20.0904, -46.6940, 23.0331, 14.9730, -42.5619, 2.0373),
        (36.4612, 47.8580, 18.3852, 36.2715, 50.5065, 21.2231, 1.4146),
        (90.8027, -2.0831, 1.4410, 91.1528, -1.6435, 0.0447, 1.4441),
        (90.9257, -0.5406, -0.9208, 88.6381, -0.8985, -0.7239, 1.5381),
        (6.7747, -0.2908, -2.4247, 5.8714, -0.0985, -2.2286, 0.6377),
        (2.0776, 0.0795, -1.1350, 0.9033, -0.0636, -0.5514, 0.9082),
    ]
)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(np.rint(values), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def brighter(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels * 1.3 + 5, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def gradient() -> np.ndarray:
    """A dark smooth gradient, 120×400, with steps of one level, each about 8 pixels wide."""
    return np.tile(np.linspace(10, 60, 400), (120, 1))


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


@pytest.mark.parametrize(
    "measure",
    [
        metrics.local_contrast_gain,
        metrics.psnr,
        metrics.ssim,
        metrics.delta_e2000,
        metrics.neutral_shift,
        metrics.halo_overshoot,
        metrics.noise_gain,
        lambda result, _: metrics.banding(result),
        lambda result, _: metrics.colourfulness(result),
    ],
)
def test_small_odd_and_constant_pictures_have_values(
    measure: Callable[[np.ndarray, np.ndarray], float], photo: np.ndarray
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for shape in ((16, 16), (17, 41), (53, 19)):
            small = np.ascontiguousarray(photo[: shape[0], : shape[1]])
            assert not math.isinf(measure(brighter(small), small))
            for level in (0, 90, 255):
                flat = np.full((*shape, 3), level, np.uint8)
                assert not math.isinf(measure(flat, small))
                assert not math.isinf(measure(small, flat))
                assert not math.isinf(measure(flat, flat))


def test_measures_of_likeness_agree_with_scikit_image(photo: np.ndarray) -> None:
    noisy = np.clip(photo + np.random.default_rng(0).normal(0, 12, photo.shape), 0, 255).astype(np.uint8)
    for other in (brighter(photo), noisy):
        assert metrics.psnr(other, photo) == pytest.approx(peak_signal_noise_ratio(photo, other), abs=1e-4)
        expected = structural_similarity(
            metrics.luma(photo),
            metrics.luma(other),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
        )
        assert metrics.ssim(other, photo) == pytest.approx(expected, abs=1e-4)
        assert metrics.delta_e2000(other, photo) == pytest.approx(
            deltaE_ciede2000(rgb2lab(photo), rgb2lab(other)).mean(), abs=1e-3
        )


def test_identical_photos_are_alike(photo: np.ndarray) -> None:
    assert metrics.psnr(photo, photo) == 100
    assert metrics.ssim(photo, photo) == pytest.approx(1, abs=1e-6)
    assert metrics.delta_e2000(photo, photo) == 0


def test_lab_agrees_with_scikit_image_for_dark_and_bright_colours(photo: np.ndarray) -> None:
    levels = np.array([0, 1, 5, 10, 11, 60, 128, 200, 254, 255], np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(40, 25, 3)
    for pixels in (cube, photo):
        np.testing.assert_allclose(metrics.to_lab(pixels), rgb2lab(pixels), atol=0.02)


def test_ciede2000_agrees_with_its_authors_table() -> None:
    first, second, expected = SHARMA[:, :3], SHARMA[:, 3:6], SHARMA[:, 6]
    np.testing.assert_allclose(metrics.ciede2000(first, second), expected, atol=5e-5)
    np.testing.assert_allclose(metrics.ciede2000(second, first), expected, atol=5e-5)
    np.testing.assert_allclose(metrics.ciede2000(first, second), deltaE_ciede2000(first, second), atol=1e-8)


def test_colourfulness_of_two_colours_worked_out_by_hand() -> None:
    assert metrics.colourfulness(np.full((16, 16, 3), 77, np.uint8)) == pytest.approx(0, abs=1e-4)
    halves = np.zeros((16, 16, 3), np.uint8)
    halves[:8, :, 0] = 200  # R − G: 100 ± 100; (R + G)/2 − B: 0 ± 100
    halves[8:, :, 2] = 100
    # red half (200, 100), blue half (0, −100)
    assert metrics.colourfulness(halves) == pytest.approx(math.hypot(100, 100) + 0.3 * math.hypot(100, 0), rel=1e-5)


def test_a_cast_on_greys_is_its_distance_in_lab() -> None:
    pixels = np.full((40, 40, 3), 120, np.uint8)
    pixels[:20] = (220, 30, 30)  # red is not neutral, so its change is no cast
    cast = pixels.copy()
    cast[20:] = (140, 120, 110)
    cast[:20] = (30, 220, 30)
    distance = np.linalg.norm((rgb2lab(cast) - rgb2lab(pixels))[30, 30, 1:])
    assert metrics.neutral_shift(cast, pixels) == pytest.approx(distance, abs=0.02)
    assert metrics.neutral_shift(pixels, pixels) == 0
    assert math.isnan(metrics.neutral_shift(cast[:20], pixels[:20]))


def test_brightening_greys_is_no_cast() -> None:
    ramp = grey(np.tile(np.linspace(40, 180, 100), (30, 1)))
    assert metrics.neutral_shift(brighter(ramp), ramp) < 0.05


def test_banding_rises_as_levels_go() -> None:
    smooth = np.tile(np.linspace(0, 255, 2048), (20, 1))
    values = [metrics.banding(grey(smooth))]
    for levels in (128, 64, 32, 16):
        values.append(metrics.banding(grey(np.round(smooth / 255 * (levels - 1)) * 255 / (levels - 1))))
    assert values[0] == 0
    assert values == sorted(values)
    assert len(set(values)) == len(values)
    # 31 steps of 8.2 levels, each found in every row.
    assert values[3] == pytest.approx(100 * (255 - 31) / 2048, rel=0.02)


def test_stretching_a_dark_gradient_makes_bands_and_dithering_hides_them(gradient: np.ndarray) -> None:
    eight_bit = np.rint(gradient)
    stretched = [metrics.banding(grey(factor * eight_bit)) for factor in (1, 2, 3, 4)]
    assert stretched[0] == 0
    assert stretched == sorted(stretched)
    # 50 steps of 3 levels; the first and the last run are 4 pixels wide, too short.
    assert stretched[2] == pytest.approx(100 * 48 * 2 / 400)
    dither = np.random.default_rng(0).random(gradient.shape) - 0.5
    assert metrics.banding(grey(3 * gradient + dither)) < 0.01 * stretched[2]
    # In stretched noise of one level, six pixels in a row are sometimes equal by chance.
    assert metrics.banding(grey(3 * np.rint(gradient + dither))) < 0.2 * stretched[2]
    # Bands in columns count like bands in rows.
    assert metrics.banding(grey(3 * eight_bit.T)) == pytest.approx(stretched[2])


def test_texture_edges_and_noise_are_no_bands(astronaut: np.ndarray) -> None:
    usual = metrics.banding(astronaut)
    noisy = np.clip(astronaut + np.random.default_rng(0).normal(0, 2, astronaut.shape), 0, 255).astype(np.uint8)
    posterised = (np.round(astronaut / 255 * 15) * 17).astype(np.uint8)
    assert usual < 0.1 * metrics.banding(posterised)
    assert metrics.banding(noisy) <= usual + 0.01
    edge = grey(np.where(np.arange(200) < 100, 40.0, 200.0) * np.ones((50, 1)))
    assert metrics.banding(edge) == 0


def test_a_halo_is_measured_as_a_share_of_the_step() -> None:
    step = np.where(np.arange(480) < 240, 80.0, 160.0) * np.ones((60, 1))
    halo = step.copy()
    halo[:, 228:240] -= 8  # 12 pixels on either side by 10% of the step
    halo[:, 240:252] += 8
    input = grey(step)
    assert metrics.halo_overshoot(grey(halo), input) == pytest.approx(0.2, abs=0.01)
    assert metrics.halo_overshoot(input, input) == 0
    curve = grey(255 * (step / 255) ** 0.6)
    assert metrics.halo_overshoot(curve, input) == pytest.approx(0, abs=1e-4)
    assert metrics.halo_overshoot(grey(halo.T), grey(step.T)) == pytest.approx(0.2, abs=0.01)
    assert math.isnan(metrics.halo_overshoot(input, np.full_like(input, 90)))


def test_halos_of_a_wide_unsharp_mask_grow_with_its_amount(astronaut: np.ndarray) -> None:
    blurred = cv2.GaussianBlur(astronaut, (0, 0), 8).astype(np.float32)
    sharpened = [
        np.clip(astronaut + amount * (astronaut - blurred), 0, 255).astype(np.uint8) for amount in (0.0, 0.3, 0.6)
    ]
    overshoots = [metrics.halo_overshoot(result, astronaut) for result in sharpened]
    assert overshoots[0] == 0
    assert 0.03 < overshoots[1] < overshoots[2]


def test_noise_gain_is_the_ratio_of_known_sigmas() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (200, 300))
    slope = np.linspace(100, 130, 300) * np.ones((200, 1))
    quiet, loud = grey(slope + 2 * noise), grey(slope + 6 * noise)
    assert metrics.noise_gain(loud, quiet) == pytest.approx(3, rel=0.05)
    assert metrics.noise_gain(quiet, quiet) == 1
    clean = np.full((200, 300, 3), 115, np.uint8)
    assert metrics.noise_gain(clean, clean) == 1
    assert math.isnan(metrics.noise_gain(loud, np.zeros_like(clean)))
