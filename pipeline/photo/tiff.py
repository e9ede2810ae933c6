"""Put new pixels into a TIFF and a new thumbnail into an EXIF block, with all other bytes kept at their offsets."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

XMP = 700

EXIF_PREFIX = b"Exif\0\0"
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_LETTERS = {1: "B", 3: "H", 4: "I", 13: "I"}
_BYTE, _SHORT, _LONG = 1, 3, 4
_MAX_DIRECTORIES = 1000
_MAX_BYTES = 2**32 - 1

_WIDTH, _HEIGHT, _BITS, _SAMPLES, _EXTRA_SAMPLES = 256, 257, 258, 277, 338
_POINTERS = (330, 34665, 34853, 40965)  # SubIFDs, EXIF, GPS and interoperability
_OLD_JPEG = (513, 514)
_PIXELS = ((273, 279), (324, 325), _OLD_JPEG)  # offsets and byte counts of strips, tiles and old-style JPEG
# These tags say how pixels are laid out and coded. The new pixels bring their own.
_LAYOUT = frozenset(
    (*range(256, 260), 262, 266, 273, *range(277, 280), 284, 292, 293, 317, 320, *range(322, 326), *range(332, 335))
) | {338, 339, 347, *range(512, 522), *range(529, 533)}
_RANGES = frozenset((280, 281, 290, 291, 301, 336, 340, 341))  # in sample values: wrong once the depth changes


@dataclass(frozen=True)
class Entry:
    """An entry of a directory: its twelve bytes (`raw`), and the offset and size in bytes of its value."""

    tag: int
    kind: int
    count: int
    raw: bytes
    offset: int
    size: int


def byte_order(block: bytes | memoryview) -> str:
    """The byte order of a TIFF structure as `struct` writes it ("<" or ">"); `ValueError` for anything else or a BigTIFF."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(block[:2]))
    if order is None or len(block) < 8:
        raise ValueError("not a TIFF structure")
    magic = struct.unpack_from(f"{order}H", block, 2)[0]
    if magic == 43:
        raise ValueError("BigTIFF is not supported")
    if magic != 42:
        raise ValueError("not a TIFF structure")
    return order


def first_directory(block: bytes | memoryview, order: str) -> int:
    """The offset of a TIFF structure's first directory."""
    return int(struct.unpack_from(f"{order}I", block, 4)[0])


def directory(block: bytes | memoryview, offset: int, order: str) -> tuple[list[Entry], int]:
    """The entries of the directory at `offset`, and the offset of the next (0 if none); `ValueError` if it is broken."""
    if not 8 <= offset <= len(block) - 2:
        raise ValueError(f"the TIFF directory at byte {offset} lies outside the file")
    count = struct.unpack_from(f"{order}H", block, offset)[0]
    end = offset + 2 + 12 * count
    if end + 4 > len(block):
        raise ValueError(f"the TIFF directory at byte {offset} runs past the end of the file")
    entries = []
    for at in range(offset + 2, end, 12):
        tag, kind, number = struct.unpack_from(f"{order}HHI", block, at)
        size = _SIZES.get(kind, 0) * number
        value = at + 8 if size <= 4 else struct.unpack_from(f"{order}I", block, at + 8)[0]
        if value + size > len(block):
            raise ValueError(f"the value of TIFF tag {tag} lies outside the file")
        entries.append(Entry(tag, kind, number, bytes(block[at : at + 12]), value, size))
    return entries, struct.unpack_from(f"{order}I", block, end)[0]


def numbers(block: bytes | memoryview, entry: Entry | None, order: str) -> tuple[int, ...]:
    """An entry's value as whole numbers; empty if there is no entry or its type is another."""
    if entry is None or entry.kind not in _LETTERS:
        return ()
    return struct.unpack_from(f"{order}{entry.count}{_LETTERS[entry.kind]}", block, entry.offset)


def by_tag(entries: Iterable[Entry]) -> dict[int, Entry]:
    """The entries by tag; the first one counts if a tag is repeated."""
    found: dict[int, Entry] = {}
    for entry in entries:
        found.setdefault(entry.tag, entry)
    return found


