"""RAW files are refused by name or by their first bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile

from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.refusals import ImageError


def test_a_raw_file_is_refused_with_a_pointer_to_a_converter(photo: np.ndarray) -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, photo, photometric="rgb", extratags=[(50706, "B", 4, b"\x01\x04\0\0", True)])
    for data in (buffer.getvalue(), b"FUJIFILMCCD-RAW 0201" + bytes(100), b"\0\0\0\x18ftypcrx " + bytes(100)):
        with pytest.raises(ImageError, match=r"raw: .*darktable"):
            decode(data)


def test_nobody_is_told_to_convert_a_photo_to_heic_which_needs_an_extra_package() -> None:
    with pytest.raises(ImageError, match=r"use JPEG, PNG, TIFF, WebP or AVIF$"):
        decode(b"\xff\x0a" + bytes(100))
