"""Stores the pictures of a page: inside it, so the page is one file, or in a folder beside it, so it opens fast."""

from __future__ import annotations

import base64
from typing import Protocol
from urllib.parse import quote

import numpy as np

from naturaltone.pipeline import storage
from naturaltone.pipeline.photo.pixels import shrink
from naturaltone.pipeline.photo.stored import encode_jpeg

COMPARED_LONG_SIDE, COMPARED_QUALITY = 960, 85  # pixels; enough to look closely, at about 150 KB a picture


class Pictures(Protocol):
    """Takes pictures and returns their URLs."""

    def add(self, pixels: np.ndarray) -> tuple[str, int, int]:
        """Shrink an H×W×3 uint8 sRGB picture to the size that a page shows; returns its URL, width and height."""
        ...


class Inside:
    """Pictures in the page itself, as data: URLs."""

    def __init__(self, *, long_side: int = COMPARED_LONG_SIDE, quality: int = COMPARED_QUALITY) -> None:
        self._long_side, self._quality = long_side, quality

    def add(self, pixels: np.ndarray) -> tuple[str, int, int]:
        small = shrink(pixels, self._long_side)
        data = base64.b64encode(encode_jpeg(small, quality=self._quality)).decode()
        return f"data:image/jpeg;base64,{data}", small.shape[1], small.shape[0]


class Beside:
    """Pictures in the folder NAME_files beside the page NAME.html. Browsers name it so when they save a page.

    folder: the URI of that folder.
    """

    def __init__(self, page: str) -> None:
        folder, slash, file = page.rpartition("/")
        self._name = f"{file.rpartition('.')[0] or file}_files"
        self.folder = storage.join(folder, self._name) if slash else self._name
        self._number = 0

    def add(self, pixels: np.ndarray) -> tuple[str, int, int]:
        small = shrink(pixels, COMPARED_LONG_SIDE)
        self._number += 1
        file = f"{self._number:05}.jpg"
        storage.write_bytes(storage.join(self.folder, file), encode_jpeg(small, quality=COMPARED_QUALITY))
        return f"{quote(self._name)}/{file}", small.shape[1], small.shape[0]
