"""Dulled copies of good photos: the ways in which photos come out badly, in fixed or in random measure.

Each copy is plainly of poorer tone than its photo. Copies that could pass for good ones, with a slight cast alone say, teach
the generator that photos like the natural ones are to be changed, against what it learns from those.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# The exponent between encoded values and light. It is close enough to sRGB's curve for a fault that is random anyway.
_LINEAR = 2.2


def _exposure(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Too short an exposure, by one to three stops."""
    return rgb * np.exp2(-random.uniform(1.0, 3.0)) ** (1 / _LINEAR)


def _gamma(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Midtones too light or, more often, too dark."""
    return rgb ** np.exp(random.choice([-0.6, 0.9, 0.9]) * random.uniform(0.6, 1))


def _contrast(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Flat light: everything nearer to one grey."""
    return _towards(rgb, random.uniform(0.25, 0.65), random.uniform(0.4, 0.7))


def _haze(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Bluish light in front of the scene, thicker towards the top, where the far things are."""
    air = random.uniform(0.6, 0.9) + np.array([-0.03, 0.0, 0.04]) * random.uniform(0, 1)
    thickness = random.uniform(0.3, 0.6) * np.linspace(1, random.uniform(0.3, 1), len(rgb))[:, None, None]
    return _towards(rgb, air, thickness)


def _white_balance(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    warmth, tint = random.uniform(-0.12, 0.12), random.uniform(-0.04, 0.04)
    return rgb * np.exp(np.array([warmth, tint, -warmth]))


def _saturation(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return _towards(rgb, rgb.mean(axis=2, keepdims=True), random.uniform(0.2, 0.6))


def _towards(rgb: np.ndarray, other: float | np.ndarray, share: float | np.ndarray) -> np.ndarray:
    return rgb * (1 - share) + other * share


# Each in one fixed measure; takes and returns H×W×3 floats in [0, 1].
FAULTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "dark": lambda rgb: 0.8 * rgb**1.8,
    "flat": lambda rgb: _towards(rgb, 0.45, 0.5),
    "hazy": lambda rgb: _towards(rgb, 0.75, 0.45),
    "dim": lambda rgb: 0.5 * _towards(rgb, 0.3, 0.2),
    "faded": lambda rgb: _towards(_towards(rgb, rgb.mean(axis=2, keepdims=True), 0.5), 0.5, 0.25),
}
_Fault = Callable[[np.ndarray, np.random.Generator], np.ndarray]
_TONE_FAULTS: tuple[_Fault, ...] = (_exposure, _gamma, _contrast, _haze)
_COLOR_FAULTS: tuple[_Fault, ...] = (_white_balance, _saturation)


def dull(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A copy of an H×W×3 uint8 photo with a fault of exposure, gamma, contrast or haze, or two; maybe one of colour too."""
    rgb = pixels.astype(np.float32) / 255
    tone = sorted(random.choice(len(_TONE_FAULTS), size=random.integers(1, 3), replace=False))
    faults = [_TONE_FAULTS[number] for number in tone]
    if random.random() < 0.4:
        faults.append(_COLOR_FAULTS[random.integers(len(_COLOR_FAULTS))])
    for fault in faults:
        rgb = np.clip(fault(rgb, random), 0, 1)
    return _quantize(rgb, random)


def vary(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A copy of an H×W×3 uint8 photo that could be of the same scene: a little lighter or darker, warmer or colder."""
    rgb = pixels.astype(np.float32) / 255
    gains = random.uniform(0.85, 1.1) * np.exp(random.uniform(-0.05, 0.05, 3))
    return _quantize(rgb ** np.exp(random.uniform(-0.25, 0.25)) * gains, random)


def _quantize(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Floats in [0, 1] to uint8, with noise of half a level: a changed photo has fewer levels than a badly taken one."""
    return np.clip(rgb * 255 + random.uniform(0, 1, rgb.shape), 0, 255).astype(np.uint8)
