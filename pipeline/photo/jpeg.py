"""JPEG files as segments, so that new coded pixels can be put among another file's metadata."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from naturaltone.pipeline.photo import tiff, xmp

_SOI, _SOS, _EOI, _COM, _APP1, _APP2, _APP14 = 0xD8, 0xDA, 0xD9, 0xFE, 0xE1, 0xE2, 0xEE
_APPS = range(0xE0, 0xF0)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))
_SIGNATURE = b"\xff\xd8"
_END = b"\xff\xd9"

_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_MAX_XMP = 65_502  # of a packet in one segment; Adobe's XMP specification, part 3
_ICC = b"ICC_PROFILE\0"
_MPF = b"MPF\0"
_ISO_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1\0"
_LEADING = ((0xE0, b"JFIF\0"), (0xE0, b"JFXX\0"), (_APP1, _EXIF))
_ADOBE, _ADOBE_TRANSFORM, _YCBCR = b"Adobe", 11, 1
_MP_ENTRY = 0xB002
_SAMSUNG_VIDEO = b"MotionPhoto_Data"
_LARGE_THUMBNAIL = 0x01
_ZEROS = re.compile(rb"\0*")
_MAX_SEGMENTS, _MAX_PICTURES = 10_000, 100  # more than any photo has; what a made-up file may cost


@dataclass(frozen=True)
class _Segment:
    marker: int
    place: int  # of the content
    end: int


@dataclass(frozen=True)
class _Picture:
    """A picture behind the photo: its class by the multi-picture format, and where it is."""

    kind: int
    start: int
    end: int


def replace_pixels(
    original: bytes,
    encoded: bytes,
    *,
    edit_xmp: Callable[[bytes | None], bytes | None],
    thumbnail: Callable[[int], bytes] | None,
    icc: bool,
    drop_extras: bool,
) -> bytes:
    """`original` with the tables and scans of `encoded`, without the previews and the multi-picture index behind it."""
    segments, scan = _segments(original)
    new_segments, new_scan = _segments(encoded)
    is_colour = next(
        (encoded[s.place + 5] == 3 for s in new_segments if s.marker in _FRAMES and s.end > s.place + 5), None
    )
    if is_colour is None:
        raise ValueError("the new pixels have no frame header")
    parts: list[bytes] = []
    has_xmp, behind_leading = False, 0
    for segment in segments:
        content = original[segment.place : segment.end]
        if segment.marker not in _APPS and segment.marker != _COM:
            continue
        if segment.marker == _APP1 and content.startswith(_XMP) and not has_xmp:
            has_xmp = True
            content = _XMP + (edit_xmp(content[len(_XMP) :]) or b"")
        elif segment.marker == _APP1 and content.startswith(_EXIF) and thumbnail:
            content = tiff.with_thumbnail(content, thumbnail)
        elif segment.marker == _APP14 and content.startswith(_ADOBE) and len(content) > _ADOBE_TRANSFORM and is_colour:
            content = content[:_ADOBE_TRANSFORM] + bytes([_YCBCR]) + content[_ADOBE_TRANSFORM + 1 :]
        elif segment.marker == _APP2 and content.startswith(_dropped(icc, drop_extras)):
            continue
        parts.append(_segment(segment.marker, content))
        if any(segment.marker == marker and content.startswith(start) for marker, start in _LEADING):
            behind_leading = len(parts)
    packet = None if has_xmp else edit_xmp(None)
    if packet is not None:
        parts.insert(behind_leading, _segment(_APP1, _XMP + packet))
    parts += [
        _segment(segment.marker, encoded[segment.place : segment.end])
        for segment in new_segments
        if segment.marker not in _APPS and segment.marker != _COM
    ]
    new_end = _end(encoded, new_scan)
    trailer = [] if drop_extras else _trailer(original, segments, _end(original, scan))
    return b"".join([_SIGNATURE, *parts, memoryview(encoded)[new_scan:new_end], *trailer])


def extras(data: bytes) -> tuple[str, ...]:
    """What else than the photo a JPEG holds."""
    try:
        segments, scan = _segments(data)
    except ValueError:
        return ()
    end = _end(data, scan)
    packet = _content(data, segments, _APP1, _XMP) or b""
    pictures = _pictures(data, segments, end)
    gain_maps = [picture for picture in pictures if _is_gain_map(data, picture.start)]
    others = [picture.kind >> 16 for picture in pictures if picture not in gain_maps]
    found = {
        "HDR gain map": bool(gain_maps) or _is_gain_map(data, 0),
        "motion video": xmp.announces_video(packet) or _has_video(data, end),
        "other pictures": any(kind != _LARGE_THUMBNAIL for kind in others),
        "preview": bool(others) and all(kind == _LARGE_THUMBNAIL for kind in others),
    }
    return tuple(name for name, is_there in found.items() if is_there)


def read(data: bytes) -> tuple[bytes | None, bytes | None]:
    """The EXIF block and the XMP packet."""
    segments, _ = _segments(data)
    return _content(data, segments, _APP1, _EXIF), _content(data, segments, _APP1, _XMP)


def frame_and_pixels(data: bytes) -> tuple[int, int]:
    """Offsets of the frame header's content and of the first coded pixels; `ValueError` if there are none."""
    segments, scan = _segments(data)
    frame = next((segment.place for segment in segments if segment.marker in _FRAMES), None)
    if frame is None:
        raise ValueError("the JPEG has no frame header")
    return frame, scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")


