"""A test of naturalness that never looks at the input: can a new discriminator tell pictures from natural photos?

Measures that compare with the input reward what stays near it. Here a discriminator is trained from nothing on three quarters
of the pictures and of the natural photos, and judges the last quarters; each quarter is the last once. How often it is right
tells whether both are of one kind (Lopez-Paz & Oquab, "Revisiting Classifier Two-Sample Tests", ICLR 2017).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from naturaltone.training import losses
from naturaltone.training.networks import NaturalnessDiscriminator
from naturaltone.training.step import to_tensor

SIDE = 144  # pixels of the short side: the discriminator sees nearly the whole photo, and still the grain of its detail
LEAST = 8  # pictures of each kind
_WIDTH, _STEPS, _BATCH, _RATE = 16, 150, 16, 1e-3
_FOLDS = 4
_CPU = torch.device("cpu")


def as_sample(pixels: np.ndarray) -> np.ndarray:
    """The picture as the discriminator gets it: H×W×3 uint8 scaled to a short side of `SIDE`."""
    scale = SIDE / min(pixels.shape[:2])
    height, width = (max(SIDE, round(side * scale)) for side in pixels.shape[:2])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def told_apart(pictures: Sequence[np.ndarray], natural: Sequence[np.ndarray], *, seed: int) -> float:
    """How often a new discriminator is right about pictures that it has not seen: 0.5 is chance, 1 is always.

    pictures, natural: samples as `as_sample` makes them; NaN if there are fewer than `LEAST` of either. Both kinds count the
    same, however many there are of each. seed: of the quarters, the initial weights and the crops.
    """
    if min(len(pictures), len(natural)) < LEAST:
        return float("nan")
    random = np.random.default_rng(seed)
    kinds = [[kind[index] for index in random.permutation(len(kind))] for kind in (natural, pictures)]
    right = []
    for fold in range(_FOLDS):
        discriminator = _train([_others(kind, fold) for kind in kinds], random, seed)
        activations = [_judge(discriminator, kind[fold::_FOLDS]) for kind in kinds]
        right += [float((activations[0] > 0.5).mean()), float((activations[1] <= 0.5).mean())]
    return float(np.mean(right))


def _others(kind: list[np.ndarray], fold: int) -> list[np.ndarray]:
    return [picture for index, picture in enumerate(kind) if index % _FOLDS != fold]


def _train(kinds: list[list[np.ndarray]], random: np.random.Generator, seed: int) -> NaturalnessDiscriminator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        discriminator = NaturalnessDiscriminator(width=_WIDTH, crop=SIDE)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=_RATE)
    for _ in range(_STEPS):
        crops = [_crop(kind[random.integers(len(kind))], random) for kind in kinds for _ in range(_BATCH // 2)]
        activation_natural, activation_other = discriminator(to_tensor(np.stack(crops), _CPU)).chunk(2)
        optimizer.zero_grad(set_to_none=True)
        losses.discriminator_loss(activation_natural, activation_other).backward()
        optimizer.step()
    return discriminator


def _judge(discriminator: NaturalnessDiscriminator, pictures: list[np.ndarray]) -> np.ndarray:
    """The mean activation of each picture over its two ends and its middle."""
    with torch.inference_mode():
        return np.array(
            [
                discriminator(to_tensor(np.stack([_cut(picture, place) for place in (0.0, 0.5, 1.0)]), _CPU))
                .mean()
                .item()
                for picture in pictures
            ]
        )


def _crop(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    crop = _cut(picture, random.random())
    return crop[:, ::-1] if random.random() < 0.5 else crop


def _cut(picture: np.ndarray, place: float) -> np.ndarray:
    """The square at `place` along the long side, from 0 to 1."""
    top, left = (round((side - SIDE) * place) for side in picture.shape[:2])
    return picture[top : top + SIDE, left : left + SIDE]
