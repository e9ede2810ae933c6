"""In every format, a damaged file raises ValueError or gets its new pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from naturaltone.pipeline.photo import container
from tests.pipeline.photo.files import (
    DAMAGED,
    NEW,
    PREVIEW,
    PROFILE,
    RIFF,
    STAMP,
    file,
    picture,
    pixels,
    png,
    riff,
)


def test_the_bytes_after_a_png_or_webp_stay() -> None:
    for old, new in ((png("RGB"), file(picture(seed=1), "PNG")), (riff(*RIFF), file(picture(seed=1), "WEBP"))):
        assert container.replace_pixels(old + b"trailer", new, stamp=STAMP).endswith(b"trailer")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_colour_profile_stays(format: str) -> None:
    old = file(picture(), format, icc_profile=PROFILE, compression="raw" if format == "TIFF" else None)
    data = container.replace_pixels(old, file(picture(seed=1), format), stamp=STAMP)
    assert Image.open(io.BytesIO(data)).info.get("icc_profile") == PROFILE


@pytest.mark.parametrize("format", ["GIF", "BMP", "PNG"])
def test_other_formats_are_refused(format: str) -> None:
    with pytest.raises(ValueError, match="JPEG, PNG, WebP or TIFF"):
        container.replace_pixels(file(picture("RGB"), format), NEW, stamp=STAMP)
    assert container.extras(file(picture("RGB"), format)) == ()


@pytest.mark.parametrize("format", DAMAGED)
@settings(max_examples=200)
@given(data=st.data())
def test_a_damaged_file_raises_value_error_or_gets_its_pixels(format: str, data: st.DataObject) -> None:
    whole, new = DAMAGED[format]
    old = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        offset = data.draw(st.integers(0, len(old) - 1))
        old[offset : offset + data.draw(st.integers(1, 4))] = data.draw(st.binary(min_size=1, max_size=4))
    if data.draw(st.booleans()):
        del old[data.draw(st.integers(0, len(old))) :]
    container.extras(bytes(old))
    container.read(bytes(old))
    try:
        rebuilt = container.replace_pixels(
            bytes(old), new, stamp=STAMP, thumbnail=lambda limit: PREVIEW[:limit], drop_extras=data.draw(st.booleans())
        )
    except ValueError:
        return
    assert rebuilt
    try:
        Image.open(io.BytesIO(bytes(old))).load()
    except Exception:  # it did not open before either
        return
    assert np.array_equal(pixels(rebuilt), pixels(new))


@given(
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"II*\0"]), st.binary(max_size=60)
)
def test_reading_never_raises(start: bytes, rest: bytes) -> None:
    container.read(start + rest)
    assert container.extras(start + rest) in ((), ("preview",))
