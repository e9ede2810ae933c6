"""Photos for a gate, and challengers that are no network."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from importlib.resources import files

import numpy as np

from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.stored import encode_jpeg
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation import gate_scores
from naturaltone.serving.evaluation.gate_set import GatePhoto
from naturaltone.serving.registry import load_model

_PHOTOS = ("skimage.data/astronaut.png", "skimage.data/coffee.png", "sklearn.datasets.images/china.jpg")
_SIDE = 192  # four patches of NIQE


def gate_photos(count: int) -> list[GatePhoto]:
    """Different crops of real photos: `count` inputs, and as many natural ones."""
    found = []
    pictures = []
    for place in _PHOTOS:
        package, _, name = place.partition("/")
        pictures.append(decode(files(package).joinpath(name).read_bytes()).pixels)
    for number in range(2 * count):
        picture = pictures[number % len(pictures)]
        top, left = 9 * number % (picture.shape[0] - _SIDE), 17 * number % (picture.shape[1] - _SIDE)
        crop = np.ascontiguousarray(picture[top : top + _SIDE, left : left + _SIDE])
        role = "input" if number < count else "natural"
        found.append(GatePhoto(photo_id=str(number), name=f"{number}.jpg", role=role, image=encode_jpeg(crop)))
    return found


class _Changed:
    """A challenger that changes the champion's picture."""

    def __init__(self, champion: Enhancer, change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        self._champion, self._change = champion, change

    def enhance(self, pixels: np.ndarray) -> np.ndarray:
        return self._change(self._champion.enhance(pixels), pixels)


@contextlib.contextmanager
def pretrained_and(change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Iterator[None]:
    """The pretrained model as the champion of this process, and a challenger that makes `change(result, input)`."""
    bundle, version = load_model("pretrained")
    champion = Enhancer(bundle, version=version)
    gate_scores._models[:] = [champion, _Changed(champion, change)]  # type: ignore[list-item]
    try:
        yield
    finally:
        gate_scores._models.clear()