def _dropped(icc: bool, drop_extras: bool) -> tuple[bytes, ...]:
    # The index of pictures holds lengths and places of the old file.
    return (_MPF, *(() if icc else (_ICC,)), *((_ISO_GAIN_MAP,) if drop_extras else ()))


def _segments(data: bytes, place: int = 0) -> tuple[list[_Segment], int]:
    """The segments of the picture at a place, up to its first scan, and where that begins."""
    if data[place : place + 2] != _SIGNATURE:
        raise ValueError("not a JPEG")
    place += 2
    segments: list[_Segment] = []
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            raise ValueError(f"the JPEG has no marker at {place}, where a segment should begin")
        marker = data[place + 1]
        if marker == 0xFF:  # fill
            place += 1
        elif marker in _ALONE:
            place += 2
        elif marker == _SOS:
            return segments, place
        elif marker < 0xC0 or marker in (_SOI, _EOI):
            raise ValueError(f"the JPEG has an impossible marker at {place}")
        else:
            length = int.from_bytes(data[place + 2 : place + 4], "big")
            end = place + 2 + length
            if length < 2 or end > len(data):
                raise ValueError(f"the JPEG's segment at {place} runs out of the file")
            segments.append(_Segment(marker, place + 4, end))
            if len(segments) > _MAX_SEGMENTS:
                raise ValueError(f"the JPEG has more than {_MAX_SEGMENTS} segments")
            place = end
    raise ValueError("the JPEG ends before its pixels")


def _segment(marker: int, content: bytes) -> bytes:
    if marker == _APP1 and content.startswith(_XMP) and len(content) > len(_XMP) + _MAX_XMP:
        raise ValueError("the XMP packet leaves no room for the note on what was done")
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _end(data: bytes, scan: int) -> int:
    """Behind the end marker of the picture whose scans begin there; the file's end if it has none."""
    # Coded pixels never hold these two bytes, and the tables between scans have no use for them.
    place = data.find(_END, scan)
    return len(data) if place < 0 else place + len(_END)


def _content(data: bytes, segments: list[_Segment], marker: int, start: bytes) -> bytes | None:
    """The rest of the first segment of a kind."""
    for segment in segments:
        if segment.marker == marker and data.startswith(start, segment.place, segment.end):
            return data[segment.place + len(start) : segment.end]
    return None


def _pictures(data: bytes, segments: list[_Segment], end: int) -> list[_Picture]:
    """The whole pictures behind the photo: those of the multi-picture index, and such as stand there without one."""
    pictures = []
    for segment in segments:
        if segment.marker == _APP2 and data.startswith(_MPF, segment.place, segment.end):
            base = segment.place + len(_MPF)
            pictures += [
                _Picture(attribute & 0xFFFFFF, base + offset, base + offset + size)
                for attribute, size, offset in _index(data[base : segment.end])
                if base + offset >= end and size and base + offset + size <= len(data)
            ]
    pictures = sorted((p for p in pictures if data.startswith(_SIGNATURE, p.start)), key=lambda picture: picture.start)
    known = {picture.start: picture for picture in pictures}
    place = end
    while len(pictures) < _MAX_PICTURES and (start := _behind_zeros(data, place)) < len(data):
        try:
            place = known[start].end if start in known else _end(data, _segments(data, start)[1])
        except ValueError:
            break
        if start not in known:
            pictures.append(_Picture(_LARGE_THUMBNAIL << 16, start, place))
    return pictures


def _behind_zeros(data: bytes, place: int) -> int:
    match = _ZEROS.match(data, place)
    return match.end() if match else place


def _index(block: bytes) -> list[tuple[int, int, int]]:
    """Attribute, size and offset of the pictures behind the first, by CIPA DC-007's index; none where it is broken."""
    try:
        order = tiff.byte_order(block)
        entries, _ = tiff.directory(block, tiff.first_directory(block, order), order)
    except ValueError:
        return []
    entry = tiff.by_tag(entries).get(_MP_ENTRY)
    if entry is None:
        return []
    rows = block[entry.place : entry.place + entry.size - entry.size % 16]
    return [row[:3] for row in struct.iter_unpack(f"{order}3I4x", rows)][1:_MAX_PICTURES]


def _is_gain_map(data: bytes, place: int) -> bool:
    try:
        segments, _ = _segments(data, place)
    except ValueError:
        return False
    packet = _content(data, segments, _APP1, _XMP)
    if packet is not None and xmp.announces_gain_map(packet):
        return True
    return _content(data, segments, _APP2, _ISO_GAIN_MAP) is not None


def _has_video(data: bytes, end: int) -> bool:
    if data.find(_SAMSUNG_VIDEO, end) >= 0:
        return True
    place = end
    while (place := data.find(b"ftyp", place)) >= 0:
        # A box of ISO/IEC 14496-12 begins with its length: that of the brands, four letters each.
        length = int.from_bytes(data[place - 4 : place], "big")
        if 12 <= length <= 1024 and length % 4 == 0 and data[place + 4 : place + 8].isascii():
            return True
        place += 4
    return False


def _trailer(data: bytes, segments: list[_Segment], end: int) -> list[memoryview]:
    """What stands behind the photo and its other pictures."""
    view = memoryview(data)
    kept, place = [], end
    for picture in sorted(_pictures(data, segments, end), key=lambda picture: picture.start):
        if picture.start > place:
            kept.append(view[place : picture.start])
        place = max(place, picture.end)
    kept.append(view[place:])
    is_padding = place > end and not any(bytes(part).strip(b"\0") for part in kept)
    return [] if is_padding else kept
