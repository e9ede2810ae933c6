"""A TIFF with new pixels: every other byte stays at its offset, and the file does not grow each time."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from naturaltone.pipeline.photo import container, tiff
from naturaltone.pipeline.photo.xmp import read_stamp, stamped
from tests.pipeline.photo.files import STAMP

MAKER_NOTE = b"MAKER\0\0\0" + bytes(range(256))
PRIVATE = 65001
OLD_PIXELS = {"uint8": 7, "uint16": 0x0707}


def coded(pixels: np.ndarray, order: str = "<", **options: object) -> bytes:
    """A TIFF, coded as coding.py codes new pixels."""
    buffer = io.BytesIO()
    rgb = pixels.ndim == 3
    tifffile.imwrite(
        buffer,
        pixels,
        byteorder=order,
        photometric="rgb" if rgb else "minisblack",
        rowsperstrip=16,
        metadata=None,
        software=False,
        **options,
    )
    return buffer.getvalue()


def with_ifds(data: bytes, order: str, *, at_front: bool = False) -> bytes:
    """A TIFF with an EXIF block (maker note in it), a GPS block and a private tag, in a new first directory at its end."""
    out = bytearray(data)

    def put(block: bytes) -> int:
        out.extend(bytes(len(out) % 2))
        out.extend(block)
        return len(out) - len(block)

    def ifd(rows: list[tuple[int, int, int, int]]) -> bytes:
        table = b"".join(struct.pack(f"{order}HHII", *row) for row in sorted(rows))
        return struct.pack(f"{order}H", len(rows)) + table + bytes(4)

    note = put(MAKER_NOTE)
    date = put(b"2019:07:21 14:03:12\0")
    exif = put(ifd([(0x927C, 7, len(MAKER_NOTE), note), (0x9003, 2, 20, date)]))
    latitude = put(struct.pack(f"{order}6I", 47, 1, 22, 1, 5, 1))
    gps = put(ifd([(2, 5, 3, latitude)]))
    private = put(b"private bytes")
    first = tiff.first_directory(bytes(out), order)
    entries, following = tiff.directory(bytes(out), first, order)
    rows = [entry.raw for entry in entries]
    rows += [
        struct.pack(f"{order}HHII", *row)
        for row in [(34665, 4, 1, exif), (34853, 4, 1, gps), (PRIVATE, 7, 13, private)]
    ]
    rows += [] if 274 in tiff.by_tag(entries) else [struct.pack(f"{order}HHIHH", 274, 3, 1, 6, 0)]
    rows.sort(key=lambda row: struct.unpack(f"{order}H", row[:2]))
    table = put(struct.pack(f"{order}H", len(rows)) + b"".join(rows) + struct.pack(f"{order}I", following))
    out[4:8] = struct.pack(f"{order}I", table)
    return bytes(out)


def original(order: str = "<", *, pixels: np.ndarray | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    pixels = np.full((48, 64, 3), OLD_PIXELS["uint8"], np.uint8) if pixels is None else pixels
    tifffile.imwrite(
        buffer,
        pixels,
        byteorder=order,
        photometric="rgb" if pixels.ndim == 3 else "minisblack",
        metadata=None,
        software="Some Editor 1.0",
        datetime="2020:01:02 03:04:05",
        description="a description",
        resolution=(240, 240),
        iccprofile=b"\0\0\0\x80" + b"icc" * 50,
        extratags=[
            (700, 1, None, stamped(None, STAMP).replace(b"retouch", b"earlier"), True),
            (33723, 7, None, b"\x1c\x02\x05\0\4iptc", True),
            (34377, 1, None, b"8BIM photoshop", True),
        ],
        **options,
    )
    return with_ifds(buffer.getvalue(), order)


def tags(data: bytes) -> dict[int, tuple[bytes, bytes]]:
    """Each tag of the first directory: its entry and its value's bytes."""
    order = tiff.byte_order(data)
    entries, _ = tiff.directory(data, tiff.first_directory(data, order), order)
    return {entry.tag: (entry.raw, data[entry.offset : entry.offset + entry.size]) for entry in entries}


