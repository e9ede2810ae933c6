"""HEIF files taken apart: items, properties, references, EXIF and XMP."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from naturaltone.pipeline.photo import container, heif
from naturaltone.pipeline.photo.isobmff import made
from tests.pipeline.photo.files import FTYP, MOTION_XMP, PLAIN_XMP, exif
from tests.pipeline.photo.heif_files import (
    ALPHA,
    APPLE_GAIN_MAP,
    DEPTH,
    Part,
    Shape,
    auxiliary,
    built,
    exif_item,
    full,
    grid_file,
    heic,
    items_of,
    needs_heif,
    phone_parts,
    picture,
    scene,
    size_of,
)

pytestmark = needs_heif
SHAPES = {
    "plain": Shape(),
    "old": Shape(iloc=0, has_base=True),
    "new": Shape(iloc=2, infe=3, iref=1, ipma=(1, 1), iinf=1, pitm=1),
    "wide": Shape(offset_size=8, has_large_mdat=True, ipma=(0, 1)),
    "open": Shape(has_open_mdat=True),
    "meta last": Shape(meta_is_last=True, after=(made(b"free", b"room"),)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_version_of_the_boxes_says_the_same(shape: str) -> None:
    parts = phone_parts()
    data = built(parts, 1, SHAPES[shape])
    file = heif.opened(data)
    assert file.primary.number == 1 and file.primary.kind == b"hvc1"
    assert items_of(data) == {number: (part.kind, part.data) for number, part in parts.items()}
    for number, part in parts.items():
        item = file.items[number]
        bodies = [file.body(file.properties[index - 1]) for index in item.properties]
        assert bodies == [content[8:] for content in part.properties]
        assert item.is_hidden == part.is_hidden and item.content_type == part.content_type
        for kind, targets in part.refers:
            assert file.targets(kind, number) == targets
            assert all(item in file.sources(kind, target) for target in targets)


def test_a_file_of_libheif_is_read_as_libheif_wrote_it() -> None:
    data = heic(scene(), exif=exif(), xmp=PLAIN_XMP, thumbnails=[48])
    metadata = container.read(data)
    assert metadata.exif == exif()[6:] and metadata.xmp == PLAIN_XMP
    assert [item.kind for item in heif.opened(data).thumbnails()] == [b"hvc1"]


def test_exif_is_found_with_any_length_before_it() -> None:
    block = exif()
    for content in (b"\0\0\0\0" + block[6:], b"\0\0\0\6" + block, b"\0\0\0\x09any" + block):
        parts = {1: picture(), 2: Part(b"Exif", content, (), ((b"cdsc", (1,)),))}
        assert container.read(built(parts)).exif == block[6:]


def test_the_packet_of_a_gain_map_is_not_taken_for_the_photos() -> None:
    parts = phone_parts()
    assert container.read(built(parts)).xmp == PLAIN_XMP
    del parts[5]
    assert container.read(built(parts)).xmp is None
    parts[5] = Part(b"mime", b"of the file", (), (), b"application/rdf+xml")
    assert container.read(built(parts)).xmp == b"of the file"
    parts[5] = Part(b"mime", b"no packet", (), ((b"cdsc", (1,)),), b"text/plain")
    assert container.read(built(parts)).xmp is None


def other(number: int, name: bytes) -> dict[int, Part]:
    return {1: picture(), number: picture(1, auxiliary(name), refers=((b"auxl", (1,)),))}


@pytest.mark.parametrize(
    ("parts", "boxes", "expected"),
    [
        ({1: picture()}, (), ()),
        ({1: picture(), 2: picture(1, refers=((b"thmb", (1,)),))}, (), ()),
        (other(2, ALPHA), (), ()),
        (other(2, APPLE_GAIN_MAP), (), ("HDR gain map",)),
        (other(2, b"urn:com:samsung:photo:2024:aux:hdrgainmap"), (), ("HDR gain map",)),
        (other(2, DEPTH), (), ("other pictures",)),
        ({1: picture(), 2: picture(1)}, (), ("other pictures",)),
        ({1: picture(), 2: picture(1, is_hidden=True)}, (), ()),
        (
            {
                1: picture(),
                2: picture(1, is_hidden=True),
                3: Part(b"tmap", b"x", (size_of(64, 64),), ((b"dimg", (1, 2)),)),
            },
            (),
            ("HDR gain map",),
        ),
        ({1: picture()}, (made(b"mpvd", FTYP),), ("motion video",)),
        ({1: picture(), 2: Part(b"mime", MOTION_XMP, (), (), b"application/rdf+xml")}, (), ("motion video",)),
        (phone_parts(), (made(b"mpvd", FTYP),), ("HDR gain map", "motion video", "other pictures")),
    ],
)
def test_what_a_file_holds_besides_the_photo_is_named(
    parts: dict[int, Part], boxes: tuple[bytes, ...], expected: tuple[str, ...]
) -> None:
    assert container.extras(built(parts, 1, Shape(after=boxes))) == expected


def test_tiles_are_no_other_pictures() -> None:
    assert container.extras(grid_file()) == ()
    assert len(heif.opened(grid_file()).pictures(heif.opened(grid_file()).primary)) == 4


def _without_length(data: bytes, kind: bytes) -> bytes:
    """The last box of a file then goes to the file's end (ISO/IEC 14496-12, 4.2)."""
    start = data.index(kind) - 4
    return data[:start] + bytes(4) + data[start + 4 :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(12), "no meta box"),
        (built({1: picture()}, primary=2), "does not have the item"),
        (built({1: picture()})[:-500], "outside the file"),
        (built({1: picture()}).replace(b"iloc", b"xloc"), "no iloc box"),
        (built({1: picture()}).replace(b"ipco", b"xpco"), "no ipco box"),
        (2 * built({1: picture()}), "several meta boxes"),
        (built({1: picture()}, shape=Shape(in_meta=(full(b"pitm", 0, 0, b"\0\1"),))), "several pitm boxes"),
        (
            _without_length(built({1: picture()}, shape=Shape(meta_is_last=True)), b"meta"),
            "meta box does not say its length",
        ),
    ],
)
def test_a_broken_file_is_refused_and_the_fault_is_named(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        heif.opened(data)
    assert container.extras(data) == () and container.read(data).xmp is None


def test_a_made_up_number_of_items_costs_nothing() -> None:
    data = bytearray(built({1: picture()}, 1, Shape(iloc=2)))
    count = data.index(b"iloc") + 10
    assert data[count : count + 4] == b"\0\0\0\1"
    data[count : count + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(ValueError, match="more than 100000 items"):
        heif.opened(bytes(data))


def test_bytes_in_another_file_or_compressed_are_not_read() -> None:
    data = built({1: picture(), 2: Part(b"mime", b"packed", (), ((b"cdsc", (1,)),), b"application/rdf+xml\0deflate")})
    file = heif.opened(data)
    assert not file.items[2].is_plain
    with pytest.raises(ValueError, match="compressed"):
        heif.read(data)


@given(st.sampled_from(list(SHAPES)), st.integers(0, 2**32))
def test_damage_gives_a_value_error_and_nothing_else(shape: str, seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(built(phone_parts(), 1, SHAPES[shape]))
    where = data.index(b"meta")
    for _ in range(chance.randint(1, 30)):
        data[chance.randrange(where, min(len(data), where + 1500))] = chance.randrange(256)
    for look in (heif.opened, heif.read):
        with contextlib.suppress(ValueError):
            look(bytes(data))
    container.extras(bytes(data))


def test_an_exif_item_is_made_as_phones_make_it() -> None:
    assert exif_item()[4:10] == b"Exif\0\0" and heif.exif_start(exif_item()) == 10
