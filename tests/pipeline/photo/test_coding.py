"""New pixels are coded as the photo's own were."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.encode import encode
from tests.pipeline.photo.files import linear_profile
from tests.pipeline.photo.heif_files import needs_heif

ToFile = Callable[..., bytes]


@pytest.mark.parametrize(
    ("format", "better"), [("JPEG", 98), ("WEBP", 100), ("AVIF", 100), pytest.param("HEIF", 90, marks=needs_heif)]
)
def test_quality_can_be_asked_for(format: str, better: int, photo: np.ndarray, to_file: ToFile) -> None:
    decoded = decode(to_file(photo, format, quality=75))
    sizes = [len(encode(decoded, photo, quality=quality)) for quality in (20, better)]
    assert 2 * sizes[0] < sizes[1]


def test_a_lossless_webp_stays_lossless(photo: np.ndarray, to_file: ToFile) -> None:
    data = to_file(photo, "WEBP", lossless=True, icc_profile=linear_profile(), exact=True)
    assert np.array_equal(decode(encode(decode(data), photo)).pixels, photo)


def test_a_grey_photo_stays_grey(photo: np.ndarray, to_file: ToFile) -> None:
    decoded = decode(to_file(photo[..., 1]))
    assert decoded.pixels.shape == photo.shape
    assert Image.open(io.BytesIO(encode(decoded, decoded.pixels))).mode == "L"
