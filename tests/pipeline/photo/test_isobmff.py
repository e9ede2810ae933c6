"""Boxes of the ISO base media file format, and files with some of their bytes replaced."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from naturaltone.pipeline.photo.isobmff import Box, Reader, Splice, Spliced, appended, boxes, full_box, made, top_boxes


def large(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4sQ", 1, kind, len(content) + 16) + content


def to_the_end(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 0, kind) + content


def test_boxes_of_all_three_kinds_of_lengths_are_found() -> None:
    data = made(b"ftyp", b"heic") + large(b"mdat", b"pixels") + made(b"free", b"") + to_the_end(b"meta", b"rest")
    assert top_boxes(data) == boxes(data, 0, len(data)) == [
        Box(b"ftyp", 0, 8, 12),
        Box(b"mdat", 12, 28, 34),
        Box(b"free", 34, 42, 42),
        Box(b"meta", 42, 50, 54),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "rest", [b"\0\0\0\7free", b"\0\0\0\x09free", b"junk", struct.pack(">I4sQ", 1, b"mdat", 15), b"\0\0\0\1mdat\0"]
)
def test_bytes_that_are_no_box_end_a_file_and_break_a_box(rest: bytes) -> None:
    data = made(b"ftyp", b"heic") + rest
    assert top_boxes(data) == [Box(b"ftyp", 0, 8, 12)]
    with pytest.raises(ValueError, match="box at byte 12 has an impossible length"):
        boxes(data, 0, len(data))


def test_a_million_boxes_in_a_made_up_file_do_not_fill_the_memory() -> None:
    assert len(top_boxes(made(b"free", b"") * 200_000)) == 100_000


def test_a_reader_stops_at_the_end_of_its_box() -> None:
    data = made(b"infe", b"\2\0\0\1" + b"ab\0last") + b"beyond"
    version, flags, reader = full_box(data, boxes(data, 0, 19)[0])
    assert (version, flags, reader.text(), reader.text(), reader.text()) == (2, 1, b"ab", b"last", b"")
    assert Reader(data, 0, 8).number(0) == 0
    with pytest.raises(ValueError, match="cut short"):
        reader.number(1)


TREES = st.recursive(
    st.binary(max_size=20), lambda inner: st.lists(st.tuples(st.booleans(), inner), max_size=4), max_leaves=12
)


def tree_bytes(tree: object, depth: int = 0) -> bytes:
    if isinstance(tree, bytes):
        return tree
    assert isinstance(tree, list)
    return b"".join((large if wide else made)(b"tree", tree_bytes(inner, depth + 1)) for wide, inner in tree)


def leaves(data: bytes, tree: object, start: int, end: int) -> list[tuple[int, int]]:
    if isinstance(tree, bytes):
        return [(start, end)]
    assert isinstance(tree, list)
    found = boxes(data, start, end)
    return [
        leaf for (_, inner), box in zip(tree, found, strict=True) for leaf in leaves(data, inner, box.content, box.end)
    ]


def holders(data: bytes, tree: object, start: int, end: int) -> list[Box]:
    if isinstance(tree, bytes):
        return []
    assert isinstance(tree, list)
    found = boxes(data, start, end)
    inner = [
        box
        for (_, each), outer in zip(tree, found, strict=True)
        for box in holders(data, each, outer.content, outer.end)
    ]
    return found + inner


@given(TREES.filter(lambda tree: isinstance(tree, list)), st.data())
def test_replaced_bytes_change_all_lengths_around_them_and_nothing_else(
    tree: list[object], data: st.DataObject
) -> None:
    old = tree_bytes(tree)
    spans = [span for span in leaves(old, tree, 0, len(old)) if span[0] < span[1]]
    news = data.draw(st.lists(st.none() | st.binary(max_size=30), min_size=len(spans), max_size=len(spans)))
    splices = [Splice(*span, new) for span, new in zip(spans, news, strict=True) if new is not None]
    spliced = Spliced(old, splices, holders(old, tree, 0, len(old)))
    new = spliced.written()
    waiting = [
        content
        for span, each in zip(spans, news, strict=True)
        for content in [old[slice(*span)] if each is None else each]
    ]
    found = leaves(new, tree, 0, len(new))
    assert b"".join(waiting) == b"".join(new[start:end] for start, end in found)
    for span, each in zip(spans, news, strict=True):
        if each is None:
            start = spliced.moved_range(*span)
            assert new[start : start + span[1] - span[0]] == old[slice(*span)]
    for splice in splices:
        start = spliced.start_of(splice)
        assert new[start : start + len(splice.new)] == splice.new


def test_bytes_added_to_the_end_of_a_box_do_not_enlarge_another_that_ends_there() -> None:
    old = made(b"meta", made(b"iinf", b"items"))
    (meta,) = top_boxes(old)
    (iinf,) = boxes(old, meta.content, meta.end)
    new = Spliced(old, [appended(iinf, b"more"), appended(meta, made(b"iref", b""))], [meta, iinf]).written()
    assert new == made(b"meta", made(b"iinf", b"itemsmore") + made(b"iref", b""))


def test_splices_that_would_tear_bytes_apart_are_refused() -> None:
    old = made(b"mdat", bytes(range(40)))
    (mdat,) = top_boxes(old)
    with pytest.raises(ValueError, match="two parts"):
        Spliced(old, [Splice(10, 20, b""), Splice(15, 25, b"")], [mdat])
    spliced = Spliced(old, [Splice(20, 20, b"new"), Splice(30, 34, b"same")], [mdat])
    assert spliced.moved_range(10, 20) == 10 and spliced.moved_range(20, 28) == 23 and spliced.moved_range(28, 40) == 31
    with pytest.raises(ValueError, match="two parts"):
        spliced.moved_range(10, 21)


def test_a_box_that_goes_to_the_end_of_the_file_still_does() -> None:
    old = made(b"ftyp", b"heic") + to_the_end(b"mdat", b"pixels")
    new = Spliced(old, [Splice(len(old), len(old), b"more")], top_boxes(old)).written()
    assert new == old + b"more"


def test_a_part_of_more_than_4_gib_is_refused() -> None:
    old = struct.pack(">I4s", 2**32 - 1, b"mdat") + b"pixels"
    mdat = Box(b"mdat", 0, 8, 2**32 - 1)
    with pytest.raises(ValueError, match="4 GiB"):
        Spliced(old, [Splice(10, 10, b"more")], [mdat])
