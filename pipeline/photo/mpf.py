"""The index of the multi-picture format (CIPA DC-007): which pictures follow a JPEG's own, and where they are."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from naturaltone.pipeline.photo import tiff

PREFIX = b"MPF\0"

LARGE_THUMBNAIL = 0x01  # type of a preview, whose size may be that of the photo
MAX_PICTURES = 100  # more than any photo has; it bounds the cost of a made-up file

_COUNT, _ENTRIES = 0xB001, 0xB002
_ROW_BYTES = 16
_PHOTO = 0x030000


@dataclass(frozen=True)
class Row:
    """A picture in the index.

    attribute: its type and flags. size: in bytes. offset: from the start of the index; 0 for the first picture, the JPEG's own.
    dependents: numbers of the pictures that it needs, as they are in the file.
    """

    attribute: int
    size: int
    offset: int
    dependents: bytes

    @property
    def type(self) -> int:
        """What the picture is for: `LARGE_THUMBNAIL`, 2 for panorama, stereo and others, 3 for the photo, 0 if undefined."""
        return (self.attribute & 0xFFFFFF) >> 16


def rows(block: bytes) -> list[Row]:
    """All pictures of an index, the JPEG's own first; empty if the index is broken. block: the segment without its prefix."""
    try:
        order, found = _entries(block)
    except ValueError:
        return []
    entry = found.get(_ENTRIES)
    if entry is None:
        return []
    table = block[entry.offset : entry.offset + entry.size - entry.size % _ROW_BYTES]
    return [Row(*row) for row in struct.iter_unpack(f"{order}3I4s", table)][:MAX_PICTURES]


def with_rows(block: bytes, kept: Sequence[Row]) -> bytes:
    """The index with these rows instead of its own, in the same number of bytes. kept: at most as many rows as before."""
    order, found = _entries(block)
    table, changed = found[_ENTRIES], bytearray(block)
    packed = b"".join(struct.pack(f"{order}3I4s", row.attribute, row.size, row.offset, row.dependents) for row in kept)
    changed[table.offset : table.offset + table.size] = packed.ljust(table.size, b"\0")
    if table.size != len(packed):
        struct.pack_into(f"{order}I", changed, _place(block, table) + 4, len(packed))
        if count := found.get(_COUNT):
            struct.pack_into(f"{order}I", changed, count.offset, len(kept))
    return bytes(changed)


def pair(first: int, second: int, offset: int) -> bytes:
    """The index of a photo and a picture of no type named here that follows it: their sizes, and the second's offset."""
    entries = struct.pack(">HHI4sHHIIHHIII", 0xB000, 7, 4, b"0100", _COUNT, 4, 1, 2, _ENTRIES, 7, 2 * _ROW_BYTES, 50, 0)
    return b"MM\0*" + struct.pack(">IH", 8, 3) + entries + struct.pack(">7I4x", _PHOTO, first, 0, 0, 0, second, offset)


def _entries(block: bytes) -> tuple[str, dict[int, tiff.Entry]]:
    order = tiff.byte_order(block)
    entries, _ = tiff.directory(block, tiff.first_directory(block, order), order)
    return order, tiff.by_tag(entries)


def _place(block: bytes, entry: tiff.Entry) -> int:
    """The offset of an entry's twelve bytes."""
    return block.index(entry.raw, tiff.first_directory(block, tiff.byte_order(block)))
