"""The segments of a JPEG file before its coded pixels."""

from __future__ import annotations

import struct
from dataclasses import dataclass

SOI, SOS, EOI, COM, APP1, APP2, APP14 = 0xD8, 0xDA, 0xD9, 0xFE, 0xE1, 0xE2, 0xEE
APPS = range(0xE0, 0xF0)
SIGNATURE = b"\xff\xd8"
EXIF = b"Exif\0\0"
XMP = b"http://ns.adobe.com/xap/1.0/\0"

_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))
_END = b"\xff\xd9"
_MAX_XMP = 65_502  # bytes of a packet in one segment (Adobe's XMP specification, part 3)
_MAX_SEGMENTS = 10_000  # more than any photo has; it bounds the cost of a made-up file


@dataclass(frozen=True)
class Segment:
    """A segment: its marker, and the offsets of its content."""

    marker: int
    start: int
    end: int


def read_segments(data: bytes, offset: int = 0) -> tuple[list[Segment], int]:
    """The segments before the first scan of the picture at `offset`, and the offset of that scan."""
    if data[offset : offset + 2] != SIGNATURE:
        raise ValueError("not a JPEG")
    offset += 2
    segments: list[Segment] = []
    while offset + 4 <= len(data):
        if data[offset] != 0xFF:
            raise ValueError(f"the JPEG has no marker at byte {offset}, where a segment should start")
        marker = data[offset + 1]
        if marker == 0xFF:  # fill
            offset += 1
        elif marker in _ALONE:
            offset += 2
        elif marker == SOS:
            return segments, offset
        elif marker < 0xC0 or marker in (SOI, EOI):
            raise ValueError(f"the JPEG has an impossible marker at byte {offset}")
        else:
            length = int.from_bytes(data[offset + 2 : offset + 4], "big")
            end = offset + 2 + length
            if length < 2 or end > len(data):
                raise ValueError(f"the JPEG's segment at byte {offset} runs past the end of the file")
            segments.append(Segment(marker, offset + 4, end))
            if len(segments) > _MAX_SEGMENTS:
                raise ValueError(f"the JPEG has more than {_MAX_SEGMENTS} segments")
            offset = end
    raise ValueError("the JPEG ends before its pixels")


def pack(marker: int, content: bytes) -> bytes:
    """A segment as bytes; `ValueError` if an XMP packet is too long for one."""
    if marker == APP1 and content.startswith(XMP) and len(content) > len(XMP) + _MAX_XMP:
        raise ValueError("the XMP packet leaves no room for naturaltone's note")
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def end_of(data: bytes, scan: int) -> int:
    """The offset after the end marker of the picture with its first scan at `scan`; the file's end if it has none."""
    # Coded pixels never contain these two bytes, and the tables between scans do not use them.
    offset = data.find(_END, scan)
    return len(data) if offset < 0 else offset + len(_END)


def content_of(data: bytes, segments: list[Segment], marker: int, start: bytes) -> bytes | None:
    """The rest of the first segment with this marker and a content that begins with `start`; None if there is none."""
    for segment in segments:
        if segment.marker == marker and data.startswith(start, segment.start, segment.end):
            return data[segment.start + len(start) : segment.end]
    return None
