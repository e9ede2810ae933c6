"""Tone-mapped image quality index: how usual a picture's tone is, and how much of the source's structure it kept.

Yeganeh & Wang, "Objective Quality Assessment of Tone-Mapped Images", TIP 2013; the numbers are that paper's.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from naturaltone.training.measures.metrics import luma

# Section III-B: fitted to 3000 photos.
_NATURAL_MEAN, _NATURAL_MEAN_SIGMA = 115.94, 27.99
_NATURAL_STD_SCALE, _BETA_A, _BETA_B = 64.29, 4.4, 10.1
_BLOCK = 11

# Section III-A.
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_FREQUENCIES = (16, 8, 4, 2, 1)  # cycles per degree, one a scale
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01, 10.0
_MEAN_LUMINANCE, _CROZIER = 128, 3  # the spread of a threshold is the threshold divided by Crozier's k
_SENSITIVITY = 100  # λ, which scales the contrast sensitivity function to measured thresholds

# Section III-C.
_SHARE, _FIDELITY_POWER, _NATURALNESS_POWER = 0.8012, 0.3046, 0.7088


def quality(result: np.ndarray, reference: np.ndarray) -> float:
    """TMQI's Q, 0 to 1: combines structural fidelity to the source photo with naturalness. Pictures are H×W×3 uint8."""
    return combine(structural_fidelity(result, reference), naturalness(result))


def combine(fidelity: float, natural: float) -> float:
    """Q = a·S^α + (1 − a)·N^β of S and N in 0–1."""
    return _SHARE * fidelity**_FIDELITY_POWER + (1 - _SHARE) * natural**_NATURALNESS_POWER


def naturalness(pixels: np.ndarray) -> float:
    """Statistical naturalness N of TMQI, 0 to 1: how usual the luma's mean and local spread are among photos.

    N = Pm·Pd/K, with Pm a Gaussian of the mean and Pd a Beta density of the mean block deviation, each divided by its peak.
    """
    values = luma(pixels)
    mean_density = np.exp(-0.5 * ((values.mean() - _NATURAL_MEAN) / _NATURAL_MEAN_SIGMA) ** 2)
    height, width = (side - side % _BLOCK for side in values.shape)
    blocks = values[:height, :width].reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    spread = blocks.std(axis=(1, 3), ddof=1).mean() / _NATURAL_STD_SCALE
    peak = (_BETA_A - 1) / (_BETA_A + _BETA_B - 2)
    return float(mean_density * _beta_shape(spread) / _beta_shape(peak))


def structural_fidelity(result: np.ndarray, reference: np.ndarray) -> float:
    """Structural fidelity S of TMQI, 0 to 1: how much of `reference`'s visible local contrast and structure `result` keeps.

    The paper's reference is HDR, stretched to 32 bits, where every contrast is visible. Our reference is a photo made for a
    screen, so its luma stays in 0–255 and has its own thresholds. S is 1 for the reference itself. It falls if contrast is
    lost, or if contrast shows that was invisible. A picture too small for five scales uses those that fit, weights rescaled.
    """
    x, y = luma(result), luma(reference)
    scales = [(_scale_fidelity(x, y, _FREQUENCIES[0]), _WEIGHTS[0])]
    for frequency, weight in zip(_FREQUENCIES[1:], _WEIGHTS[1:], strict=True):
        x, y = _halve(x), _halve(y)
        if min(x.shape) < _WINDOW:
            break
        scales.append((_scale_fidelity(x, y, frequency), weight))
    total = sum(weight for _, weight in scales)
    return math.prod(max(fidelity, 0.0) ** (weight / total) for fidelity, weight in scales)


def _beta_shape(x: float) -> float:
    """The Beta(4.4, 10.1) density without its constant, which cancels; 0 outside [0, 1]."""
    return x ** (_BETA_A - 1) * (1 - x) ** (_BETA_B - 1) if 0 < x < 1 else 0.0


def _scale_fidelity(x: np.ndarray, y: np.ndarray, frequency: float) -> float:
    """Mean of the local fidelities of a scale, equations 1 to 8 of the paper."""
    mean_x, mean_y = _blur(x), _blur(y)
    sigma_x = np.sqrt(np.maximum(_blur(x * x) - mean_x * mean_x, 0))
    sigma_y = np.sqrt(np.maximum(_blur(y * y) - mean_y * mean_y, 0))
    covariance = _blur(x * y) - mean_x * mean_y
    seen_x, seen_y = _visibility(sigma_x, frequency), _visibility(sigma_y, frequency)
    contrast = (2 * seen_x * seen_y + _C1) / (seen_x * seen_x + seen_y * seen_y + _C1)
    return float((contrast * (covariance + _C2) / (sigma_x * sigma_y + _C2)).mean())


def _visibility(sigma: np.ndarray, frequency: float) -> np.ndarray:
    """The chance that a local deviation of luma is seen, 0 to 1: a Gaussian's distribution function around the threshold."""
    threshold = contrast_threshold(frequency)
    return np.interp((sigma - threshold) * (_CROZIER / threshold), _NORMAL_Z, _NORMAL).astype(np.float32)


def contrast_threshold(frequency: float) -> float:
    """τ = μ/(√2·λ·A(f)): the deviation of luma that is seen half of the time, with Mannos & Sakrison's sensitivity A (1974)."""
    sensitivity = 2.6 * (0.0192 + 0.114 * frequency) * math.exp(-((0.114 * frequency) ** 1.1))
    return _MEAN_LUMINANCE / (math.sqrt(2) * _SENSITIVITY * sensitivity)


def _blur(values: np.ndarray) -> np.ndarray:
    margin = _WINDOW // 2
    return cv2.GaussianBlur(values, (_WINDOW, _WINDOW), _SIGMA)[margin:-margin, margin:-margin]


def _halve(values: np.ndarray) -> np.ndarray:
    """Means of 2×2; an odd last row or column is left out."""
    height, width = (side // 2 for side in values.shape)
    return cv2.resize(values[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)


_NORMAL_Z = np.linspace(-4, 6, 1001)
_NORMAL = np.array([0.5 + 0.5 * math.erf(z / math.sqrt(2)) for z in _NORMAL_Z])
