"""The fixed algorithms are strong and bounded, and never change under one id."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from naturaltone.pipeline import tone
from naturaltone.training.measures import metrics

each_algorithm = pytest.mark.parametrize("algorithm", tone.ALGORITHMS.values(), ids=tone.ALGORITHMS.keys())


def dull(photo: np.ndarray) -> np.ndarray:
    return (photo * 0.4 + 40).astype(np.uint8)


def test_alpha_and_beta_of_one_are_the_identity(photo: np.ndarray) -> None:
    luminance = tone.luminance_of(photo)
    neutral = dataclasses.replace(tone.LOCAL_LAPLACIAN, alpha=1, beta=1)
    assert np.abs(tone.local_laplacian(luminance, neutral) - luminance).max() < 1e-3 * tone.WHITE


def direct_local_laplacian(light: np.ndarray, parameters: tone.LocalLaplacian) -> np.ndarray:
    """The definition (Paris et al. 2011, algorithm 1) in floats: a remapped photo and its pyramid for each coefficient."""

    def pyramid(image: np.ndarray, levels: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        gaussian, laplacian = [image], []
        for _ in range(levels):
            gaussian.append(cv2.pyrDown(gaussian[-1]))
            laplacian.append(gaussian[-2] - cv2.pyrUp(gaussian[-1], dstsize=gaussian[-2].shape[::-1]))
        return gaussian, laplacian

    levels = int(np.log2(min(light.shape))) - 2
    gaussian, laplacian = pyramid(light, levels)
    for level in range(levels):
        for y, x in np.ndindex(gaussian[level].shape):
            distance = light - gaussian[level][y, x]
            gain = parameters.beta + (1 / parameters.alpha - parameters.beta) * np.exp(
                -(distance**2) / (2 * parameters.sigma**2)
            )
            remapped = gaussian[level][y, x] + distance * gain
            laplacian[level][y, x] = pyramid(remapped, level + 1)[1][level][y, x]
    output = gaussian[-1]
    for detail in reversed(laplacian):
        output = cv2.pyrUp(output, dstsize=detail.shape[::-1]) + detail
    return output


@pytest.mark.parametrize(("samples", "decibels"), [(61, 55), (tone.LOCAL_LAPLACIAN.samples, 40)])
@pytest.mark.parametrize("window", [(slice(20, 84), slice(170, 234)), (slice(300, 361), slice(40, 87))])
def test_the_sampled_filter_agrees_with_the_slow_definition(
    samples: int, decibels: float, window: tuple[slice, slice], astronaut: np.ndarray
) -> None:
    luminance = tone.luminance_of(np.ascontiguousarray(astronaut[window]))
    direct = direct_local_laplacian(luminance.astype(np.float64) / tone.WHITE, tone.LOCAL_LAPLACIAN)
    fast = tone.local_laplacian(luminance, dataclasses.replace(tone.LOCAL_LAPLACIAN, samples=samples)) / tone.WHITE
    assert np.abs(direct - luminance / tone.WHITE).max() > 0.1, "the filter does something"
    assert -10 * np.log10(np.mean((fast - direct) ** 2)) > decibels


@each_algorithm
def test_a_dull_photo_gains_much_contrast(algorithm: tone.Algorithm, photo: np.ndarray) -> None:
    assert metrics.local_contrast_gain(tone.intermediate(dull(photo), algorithm), dull(photo)) > 1.8


@pytest.mark.parametrize("name", ["local_laplacian", "shift_scale"])
def test_the_tone_rule_brings_the_middle_of_a_dark_photo_up(name: str, photo: np.ndarray) -> None:
    assert 100 < np.median(tone.intermediate((photo * 0.3).astype(np.uint8), tone.ALGORITHMS[name])) < 150


def low_key(photo: np.ndarray) -> np.ndarray:
    """The photo, dark but for a bright spot in its middle that is as it was."""
    rows, columns = np.mgrid[-1 : 1 : photo.shape[0] * 1j, -1 : 1 : photo.shape[1] * 1j]
    lit = np.exp(-6 * (rows**2 + columns**2))[..., None]
    return (photo * (0.15 + 0.85 * lit)).astype(np.uint8)


def test_the_key_rule_leaves_a_dark_scene_dark_and_brings_up_what_is_underexposed(photo: np.ndarray) -> None:
    scene, under = low_key(photo), (photo * 0.3).astype(np.uint8)
    same = dataclasses.replace(tone.KeyedLaplacian(), tone=tone.ToneRule())

    def lightening(picture: np.ndarray, algorithm: tone.Algorithm) -> float:
        return float(tone.intermediate(picture, algorithm).mean() - picture.mean())

    assert lightening(scene, tone.KeyedLaplacian()) < 0.7 * lightening(scene, same)
    assert lightening(under, tone.KeyedLaplacian()) > 0.95 * lightening(under, same)


def test_detail_alone_keeps_the_large_scale_tone(photo: np.ndarray) -> None:
    luminance = tone.luminance_of(dull(photo))
    filtered = tone.local_laplacian(luminance)
    assert abs(filtered.mean() - luminance.mean()) < 0.01 * tone.WHITE
    assert filtered.std() > luminance.std()


def test_shift_scale_moves_dark_regions_up_so_that_their_detail_fits(photo: np.ndarray) -> None:
    dark = np.clip(photo.astype(int) // 4, 0, 255).astype(np.uint8)
    luminance = tone.luminance_of(dark)
    shifted = tone.shift_scale(luminance)
    assert shifted.mean() > luminance.mean()
    unshifted = luminance + 2 * (luminance - cv2.blur(luminance, (13, 13)))
    assert (shifted < 0).mean() < 0.3 * (unshifted < 0).mean()
    assert shifted.std() > 1.5 * luminance.std()


def test_shift_scale_leaves_flat_tone_where_it_is() -> None:
    flat = np.full((60, 80), tone.WHITE // 2, np.int16)
    assert np.abs(tone.shift_scale(flat) - flat).max() <= 1


@each_algorithm
@settings(max_examples=40, deadline=None)
@given(
    pixels=npst.arrays(
        np.uint8, st.tuples(st.integers(16, 40), st.integers(16, 40), st.just(3)), elements=st.integers(0, 255)
    )
)
def test_any_pixels_give_pixels_of_the_same_shape(algorithm: tone.Algorithm, pixels: np.ndarray) -> None:
    result = tone.intermediate(pixels, algorithm)
    assert result.shape == pixels.shape and result.dtype == np.uint8


@pytest.mark.parametrize("name", ["local_laplacian", "shift_scale"])
@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_a_flat_frame_is_not_blown_up(name: str, level: int) -> None:
    noise = np.random.default_rng(0).integers(-1, 2, (64, 64, 1))
    flat = np.clip(np.full((64, 64, 3), level) + noise, 0, 255).astype(np.uint8)
    assert tone.intermediate(flat, tone.ALGORITHMS[name]).astype(int).std() < 20


@each_algorithm
def test_neutral_grey_stays_neutral(algorithm: tone.Algorithm, photo: np.ndarray) -> None:
    grey = np.repeat(photo[..., 1:2], 3, axis=2)
    assert np.ptp(tone.intermediate(grey, algorithm).astype(int), axis=2).max() <= 1


def test_a_grey_value_has_exactly_its_luminance() -> None:
    greys = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert tone.luminance_of(greys).tolist() == [[64 * value for value in range(256)]]


@each_algorithm
def test_the_id_changes_with_every_parameter(algorithm: tone.Algorithm) -> None:
    ids = {tone.algorithm_id(algorithm)}
    for field in dataclasses.fields(algorithm):
        value = getattr(algorithm, field.name)
        for changed in _changes(field.name, value):
            ids.add(tone.algorithm_id(dataclasses.replace(algorithm, **{field.name: changed})))
    tones = len(dataclasses.fields(algorithm.tone)) if hasattr(algorithm, "tone") else 1
    assert len(ids) == len(dataclasses.fields(algorithm)) + tones


def _changes(name: str, value: object) -> list[object]:
    if isinstance(value, tone.StretchRule):
        return [
            dataclasses.replace(value, **{field.name: changed})
            for field in dataclasses.fields(value)
            for changed in _changes(field.name, getattr(value, field.name))
        ]
    return [21] if name == "samples" else [(0.1, 99.0)] if isinstance(value, tuple) else [value + 1]  # type: ignore[operator]


@each_algorithm
def test_an_id_leads_back_to_its_algorithm(algorithm: tone.Algorithm) -> None:
    assert tone.algorithm_of(tone.algorithm_id(algorithm)) is algorithm


def test_an_unknown_id_is_refused_with_the_known_ids() -> None:
    with pytest.raises(ValueError, match=r"local_laplacian/0-abc: this version of naturaltone has keyed_laplacian/1-"):
        tone.algorithm_of("local_laplacian/0-abc")


def test_a_number_of_samples_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="samples 12"):
        tone.LocalLaplacian(samples=12)


@each_algorithm
def test_a_version_makes_the_pixels_it_always_made(algorithm: tone.Algorithm, photo: np.ndarray) -> None:
    """Stores and models name the algorithm: if any pixel changes, it needs a new version and a new golden image."""
    golden = Path(__file__).parent / "golden" / f"{algorithm.name}-{algorithm.version}.png"
    both = np.vstack([dull(photo), photo])  # the second overshoots black and white
    assert np.array_equal(tone.intermediate(both, algorithm), np.asarray(Image.open(golden)))
