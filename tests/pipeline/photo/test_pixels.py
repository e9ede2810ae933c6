"""Pixels as the networks see them."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.pixels import as_stored, shrink, training_pixels, upright

ToFile = Callable[..., bytes]


def test_for_training_transparent_pixels_are_white_and_half_transparent_ones_half_white(
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


@pytest.mark.parametrize(
    ("size", "long_side", "expected"),
    [
        ((600, 900), 300, (200, 300)),
        ((900, 600), 300, (300, 200)),
        ((100, 4000), 320, (16, 320)),  # 8 pixels would be too thin for the networks
        ((8, 320), 320, (16, 320)),
        ((40, 30), 320, (40, 30)),
    ],
)
def test_a_photo_is_shrunk_to_a_long_side_and_never_made_too_thin(
    size: tuple[int, int], long_side: int, expected: tuple[int, int]
) -> None:
    pixels = np.zeros((*size, 3), np.uint8)
    small = shrink(pixels, long_side)
    assert small.shape[:2] == expected and (small is pixels) == (size == expected)


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3), (5, 7, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_pillow_turns_it_and_back(
    orientation: int, dtype: type[np.generic], shape: tuple[int, ...]
) -> None:
    values = np.random.default_rng(0).integers(0, 2**8, shape).astype(dtype)
    shown = upright(values, orientation)
    tag = Image.Exif()
    tag[0x0112] = orientation
    marks = Image.fromarray(np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape[:2]))
    marks.info["exif"] = tag.tobytes()
    places = np.asarray(ImageOps.exif_transpose(marks))
    assert np.array_equal(shown, values.reshape(-1, *shape[2:])[places])
    assert np.array_equal(as_stored(shown, orientation), values) and as_stored(shown, orientation).flags.c_contiguous
