"""How a HEIF's photo is turned, cropped and coloured, and which photos cannot be written again."""

from __future__ import annotations

import io
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from naturaltone.pipeline.photo import heif, heif_layout
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.encode import check_rewritable, encode
from naturaltone.pipeline.photo.isobmff import made
from naturaltone.pipeline.photo.pixels import upright
from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.pipeline.reasons import Reason
from tests.pipeline.photo.heif_files import (
    ALPHA,
    Part,
    Shape,
    auxiliary,
    built,
    clap,
    coded,
    error,
    exif_item,
    grid_file,
    grid_of,
    heic,
    nclx,
    needs_heif,
    picture,
    scene,
    shown,
    size_of,
)

pytestmark = needs_heif
TURNS = [made(b"irot", bytes([angle])) for angle in range(4)]
MIRRORS = [made(b"imir", bytes([axis])) for axis in range(2)]
PAIRS = [(turn, mirror) for turn in TURNS for mirror in MIRRORS]
CHANGES = [[], *([turn] for turn in TURNS), *([mirror] for mirror in MIRRORS), *PAIRS, *(pair[::-1] for pair in PAIRS)]
CROP = clap(60, 42, 4, -6)


@pytest.mark.parametrize("changes", CHANGES)
def test_turns_and_mirrors_are_those_of_libheif(changes: list[bytes]) -> None:
    plain = shown(built({1: picture(0, width=96, height=80)}))
    data = built({1: picture(0, *changes, width=96, height=80)})
    assert np.array_equal(shown(data), upright(plain, heif_layout.orientation_of(data)))


def test_the_orientation_in_the_exif_block_only_informs() -> None:
    """The EXIF block of `exif_item` says 6."""
    parts = {1: picture(0, TURNS[1], width=96, height=80), 2: Part(b"Exif", exif_item(), (), ((b"cdsc", (1,)),))}
    assert decode(built(parts)).orientation == 8
    parts[1] = picture(0, width=96, height=80)
    photo = decode(built(parts))
    assert photo.orientation == 1 and photo.pixels.shape == (80, 96, 3)


@pytest.mark.parametrize(
    ("width", "height", "right", "down"),
    [(64, 64, 0, 0), (40, 30, 0, 0), (63, 61, -1, -3), (33, 20, 31, 9), (33, 20, -31, 0), (64, 64, 9, -8)],
)
def test_a_crop_is_that_of_libheif(width: int, height: int, right: int, down: int) -> None:
    plain = heif.opened(heic(scene(64, 64), chroma=0))  # libheif moves the colours of others by up to a pixel
    properties = made(b"hvcC", plain.body(next(plain.all_of(plain.primary, b"hvcC")))), size_of(64, 64)
    part = Part(b"hvc1", plain.content(plain.primary), properties)
    whole = shown(built({1: part}))
    data = built({1: replace(part, properties=(*properties, clap(width, height, right, down)))})
    file = heif.opened(data)
    left, top, wide, high = heif_layout.crop(file, file.primary, 64, 64)
    assert np.array_equal(shown(data), whole[top : top + high, left : left + wide])


def test_a_crop_outside_the_pixels_is_refused() -> None:
    file = heif.opened(built({1: picture(0, clap(64, 64, 200, 0)), 2: picture(0, made(b"clap", bytes(32)))}))
    for number, message in ((1, "outside"), (2, "impossible")):
        with pytest.raises(ValueError, match=message):
            heif_layout.crop(file, file.items[number], 64, 64)


def test_colours_are_those_of_the_photo_then_of_its_tiles_then_of_the_stream() -> None:
    file = heif.opened(grid_file())
    found = heif_layout.colour(file, file.primary)
    assert found is not None and (found.primaries, found.matrix, found.is_full_range) == (1, 6, True)
    parts = {n: picture(n, nclx(9, 1, 9, False)) for n in range(1, 5)}
    grid = Part(b"grid", grid_of(2, 2, 120, 100), (size_of(120, 100),), ((b"dimg", (1, 2, 3, 4)),))
    file = heif.opened(built({**parts, 9: grid}, 9))
    found = heif_layout.colour(file, file.primary)
    assert found is not None and (found.primaries, found.matrix, found.is_full_range) == (9, 9, False)
    file = heif.opened(built({1: picture()}))
    assert heif_layout.colour(file, file.primary) is None


@pytest.mark.parametrize("transfer", [16, 18])
def test_a_photo_for_hdr_screens_is_left_alone(transfer: int) -> None:
    data = built({1: picture(0, nclx(9, transfer, 9))})
    said_by_stream = built({1: hdr_stream(transfer)})
    buffer = io.BytesIO()
    Image.fromarray(scene()).save(buffer, "AVIF")
    plain = buffer.getvalue()
    avif = plain.replace(b"nclx\0\1\0\x0d", b"nclx\0\x09\0" + bytes([transfer]))
    assert avif != plain and not heif_layout.is_hdr(plain)
    for file in (data, said_by_stream, avif):
        assert heif_layout.is_hdr(file)
        for look in (decode, check_rewritable):
            with pytest.raises(ImageError, match=r"PQ, HLG, .*save it as an SDR photo") as refused:
                look(file)
            assert refused.value.reason == Reason.HDR_STILL


