"""NIQE: how far the local statistics of a picture are from those of a set of natural photos.

Mittal, Soundararajan & Bovik, "Making a 'Completely Blind' Image Quality Analyzer", IEEE Signal Processing Letters 2013.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from naturaltone.training.measures.metrics import luma

NUM_FEATURES = 36  # 18 at each of two scales
PATCH = 96

_WINDOW, _SIGMA = 7, 7 / 6
_SHARP = 0.75  # a patch is sharp if it has more than this share of the sharpness of the photo's sharpest patch
_FEWEST_PATCHES = 2 * NUM_FEATURES
_FLAT = 1e-8  # a patch with a smaller variance is flat

# Tables for moment matching, by shape α.
_SHAPES = np.arange(0.2, 10.0005, 0.001)
_LOG_GAMMA_1, _LOG_GAMMA_2, _LOG_GAMMA_3 = (
    np.array([math.lgamma(order / shape) for shape in _SHAPES]) for order in (1, 2, 3)
)
_MOMENT_RATIOS = np.exp(2 * _LOG_GAMMA_2 - _LOG_GAMMA_1 - _LOG_GAMMA_3)  # E|x|²/E[x²], rising with α
_SCALES = np.exp((_LOG_GAMMA_1 - _LOG_GAMMA_3) / 2)  # β/σ
_MEANS = np.exp(_LOG_GAMMA_2 - _LOG_GAMMA_1)  # η/(β_right − β_left)
_GAUSSIAN_RATIO = 2 / math.pi


@dataclass(frozen=True, kw_only=True)
class NaturalModel:
    """A Gaussian fitted to the features of natural photos' sharp patches: mean (36), covariance (36×36), float64."""

    mean: np.ndarray
    covariance: np.ndarray
    num_patches: int


def fit(pictures: Iterable[np.ndarray]) -> NaturalModel:
    """Fit the model to natural photos, each H×W×3 uint8.

    It needs about 20 photos of 480×320; a few hundred are good. `ValueError` if they have too few sharp patches.
    """
    sharp = []
    num_pictures = 0
    for pixels in pictures:
        values, sharpness = features(pixels)
        sharp.append(values[sharpness > _SHARP * sharpness.max()])
        num_pictures += 1
    num_patches = sum(map(len, sharp))
    if num_patches < _FEWEST_PATCHES:
        raise ValueError(
            f"{num_pictures} photos have {num_patches} sharp patches of {PATCH}×{PATCH} pixels, but NIQE needs "
            f"{_FEWEST_PATCHES}: give more natural photos (about {_FEWEST_PATCHES // 3} of 480×320) or larger ones"
        )
    patches = np.concatenate(sharp)
    return NaturalModel(mean=patches.mean(axis=0), covariance=np.cov(patches, rowvar=False), num_patches=num_patches)


def score(pixels: np.ndarray, model: NaturalModel) -> float:
    """NIQE of H×W×3 uint8 against `model`: 0 and up, lower is more natural.

    A picture of fewer than two patches has no covariance of its own. Half the model's covariance is used instead.
    """
    patches, _ = features(pixels)
    distance = model.mean - patches.mean(axis=0)
    own = np.cov(patches, rowvar=False) if len(patches) > 1 else np.zeros_like(model.covariance)
    squared = distance @ np.linalg.pinv((model.covariance + own) / 2, hermitian=True) @ distance
    return math.sqrt(max(float(squared), 0.0))


