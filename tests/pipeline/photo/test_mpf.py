"""The index of pictures is read, and changed in place, in both byte orders."""

from __future__ import annotations

from dataclasses import replace

import pytest

from naturaltone.pipeline.photo import mpf
from tests.pipeline.photo.files import PREVIEW
from tests.pipeline.photo.files import mpf as indexed


def index_of(data: bytes) -> bytes:
    place = data.index(mpf.PREFIX) + len(mpf.PREFIX)
    return data[place : place - 6 + int.from_bytes(data[place - 6 : place - 4], "big")]


@pytest.mark.parametrize("order", "<>")
def test_rows_are_changed_in_place_and_fewer_rows_leave_no_old_offset_behind(order: str) -> None:
    block = index_of(indexed([0x010001, 0x020002, 0], [PREVIEW] * 3, order=order))
    own, first, second, third = mpf.rows(block)
    assert [row.type for row in (own, first, second, third)] == [3, mpf.LARGE_THUMBNAIL, 2, 0]
    assert mpf.with_rows(block, [own, first, second, third]) == block
    moved = replace(third, offset=77, size=5)
    changed = mpf.with_rows(block, [own, moved])
    assert mpf.rows(changed) == [own, moved] and len(changed) == len(block)
    assert not changed.rstrip(b"\0").endswith(block.rstrip(b"\0")[-8:])


def test_a_broken_index_lists_nothing() -> None:
    block = index_of(indexed([0], [PREVIEW]))
    for length in range(len(block)):
        assert len(mpf.rows(block[:length])) <= 2
    assert mpf.rows(b"") == mpf.rows(b"II*\0" + bytes(4)) == mpf.rows(bytes(100)) == []


def test_the_index_of_a_pair_is_read_as_it_was_written() -> None:
    photo, other = mpf.rows(mpf.pair(1000, 200, 900))
    assert (photo.type, photo.size, photo.offset) == (3, 1000, 0)
    assert (other.attribute, other.size, other.offset) == (0, 200, 900)