def hdr_stream(transfer: int) -> Part:
    file = heif.opened(heic(scene(64, 64), transfer_characteristics=transfer, color_primaries=9, matrix_coefficients=9))
    config = made(b"hvcC", file.body(next(file.all_of(file.primary, b"hvcC"))))
    return Part(b"hvc1", file.content(file.primary), (config, size_of(64, 64)))


def test_a_profile_says_more_than_the_stream() -> None:
    part = hdr_stream(16)
    profile = made(b"colr", b"prof" + bytes(128))
    data = built({1: Part(part.kind, part.data, (*part.properties, profile))})
    assert not heif_layout.is_hdr(data)


def overlay() -> bytes:
    properties = (size_of(64, 64),)
    data = bytes(2) + bytes(8) + b"\0\x40\0\x40" + bytes(4)
    return built({1: Part(b"iovl", data, properties, ((b"dimg", (2,)),)), 2: picture()})


@pytest.mark.parametrize(
    ("data", "reason", "message"),
    [
        (built({1: picture()}, 1, Shape(after=(made(b"moov", bytes(8)),))), Reason.ANIMATED, "sequence of pictures"),
        (overlay(), Reason.UNSUPPORTED_MODE, "laid over each other; save it as a plain HEIC"),
        (
            built({1: Part(b"iden", b"", (size_of(64, 64),), ((b"dimg", (2,)),)), 2: picture()}),
            Reason.UNSUPPORTED_MODE,
            "view of",
        ),
        (built({1: picture(0, TURNS[1], clap(40, 30, 0, 0))}), Reason.UNSUPPORTED_MODE, "cropped after it is turned"),
        (
            built(
                {1: picture(), 9: Part(b"grid", grid_of(1, 2, 128, 64), (size_of(128, 64),), ((b"dimg", (1, 1)),))}, 9
            ),
            Reason.UNSUPPORTED_MODE,
            "repeats some of its tiles",
        ),
        (
            built({1: picture(refers=((b"prem", (2,)),)), 2: picture(1, auxiliary(ALPHA), refers=((b"auxl", (1,)),))}),
            Reason.UNSUPPORTED_MODE,
            "opacity multiplied",
        ),
        (built({1: picture(refers=((b"thmb", (2,)),)), 2: picture(1)}), Reason.UNSUPPORTED_MODE, "names a thumbnail"),
        (built({1: Part(b"jpeg", b"", (size_of(64, 64),))}), Reason.UNWRITABLE, "coded as 'jpeg', not as HEVC"),
        (b"\0\0\0\x18ftypheic" + bytes(12), Reason.TRUNCATED, "no meta box"),
    ],
)
def test_a_photo_whose_pixels_cannot_be_replaced_says_why(data: bytes, reason: Reason, message: str) -> None:
    refused = heif_layout.refusal(data)
    assert refused is not None and refused.reason == reason and message in refused.detail


def test_such_a_photo_is_read_all_the_same() -> None:
    photo = decode(overlay())
    assert photo.read_only is not None and photo.read_only.reason == Reason.UNSUPPORTED_MODE
    with pytest.raises(ImageError, match="laid over each other"):
        encode(photo, photo.pixels)


def test_a_grid_without_all_its_tiles_is_refused() -> None:
    parts = {1: picture(), 9: Part(b"grid", grid_of(2, 1, 64, 128), (size_of(64, 128),), ((b"dimg", (1,)),))}
    refused = heif_layout.refusal(built(parts, 9))
    assert refused is not None and "cells than tiles" in refused.detail


@pytest.mark.parametrize(
    "changes", [[TURNS[1]], [TURNS[3], MIRRORS[1]], [CROP, TURNS[3]], [CROP, TURNS[2], MIRRORS[0]]]
)
def test_a_turned_and_cropped_photo_is_written_as_it_is_shown(changes: list[bytes]) -> None:
    data = built({1: picture(0, nclx(), *changes, width=96, height=80)})
    photo = decode(data)
    new = cv2.GaussianBlur(255 - photo.pixels, (5, 5), 0)
    after = decode(encode(photo, new))
    assert after.orientation == photo.orientation and error(after.pixels, new) < 2
    assert coded(96, 80).data not in encode(photo, new)


def test_a_file_that_is_cut_short_is_called_damaged_and_not_unwritable() -> None:
    refused = heif_layout.refusal(built({1: picture()})[:-500])
    assert refused is not None and refused.reason == "truncated" and "outside the file" in refused.detail


def test_an_empty_profile_says_as_much_as_none() -> None:
    """An iPhone's photo had one; the enhancer could not open it."""
    assert decode(built({1: picture(0, made(b"colr", b"prof"))})).icc_profile is None