def features(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 36 features of each patch of 96×96 (N×36) and its sharpness, the mean local deviation of luma (N).

    If a side is below 96, the patches are as large as the shorter side, rounded down to an even number. Pixels that fill no
    patch are cut evenly at the borders.
    """
    values = luma(pixels)
    size = min(PATCH, *values.shape) // 2 * 2
    rows, columns = (side // size for side in values.shape)
    top, left = (values.shape[0] - rows * size) // 2, (values.shape[1] - columns * size) // 2
    values = np.ascontiguousarray(values[top : top + rows * size, left : left + columns * size])
    normalised, deviation = _normalise(values)
    fine = _scale_features(_patches(normalised, size))
    half = cv2.resize(values, (values.shape[1] // 2, values.shape[0] // 2), interpolation=cv2.INTER_AREA)
    coarse = _scale_features(_patches(_normalise(half)[0], size // 2))
    return np.concatenate([fine, coarse], axis=1), _patches(deviation, size).mean(axis=(1, 2), dtype=np.float64)


def _normalise(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luma without its local mean, divided by its local deviation plus 1 (MSCN), and that deviation."""
    # Centred on the picture's mean: with squares of bright values, float32 would lose the variance of smooth areas.
    values = values - np.float32(values.mean())
    mean = _blur(values)
    deviation = np.sqrt(np.maximum(_blur(values * values) - mean * mean, 0))
    return (values - mean) / (deviation + 1), deviation


def _blur(values: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(values, (_WINDOW, _WINDOW), _SIGMA, borderType=cv2.BORDER_REPLICATE)


def _patches(values: np.ndarray, size: int) -> np.ndarray:
    rows, columns = (side // size for side in values.shape)
    return values.reshape(rows, size, columns, size).swapaxes(1, 2).reshape(rows * columns, size, size)


def _scale_features(patches: np.ndarray) -> np.ndarray:
    """α and β of the values, then α, η, β left and right of the products of neighbours along 4 directions; N×18."""
    products = (
        patches[:, :, :-1] * patches[:, :, 1:],
        patches[:, :-1] * patches[:, 1:],
        patches[:, :-1, :-1] * patches[:, 1:, 1:],
        patches[:, :-1, 1:] * patches[:, 1:, :-1],
    )
    columns = [*fit_ggd(patches.reshape(len(patches), -1))]
    for product in products:
        columns += fit_aggd(product.reshape(len(patches), -1))
    return np.stack(columns, axis=1)


def fit_ggd(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shape α and scale β of a zero-mean generalised Gaussian for each row of N×M, by its moments."""
    second = np.einsum("ij,ij->i", samples, samples, dtype=np.float64) / samples.shape[1]
    first = np.abs(samples).mean(axis=1, dtype=np.float64)
    shape = _shape_of(first, second, np.ones_like(first))
    return shape, np.sqrt(second) * np.interp(shape, _SHAPES, _SCALES)


def fit_aggd(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shape α, mean η and scales β left and right of an asymmetric generalised Gaussian for each row of N×M, by moments.

    Lasmar, Stitou & Berthoumieu, "Multiscale Skewed Heavy Tailed Model for Texture Analysis", ICIP 2009.
    """
    left, right = np.minimum(samples, 0), np.maximum(samples, 0)
    left_squares = np.einsum("ij,ij->i", left, left, dtype=np.float64)
    right_squares = np.einsum("ij,ij->i", right, right, dtype=np.float64)
    left_sigma = np.sqrt(left_squares / np.maximum(np.count_nonzero(left, axis=1), 1))
    right_sigma = np.sqrt(right_squares / np.maximum(np.count_nonzero(right, axis=1), 1))
    first = (right.sum(axis=1, dtype=np.float64) - left.sum(axis=1, dtype=np.float64)) / samples.shape[1]
    skew = left_sigma / np.maximum(right_sigma, math.sqrt(_FLAT))
    correction = (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape = _shape_of(first, (left_squares + right_squares) / samples.shape[1], correction)
    scale = np.interp(shape, _SHAPES, _SCALES)
    left_scale, right_scale = left_sigma * scale, right_sigma * scale
    return shape, (right_scale - left_scale) * np.interp(shape, _SHAPES, _MEANS), left_scale, right_scale


def _shape_of(first: np.ndarray, second: np.ndarray, correction: np.ndarray) -> np.ndarray:
    """The shape α that has the ratio of moments E|x|²/E[x²]·correction. A flat patch counts as a Gaussian without spread."""
    flat = second < _FLAT
    ratio = np.where(flat, _GAUSSIAN_RATIO, first**2 / np.where(flat, 1, second) * correction)
    return np.interp(ratio, _MOMENT_RATIOS, _SHAPES)
