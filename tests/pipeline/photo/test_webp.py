"""A WebP with new pixels: its chunks stay byte for byte."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from naturaltone.pipeline.photo import container
from naturaltone.pipeline.photo.xmp import read_stamp
from tests.pipeline.photo.files import PLAIN_XMP, PROFILE, STAMP, WEBP, exif, file, picture, pixels, riff, riff_chunks


@pytest.mark.parametrize("options", WEBP)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("with_xmp", [True, False])
def test_a_webps_chunks_stay_byte_for_byte(options: dict[str, object], mode: str, with_xmp: bool) -> None:
    own = [each for each in riff_chunks(file(picture(mode), "WEBP", **options)) if each[0] != b"VP8X"]
    kept = [(b"ICCP", PROFILE), (b"EXIF", exif()[6:] + b"odd"), *([(b"XMP ", PLAIN_XMP)] if with_xmp else [])]
    sides = (39).to_bytes(3, "little") + (23).to_bytes(3, "little")
    flags = 0x28 | (0x04 if with_xmp else 0) | (0x10 if mode == "RGBA" else 0)
    header = (b"VP8X", bytes([flags, 0, 0, 0]) + sides)
    old = riff(header, kept[0], *own, *kept[1:], (b"abcd", b"vendor's"))
    for new_options in WEBP:
        new = file(picture(mode, seed=2), "WEBP", **new_options)
        data = container.replace_pixels(old, new, stamp=None)
        found = riff_chunks(data)
        assert [each for each in found if each[0] not in (b"ALPH", b"VP8 ", b"VP8L")] == [
            header,
            *kept,
            (b"abcd", b"vendor's"),
        ]
        assert np.array_equal(pixels(data), pixels(new))
        data = container.replace_pixels(old, new, stamp=STAMP)
        assert read_stamp(container.read(data).xmp) == STAMP and container.read(data).exif == exif()[6:] + b"odd"
        assert read_stamp(Image.open(io.BytesIO(data)).info["xmp"]) == STAMP


@pytest.mark.parametrize("options", WEBP)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_bare_webp_stays_bare_and_gets_a_header_for_its_first_metadata(options: dict[str, object], mode: str) -> None:
    old, new = file(picture(mode), "WEBP", **options), file(picture(mode, seed=2), "WEBP", **options)
    assert riff_chunks(container.replace_pixels(old, new, stamp=None)) == riff_chunks(new)
    data = container.replace_pixels(old, new, stamp=STAMP)
    assert riff_chunks(data)[0][0] == b"VP8X" and np.array_equal(pixels(data), pixels(new))
    assert (riff_chunks(data)[0][1][0] & 0x10 != 0) == (mode == "RGBA")
    assert read_stamp(Image.open(io.BytesIO(data)).info["xmp"]) == STAMP
