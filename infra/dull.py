"""Makes dulled copies of good photos: each copy has common faults of bad photos, of a fixed or random strength.

Each copy has plainly poorer tone than its photo. A copy with a slight fault, such as only a small colour cast, could pass for
a good photo. It would teach the generator to change good photos, while the natural photos teach it to leave them alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from naturaltone.training.measures.skin import Box

# Exponent from encoded values to linear light. It is close enough to the sRGB curve, because the faults are random anyway.
_LINEAR = 2.2


def _exposure(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """An exposure that is one to three stops too short."""
    return rgb * np.exp2(-random.uniform(1.0, 3.0)) ** (1 / _LINEAR)


def _gamma(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Midtones too light or, more often, too dark."""
    return rgb ** np.exp(random.choice([-0.6, 0.9, 0.9]) * random.uniform(0.6, 1))


def _contrast(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Flat light: moves all values towards one grey."""
    return _towards(rgb, random.uniform(0.25, 0.65), random.uniform(0.4, 0.7))


def _haze(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Bluish haze in front of the scene; thicker towards the top, because distant things are there."""
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


# The faults of the demo's photos, of a fixed strength. Each takes and returns H×W×3 floats in [0, 1].
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
    """A dulled copy of an H×W×3 uint8 photo.

    It has one or two faults of exposure, gamma, contrast and haze. 40% of the copies also have a fault of colour.
    """
    rgb = pixels.astype(np.float32) / 255
    tone = sorted(random.choice(len(_TONE_FAULTS), size=random.integers(1, 3), replace=False))
    faults = [_TONE_FAULTS[number] for number in tone]
    if random.random() < 0.4:
        faults.append(_COLOR_FAULTS[random.integers(len(_COLOR_FAULTS))])
    for fault in faults:
        rgb = np.clip(fault(rgb, random), 0, 1)
    return _quantize(rgb, random)


def vary(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A copy of an H×W×3 uint8 photo as if taken again: a little lighter or darker, warmer or colder."""
    rgb = pixels.astype(np.float32) / 255
    gains = random.uniform(0.85, 1.1) * np.exp(random.uniform(-0.05, 0.05, 3))
    return _quantize(rgb ** np.exp(random.uniform(-0.25, 0.25)) * gains, random)


def low_key(pixels: np.ndarray, face: Box, random: np.random.Generator) -> np.ndarray:
    """A portrait, H×W×3 uint8, re-lit by one lamp: clothes and backdrop one to four stops darker, the face up to half a stop.

    face: its box, as x, y, width and height in pixels.
    """
    left, top, width, height = face
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    across, down = (columns - left - width / 2) / width, (rows - top - height / 2) / height
    distance = np.hypot(across / 0.75, down / 0.8)[..., None]  # 1 at the hair
    lit = 1 / (1 + np.exp(random.uniform(5, 12) * (distance - 1)))
    dark = np.exp2(-random.uniform(1.0, 4.0))
    face_light = np.exp2(-random.uniform(0.0, 0.5))
    light = (pixels.astype(np.float32) / 255) ** _LINEAR * (dark + (face_light - dark) * lit)
    return _quantize(light ** (1 / _LINEAR), random)


def underexpose(pixels: np.ndarray, stops: float, random: np.random.Generator) -> np.ndarray:
    """A copy of an H×W×3 uint8 photo that was exposed so many stops too short."""
    return _quantize(pixels.astype(np.float32) / 255 * np.exp2(-stops) ** (1 / _LINEAR), random)


def _quantize(rgb: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Convert floats in [0, 1] to uint8 with random rounding.

    A changed copy would otherwise have fewer levels than a photo that was taken badly.
    """
    return np.clip(rgb * 255 + random.uniform(0, 1, rgb.shape), 0, 255).astype(np.uint8)
