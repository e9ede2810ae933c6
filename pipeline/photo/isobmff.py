"""Split files of the ISO base media file format (ISO/IEC 14496-12) into boxes, and change some bytes in them."""

from __future__ import annotations

import bisect
import itertools
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

_LARGE, _TO_THE_END = 1, 0  # sizes with a meaning of their own
_MAX_BOXES = 100_000  # more than any photo has; it bounds the cost of a made-up file


@dataclass(frozen=True)
class Box:
    """A box: its four-letter kind, and the offsets of its header, its content and its end."""

    kind: bytes
    start: int
    content: int
    end: int


@dataclass(frozen=True)
class Splice:
    """The bytes from `start` to `end` of a file are replaced by `new`.

    holder: the box to whose end `new` is added, if `start` and `end` are this end. Other boxes may end there too.
    """

    start: int
    end: int
    new: bytes
    holder: Box | None = None


@dataclass
class Reader:
    """Reads numbers and texts from `offset` on; `ValueError` at `end`."""

    data: bytes
    offset: int
    end: int
    whole: int = field(init=False)

    def __post_init__(self) -> None:
        self.whole = self.offset

    def number(self, size: int) -> int:
        """A number of `size` bytes; 0 if `size` is 0."""
        return int.from_bytes(self.raw(size), "big")

    def raw(self, size: int) -> bytes:
        if self.offset + size > self.end:
            raise ValueError(f"the box with its content at byte {self.whole} is cut short")
        self.offset += size
        return self.data[self.offset - size : self.offset]

    def text(self) -> bytes:
        """The bytes up to the next zero, which is passed over; a text may also end with its box."""
        found = self.data.find(b"\0", self.offset, self.end)
        stop = self.end if found < 0 else found
        text, self.offset = self.data[self.offset : stop], min(stop + 1, self.end)
        return text


def boxes(data: bytes, start: int, end: int) -> list[Box]:
    """The boxes between two offsets; `ValueError` if they do not fill this range."""
    found, rest = _boxes(data, start, end)
    if rest != end:
        raise ValueError(f"the box at byte {rest} has an impossible length")
    return found


def top_boxes(data: bytes) -> list[Box]:
    """The boxes of a file, up to the first bytes that are no box."""
    return _boxes(data, 0, len(data))[0]


def _boxes(data: bytes, start: int, end: int) -> tuple[list[Box], int]:
    found: list[Box] = []
    while start + 8 <= end and len(found) < _MAX_BOXES:
        size, kind = struct.unpack_from(">I4s", data, start)
        content = start + 8
        if size == _LARGE and content + 8 <= end:
            size = struct.unpack_from(">Q", data, content)[0]
            content += 8
        elif size == _TO_THE_END:
            size = end - start
        if start + size > end or start + size < content:
            break
        found.append(Box(kind, start, content, start + size))
        start += size
    return found, start


def full_box(data: bytes, box: Box) -> tuple[int, int, Reader]:
    """Version, flags and a reader of the rest of a box that starts with them."""
    reader = Reader(data, box.content, box.end)
    return reader.number(1), reader.number(3), reader


def made(kind: bytes, content: bytes) -> bytes:
    """A new box."""
    return struct.pack(">I4s", len(content) + 8, kind) + content


def appended(holder: Box, new: bytes) -> Splice:
    """The splice that adds bytes to the end of a box."""
    return Splice(holder.end, holder.end, new, holder)


class Spliced:
    """A file with some of its bytes replaced: where everything is then, and the bytes.

    `holders` are the boxes that may hold a splice. The lengths in their headers are changed too. `ValueError` if two splices
    overlap.
    """

    def __init__(self, original: bytes, splices: Iterable[Splice], holders: Iterable[Box]) -> None:
        splices = list(splices)
        headers = [header for holder in holders if (header := _resized(original, holder, splices))]
        self._original = original
        self._splices = sorted([*splices, *headers], key=lambda splice: (splice.start, splice.end))
        for before, after in itertools.pairwise(self._splices):
            if before.end > after.start:
                raise ValueError(f"the bytes at {after.start} belong to two parts of the file")
        growth = (len(splice.new) - (splice.end - splice.start) for splice in self._splices)
        self._shifts = [0, *itertools.accumulate(growth)]
        self._starts = [splice.start for splice in self._splices]
        self._ends = [splice.end for splice in self._splices]

    def moved(self, offset: int) -> int:
        """The new offset of a byte that is not replaced."""
        return offset + self._shifts[bisect.bisect_right(self._ends, offset)]

    def moved_range(self, start: int, end: int) -> int:
        """The new offset of some bytes that stay together; `ValueError` if bytes are inserted or cut among them."""
        first = self.moved(start)
        if start < end and self._shifts[bisect.bisect_left(self._starts, end)] != first - start:
            raise ValueError(f"the bytes at {start} belong to two parts of the file")
        return first

    def start_of(self, splice: Splice) -> int:
        """The new offset of a splice's bytes."""
        number = next(number for number, each in enumerate(self._splices) if each is splice)
        return splice.start + self._shifts[number]

    def written(self) -> bytes:
        view, offset = memoryview(self._original), 0
        parts: list[bytes | memoryview] = []
        for splice in self._splices:
            parts += [view[offset : splice.start], splice.new]
            offset = splice.end
        return b"".join([*parts, view[offset:]])


def _resized(data: bytes, holder: Box, splices: list[Splice]) -> Splice | None:
    """The splice that changes a box's length; None if the length stays or the box just goes to the file's end."""
    inside = [
        splice
        for splice in splices
        if holder.content <= (splice.holder.content if splice.holder else splice.start) and splice.end <= holder.end
    ]
    growth = sum(len(splice.new) - (splice.end - splice.start) for splice in inside)
    size = holder.end - holder.start + growth
    field = struct.unpack_from(">I", data, holder.start)[0]
    if growth == 0 or field == _TO_THE_END:
        return None
    if field == _LARGE:
        return Splice(holder.start + 8, holder.start + 16, struct.pack(">Q", size))
    if size >= 2**32:
        raise ValueError("a part of the file would be larger than 4 GiB, the limit of its header")
    return Splice(holder.start, holder.start + 4, struct.pack(">I", size))
