"""New pixels coded in the shape of a HEIF's own pictures."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from naturaltone.pipeline.photo import heif, heif_layout, heif_pixels, hevc
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.encode import encode
from naturaltone.pipeline.photo.isobmff import made
from tests.pipeline.photo.heif_files import (
    Part,
    built,
    coded,
    error,
    grid_file,
    heic,
    nclx,
    needs_heif,
    picture,
    scene,
    shown,
    size_of,
)

pytestmark = needs_heif
COLOURS = [(1, 13, 6, 1), (1, 13, 6, 0), (12, 13, 1, 1), (9, 14, 9, 0), (2, 2, 2, 1), (5, 6, 5, 1)]


def new_pixels(photo_pixels: np.ndarray) -> np.ndarray:
    """Another picture of the same size, smooth so that coding hardly changes it."""
    white = np.iinfo(photo_pixels.dtype).max
    return np.ascontiguousarray(cv2.GaussianBlur(white - photo_pixels, (7, 7), 0))


def coding_of(data: bytes) -> hevc.Coding:
    file = heif.opened(data)
    return heif_layout.coding(file, file.pictures(file.primary)[0])


@pytest.mark.parametrize("depth", [8, 10, 12])
@pytest.mark.parametrize("chroma", [0, 1, 2, 3])
def test_chroma_and_depth_stay(depth: int, chroma: int) -> None:
    data = heic(scene(131, 85), depth=depth, chroma=chroma, quality=90)
    photo = decode(data)
    assert photo.pixels.dtype == (np.uint8 if depth == 8 else np.uint16) and photo.is_grey == (chroma == 0)
    new = new_pixels(photo.pixels)
    result = encode(photo, new)
    before, after = coding_of(data), coding_of(result)
    assert (after.chroma, after.depth, after.width, after.height) == (chroma, depth, before.width, before.height)
    assert after.qp == max(1, (before.qp or 0) - 1)
    assert error(decode(result).pixels, new) < (1 if chroma in (0, 3) else 2)


def test_ten_bits_are_not_cut_to_eight() -> None:
    ramp = np.repeat(np.linspace(20_000, 24_000, 256).astype(np.uint16)[None, :, None], 64, axis=0).repeat(3, axis=2)
    photo = decode(heic(scene(256, 64), depth=10, chroma=3, quality=98))
    after = decode(encode(photo, ramp, quality=98)).pixels
    assert len(np.unique(after[32, :, 1])) > 40  # 4000 steps of 16 bits are 62 of 10 bits, but 16 of 8 bits
    assert abs(float(after.mean()) - ramp.mean()) < 20


@pytest.mark.parametrize("colours", COLOURS)
@pytest.mark.parametrize("in_box", [True, False])
@pytest.mark.parametrize("depth", [8, 10])
def test_colours_are_right_for_the_box_that_stays_and_for_the_stream(
    colours: tuple[int, int, int, int], in_box: bool, depth: int
) -> None:
    names = ("color_primaries", "transfer_characteristics", "matrix_coefficients", "full_range_flag")
    file = heif.opened(heic(scene(), depth=depth, quality=95, **dict(zip(names, colours, strict=True))))
    config = made(b"hvcC", file.body(next(file.all_of(file.primary, b"hvcC"))))
    box = (nclx(*colours[:3], bool(colours[3])),) if in_box else ()
    data = built({1: Part(b"hvc1", file.content(file.primary), (config, size_of(96, 80), *box))})
    photo = decode(data)
    assert error(photo.pixels, scene() * (1 if depth == 8 else np.uint16(257))) < 4
    new = new_pixels(photo.pixels)
    result = encode(photo, new)
    # libheif writes sRGB into the stream for what is unspecified.
    assert coding_of(result).colour == (
        hevc.Colour(*colours[:3], bool(colours[3])) if in_box else coding_of(data).colour
    )
    assert error(decode(result).pixels, new) < 2
    assert abs(float(decode(result).pixels.mean()) - new.mean()) < 0.4 * np.iinfo(new.dtype).max / 255


def test_the_range_of_a_grey_photo_stays() -> None:
    for value in (0, 1):
        data = heic(scene(), chroma=0, full_range_flag=value)
        photo = decode(data)
        result = encode(photo, new_pixels(photo.pixels))
        assert coding_of(result).colour.is_full_range == bool(value)
        assert error(decode(result).pixels, new_pixels(photo.pixels)) < 1.5


def test_each_tile_of_a_grid_is_coded_anew_and_all_share_one_box() -> None:
    data = grid_file()
    photo = decode(data)
    assert photo.pixels.shape == (100, 120, 3)
    new = new_pixels(np.ascontiguousarray(scene(120, 100, 5)))
    result = encode(photo, new)
    file = heif.opened(result)
    assert error(shown(result), new) < 2
    assert [item.properties for item in file.pictures(file.primary)] == [(1, 2)] * 4
    assert len([box for box in file.properties if box.kind == b"hvcC"]) == 1


def test_the_hidden_part_of_a_tile_repeats_the_edge() -> None:
    """Black there would shine through the chroma at the edge."""
    data = grid_file()
    white = np.full((100, 120, 3), 255, np.uint8)
    result = encode(decode(data), white)
    file = heif.opened(result)
    corner = file.pictures(file.primary)[3]
    config = made(b"hvcC", file.body(next(file.all_of(corner, b"hvcC"))))
    tile = shown(built({1: Part(b"hvc1", file.content(corner), (config, size_of(64, 64), nclx()))}))
    assert tile.min() >= 253 and shown(result).min() >= 253


def test_the_thumbnail_shows_the_new_pixels_at_its_old_size() -> None:
    import pillow_heif

    data = heic(scene(200, 150), thumbnails=[96])
    photo = decode(data)
    new = new_pixels(photo.pixels)
    result = encode(photo, new)
    file, before = heif.opened(result), heif.opened(data)
    (thumbnail,), (old,) = file.thumbnails(), before.thumbnails()
    assert heif_layout.size(file, thumbnail) == heif_layout.size(before, old)
    found = pillow_heif.open_heif(io.BytesIO(result))[0].get_thumbnail(0)
    small = cv2.resize(new, found.size, interpolation=cv2.INTER_AREA)
    assert error(np.asarray(found), small) < 3


def test_a_thumbnail_as_a_jpeg_stays_a_jpeg() -> None:
    buffer = io.BytesIO()
    Image.fromarray(scene(48, 40)).save(buffer, "JPEG")
    parts = {1: picture(0, nclx(), width=96, height=80)}
    parts[2] = Part(b"jpeg", buffer.getvalue(), (size_of(48, 40),), ((b"thmb", (1,)),), is_hidden=True)
    photo = decode(built(parts))
    new = new_pixels(photo.pixels)
    file = heif.opened(encode(photo, new))
    found = np.asarray(Image.open(io.BytesIO(file.content(file.items[2]))))
    assert error(found, cv2.resize(new, (48, 40), interpolation=cv2.INTER_AREA)) < 4


def test_a_picture_smaller_than_the_coder_can_code_keeps_its_size() -> None:
    small = hevc.cropped(coded(), 48, 34)
    parts = {1: Part(b"hvc1", small.data, (made(b"hvcC", small.config), size_of(48, 34), nclx()))}
    photo = decode(built(parts))
    assert photo.pixels.shape == (34, 48, 3)
    new = new_pixels(photo.pixels)
    result = encode(photo, new)
    assert (coding_of(result).width, coding_of(result).height) == (48, 34) and error(shown(result), new) < 1.5


def test_opacity_stays_and_only_the_colours_are_coded() -> None:
    alpha = scene()[..., :1]
    data = heic(np.dstack([scene(), alpha]))
    photo = decode(data)
    new = new_pixels(photo.pixels)
    after = decode(encode(photo, new))
    assert photo.alpha is not None and np.array_equal(after.alpha, photo.alpha) and error(after.pixels, new) < 1.5


def noisy(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(scene(256, 192, seed) + rng.normal(0, 9, (192, 256, 3)), 0, 255).astype(np.uint8)


def loss(pixels: np.ndarray, others: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / ((pixels.astype(float) - others) ** 2).mean()))


@pytest.mark.parametrize("quality", [40, 60, 75])
@pytest.mark.parametrize("seed", [0, 1])
def test_new_pixels_lose_no_more_than_the_old_ones_have_lost(quality: int, seed: int) -> None:
    raw = noisy(seed)
    data = heic(raw, quality=quality, x265={"preset": "slow"})
    photo = decode(data)
    brighter = (255 * (photo.pixels / 255) ** 0.8).round().astype(np.uint8)
    result = encode(photo, brighter)
    assert loss(decode(result).pixels, brighter) >= loss(photo.pixels, raw)
    assert len(encode(photo, photo.pixels)) < 1.35 * len(data)


def test_another_quality_can_be_chosen() -> None:
    photo = decode(heic(noisy(0), quality=60))
    sizes = [len(encode(photo, photo.pixels, quality=quality)) for quality in (1, 40, 70, 100)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[3] / 10
    assert coding_of(encode(photo, photo.pixels, quality=70)).qp == 15


def test_a_coder_that_refines_its_quantiser_block_by_block_is_not_taken_at_its_word() -> None:
    """Samsung's A32 names 28 and codes as finely as others with 20. Here, the picture header's start value lies."""
    data = heic(noisy(2), x265={"x265:qp": 20, "x265:ipratio": 1.0})
    honest = decode(data)
    coarse = heic(noisy(2), x265={"x265:qp": 34, "x265:ipratio": 1.0})
    file, lying = heif.opened(data), heif.opened(coarse)
    padding = file.content(file.primary)[len(lying.content(lying.primary)) :]
    filler = struct.pack(">I", len(padding) + 2) + b"\x4c\1" + padding  # a unit of filler data
    config = made(b"hvcC", lying.body(next(lying.all_of(lying.primary, b"hvcC"))))
    part = Part(b"hvc1", lying.content(lying.primary) + filler, (config, size_of(256, 192), nclx()))
    photo = decode(built({1: part}))
    result = encode(photo, honest.pixels)
    assert (coding_of(result).qp or 99) < 30 and loss(decode(result).pixels, honest.pixels) > 34


def test_pixels_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="another size"):
        heif_pixels.code(heic(scene()), scene(80, 96), None)