LAYOUTS: dict[str, dict[str, object]] = {
    "plain": {},
    "strips": {"rowsperstrip": 5},
    "deflate": {"compression": "zlib", "predictor": True},
    "tiled": {"tile": (16, 16)},
    "tiled deflate": {"tile": (16, 16), "compression": "zlib"},
    "planes": {"planarconfig": "separate"},
}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("depth", ["uint8", "uint16"])
def test_all_but_the_pixels_keeps_its_bytes_and_its_offset(order: str, layout: str, depth: str) -> None:
    rng = np.random.default_rng(3)
    pixels = np.full((48, 64, 3), OLD_PIXELS[depth], depth)
    stored = pixels.transpose(2, 0, 1) if layout == "planes" else pixels
    old = original(order, pixels=stored, **LAYOUTS[layout])
    new = rng.integers(0, 256, pixels.shape).astype(depth)
    data = container.replace_pixels(old, coded(new, order), stamp=STAMP)
    assert np.array_equal(tifffile.imread(io.BytesIO(data)), new)
    before, after = tags(old), tags(data)
    for tag in (270, 274, 282, 283, 296, 305, 306, 33723, 34377, 34675, 34665, 34853, PRIVATE):
        assert after[tag] == before[tag], tag
    assert set(before) - set(after) <= {322, 323, 324, 325, 317} and list(after) == sorted(after)
    exif = struct.unpack(f"{order}I", after[34665][0][8:])[0]
    entries, _ = tiff.directory(data, exif, order)
    assert tiff.directory(old, exif, order)[0] == entries
    note = tiff.by_tag(entries)[0x927C]
    assert data[note.offset : note.offset + note.size] == MAKER_NOTE
    assert read_stamp(container.read(data).xmp) == STAMP
    assert b"\x07" * 24 not in data, "old pixels are left in the file"


def test_a_file_that_is_rebuilt_again_and_again_does_not_grow() -> None:
    data = original(compression="zlib")
    new = coded(np.random.default_rng(1).integers(0, 256, (48, 64, 3)).astype(np.uint8))
    sizes = []
    for _ in range(4):
        data = container.replace_pixels(data, new, stamp=STAMP)
        sizes.append(len(data))
    assert sizes[0] <= len(original(compression="zlib")) + len(new) and len(set(sizes[1:])) == 1


def test_pixels_that_fit_are_written_over_the_old_ones() -> None:
    old = original()
    data = container.replace_pixels(old, coded(np.zeros((48, 64, 3), np.uint8)), stamp=None)
    assert len(data) <= len(old) + 400


def test_old_pixels_at_the_end_are_cut_off() -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.full((64, 64, 3), 7, np.uint8), photometric="rgb", metadata=None)
    new = coded(np.zeros((64, 64, 3), np.uint8), compression="zlib")
    assert len(container.replace_pixels(buffer.getvalue(), new, stamp=None)) < 2000


def test_metadata_that_a_strip_covers_is_not_overwritten() -> None:
    old = original()
    order = "<"
    start = tiff.first_directory(old, order)
    changed = bytearray(old)
    for entry in tiff.directory(old, start, order)[0]:
        if entry.tag == 273:  # the strip's offset: the strip now covers everything from the header on
            changed[entry.offset : entry.offset + 4] = struct.pack("<I", 0)
    before = tags(bytes(changed))
    data = container.replace_pixels(bytes(changed), coded(np.full((48, 64, 3), 9, np.uint8)), stamp=STAMP)
    after = tags(data)
    assert all(after[tag] == before[tag] for tag in (270, 305, 33723, 34377, 34675, PRIVATE))
    assert (tifffile.imread(io.BytesIO(data)) == 9).all()


def test_a_second_page_keeps_its_pixels_and_its_link() -> None:
    buffer = io.BytesIO()
    pages = np.stack([np.full((32, 32, 3), 7, np.uint8), np.full((32, 32, 3), 99, np.uint8)])
    tifffile.imwrite(buffer, pages, photometric="rgb", metadata=None)
    new = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    data = container.replace_pixels(buffer.getvalue(), coded(new, compression="zlib"), stamp=STAMP)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert len(file.pages) == 2
        assert np.array_equal(file.pages[0].asarray(), new) and np.array_equal(file.pages[1].asarray(), pages[1])


@pytest.mark.parametrize("meaning", [0, 2])
def test_the_fourth_channel_keeps_its_meaning(meaning: int) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (48, 64, 4)).astype(np.uint8)
    old = original(pixels=pixels, extrasamples=[meaning])
    data = container.replace_pixels(old, coded(pixels, extrasamples=["unassalpha"]), stamp=None)
    assert tags(data)[338] == tags(old)[338]


