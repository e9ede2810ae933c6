"""Measures of a picture: how much local contrast it gained, what it clips, how natural its tone is (TMQI)."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.tone import LUMA

# Yeganeh & Wang, "Objective Quality Assessment of Tone-Mapped Images", TIP 2013, section III-B: fitted to 3000 photos.
_NATURAL_MEAN, _NATURAL_MEAN_SIGMA = 115.94, 27.99
_NATURAL_STD_SCALE, _BETA_A, _BETA_B = 64.29, 4.4, 10.1
_TMQI_BLOCK = 11

_CONTRAST_SIGMA = 0.01  # of the long side, so that a photo measures the same at any size
_CLIP_LOW, _CLIP_HIGH = 2, 253


def local_contrast(pixels: np.ndarray) -> float:
    """Mean local standard deviation of luma (0–255) under a Gaussian window of 1% of the long side; H×W×3 uint8."""
    luma = _luma(pixels)
    sigma = _CONTRAST_SIGMA * max(luma.shape)
    mean = cv2.GaussianBlur(luma, (0, 0), sigma)
    variance = cv2.GaussianBlur(luma * luma, (0, 0), sigma) - mean * mean
    return float(np.sqrt(np.maximum(variance, 0)).mean())


def local_contrast_gain(result: np.ndarray, input: np.ndarray) -> float:
    """Local contrast of `result` over that of `input`; above 1 means more contrast."""
    return local_contrast(result) / max(local_contrast(input), 1e-6)


def clipped_fraction(pixels: np.ndarray) -> float:
    """Fraction of pixels, 0 to 1, with a channel at the white end or all of them at the black end."""
    return float(((pixels >= _CLIP_HIGH).any(axis=2) | (pixels <= _CLIP_LOW).all(axis=2)).mean())


def tmqi_naturalness(pixels: np.ndarray) -> float:
    """Statistical naturalness N of TMQI, 0 to 1: how usual the luma's mean and local spread are among photos.

    N = Pm·Pd/K, with Pm a Gaussian of the mean and Pd a Beta density of the mean block deviation, each divided by its peak.
    """
    luma = _luma(pixels)
    mean_density = np.exp(-0.5 * ((luma.mean() - _NATURAL_MEAN) / _NATURAL_MEAN_SIGMA) ** 2)
    height, width = (side - side % _TMQI_BLOCK for side in luma.shape)
    blocks = luma[:height, :width].reshape(height // _TMQI_BLOCK, _TMQI_BLOCK, width // _TMQI_BLOCK, _TMQI_BLOCK)
    spread = blocks.std(axis=(1, 3), ddof=1).mean() / _NATURAL_STD_SCALE
    peak = (_BETA_A - 1) / (_BETA_A + _BETA_B - 2)
    return float(mean_density * _beta_shape(spread) / _beta_shape(peak))


def _beta_shape(x: float) -> float:
    """The Beta(4.4, 10.1) density without its constant, which cancels; 0 outside [0, 1]."""
    return x ** (_BETA_A - 1) * (1 - x) ** (_BETA_B - 1) if 0 < x < 1 else 0.0


def _luma(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) @ LUMA
