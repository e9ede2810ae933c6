"""What follows a JPEG's own picture stays, and is found where the file says that it is; an HDR photo stays HDR."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from naturaltone.pipeline.photo import container, mpf
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.encode import encode
from naturaltone.pipeline.photo.segments import APP1, XMP, end_of, read_segments
from naturaltone.pipeline.photo.trailer import read_trailer
from naturaltone.serving.apply import KEPT
from tests.pipeline.photo.files import (
    FTYP,
    GAIN_MAP,
    HOLDING,
    MOTION_XMP,
    NEW,
    PREVIEW,
    STAMP,
    jpeg,
    metadata_segments,
)
from tests.pipeline.photo.files import mpf as indexed
from tests.pipeline.photo.gain_maps import linear, pictures, rendered, ultra_hdr

KEEPING = [name for name, (_, found) in HOLDING.items() if found and found != ("preview",)]


def listed(data: bytes) -> list[bytes]:
    """The pictures that the multi-picture index lists, and the photo's own bytes first."""
    place = data.index(b"MPF\0") + 4
    first, *others = mpf.rows(data[place : place + 200])
    return [data[: first.size], *(data[place + row.offset : place + row.offset + row.size] for row in others)]


@pytest.mark.parametrize("name", KEEPING)
def test_what_a_photo_holds_stays_byte_for_byte(name: str) -> None:
    old, expected = HOLDING[name]
    new = container.replace_pixels(old, NEW, stamp=STAMP)
    assert container.extras(new) == tuple(each for each in expected if each != "preview")
    _, scan = read_segments(old)
    after = old[end_of(old, scan) :]
    if name in ("a panorama and a preview", "all of it"):
        after = after.replace(PREVIEW, b"", 1)
    assert new.endswith(NEW[-50:] + after)
    if b"MPF\0" in new:
        own, *others = listed(new)
        assert own.endswith(NEW[-50:]) and own.startswith(b"\xff\xd8")
        assert others and all(each in listed(old)[1:] for each in others)


def test_a_preview_between_a_map_and_a_video_goes_and_the_index_forgets_it() -> None:
    old = indexed([0x010001, 0, 0x010002], [PREVIEW, GAIN_MAP, PREVIEW], trailer=FTYP)
    new = container.replace_pixels(old, NEW, stamp=STAMP)
    assert new.endswith(NEW[-50:] + GAIN_MAP + FTYP)
    assert listed(new)[1:] == [GAIN_MAP]
    assert getattr(Image.open(io.BytesIO(new)), "n_frames", 1) == 2


def test_pictures_that_a_container_lists_are_no_previews() -> None:
    packet = MOTION_XMP.replace(
        b'GCamera:MotionPhoto="1"', b'xmlns:C="http://ns.google.com/photos/1.0/container/" C:Directory=""'
    )
    old = jpeg((APP1, XMP + packet), trailer=bytes(3) + PREVIEW)
    assert container.extras(old) == ("other pictures",)
    assert container.replace_pixels(old, NEW, stamp=None).endswith(NEW[-50:] + bytes(3) + PREVIEW)


@given(st.lists(st.sampled_from([GAIN_MAP, PREVIEW, FTYP, bytes(7), b"vendor's own"]), max_size=6), st.data())
def test_every_byte_after_the_photo_stays_or_belonged_to_a_preview(parts: list[bytes], data: st.DataObject) -> None:
    listed_parts = [part for part in parts if part in (GAIN_MAP, PREVIEW)]
    kinds = [data.draw(st.sampled_from([0x010001, 0x020002, 0])) for _ in listed_parts]
    old = indexed(kinds, listed_parts, trailer=b"".join(part for part in parts if part not in listed_parts))
    segments, scan = read_segments(old)
    trailer = read_trailer(old, segments, end_of(old, scan))
    kept = b"".join(old[begin:end] for begin, end in trailer.kept)
    new = container.replace_pixels(old, NEW, stamp=None)
    assert new.endswith(NEW[-50:] + kept)
    lost = len(old) - end_of(old, scan) - len(kept)
    assert lost >= sum(picture.end - picture.start for picture in trailer.previews)
    again = container.replace_pixels(new, NEW, stamp=None)
    assert again == new, "nothing more goes the second time"


@pytest.fixture(scope="module")
def lamp(astronaut: np.ndarray) -> bytes:
    """An underexposed room with a lamp that is four times as light as paper, and a gain map of a quarter of the size."""
    base = (astronaut.astype(np.float32) * 0.4).astype(np.uint8)
    height, width = base.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    glow = np.exp(-(((rows - height / 4) ** 2 + (columns - width * 0.7) ** 2) / (2 * (height / 14) ** 2)))[..., None]
    base = np.clip(base * (1 - glow) + 255 * glow * 1.3, 0, 255).astype(np.uint8)
    stops = cv2.resize(
        np.clip(2.5 * (linear(base).mean(axis=2) - 0.4), 0, 2).astype(np.float32), (width // 4, height // 4)
    )
    return ultra_hdr(base, stops, most=2.0)


def enhanced(data: bytes) -> bytes:
    """The photo with a change as a model makes it: shadows lifted, highlights lowered, a share of the distance kept."""
    photo = decode(data)
    values = photo.packed[..., :3].astype(np.float32) / 255
    curve = values**0.7 * 0.97
    curve = np.clip(curve, values * KEPT, values * KEPT + 1 - KEPT)
    return encode(photo, np.round(curve * 255).astype(np.uint8), stamp=STAMP)


def test_an_hdr_photo_stays_hdr_with_the_same_change_within_the_same_headroom(lamp: bytes) -> None:
    new = enhanced(lamp)
    before, after = rendered(lamp), rendered(new)
    old_base, stops, most = pictures(lamp)
    new_base, new_stops, _ = pictures(new)
    assert np.array_equal(stops, new_stops)
    assert (after >= new_base - 1e-6).all(), "HDR is nowhere darker than the photo"
    assert after.max() <= 2**most and before.max() > 2, "the lamp still shines, and not beyond the screen"
    ratio = (after + 1 / 64) / (before + 1 / 64)
    assert ratio == pytest.approx((new_base + 1 / 64) / (old_base + 1 / 64), rel=1e-3)


def test_neighbours_keep_their_order_in_the_hdr_picture(lamp: bytes) -> None:
    before, after = (cv2.blur(rendered(data).mean(axis=2), (5, 5)) for data in (lamp, enhanced(lamp)))
    for axis in (0, 1):
        old, new = np.diff(before, axis=axis), np.diff(after, axis=axis)
        turned = (old * new < 0) & (np.abs(old) > 0.02) & (np.abs(new) > 0.02)
        assert turned.mean() < 1e-4


@pytest.mark.parametrize("order", "<>")
def test_readers_find_the_map_of_an_enhanced_photo(astronaut: np.ndarray, order: str) -> None:
    old = ultra_hdr(astronaut, np.ones((64, 64)), most=1.5, order=order, trailer=FTYP)
    new = enhanced(old)
    length = int(new.split(b'Item:Length="')[1].split(b'"')[0])
    gain_map = listed(new)[1]
    assert len(gain_map) == length and new.endswith(gain_map + FTYP)
    assert container.extras(new) == ("HDR gain map", "motion video")
    own = [content for _, content in metadata_segments(new) if content.startswith(b"MPF\0")]
    assert len(own) == 1
