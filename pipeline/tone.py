"""The intermediate image generator (part 130): a fixed algorithm that enhances tone strongly and need not look natural.

Its parameters are frozen: a change of one is a new version, because shards and models name the algorithm they used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass

import cv2
import numpy as np

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # Rec. 709, on encoded values


@dataclass(frozen=True, kw_only=True)
class LocalLaplacian:
    """Parameters of `local_laplacian`; luminance is in [0, 1].

    alpha: detail is amplified by up to 1/alpha. beta: large-scale contrast is scaled by beta. With both 1 the filter is
    the identity; below 1/alpha = 3.24 beta the remapping is monotone, so no edge is turned round.
    sigma: what counts as detail. samples: remapping functions between which coefficients are interpolated.
    The rest bounds the global tone rule, so that a black or flat frame is not blown up into noise.
    """

    alpha: float = 0.35
    beta: float = 0.9
    sigma: float = 0.15
    samples: int = 12
    stretch_percentiles: tuple[float, float] = (0.5, 99.5)
    max_black: float = 0.25
    min_range: float = 0.35
    middle_grey: float = 0.46
    gamma_range: tuple[float, float] = (0.45, 1.5)
    max_ratio: float = 8.0


LOCAL_LAPLACIAN = LocalLaplacian()


def algorithm_id(parameters: LocalLaplacian = LOCAL_LAPLACIAN) -> str:
    """Name, version and parameter hash, e.g. `local_laplacian/1-3f2a9c01`: what shards and bundles record."""
    frozen = json.dumps(dataclasses.asdict(parameters), sort_keys=True).encode()
    return f"local_laplacian/1-{hashlib.sha256(frozen).hexdigest()[:8]}"


def intermediate(pixels: np.ndarray, parameters: LocalLaplacian = LOCAL_LAPLACIAN) -> np.ndarray:
    """The intermediate image I_D of an input photo; H×W×3 uint8 sRGB in and out."""
    rgb = pixels.astype(np.float32) / 255
    luminance = rgb @ LUMA
    toned = tone_rule(local_laplacian(luminance, parameters), parameters)
    ratio = np.minimum((toned + 1e-3) / (luminance + 1e-3), parameters.max_ratio)
    rgb *= ratio[..., None]
    return np.clip(rgb * 255 + 0.5, 0, 255).astype(np.uint8)


def local_laplacian(luminance: np.ndarray, parameters: LocalLaplacian = LOCAL_LAPLACIAN) -> np.ndarray:
    """Local Laplacian filter (Paris et al. 2011) by sampled remapping (Aubry et al. 2014); H×W float32 in [0, 1].

    The remapping is smooth, d·(β + (1/α − β)·exp(−d²/2σ²)) around each sample: Paris's power function needs about 64
    samples where this one is accurate with 12.
    """
    levels = max(1, int(np.log2(min(luminance.shape))) - 2)
    gaussian = [luminance]
    for _ in range(levels):
        gaussian.append(cv2.pyrDown(gaussian[-1]))
    laplacian = [np.zeros_like(level) for level in gaussian[:-1]]
    centres = np.linspace(0, 1, parameters.samples, dtype=np.float32)
    for centre in centres:
        current = _remap(luminance, centre, parameters)
        for level, detail in enumerate(laplacian):
            smaller = cv2.pyrDown(current)
            weight = np.maximum(1 - np.abs(gaussian[level] - centre) * (parameters.samples - 1), 0)
            detail += weight * (current - _enlarge(smaller, current))
            current = smaller
    output = gaussian[-1]
    for detail in reversed(laplacian):
        output = _enlarge(output, detail) + detail
    return output


def tone_rule(luminance: np.ndarray, parameters: LocalLaplacian = LOCAL_LAPLACIAN) -> np.ndarray:
    """Stretch between two percentiles, then bring the median to middle grey by a power; both bounded. H×W in, [0, 1] out."""
    low, high = np.percentile(luminance, parameters.stretch_percentiles)
    low = min(low, parameters.max_black)
    high = max(high, low + parameters.min_range)
    stretched = np.clip((luminance - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    median = float(np.clip(np.median(stretched), 1e-3, 1 - 1e-3))
    gamma = np.clip(np.log(parameters.middle_grey) / np.log(median), *parameters.gamma_range)
    return np.power(stretched, np.float32(gamma))


def _remap(luminance: np.ndarray, centre: float, parameters: LocalLaplacian) -> np.ndarray:
    distance = luminance - centre
    gain = cv2.exp(distance * distance * (-0.5 / parameters.sigma**2))
    gain *= 1 / parameters.alpha - parameters.beta
    gain += parameters.beta
    return centre + distance * gain


def _enlarge(image: np.ndarray, like: np.ndarray) -> np.ndarray:
    return cv2.pyrUp(image, dstsize=(like.shape[1], like.shape[0]))
