"""The gain map of a HEIF: found, turned as the photo is, and with the meaning that Apple or ISO 21496-1 gives it."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from naturaltone.pipeline.photo import heif_gain_map
from naturaltone.pipeline.photo.isobmff import made
from naturaltone.pipeline.photo.pixels import upright
from naturaltone.pipeline.photo.ultra_hdr import Meaning
from tests.pipeline.photo.heif_files import Part, apple_note, built, grid_of, hdr_parts, needs_heif, scene, size_of

pytestmark = needs_heif
VALUES = np.arange(128 * 64, dtype=np.uint32).reshape(64, 128).astype(np.uint8)
BOTH = ((33, 101, 100), (48, 1, 1))
ISO = Meaning(
    low=Fraction(-1, 2),
    high=Fraction(5, 2),
    gamma=Fraction(9, 10),
    base_offset=Fraction(1, 100_000),
    hdr_offset=Fraction(1, 64),
    base_headroom=Fraction(0),
    hdr_headroom=Fraction(5, 2),
)


def hdr(*properties: bytes, **options: bytes) -> dict[int, Part]:
    return hdr_parts(VALUES, scene(256, 128), *properties, **options)


@pytest.mark.parametrize(
    ("headroom", "gain", "stops"),
    [(0, 0, 1.8), (99, 1, 1.6), (99, 100, 1.5), (101, 0, 3.0), (101, 1, 2.3), (101, 100, 2.0), (250, 400, 1.091)],
)
def test_apples_map_means_what_apple_publishes(headroom: int, gain: int, stops: float) -> None:
    """Expected stops: Apple's four lines, by hand. headroom, gain: tags 33 and 48, in hundredths."""
    note = apple_note((33, headroom, 100), (48, gain, 100))
    found = heif_gain_map.read(built(hdr(note=note)))
    assert found is not None
    values, meaning = found
    assert float(meaning.hdr_headroom) == float(meaning.high) == pytest.approx(stops)
    assert (meaning.low, meaning.gamma, meaning.base_offset, meaning.hdr_offset, meaning.base_headroom) == (
        0,
        1,
        0,
        0,
        0,
    )
    light = np.where(VALUES < 0.081 * 255, VALUES / 255 / 4.5, ((VALUES / 255 + 0.099) / 1.099) ** (1 / 0.45))
    wanted = np.log2(1 + (2**stops - 1) * light)
    assert np.abs(values / 255 * stops - wanted).max() <= stops / 255 / 2 + 1e-9, "half a step of eight bits"


@pytest.mark.parametrize("mirror", [b"", b"\0", b"\1"])
@pytest.mark.parametrize("turn", range(4))
def test_the_map_is_turned_as_the_photo_is(turn: int, mirror: bytes) -> None:
    turns = (made(b"irot", bytes([turn])), *([made(b"imir", mirror)] if mirror else []))
    found = heif_gain_map.read(built(hdr(*turns, tone_map=ISO.packed())))
    wanted = np.rot90(VALUES, turn)
    assert found is not None
    assert np.array_equal(found[0], np.flip(wanted, mirror[0]) if mirror else wanted)
    assert np.array_equal(upright(VALUES, 6), np.rot90(VALUES, 3)), "NumPy turns the other way than EXIF's 6"


def test_a_tone_map_of_iso_21496_says_what_the_values_mean_before_apples_numbers() -> None:
    found = heif_gain_map.read(built(hdr(note=apple_note(*BOTH), tone_map=ISO.packed())))
    assert found is not None and found[1] == ISO and np.array_equal(found[0], VALUES)


_SAMSUNG = b"urn:com:samsung:photo:2024:aux:hdrgainmap"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"note": apple_note(BOTH[0])},
        {"note": apple_note(*BOTH, kind=5)},
        {"note": apple_note(BOTH[0], (48, 1, 0))},
        {"note": apple_note(BOTH[0], (48, 100, 1))},
        {"note": apple_note(BOTH[0], (48, -1, 100))},
        {"note": apple_note(*BOTH)[:30]},
        {"note": b"Nikon\0\2\0" + bytes(60)},
        {"note": apple_note(*BOTH), "name": _SAMSUNG},
        {"note": apple_note(*BOTH), "tone_map": b"\0\0\0\0\xc0" + ISO.packed()[5:]},
        {"note": apple_note(*BOTH), "tone_map": b"\0\1" + ISO.packed()[2:]},
        {"tone_map": ISO.packed()[:40]},
    ],
)
def test_a_map_with_values_of_unknown_meaning_is_not_read(options: dict[str, bytes]) -> None:
    data = built(hdr(**options))
    assert not heif_gain_map.is_known(data) and heif_gain_map.read(data) is None


def test_a_map_that_does_not_lie_over_the_photo_as_it_is_is_not_read() -> None:
    note = apple_note(*BOTH)
    plain, turned = hdr(note=note), hdr(made(b"irot", b"\1"), note=note)
    assert heif_gain_map.is_known(built(plain)) and heif_gain_map.is_known(built(turned))
    second = {**plain, 9: plain[2]}
    of_other = {**plain, 2: replace(plain[2], refers=((b"auxl", (9,)),)), 9: plain[1]}
    others = [hdr_parts(VALUES[:, :64], scene(256, 128), note=note), hdr_parts(VALUES, scene(64, 64), note=note)]
    for parts in ({**plain, 2: turned[2]}, {**turned, 2: plain[2]}, second, of_other, *others):
        assert not heif_gain_map.is_known(built(parts))


def test_a_map_in_tiles_is_read_whole() -> None:
    plain = hdr(tone_map=ISO.packed())
    tiles = {number: replace(plain[2], properties=plain[2].properties[:2], refers=()) for number in (21, 22, 23, 24)}
    whole = Part(
        *(b"grid", grid_of(2, 2, 256, 128), (size_of(256, 128), plain[2].properties[2])),
        ((b"dimg", tuple(tiles)), (b"auxl", (1,))),
        is_hidden=True,
    )
    found = heif_gain_map.read(built({**plain, 2: whole, **tiles}))
    assert found is not None and np.array_equal(found[0], np.tile(VALUES, (2, 2)))


@given(st.integers(0, 2**32))
def test_damage_never_ends_the_search_and_what_is_read_is_a_map(seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(_whole())
    where = data.index(b"meta")
    for _ in range(chance.randint(1, 20)):
        data[chance.randrange(where, len(data))] = chance.randrange(256)
    heif_gain_map.is_known(bytes(data))
    try:
        found = heif_gain_map.read(bytes(data))
    except (ValueError, EOFError, IndexError, RuntimeError, SyntaxError):  # of libheif and its binding
        return
    assert found is None or found[0].dtype == np.uint8


def _whole() -> bytes:
    return built(hdr(note=apple_note(*BOTH)))
