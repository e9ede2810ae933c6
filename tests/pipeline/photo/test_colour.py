"""Colours survive the conversion from their profile to sRGB and back."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from naturaltone.pipeline.photo.colour import from_srgb, to_srgb
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.encode import encode
from naturaltone.pipeline.photo.refusals import ImageError
from tests.pipeline.photo.files import linear_profile


def test_a_profile_is_converted_to_srgb_and_back_within_rounding(photo: np.ndarray) -> None:
    wide = linear_profile()
    there = to_srgb(photo, wide)
    back = from_srgb(there, wide)
    assert np.abs(there.astype(int) - photo).mean() > 5, "a linear profile must look different in sRGB"
    bright = photo.min(axis=2) > 40  # dark values of a linear encoding share sRGB codes
    assert np.abs(back.astype(int) - photo)[bright].max() <= 2


def test_no_profile_and_srgb_cost_no_conversion(photo: np.ndarray) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert to_srgb(photo, None) is photo
    assert to_srgb(photo, srgb) is photo


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_inks_become_the_colours_they_print(adobe: bool, photo: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(photo).convert("CMYK").save(buffer, format="JPEG" if adobe else "TIFF")
    decoded = decode(buffer.getvalue())
    assert np.abs(decoded.pixels.astype(int) - photo).mean() < 6, "not inverted"
    with pytest.raises(ImageError, match="CMYK"):
        encode(decoded, decoded.pixels)


def test_a_grey_profile_is_converted_as_grey(photo: np.ndarray) -> None:
    bright = to_srgb(np.repeat(photo[..., :1], 3, axis=2), linear_profile(grey=True))
    assert bright.mean() > photo[..., 0].mean() + 20 and np.ptp(bright.astype(int), axis=2).max() <= 1
