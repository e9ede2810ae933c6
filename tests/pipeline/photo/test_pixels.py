"""Pixels as the networks see them."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.pixels import training_pixels

ToFile = Callable[..., bytes]


def test_for_training_transparent_places_are_white_and_half_transparent_ones_half(
    photo: np.ndarray, to_file: ToFile
) -> None:
    alpha = np.full(photo.shape[:2], 255, np.uint8)
    alpha[:10], alpha[10:20] = 0, 128
    seen = training_pixels(decode(to_file(np.dstack([photo, alpha]), "PNG")))
    assert (seen[:10] == 255).all() and np.array_equal(seen[20:], photo[20:])
    assert np.abs(seen[10:20] - (photo[10:20] * (128 / 255) + 127)).max() <= 1
    opaque = to_file(np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)]), "PNG")
    assert np.array_equal(training_pixels(decode(opaque)), photo)


def test_a_deep_photo_is_trained_on_in_eight_bits(photo: np.ndarray) -> None:
    decoded = decode(cv2.imencode(".png", photo[..., ::-1].astype(np.uint16) * 257)[1].tobytes())
    assert np.array_equal(training_pixels(decoded), photo)