def with_thumbnail(exif: bytes, thumbnail: Callable[[int], bytes]) -> bytes:
    """Return the EXIF block with a new JPEG thumbnail over the old one.

    thumbnail: a function that gets the old size in bytes and returns a JPEG of at most that size, or b"" if it cannot. The
    block stays as it is if it cannot be parsed, if it has no thumbnail, or if the new one does not fit.
    """
    base = len(EXIF_PREFIX) if exif.startswith(EXIF_PREFIX) else 0
    block = memoryview(exif)[base:]
    try:
        order = byte_order(block)
        _, second = directory(block, first_directory(block, order), order)
        found = by_tag(directory(block, second, order)[0]) if second else {}
    except ValueError:  # no reader can parse such a block, so it stays as it is
        return exif
    starts, sizes = (numbers(block, found.get(tag), order) for tag in _OLD_JPEG)
    if len(starts) != 1 or len(sizes) != 1 or found[_OLD_JPEG[1]].kind not in (_SHORT, _LONG):
        return exif
    start, size = starts[0], sizes[0]
    if start + size > len(block) or bytes(block[start : start + 3]) != b"\xff\xd8\xff":
        return exif
    new = thumbnail(size)
    if not 0 < len(new) <= size:
        return exif
    # Overwrite it where it is: the offsets in maker notes are valid only while nothing moves.
    changed = bytearray(exif)
    changed[base + start : base + start + size] = new + bytes(size - len(new))
    length = found[_OLD_JPEG[1]]
    struct.pack_into(f"{order}{_LETTERS[length.kind]}", changed, base + length.offset, len(new))
    return bytes(changed)


