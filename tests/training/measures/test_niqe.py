"""NIQE recovers the parameters of known samples and tells natural photos from spoilt ones."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from importlib.resources import files

import cv2
import numpy as np
import pytest

from naturaltone.pipeline.photo.decode import decode
from naturaltone.training.measures import niqe


def crops(pixels: np.ndarray, size: int = 192, stride: int = 80) -> list[np.ndarray]:
    """Overlapping windows of size×size."""
    height, width = pixels.shape[:2]
    return [
        np.ascontiguousarray(pixels[top : top + size, left : left + size])
        for top in range(0, height - size + 1, stride)
        for left in range(0, width - size + 1, stride)
    ]


@pytest.fixture(scope="module")
def natural() -> list[np.ndarray]:
    """Windows of real photos, each 192×192."""
    skimage, sklearn = files("skimage.data"), files("sklearn.datasets.images")
    photos = [skimage / name for name in ("chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")]
    photos += [sklearn / name for name in ("china.jpg", "flower.jpg")]
    return [crop for photo in photos for crop in crops(decode(photo.read_bytes()).pixels)]


@pytest.fixture(scope="module")
def model(natural: list[np.ndarray]) -> niqe.NaturalModel:
    return niqe.fit(natural)


def test_shape_and_scale_of_known_samples_are_recovered() -> None:
    random = np.random.default_rng(0)
    samples = np.stack([random.normal(0, 3, 200_000), random.laplace(0, 3, 200_000), random.uniform(-3, 3, 200_000)])
    shape, scale = niqe.fit_ggd(samples)
    assert shape[0] == pytest.approx(2, rel=0.03)
    assert scale[0] == pytest.approx(3 * math.sqrt(2), rel=0.02)
    assert shape[1] == pytest.approx(1, rel=0.03)
    assert scale[1] == pytest.approx(3, rel=0.03)
    assert shape[2] > 8  # a uniform density is the limit at infinity


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0])
def test_asymmetric_samples_give_their_parameters(shape: float) -> None:
    # |x| = β·G^(1/α) of a gamma variate G(1/α); an AGGD falls left with probability β_left/(β_left + β_right).
    random = np.random.default_rng(1)
    left, right = 1.0, 2.5
    size = 400_000
    magnitude = random.gamma(1 / shape, 1, size) ** (1 / shape)
    samples = np.where(random.random(size) < left / (left + right), -left * magnitude, right * magnitude)
    found = [float(value[0]) for value in niqe.fit_aggd(samples[None])]
    mean = (right - left) * math.gamma(2 / shape) / math.gamma(1 / shape)
    assert found == pytest.approx([shape, mean, left, right], rel=0.05)


def test_symmetric_samples_have_equal_sides_and_no_mean() -> None:
    shape, mean, left, right = niqe.fit_aggd(np.random.default_rng(2).normal(0, 1, (3, 100_000)))
    np.testing.assert_allclose(shape, 2, rtol=0.05)
    np.testing.assert_allclose(mean, 0, atol=0.02)
    np.testing.assert_allclose(left, right, rtol=0.02)


def test_features_have_36_columns_and_a_row_for_each_patch(astronaut: np.ndarray) -> None:
    values, sharpness = niqe.features(astronaut)
    assert values.shape == (25, niqe.NUM_FEATURES)
    assert sharpness.shape == (25,)
    assert np.isfinite(values).all()


def test_a_picture_of_the_models_own_statistics_scores_0(astronaut: np.ndarray) -> None:
    values, _ = niqe.features(astronaut)
    own = niqe.NaturalModel(mean=values.mean(axis=0), covariance=np.cov(values, rowvar=False), num_patches=len(values))
    assert niqe.score(astronaut, own) == pytest.approx(0, abs=1e-6)


def test_the_distance_is_that_of_the_formula(astronaut: np.ndarray) -> None:
    values, _ = niqe.features(astronaut)
    covariance = 2 * np.eye(36) - np.cov(values, rowvar=False)  # the mean of both is then the identity
    shifted = niqe.NaturalModel(mean=values.mean(axis=0) + 0.5, covariance=covariance, num_patches=100)
    assert niqe.score(astronaut, shifted) == pytest.approx(0.5 * 6, rel=1e-6)


def test_a_single_patch_takes_the_models_covariance_alone(photo: np.ndarray) -> None:
    patch = np.ascontiguousarray(photo[:96, :96])
    values, _ = niqe.features(patch)
    assert len(values) == 1
    model = niqe.NaturalModel(mean=values[0] + 1, covariance=np.eye(36), num_patches=100)
    assert niqe.score(patch, model) == pytest.approx(math.sqrt(2 * 36))


def noisy(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels + np.random.default_rng(3).normal(0, 20, pixels.shape), 0, 255).astype(np.uint8)


def jpeg_5(pixels: np.ndarray) -> np.ndarray:
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 5])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


@pytest.mark.parametrize("spoil", [lambda pixels: cv2.GaussianBlur(pixels, (0, 0), 2), noisy, jpeg_5])
def test_spoilt_photos_score_worse(
    spoil: Callable[[np.ndarray], np.ndarray], model: niqe.NaturalModel, astronaut: np.ndarray
) -> None:
    # The astronaut is not among the model's photos.
    assert niqe.score(astronaut, model) + 0.5 < niqe.score(spoil(astronaut), model)
    unspoilt = [niqe.score(crop, model) for crop in crops(astronaut, 256, 256)]
    spoilt = [niqe.score(spoil(crop), model) for crop in crops(astronaut, 256, 256)]
    assert np.mean(unspoilt) < np.mean(spoilt)


def test_the_order_of_photos_does_not_matter(model: niqe.NaturalModel, natural: list[np.ndarray]) -> None:
    backwards = niqe.fit(reversed(natural))
    assert backwards.num_patches == model.num_patches >= 72
    np.testing.assert_allclose(backwards.mean, model.mean)
    np.testing.assert_allclose(backwards.covariance, model.covariance, rtol=1e-6, atol=1e-9)


def test_too_few_photos_are_refused_with_a_remedy(photo: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"2 photos have \d+ sharp patches .* 72: give more natural photos"):
        niqe.fit([photo, photo])
    with pytest.raises(ValueError, match="0 photos have 0 sharp patches"):
        niqe.fit([])


def test_small_odd_and_constant_pictures_have_scores(model: niqe.NaturalModel, astronaut: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for height, width in ((16, 16), (17, 41), (53, 19), (97, 95), (101, 203)):
            for pixels in (astronaut[:height, :width], np.full((height, width, 3), 128, np.uint8)):
                values, _ = niqe.features(np.ascontiguousarray(pixels))
                assert np.isfinite(values).all()
                assert math.isfinite(niqe.score(np.ascontiguousarray(pixels), model))
        half = np.ascontiguousarray(astronaut[:192, :288])
        half[:, 96:] = 255
        assert math.isfinite(niqe.score(half, model))
        niqe.fit([astronaut] * 40 + [np.zeros((200, 200, 3), np.uint8)])
