"""Screenshots and drawings are told from photos."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.graphic import is_graphic

ToFile = Callable[..., bytes]


def test_screenshots_and_drawings_are_told_from_photos(photo: np.ndarray, to_file: ToFile) -> None:
    drawing = np.full((300, 400, 3), 240, np.uint8)
    drawing[50:120, 60:300] = (20, 90, 200)
    text = np.full((300, 400, 3), 255, np.uint8)
    cv2.putText(text, "screenshot", (20, 100), cv2.FONT_HERSHEY_SIMPLEX, 2, (0, 0, 0), 3)
    assert is_graphic(decode(to_file(drawing, "PNG")))
    assert is_graphic(decode(to_file(text, "PNG")))
    assert not is_graphic(decode(to_file(photo)))
    blown = np.where(photo > 180, 255, photo).astype(np.uint8)
    assert not is_graphic(decode(to_file(blown)))
