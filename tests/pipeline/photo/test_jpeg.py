"""A JPEG with new pixels: its segments stay byte for byte and in order."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from naturaltone.pipeline.photo import container
from naturaltone.pipeline.photo.xmp import Stamp, read_stamp, stamped
from tests.pipeline.photo.files import (
    HOLDING,
    MOTION_XMP,
    NEW,
    PLAIN_XMP,
    PREVIEW,
    RICH,
    STAMP,
    XMP,
    Segment,
    exif,
    file,
    jpeg,
    metadata_segments,
    picture,
    pixels,
    segment,
)


@pytest.mark.parametrize("kind", RICH)
@pytest.mark.parametrize("jfif", [True, False])
def test_a_jpegs_segments_stay_byte_for_byte_and_in_order(kind: str, jfif: bool) -> None:
    old = jpeg(*RICH[kind](), jfif=jfif, dpi=(240, 240))
    data = container.replace_pixels(old, NEW, stamp=None)
    assert metadata_segments(data) == metadata_segments(old)
    assert np.array_equal(pixels(data), pixels(NEW))
    marked = metadata_segments(container.replace_pixels(old, NEW, stamp=STAMP))
    packets = [content for _, content in marked if content.startswith(XMP)]
    assert len(packets) == 1 and read_stamp(packets[0][len(XMP) :]) == STAMP
    expected = [each for each in metadata_segments(old) if not each[1].startswith(XMP)]
    assert [each for each in marked if not each[1].startswith(XMP)] == expected


def test_a_new_packet_comes_after_the_segments_that_readers_expect_first() -> None:
    old = jpeg((0xE0, b"JFIF\0\1\1\1\0\xf0\0\xf0\0\0"), (0xE1, exif()), (0xED, b"Photoshop 3.0\0"))
    assert [marker for marker, _ in metadata_segments(container.replace_pixels(old, NEW, stamp=STAMP))] == [
        0xE0, 0xE1, 0xE1, 0xED,
    ]  # fmt: skip
    assert metadata_segments(container.replace_pixels(old, NEW, stamp=STAMP))[2][1].startswith(XMP)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "restart_marker_rows": 1}])
def test_any_kind_of_jpeg_can_be_put_into_any_other(mode: str, options: dict[str, object]) -> None:
    for old_mode in ("RGB", "L"):
        old = jpeg((0xFE, b"comment"), mode=old_mode, progressive=not options.get("progressive"))
        new = file(picture(mode, seed=3), "JPEG", **options)
        data = container.replace_pixels(old, new, stamp=STAMP)
        assert np.array_equal(pixels(data), pixels(new)) and metadata_segments(data)[1] == (0xFE, b"comment")


def test_an_rgb_jpeg_is_not_read_with_wrong_colours() -> None:
    adobe = b"Adobe\0\x64\0\0\0\0"
    old = jpeg((0xEE, adobe + b"\0"), (0xFE, b"comment"))
    data = container.replace_pixels(old, NEW, stamp=None)
    assert metadata_segments(data) == [(0xEE, adobe + b"\1"), (0xFE, b"comment")]
    assert np.array_equal(pixels(data), pixels(NEW))


def test_fill_bytes_between_segments_are_passed_over() -> None:
    old = jpeg((0xFE, b"comment"))
    assert metadata_segments(container.replace_pixels(old[:2] + b"\xff\xff\xff" + old[2:], NEW, stamp=None)) == [
        (0xFE, b"comment")
    ]


@pytest.mark.parametrize("order", "<>")
def test_the_thumbnail_shows_the_new_picture_and_no_offset_moves(order: str) -> None:
    old = jpeg((0xE1, exif(order)))
    limits = []

    def thumbnail(limit: int) -> bytes:
        limits.append(limit)
        return b"\xff\xd8\xffnew"

    data = container.replace_pixels(old, NEW, stamp=None, thumbnail=thumbnail)
    before, after = container.read(old).exif, container.read(data).exif
    assert before and after and limits == [903]
    length = 122 + 2 + 12 + 8
    assert after[:length] == before[:length] and after[length + 4 : 300] == before[length + 4 : 300]
    assert after[length : length + 4] == struct.pack(f"{order}I", 6)
    assert after[300:] == b"\xff\xd8\xffnew".ljust(903, b"\0")
    assert container.read(container.replace_pixels(old, NEW, stamp=None, thumbnail=lambda limit: b"")).exif == before


def test_a_note_that_does_not_fit_is_refused_rather_than_cut() -> None:
    packet = PLAIN_XMP + b" " * (65_502 - len(PLAIN_XMP))
    assert container.replace_pixels(jpeg((0xE1, XMP + packet)), NEW, stamp=None)
    with pytest.raises(ValueError, match="no room"):
        container.replace_pixels(jpeg((0xE1, XMP + packet)), NEW, stamp=STAMP)


def test_a_trailer_stays() -> None:
    trailer = b"SEFH and what a phone writes there\0\0SEFT"
    data = container.replace_pixels(jpeg(trailer=trailer), NEW, stamp=STAMP)
    assert data.endswith(b"\xff\xd9" + trailer) and container.extras(data) == ()
    assert container.replace_pixels(jpeg(trailer=trailer), NEW, stamp=STAMP, drop_extras=True).endswith(NEW[-10:])


@pytest.mark.parametrize("name", HOLDING)
def test_what_a_jpeg_holds_besides_the_photo_is_named_and_can_be_left_out(name: str) -> None:
    data, expected = HOLDING[name]
    assert Image.open(io.BytesIO(data)).size == (40, 24)
    assert container.extras(data) == expected
    plain = container.replace_pixels(data, NEW, stamp=STAMP, drop_extras=True)
    assert container.extras(plain) == () and plain.endswith(NEW[-100:])
    assert Image.open(io.BytesIO(plain)).format == "JPEG" and np.array_equal(pixels(plain), pixels(NEW))
    assert not any(content.startswith((b"MPF\0", b"urn:iso")) for _, content in metadata_segments(plain))


@pytest.mark.parametrize("name", [name for name, (_, found) in HOLDING.items() if found == ("preview",)])
def test_old_previews_go_and_the_bytes_after_them_stay(name: str) -> None:
    data = container.replace_pixels(HOLDING[name][0] + b"vendor's trailer", NEW, stamp=None)
    assert b"MPF\0" not in data and PREVIEW[-50:] not in data
    assert data.endswith(b"vendor's trailer") and container.extras(data) == ()


def test_padding_after_old_previews_goes_with_them() -> None:
    data = container.replace_pixels(HOLDING["previews of Motorola order"][0], NEW, stamp=None)
    assert data.endswith(NEW[-100:])


def test_only_the_first_of_two_packets_is_marked() -> None:
    old = jpeg((0xE1, XMP + PLAIN_XMP), (0xE1, XMP + MOTION_XMP))
    found = metadata_segments(container.replace_pixels(old, NEW, stamp=STAMP))
    assert read_stamp(found[0][1][len(XMP) :]) == STAMP and found[1] == (0xE1, XMP + MOTION_XMP)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b"\xff\xfe\0\0", "runs past the end"),
        (b"\xff\xfe\0\1", "runs past the end"),
        (b"\xff\xfe\xff\xff", "runs past the end"),
        (b"\0\0\0\0", "no marker"),
        (b"\xff\xd9\0\0", "impossible marker"),
        (b"\xff\xff\xff", "ends before"),
    ],
)
def test_a_broken_jpeg_is_refused_and_the_fault_is_named(damage: bytes, message: str) -> None:
    start = b"\xff\xd8" + segment(0xFE, b"comment")
    with pytest.raises(ValueError, match=message):
        container.replace_pixels(start + damage + (b"" if message == "ends before" else bytes(99)), NEW, stamp=STAMP)


@given(
    st.lists(
        st.tuples(st.sampled_from([0xFE, *range(0xE0, 0xF0)]), st.binary(max_size=40))
        | st.sampled_from([each for make in RICH.values() for each in make()]),
        max_size=8,
    )
)
def test_a_jpeg_with_its_own_pixels_does_not_change(segments: list[Segment]) -> None:
    old = jpeg(*segments)
    own = jpeg()
    if not any(content.startswith((b"MPF\0", b"Adobe")) for _, content in segments):
        assert container.replace_pixels(old, own, stamp=None) == old


def test_a_marked_jpeg_marked_again_has_one_mark() -> None:
    once = container.replace_pixels(jpeg((0xE1, XMP + PLAIN_XMP)), NEW, stamp=STAMP)
    second = Stamp(model="other", strength=1.0)
    assert container.read(container.replace_pixels(once, NEW, stamp=second)).xmp == stamped(PLAIN_XMP, second)
