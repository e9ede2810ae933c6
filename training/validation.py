"""Judge a run on a few photos at every checkpoint: with a picture for people and with a score."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.photo.pixels import shrink
from naturaltone.pipeline.photo.stored import decode_rgb
from naturaltone.training.measures import tmqi
from naturaltone.training.networks import ToneEnhancer
from naturaltone.training.step import to_pixels, to_tensor

_PHOTOS, _SHOWN, _HEIGHT = 8, 4, 240


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A model's results on the photos. sheet: pictures side by side, H×W×3 uint8. naturalness: mean of TMQI's, 0 to 1."""

    sheet: np.ndarray
    naturalness: float


@dataclass(frozen=True)
class ValidationPhotos:
    """Pairs of an input and its intermediate, each H×W×3 uint8."""

    pairs: list[tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, store: shards.Store) -> ValidationPhotos:
        """Take a few of the store's held-out inputs, or of its training inputs if it holds none out."""
        split = "test" if store.count("input", "test") else "train"
        rows = store.photos("input", split, limit=_PHOTOS)
        return cls([(_decode(row["image"]), _decode(row["intermediate"])) for row in rows])

    def judge(self, generator: ToneEnhancer) -> Judgement:
        """Enhance and score all photos; show input, intermediate and result of the first four, one photo a row."""
        with torch.inference_mode():
            enhanced = [to_pixels(generator(to_tensor(photo[None], torch.device("cpu"))))[0] for photo, _ in self.pairs]
        rows = [
            np.hstack([_fit_height(picture) for picture in (*pair, result)])
            for pair, result in zip(self.pairs[:_SHOWN], enhanced, strict=False)
        ]
        width = max(row.shape[1] for row in rows)
        sheet = np.vstack(
            [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
        )
        return Judgement(sheet=sheet, naturalness=float(np.mean([tmqi.naturalness(picture) for picture in enhanced])))


def _decode(picture: bytes) -> np.ndarray:
    pixels = decode_rgb(picture)
    # Make thin strips wide enough for the networks. Older stores hold some: one stopped every run at its first checkpoint.
    return shrink(pixels, max(pixels.shape))


def _fit_height(picture: np.ndarray) -> np.ndarray:
    scale = _HEIGHT / picture.shape[0]
    return cv2.resize(picture, (round(picture.shape[1] * scale), _HEIGHT), interpolation=cv2.INTER_AREA)