def replace_pixels(original: bytes, encoded: bytes, *, edit_xmp: Callable[[bytes | None], bytes | None]) -> bytes:
    """Return `original` with the pixels of `encoded`, in a new first directory; all that is kept stays at its offset."""
    order = byte_order(original)
    if byte_order(encoded) != order:
        raise ValueError("the new pixels are in the other byte order")
    first = first_directory(original, order)
    entries, following = directory(original, first, order)
    new_entries, _ = directory(encoded, first_directory(encoded, order), order)
    old, new = by_tag(entries), by_tag(new_entries)
    for tag in (_WIDTH, _HEIGHT):
        if numbers(original, old.get(tag), order) != numbers(encoded, new.get(tag), order):
            raise ValueError("the new pixels are of another size")

    def value(tag: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return numbers(original, old.get(tag), order), numbers(encoded, new.get(tag), order)

    replaced = set(_LAYOUT)
    old_samples, new_samples = value(_SAMPLES)
    if _EXTRA_SAMPLES in old and old_samples == new_samples:
        replaced.remove(_EXTRA_SAMPLES)
    old_bits, new_bits = value(_BITS)
    if set(old_bits or (1,)) != set(new_bits or (1,)):
        replaced |= _RANGES
    dropped = set(replaced)
    old_xmp = _content(original, old.get(XMP))
    xmp = edit_xmp(old_xmp)
    if xmp != old_xmp:
        dropped.add(XMP)

    kept = [entry for entry in entries if entry.tag not in dropped]
    used = _used(original, order, kept, first, following)
    free = [(first, first + 6 + 12 * len(entries))]
    free += [(entry.offset, entry.offset + entry.size) for entry in entries if entry.tag in dropped and entry.size > 4]
    free += _pixel_regions(original, order, old)
    writer = _Writer(original, _without(_merged(free), used))

    parts = _pixel_regions(encoded, order, new)
    if not parts:
        raise ValueError("the new TIFF has no strips")
    view = memoryview(encoded)
    starts = [writer.put(view[start:end]) for start, end in parts]
    rows = [entry.raw for entry in kept]
    offsets = {offsets for offsets, _ in _PIXELS if offsets in new}
    for entry in new_entries:
        if entry.tag in offsets:
            rows.append(
                writer.row(order, entry.tag, _LONG, len(starts), struct.pack(f"{order}{len(starts)}I", *starts))
            )
        elif entry.tag in replaced:
            content = bytes(view[entry.offset : entry.offset + entry.size])
            rows.append(writer.row(order, entry.tag, entry.kind, entry.count, content))
    if xmp is not None and xmp != old_xmp:
        rows.append(writer.row(order, XMP, _BYTE, len(xmp), xmp))
    rows.sort(key=lambda row: struct.unpack_from(f"{order}H", row)[0])
    table = struct.pack(f"{order}H", len(rows)) + b"".join(rows) + struct.pack(f"{order}I", following)
    return writer.finished(struct.pack(f"{order}I", writer.put(table)))


def read_xmp(data: bytes) -> bytes | None:
    """The XMP packet of a TIFF, None if it has none; `ValueError` if the file is broken."""
    order = byte_order(data)
    return _content(data, by_tag(directory(data, first_directory(data, order), order)[0]).get(XMP))


class _Writer:
    """Write blocks into the free regions of a file, or at its end if no region is large enough."""

    def __init__(self, original: bytes, free: list[tuple[int, int]]) -> None:
        self._data = bytearray(original)
        self._free = free

    def put(self, block: bytes | memoryview) -> int:
        size = len(block)
        for number, (start, end) in enumerate(self._free):
            offset = start + start % 2  # word-aligned
            if offset + size <= end:
                self._data[start:offset] = bytes(offset - start)
                self._data[offset : offset + size] = block
                self._free[number] = (offset + size, end)
                return offset
        if self._free and self._free[-1][1] == len(self._data):  # the last region ends with the file, so it can grow
            start, _ = self._free.pop()
            del self._data[start:]
        self._data += bytes(len(self._data) % 2)
        offset = len(self._data)
        if offset + size > _MAX_BYTES:
            raise ValueError("the TIFF would be larger than 4 GiB, the limit of its 32-bit offsets")
        self._data += block
        return offset

    def row(self, order: str, tag: int, kind: int, count: int, content: bytes) -> bytes:
        inline = content.ljust(4, b"\0") if len(content) <= 4 else struct.pack(f"{order}I", self.put(content))
        return struct.pack(f"{order}HHI", tag, kind, count) + inline

    def finished(self, first: bytes) -> bytes:
        if self._free and self._free[-1][1] == len(self._data):
            del self._data[self._free.pop()[0] :]
        for start, end in self._free:
            self._data[start:end] = bytes(end - start)
        self._data[4:8] = first
        return bytes(self._data)


def _content(block: bytes, entry: Entry | None) -> bytes | None:
    return None if entry is None else block[entry.offset : entry.offset + entry.size]


def _pixel_regions(block: bytes, order: str, found: dict[int, Entry]) -> list[tuple[int, int]]:
    """Start and end of each strip or tile, and of an old-style JPEG."""
    regions = []
    for offsets, counts in _PIXELS:
        starts, sizes = (numbers(block, found.get(tag), order) for tag in (offsets, counts))
        if sizes and len(starts) != len(sizes):
            raise ValueError(f"the TIFF has {len(starts)} strip offsets, but {len(sizes)} strip lengths")
        regions += [(start, start + size) for start, size in zip(starts, sizes, strict=bool(sizes))]
    if any(end > len(block) for _, end in regions):
        raise ValueError("a strip of the TIFF lies outside the file")
    return regions


def _used(block: bytes, order: str, kept: list[Entry], first: int, following: int) -> list[tuple[int, int]]:
    """The regions that the kept entries and the other directories use, merged."""
    used = [(0, 8)]
    seen = {first}
    waiting = [following] if following else []
    entries = kept
    while True:
        for entry in entries:
            used.append((entry.offset, entry.offset + entry.size) if entry.size > 4 else (0, 8))
            if entry.tag in _POINTERS or entry.kind == 13:
                waiting += [offset for offset in numbers(block, entry, order) if offset]
        if not waiting:
            return _merged(used)
        offset = waiting.pop()
        if offset in seen or len(seen) > _MAX_DIRECTORIES:
            raise ValueError(f"the TIFF's directories form a loop, or there are more than {_MAX_DIRECTORIES}")
        seen.add(offset)
        entries, following = directory(block, offset, order)
        used.append((offset, offset + 6 + 12 * len(entries)))
        used += _pixel_regions(block, order, by_tag(entries))
        waiting += [following] if following else []


def _merged(regions: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(regions):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif start < end:
            merged.append((start, end))
    return merged


def _without(regions: list[tuple[int, int]], used: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The parts of `regions` outside `used`. Both lists are merged."""
    left = []
    number = 0
    for start, end in regions:
        while number < len(used) and used[number][1] <= start:
            number += 1
        at = number
        while start < end and at < len(used) and used[at][0] < end:
            if start < used[at][0]:
                left.append((start, used[at][0]))
            start = max(start, used[at][1])
            at += 1
        if start < end:
            left.append((start, end))
    return left
