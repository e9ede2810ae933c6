"""Ultra HDR JPEGs: what readers of Google's XMP, of ISO 21496-1 and of the multi-picture index find in them."""

from __future__ import annotations

import io
import re
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, MpoImagePlugin

from naturaltone.pipeline.photo import container
from naturaltone.pipeline.photo.ultra_hdr import Meaning, coded, joined, unpacked
from naturaltone.pipeline.photo.xmp import with_gain_map
from tests.pipeline.photo.files import PLAIN_XMP, PROFILE, exif, file, metadata_segments

ISO = b"urn:iso:std:iso:ts:21496:-1\0"
FRACTIONS = st.builds(Fraction, st.integers(-(2**31), 2**31 - 1), st.integers(1, 2**32 - 1))
POSITIVE = st.builds(Fraction, st.integers(1, 2**32 - 1), st.integers(1, 2**32 - 1))
MEANINGS = st.builds(
    Meaning,
    low=FRACTIONS,
    high=FRACTIONS,
    gamma=POSITIVE,
    base_offset=FRACTIONS,
    hdr_offset=FRACTIONS,
    base_headroom=st.just(Fraction(0)),
    hdr_headroom=POSITIVE,
)
MEANING = Meaning(
    low=Fraction(0),
    high=Fraction(5, 2),
    gamma=Fraction(1),
    base_offset=Fraction(0),
    hdr_offset=Fraction(0),
    base_headroom=Fraction(0),
    hdr_headroom=Fraction(5, 2),
)


@given(MEANINGS)
def test_a_meaning_is_read_as_it_was_written(meaning: Meaning) -> None:
    assert unpacked(meaning.packed() + b"more") == meaning and len(meaning.packed()) == 61


def test_what_ultra_hdr_cannot_say_is_not_taken_for_something_else() -> None:
    packed = MEANING.packed()
    for flags in (0x00, 0x80, 0xC0, 0x48):
        assert unpacked(packed[:4] + bytes([flags]) + packed[5:]) is None
    for other in (b"\0\1" + packed[2:], packed[:-1], packed[:9] + bytes(4) + packed[13:], b""):
        assert unpacked(other) is None
    same = packed[:5] + packed[13:21] + packed[13:]
    assert unpacked(same) is None, "a photo that is as light as the HDR picture"
    assert unpacked(packed[:37] + bytes(4) + packed[41:]) is None, "gamma 0"


@pytest.mark.parametrize("is_colour", [False, True])
def test_every_kind_of_reader_finds_the_gain_map(is_colour: bool) -> None:
    values = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    values = values if is_colour else values[..., 0]
    gain_map = coded(values, MEANING)
    packet = with_gain_map(PLAIN_XMP, len(gain_map))
    photo = file(Image.new("RGB", (160, 120), "teal"), "JPEG", xmp=packet, exif=exif(), icc_profile=PROFILE)
    result = joined(photo, gain_map)
    index = MpoImagePlugin.MpoImageFile(io.BytesIO(result))
    assert index.n_frames == 2 and index.size == (160, 120)
    index.seek(1)
    assert np.array_equal(np.asarray(index), np.asarray(Image.open(io.BytesIO(gain_map))))
    length = int(re.search(rb'Item:Semantic="GainMap" Item:Length="(\d+)"', result)[1])  # type: ignore[index]
    assert result[-length:] == gain_map
    numbers = dict(re.findall(rb'hdrgm:(\w+)="([^"]*)"', container.read(gain_map).xmp or b""))
    assert numbers == {
        **{b"Version": b"1.0", b"GainMapMin": b"0.000000", b"GainMapMax": b"2.500000", b"Gamma": b"1.000000"},
        **{b"OffsetSDR": b"0.000000", b"OffsetHDR": b"0.000000", b"BaseRenditionIsHDR": b"False"},
        **{b"HDRCapacityMin": b"0.000000", b"HDRCapacityMax": b"2.500000"},
    }
    assert (0xE2, ISO + bytes(4)) in metadata_segments(result)
    assert (0xE2, ISO + MEANING.packed()) in metadata_segments(gain_map)
    assert container.extras(result) == ("HDR gain map",) and container.read(result).exif == exif()[6:]
    assert [each for each in metadata_segments(photo) if each not in metadata_segments(result)] == []
    start = result.index(b"MPF\0") + 4
    size, offset = struct.unpack(">II", result[start + 70 : start + 78])
    assert (size, start + offset) == (length, len(result) - length)