@pytest.mark.parametrize(
    ("mode", "compression"),
    [("1", "group4"), *((mode, compression) for mode in "1LP" for compression in ("raw", "tiff_lzw", "packbits"))],
)
def test_a_scan_of_other_depth_or_with_a_palette_can_get_plain_pixels(mode: str, compression: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64)).astype(np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", compression=compression, dpi=(300, 300))
    grey = np.asarray(image.convert("L"))
    new = np.repeat(grey[..., None], 3, axis=2) if mode == "P" else grey
    data = container.replace_pixels(buffer.getvalue(), coded(np.ascontiguousarray(new)), stamp=STAMP)
    reopened = Image.open(io.BytesIO(data))
    assert np.array_equal(np.asarray(reopened), new) and reopened.info["dpi"] == (300, 300)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"II+\0" + data[4:], "BigTIFF"),
        (lambda data: data[:6], "TIFF"),
        (lambda data: data[:4] + b"\xff\xff\xff\x7f" + data[8:], "outside the file"),
        (lambda data: data[:-40], "file"),
    ],
)
def test_a_broken_tiff_is_refused_and_the_fault_is_named(damage: Callable[[bytes], bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        container.replace_pixels(damage(original()), coded(np.zeros((48, 64, 3), np.uint8)), stamp=STAMP)


def test_directories_that_form_a_loop_are_refused() -> None:
    data = bytearray(original())
    first = tiff.first_directory(data, "<")
    count = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    with pytest.raises(ValueError, match="loop"):
        container.replace_pixels(bytes(data), coded(np.zeros((48, 64, 3), np.uint8)), stamp=None)


@pytest.mark.parametrize("new", [(np.zeros((64, 48, 3), np.uint8), "<"), (np.zeros((48, 64, 3), np.uint8), ">")])
def test_pixels_of_another_size_or_byte_order_are_refused(new: tuple[np.ndarray, str]) -> None:
    with pytest.raises(ValueError, match="the new pixels are"):
        container.replace_pixels(original(), coded(*new), stamp=None)


SMALL = {order: original(order, pixels=np.full((16, 16, 3), 7, np.uint8)) for order in "<>"}
SMALL_NEW = {order: coded(np.full((16, 16, 3), 9, np.uint8), order) for order in "<>"}


@settings(max_examples=300)
@given(data=st.data(), order=st.sampled_from("<>"))
def test_a_damaged_tiff_raises_value_error_or_gets_its_pixels(data: st.DataObject, order: str) -> None:
    old = bytearray(SMALL[order])
    if data.draw(st.booleans()):
        del old[data.draw(st.integers(0, len(old))) :]
    first = tiff.first_directory(SMALL[order], order)
    offsets = st.integers(0, 8) | st.integers(first, len(SMALL[order]) - 1) | st.integers(0, len(SMALL[order]) - 1)
    for _ in range(data.draw(st.integers(0, 4))):
        offset = data.draw(offsets)
        old[offset : offset + 1] = data.draw(st.binary(min_size=1, max_size=1)) if offset < len(old) else b""
    try:
        new = container.replace_pixels(bytes(old), SMALL_NEW[order], stamp=STAMP)
    except ValueError:
        return
    finally:
        container.read(bytes(old))
    entries = tags(new)
    assert {256, 257, 273, 279, 700} <= set(entries)
    with tifffile.TiffFile(io.BytesIO(new)) as file:
        assert (file.pages[0].asarray() == 9).all()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_a_new_thumbnail_moves_nothing(order: str, prefix: bytes) -> None:
    old = b"\xff\xd8\xff" + b"o" * 97
    name = b"II*\0" if order == "<" else b"MM\0*"
    first = struct.pack(f"{order}HHHIII", 1, 0x927C, 7, 12, 100, 26)  # one entry, and the offset of the next directory
    second = struct.pack(f"{order}HHHIIHHIII", 2, 0x201, 4, 1, 138, 0x202, 4, 1, 100, 0)
    block = (name + struct.pack(f"{order}I", 8) + first + second).ljust(100, b"\0") + b"maker note 1" + bytes(26) + old
    new = b"\xff\xd8\xffnew"
    changed = tiff.with_thumbnail(prefix + block, lambda limit: new if limit == 100 else b"")
    length = block.index(struct.pack(f"{order}HHI", 0x202, 4, 1)) + 8
    expected = block[:length] + struct.pack(f"{order}I", 6) + block[length + 4 : 138] + new.ljust(100, b"\0")
    assert changed == prefix + expected
    for unfit in (b"", b"\xff\xd8\xff" + bytes(98)):
        assert tiff.with_thumbnail(prefix + block, lambda limit, unfit=unfit: unfit) == prefix + block


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda rest: b"II*\0\x08\0\0\0\1\0" + rest))
def test_an_exif_block_that_nobody_can_read_stays_as_it_is(block: bytes) -> None:
    assert tiff.with_thumbnail(block, lambda limit: b"") == block
