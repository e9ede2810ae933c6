"""The intermediate image generator (US 12277676 B2, part 130): fixed algorithms that enhance tone strongly.

Their results need not look natural. Shards and models name the algorithm that they used, so its parameters are frozen: if a
parameter or a single pixel of a result changes, the algorithm needs a new version. Luminance is computed in integers: every
machine then makes the same pixels, in half the memory of floats.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from naturaltone.pipeline.errors import UserError

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # Rec. 709, on encoded values
BRIGHT = 95.0  # the percentile of luminance that tells how bright the bright parts are
WHITE = 64 * 255  # luminance in int16: fine enough for smooth skies, with as much headroom for overshoot
_ZERO = 2**15  # the index of luminance 0 in a table with an entry for every int16
# Samples of luminance lie at multiples of 1/1020 of its range: weights are whole numbers, so products are exact in float32.
_WEIGHT_UNITS = 1020
_COARSE = 4  # shift_scale computes its smooth planes at 1/4 of the width and height (fast guided filter, He & Sun 2015)


@dataclass(frozen=True, kw_only=True)
class StretchRule:
    """The global rule after a local algorithm: stretch between percentiles, then move the median by a power.

    Luminance is in [0, 1]. The stretch and the power are bounded, so that a black or flat frame does not become noise.
    max_black: the upper limit of the black point. min_range: the least luminance range to stretch. gamma_range: the limits
    of the power that moves the median. max_ratio: how many times brighter a pixel's colour may become.
    """

    stretch_percentiles: tuple[float, float] = (0.5, 99.5)
    max_black: float = 0.25
    min_range: float = 0.35
    gamma_range: tuple[float, float] = (0.45, 1.5)
    max_ratio: float = 8.0


@dataclass(frozen=True, kw_only=True)
class ToneRule(StretchRule):
    """The global rule that moves the median of every photo towards middle grey."""

    middle_grey: float = 0.46


@dataclass(frozen=True, kw_only=True)
class KeyRule(StretchRule):
    """The global rule that keeps the key of a scene: the median moves to where natural photos with such tones have theirs.

    It stretches between percentiles nearer to the ends than other rules do, so that it clips less.
    colour: how many times as far from the grey of its luminance a colour becomes. aim: the weights a, b and c of
    log(median to aim at) = a·log(median) + b·log(bright) + c, of luminance after the stretch; bright is its 95th percentile
    (`BRIGHT`). A picture whose bright parts are bright is dark by its scene, one without any is underexposed. The weights are a
    least-squares fit over 569 natural photos and portraits and two dulled copies of each (`tests.benchmarks.key_rule`): tones
    after the stretch, and the median of the photo itself.
    """

    stretch_percentiles: tuple[float, float] = (0.05, 99.95)
    gamma_range: tuple[float, float] = (0.5, 1.6)
    colour: float = 1.3
    aim: tuple[float, float, float] = (0.60, -0.37, -0.42)


@dataclass(frozen=True, kw_only=True)
class LocalLaplacian:
    """Parameters of `local_laplacian`; luminance is in [0, 1].

    alpha: detail is amplified by up to 1/alpha. beta: large-scale contrast is scaled by beta. If both are 1, the filter
    changes nothing. If 1/alpha < 3.24·beta, the remapping is monotone, so no edge is reversed.
    sigma: the size in luminance of what counts as detail. samples: the number of remapping functions; coefficients are
    interpolated between them. 1020 must be divisible by samples − 1, else `UserError`.
    """

    name: ClassVar[str] = "local_laplacian"
    version: ClassVar[int] = 1
    alpha: float = 0.35
    beta: float = 0.9
    sigma: float = 0.15
    samples: int = 13
    tone: ToneRule | KeyRule = ToneRule()

    def __post_init__(self) -> None:
        if self.samples < 2 or _WEIGHT_UNITS % (self.samples - 1):
            raise UserError(
                f"samples {self.samples}: samples - 1 must divide {_WEIGHT_UNITS}; use 11, 13, 16, 21 or 61"
            )


@dataclass(frozen=True, kw_only=True)
class KeyedLaplacian(LocalLaplacian):
    """Parameters of `local_laplacian` with milder detail, and with a tone rule that leaves dark scenes dark (`KeyRule`)."""

    name: ClassVar[str] = "keyed_laplacian"
    alpha: float = 0.6
    tone: ToneRule | KeyRule = KeyRule()


@dataclass(frozen=True, kw_only=True)
class ShiftScale:
    """Parameters of `shift_scale`; luminance is in [0, 1].

    radius: the radius of the edge-aware base layer, as a share of the short side. epsilon: the variance that counts as an
    edge. scale: detail is amplified by up to this factor. peak: the peak of local detail is about this many times its mean
    magnitude.
    """

    name: ClassVar[str] = "shift_scale"
    version: ClassVar[int] = 1
    radius: float = 1 / 16
    epsilon: float = 0.01
    scale: float = 3.0
    peak: float = 2.5
    tone: ToneRule = ToneRule()


@dataclass(frozen=True, kw_only=True)
class Clahe:
    """Parameters of `clahe`.

    clip_limit: the limit of each tile's histogram, in multiples of a flat histogram. tiles: the number of tiles a side.
    """

    name: ClassVar[str] = "clahe"
    version: ClassVar[int] = 1
    clip_limit: float = 4.0
    tiles: int = 8


Algorithm = LocalLaplacian | ShiftScale | Clahe

LOCAL_LAPLACIAN = LocalLaplacian()
KEYED_LAPLACIAN = KeyedLaplacian()  # of new stores
ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm for algorithm in (KEYED_LAPLACIAN, LOCAL_LAPLACIAN, ShiftScale(), Clahe())
}


def algorithm_id(algorithm: Algorithm = LOCAL_LAPLACIAN) -> str:
    """Name, version and parameter hash, e.g. `local_laplacian/1-6b93d0e5`. Shards, bundles and MLflow record it."""
    frozen = json.dumps(dataclasses.asdict(algorithm), sort_keys=True).encode()
    return f"{algorithm.name}/{algorithm.version}-{hashlib.sha256(frozen).hexdigest()[:8]}"


def algorithm_of(identifier: str) -> Algorithm:
    """The algorithm that has this id; `UserError` if this version of naturaltone has no such algorithm."""
    for algorithm in ALGORITHMS.values():
        if algorithm_id(algorithm) == identifier:
            return algorithm
    ours = ", ".join(algorithm_id(algorithm) for algorithm in ALGORITHMS.values())
    raise UserError(
        f"algorithm {identifier}: this version of naturaltone has {ours}; ingest into a new store, or use the "
        "version that made this store"
    )


def intermediate(pixels: np.ndarray, algorithm: Algorithm = LOCAL_LAPLACIAN) -> np.ndarray:
    """The intermediate image I_D of an input photo. H×W×3 uint8 sRGB in and out."""
    luminance = luminance_of(pixels)
    match algorithm:
        case LocalLaplacian():
            enhanced = local_laplacian(luminance, algorithm)
        case ShiftScale():
            enhanced = shift_scale(luminance, algorithm)
        case Clahe():
            return clahe(pixels, algorithm)
    return _carry_colours(pixels, luminance, tone_rule(enhanced, algorithm.tone), algorithm.tone)


def luminance_of(pixels: np.ndarray) -> np.ndarray:
    """The luminance of H×W×3 uint8 pixels, as H×W int16 in [0, WHITE]. A grey pixel of value v has exactly 64·v."""
    return cv2.transform(cv2.LUT(pixels, _LUMA_TABLE), np.ones((1, 3), np.float32))


def local_laplacian(luminance: np.ndarray, parameters: LocalLaplacian = LOCAL_LAPLACIAN) -> np.ndarray:
    """Local Laplacian filter (Paris et al. 2011) by sampled remapping (Aubry et al. 2014); H×W int16 as `luminance_of`.

    The remapping around each sample is smooth: d·(β + (1/α − β)·exp(−d²/2σ²)). It is accurate with 13 samples, where
    Paris's power function needs about 64. The result may overshoot [0, WHITE].
    """
    levels = max(1, int(np.log2(min(luminance.shape))) - 2)
    gaussian = [luminance]
    for _ in range(levels):
        gaussian.append(cv2.pyrDown(gaussian[-1]))
    step = _WEIGHT_UNITS // (parameters.samples - 1)
    positions = [((level.astype(np.uint16) + 8) >> 4) for level in gaussian[:-1]]  # luminance in 1/_WEIGHT_UNITS
    weighted = [np.zeros(level.shape, np.float32) for level in gaussian[:-1]]
    index = luminance.astype(np.uint16)
    for sample, table in enumerate(_remapping(parameters)):
        current = cv2.LUT(index, table)
        for level, position in enumerate(positions):
            smaller = cv2.pyrDown(current)
            detail = cv2.subtract(current, _enlarge(smaller, current))
            # step − |position − sample|, or 0 if that is negative, because unsigned subtraction saturates.
            weight = cv2.subtract(float(step), cv2.absdiff(position, float(sample * step)))
            weighted[level] += cv2.multiply(detail, weight, dtype=cv2.CV_32F)
            current = smaller
    output = gaussian[-1]
    for detail in reversed(weighted):
        detail *= np.float32(1 / step)
        output = _enlarge(output, detail)
        output = cv2.add(output, np.rint(detail, out=detail).astype(np.int16))
    return output


def shift_scale(luminance: np.ndarray, parameters: ShiftScale | None = None) -> np.ndarray:
    """Detail enhancement by shifting and scaling each region's tone (after Son et al. 2014); H×W int16 as `luminance_of`.

    The base layer is smooth except at edges. It is shifted away from black and white until the scaled detail of each region
    fits. Where detail still does not fit, the scale is reduced.
    """
    parameters = parameters or ShiftScale()
    light = luminance.astype(np.float32) * np.float32(1 / WHITE)
    size = [max(8, side // _COARSE) for side in light.shape[::-1]]
    small = cv2.resize(light, size, interpolation=cv2.INTER_AREA)
    radius = max(1, round(parameters.radius * min(small.shape)))
    base = _guided(small, small, radius, parameters.epsilon)
    peak = parameters.peak * _blur(np.abs(small - _apply_guided(base, small)), radius)
    needed = np.minimum(parameters.scale * peak, 0.5)
    fitting = np.clip(_apply_guided(base, small), needed, 1 - needed)
    shifted = _guided(small, fitting, radius, parameters.epsilon)
    room = _apply_guided(shifted, small)
    room = np.minimum(room, 1 - room)
    scale = _blur(np.clip(room / np.maximum(peak, 1e-4), 1, parameters.scale), radius)

    # The result is shifted + scale·(light − base). One full-size plane is made at a time, to save memory.
    detail = light - _apply_guided(base, light)
    detail *= _to_size(scale, light)
    detail += _apply_guided(shifted, light)
    detail *= WHITE
    return np.clip(np.rint(detail, out=detail), -WHITE, 2 * WHITE).astype(np.int16)


def clahe(pixels: np.ndarray, parameters: Clahe | None = None) -> np.ndarray:
    """Contrast-limited adaptive histogram equalisation of L in CIELAB (OpenCV's); H×W×3 uint8 in and out."""
    parameters = parameters or Clahe()
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
    equalise = cv2.createCLAHE(parameters.clip_limit, (parameters.tiles, parameters.tiles))
    cv2.insertChannel(equalise.apply(cv2.extractChannel(lab, 0)), lab, 0)
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def tone_rule(luminance: np.ndarray, rule: ToneRule | KeyRule) -> np.ndarray:
    """Stretch between two percentiles, then bring the median towards what the rule aims at by a power.

    H×W int16 in, which may overshoot [0, WHITE]; H×W int16 in [0, WHITE] out.
    """
    index = luminance.view(np.uint16) ^ np.uint16(_ZERO)  # overshoot included: the stretch brings most of it back
    low, high, *tones = (value / WHITE for value in _percentiles(index, (*rule.stretch_percentiles, 50, BRIGHT)))
    low = min(low, rule.max_black)
    high = max(high, low + rule.min_range)
    log_median, log_bright = np.log(np.clip((np.array(tones) - low) / (high - low), 1e-3, 1 - 1e-3))
    log_aim = np.dot(rule.aim, (log_median, log_bright, 1)) if isinstance(rule, KeyRule) else np.log(rule.middle_grey)
    gamma = np.clip(log_aim / log_median, *rule.gamma_range)
    stretched = np.clip(((np.arange(2**16) - _ZERO) / WHITE - low) / (high - low), 0, 1)
    return cv2.LUT(index, np.rint(stretched**gamma * WHITE).astype(np.int16)[None])


def _luma_table() -> np.ndarray:
    values = np.arange(256)[:, None] * (LUMA.astype(np.float64) * 64)
    table = np.rint(values).astype(np.int16)
    table[:, 1] = 64 * np.arange(256) - table[:, 0] - table[:, 2]  # greys add up exactly
    return table[None]


_LUMA_TABLE = _luma_table()


@functools.cache
def _remapping(parameters: LocalLaplacian) -> np.ndarray:
    """For each sample, the remapped value of every int16 luminance: samples×1×65536 int16. cv2.LUT needs all entries."""
    values = np.arange(2**16) / WHITE
    centres = np.linspace(0, 1, parameters.samples)[:, None]
    distance = values - centres
    gain = parameters.beta + (1 / parameters.alpha - parameters.beta) * np.exp(
        -((distance / parameters.sigma) ** 2) / 2
    )
    return np.rint(np.clip(centres + distance * gain, -1, 2) * WHITE).astype(np.int16)[:, None]


def _carry_colours(pixels: np.ndarray, before: np.ndarray, after: np.ndarray, rule: StretchRule) -> np.ndarray:
    """Scale each pixel's colour by the ratio of its luminance after and before, which keeps hue and saturation.

    A `KeyRule` then moves it away from the grey of its luminance.
    """
    ratio = np.float32(16) + after
    ratio /= np.float32(16) + before
    np.minimum(ratio, np.float32(rule.max_ratio), out=ratio)
    if not isinstance(rule, KeyRule):
        return cv2.merge([cv2.multiply(channel, ratio, dtype=cv2.CV_8U) for channel in cv2.split(pixels)])
    ratio *= np.float32(rule.colour)
    grey = cv2.multiply(after, (1 - rule.colour) / 64, dtype=cv2.CV_32F)
    # A product and a sum, not one step: a fused step rounds differently on some machines.
    return cv2.merge(
        [
            cv2.add(cv2.multiply(channel, ratio, dtype=cv2.CV_32F), grey, dtype=cv2.CV_8U)
            for channel in cv2.split(pixels)
        ]
    )


def _percentiles(index: np.ndarray, percentiles: tuple[float, ...]) -> list[int]:
    """The luminances below which these percentages of the pixels lie. index: luminance + _ZERO."""
    reached = np.cumsum(np.bincount(index.ravel(), minlength=2**16))
    return [int(np.searchsorted(reached, percentile / 100 * reached[-1])) - _ZERO for percentile in percentiles]


def _guided(guide: np.ndarray, values: np.ndarray, radius: int, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Slope and offset of the guided filter (He, Sun & Tang 2013): values ≈ slope·guide + offset around each pixel."""
    mean, target = _blur(guide, radius), _blur(values, radius)
    covariance = _blur(guide * values, radius) - mean * target
    slope = covariance / (_blur(guide * guide, radius) - mean * mean + epsilon)
    return _blur(slope, radius), _blur(target - slope * mean, radius)


def _apply_guided(model: tuple[np.ndarray, np.ndarray], guide: np.ndarray) -> np.ndarray:
    slope, offset = (_to_size(plane, guide) for plane in model)
    return slope * guide + offset


def _to_size(plane: np.ndarray, like: np.ndarray) -> np.ndarray:
    return plane if plane.shape == like.shape else cv2.resize(plane, like.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _blur(plane: np.ndarray, radius: int) -> np.ndarray:
    return cv2.blur(plane, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)


def _enlarge(image: np.ndarray, like: np.ndarray) -> np.ndarray:
    return cv2.pyrUp(image, dstsize=(like.shape[1], like.shape[0]))
