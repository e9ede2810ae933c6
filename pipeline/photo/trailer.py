"""What follows a JPEG's own picture: gain maps, depth maps, videos, previews, vendors' own, and the index of the pictures."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from naturaltone.pipeline.photo import mpf, xmp
from naturaltone.pipeline.photo.formats import SAMSUNG_VIDEO
from naturaltone.pipeline.photo.segments import APP1, APP2, SIGNATURE, XMP, Segment, content_of, end_of, read_segments

ISO_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1\0"

_ZEROS = re.compile(rb"\0*")


@dataclass(frozen=True)
class Picture:
    """A picture after the photo: its row of the multi-picture index (None if it is not listed), and its offsets."""

    row: mpf.Row | None
    start: int
    end: int


@dataclass(frozen=True)
class Trailer:
    """What follows the photo's own bytes, which end at `start`.

    gain_maps, others, previews: the pictures. kept: the ranges of bytes that stay. has_video: among them is a motion video.
    """

    start: int
    gain_maps: list[Picture]
    others: list[Picture]
    previews: list[Picture]
    kept: list[tuple[int, int]]
    has_video: bool

    def place(self, offset: int, start: int) -> int | None:
        """The new place of a byte at `offset`, if what stays begins at `start` now; None if the byte does not stay."""
        for begin, end in self.kept:
            if begin <= offset < end:
                return start + offset - begin
            start += end - begin
        return None


def read_trailer(data: bytes, segments: list[Segment], start: int) -> Trailer:
    """Find out what follows the photo, whose own bytes end at `start`."""
    packet = content_of(data, segments, APP1, XMP) or b""
    # A directory of Google's container lists what follows by its length, so all of that stays in its order.
    is_listed = xmp.lists_items(packet)
    gain_maps, others, previews = [], [], []
    for picture in _pictures(data, segments, start):
        if is_gain_map(data, picture.start):
            gain_maps.append(picture)
        elif is_listed or (picture.row and picture.row.type != mpf.LARGE_THUMBNAIL):
            others.append(picture)
        else:
            previews.append(picture)
    kept, offset = [], start
    for picture in previews:
        if picture.start > offset:
            kept.append((offset, picture.start))
        offset = max(offset, picture.end)
    kept.append((offset, len(data)))
    if previews and not any(data[begin:end].strip(b"\0") for begin, end in kept):
        kept = []  # padding between the previews
    has_video = xmp.announces_video(packet) or _has_video(data, start)
    return Trailer(start, gain_maps, others, previews, kept, has_video)


def moved_index(data: bytes, segment: Segment, trailer: Trailer, *, base: int, start: int) -> bytes | None:
    """The multi-picture index of a segment, for the new places of the pictures that stay; None if it lists none of them.

    base: the new offset of the index in the file. start: where the photo's own bytes end now. The index keeps its length.
    """
    old_base = segment.start + len(mpf.PREFIX)
    block = data[old_base : segment.end]
    rows = mpf.rows(block)
    places = [(row, trailer.place(old_base + row.offset, start)) for row in rows[1:]]
    moved = [replace(row, offset=place - base) for row, place in places if place is not None]
    if not moved:
        return None
    # The first size may count the bytes between the photo and the next picture, too.
    return mpf.with_rows(block, [replace(rows[0], size=max(0, rows[0].size + start - trailer.start)), *moved])


def _pictures(data: bytes, segments: list[Segment], end: int) -> list[Picture]:
    """The whole pictures after the photo, in order: those in the multi-picture index, and those that follow unlisted."""
    found = {}
    for segment in segments:
        if segment.marker == APP2 and data.startswith(mpf.PREFIX, segment.start, segment.end):
            base = segment.start + len(mpf.PREFIX)
            for row in mpf.rows(data[base : segment.end])[1:]:
                start, stop = base + row.offset, base + row.offset + row.size
                if end <= start < stop <= len(data) and data.startswith(SIGNATURE, start):
                    found[start] = Picture(row, start, stop)
    after = end
    while len(found) < mpf.MAX_PICTURES and (start := _skip_zeros(data, after)) < len(data):
        try:
            after = found[start].end if start in found else end_of(data, read_segments(data, start)[1])
        except ValueError:
            break
        found.setdefault(start, Picture(None, start, after))
    return [found[start] for start in sorted(found)]


def _skip_zeros(data: bytes, offset: int) -> int:
    match = _ZEROS.match(data, offset)
    return match.end() if match else offset


def is_gain_map(data: bytes, offset: int) -> bool:
    """Whether the JPEG at `offset` says that it is a gain map, or that it has one."""
    try:
        segments, _ = read_segments(data, offset)
    except ValueError:
        return False
    packet = content_of(data, segments, APP1, XMP)
    if packet is not None and xmp.announces_gain_map(packet):
        return True
    return content_of(data, segments, APP2, ISO_GAIN_MAP) is not None


def _has_video(data: bytes, end: int) -> bool:
    if data.find(SAMSUNG_VIDEO, end) >= 0:
        return True
    offset = end
    while (offset := data.find(b"ftyp", offset)) >= 0:
        # A box of ISO/IEC 14496-12 starts with its length. This box lists brands of four letters each.
        length = int.from_bytes(data[offset - 4 : offset], "big")
        if 12 <= length <= 1024 and length % 4 == 0 and data[offset + 4 : offset + 8].isascii():
            return True
        offset += 4
    return False
