"""What HEVC's parameter sets say of a picture."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from naturaltone.pipeline.photo import heif, hevc
from naturaltone.pipeline.photo.isobmff import made
from tests.pipeline.photo.heif_files import Part, built, coded, heic, nclx, needs_heif, scene, shown, size_of

pytestmark = needs_heif


def coded_of(data: bytes) -> hevc.Picture:
    file = heif.opened(data)
    return hevc.Picture(file.body(next(file.all_of(file.primary, b"hvcC"))), file.content(file.primary))


def coding_of(data: bytes) -> hevc.Coding:
    picture = coded_of(data)
    return hevc.coding(picture.config, picture.data)


@pytest.mark.parametrize("depth", [8, 10, 12])
@pytest.mark.parametrize("chroma", [0, 1, 2, 3])
@pytest.mark.parametrize("quantiser", [3, 30])
def test_chroma_depth_size_colours_and_quantiser_are_read(depth: int, chroma: int, quantiser: int) -> None:
    colours = {"color_primaries": 12, "transfer_characteristics": 13, "matrix_coefficients": 5, "full_range_flag": 0}
    data = heic(scene(130, 84), depth=depth, chroma=chroma, x265={"x265:qp": quantiser, "x265:ipratio": 1.0}, **colours)
    found = coding_of(data)
    assert (found.width, found.height, found.chroma, found.depth, found.qp) == (130, 84, chroma, depth, quantiser)
    # libheif writes what a grey picture's numbers mean into its own box alone.
    assert found.colour == (hevc.Colour(12, 13, 5, False) if chroma else hevc.Colour(2, 2, 2, True))


@pytest.mark.parametrize(
    "x265", [{"x265:scaling-list": "default"}, {"x265:no-sao": 1}, {"x265:sao": 1}, {"x265:ctu": 32}]
)
def test_other_tools_of_the_coder_do_not_shift_what_is_read(x265: dict[str, object]) -> None:
    found = coding_of(heic(scene(130, 84), x265={"x265:qp": 20, "x265:ipratio": 1.0, **x265}))
    assert (found.width, found.height, found.qp, found.colour.matrix) == (130, 84, 20, 6)


class Bits:
    """Writes a parameter set, bit by bit."""

    def __init__(self) -> None:
        self.text = ""

    def put(self, size: int, value: int = 0) -> Bits:
        self.text += f"{value:0{size}b}" if size else ""
        return self

    def code(self, *values: int) -> Bits:
        for value in values:
            digits = f"{value + 1:b}"
            self.text += "0" * (len(digits) - 1) + digits
        return self

    def config(self) -> bytes:
        text = self.text + "1"
        text += "0" * (-len(text) % 8)
        unit = int(text, 2).to_bytes(len(text) // 8, "big")
        escaped = bytearray()
        for byte in unit:
            if escaped[-2:] == b"\0\0" and byte <= 3:
                escaped.append(3)
            escaped.append(byte)
        return bytes(22) + b"\1" + b"\xa1\0\1" + len(escaped).to_bytes(2, "big") + escaped


def test_a_set_with_everything_that_the_standard_allows_is_read() -> None:
    """Written from ITU-T H.265, 7.3.2.2: layers, scaling lists, PCM, sets of reference pictures, an odd aspect ratio."""
    bits = Bits().put(16, 33 << 9).put(4).put(3, 2).put(1)  # two sub-layers more
    bits.put(96).put(2, 0b11).put(2, 0b01).put(12).put(96).put(8)  # profiles of the sub-layers
    bits.code(0, 1, 1919, 1087).put(1, 1).code(0, 0, 0, 3)  # 4:2:0, 1919×1087, a window of 6 rows
    bits.code(2, 2, 4).put(1, 1).code(*[0, 1, 2] * 3).code(0, 1, 2, 3, 4, 5)  # 10 bits, order of 8 bits
    bits.put(2, 0b11)
    for size in range(4):  # one list is copied, all others are written
        for number in range(2 if size == 3 else 6):
            if (size, number) == (1, 3):
                bits.put(1, 0).code(0)
            else:
                bits.put(1, 1).code(*[1] * (min(64, 1 << (4 + 2 * size)) + (size > 1)))
    bits.put(1).put(1, 1)  # no asymmetric parts, but the adaptive offset
    bits.put(1, 1).put(8).code(0, 0).put(1)  # PCM
    bits.code(3)
    bits.code(1, 1).code(0).put(1, 1).code(0).put(1, 1)  # two pictures
    bits.put(1, 1).put(1).code(0).put(1, 1).put(2, 0b00).put(2, 0b01)  # predicted: used, dropped, kept: two again
    bits.put(1, 1).put(1).code(0).put(3, 0b111)  # predicted from two
    bits.put(1, 1).code(2).put(18)  # long-term
    bits.put(2)
    bits.put(1, 1).put(1, 1).put(8, 255).put(32).put(2, 0b11).put(1, 1).put(3, 5).put(1, 1).put(1, 1)
    bits.put(8, 9).put(8, 16).put(8, 9)
    found = hevc.coding(bits.config(), b"")
    assert found == hevc.Coding(1919, 1081, 1, 10, hevc.Colour(9, 16, 9, True), None)


def test_what_the_stream_does_not_say_is_unspecified_and_limited() -> None:
    bits = Bits().put(16, 33 << 9).put(8).put(96).code(0, 0, 64, 64).put(1).code(0, 0, 0).put(1, 1).code(*[0] * 9)
    bits.put(4).code(0).put(4)
    assert hevc.coding(bits.config(), b"").colour == hevc.Colour(2, 2, 2, False)
    for is_full in (False, True):
        longer = Bits()
        longer.text = bits.text[:-1] + "100" + (("1" + "101" + "1" + "0") if is_full else "0")
        assert hevc.coding(longer.config(), b"").colour == hevc.Colour(2, 2, 2, is_full)


@pytest.mark.parametrize("chroma", [0, 1, 2, 3])
@pytest.mark.parametrize(("width", "height"), [(64, 64), (62, 40), (34, 64), (16, 16)])
def test_a_window_shows_the_same_pixels_as_the_whole_picture(chroma: int, width: int, height: int) -> None:
    """libheif codes nothing below 64×64, but tiles and thumbnails may be smaller."""
    pixels = scene(64, 64)
    whole = heic(pixels, chroma=chroma)
    small = hevc.cropped(coded_of(whole), width, height)
    assert (hevc.coding(small.config, small.data).width, hevc.coding(small.config, small.data).height) == (
        width,
        height,
    )
    data = built({1: Part(b"hvc1", small.data, (made(b"hvcC", small.config), size_of(width, height), nclx()))})
    assert np.array_equal(shown(data), shown(whole)[:height, :width])
    assert hevc.cropped(small, width, height) is small


def test_a_size_that_the_chroma_cannot_have_is_refused() -> None:
    for width, height in ((63, 64), (64, 63), (66, 64)):
        with pytest.raises(ValueError, match=f"cannot be coded in {width}×{height}"):
            hevc.cropped(coded(), width, height)
    grey = hevc.cropped(coded_of(heic(scene(64, 64), chroma=0)), 63, 61)
    assert (hevc.coding(grey.config, grey.data).width, hevc.coding(grey.config, grey.data).height) == (63, 61)


@pytest.mark.parametrize("config", [b"", bytes(22), bytes(23), bytes(22) + b"\1\xa1\0\1\0\x09\x42\1"])
def test_a_picture_without_its_parameter_sets_is_refused(config: bytes) -> None:
    with pytest.raises(ValueError, match=r"lacks a parameter set|cut short"):
        hevc.coding(config, coded().data)


@given(st.integers(0, 2**32))
def test_damage_gives_a_value_error_and_nothing_else(seed: int) -> None:
    chance = random.Random(seed)
    config, data = bytearray(coded().config), bytearray(coded().data)
    for _ in range(chance.randint(1, 20)):
        target = chance.choice((config, data))
        target[chance.randrange(min(len(target), 120))] = chance.randrange(256)
    config, data = config[: chance.choice((None, chance.randrange(len(config))))], data[: chance.choice((None, 9))]
    try:
        found = hevc.coding(bytes(config), bytes(data))
        hevc.cropped(hevc.Picture(bytes(config), bytes(data)), 32, 32)
    except ValueError:
        return
    assert found.width > 0
