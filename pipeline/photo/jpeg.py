"""Split JPEG files into segments, to put the coded pixels of one file among the metadata of another."""

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
_MAX_XMP = 65_502  # bytes of a packet in one segment (Adobe's XMP specification, part 3)
_MPF = b"MPF\0"
_ISO_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1\0"
_LEADING = ((0xE0, b"JFIF\0"), (0xE0, b"JFXX\0"), (_APP1, _EXIF))
_ADOBE, _ADOBE_TRANSFORM, _YCBCR = b"Adobe", 11, 1
_MP_ENTRY = 0xB002
_SAMSUNG_VIDEO = b"MotionPhoto_Data"
_LARGE_THUMBNAIL = 0x01
_ZEROS = re.compile(rb"\0*")
_MAX_SEGMENTS, _MAX_PICTURES = 10_000, 100  # more than any photo has; they bound the cost of a made-up file


@dataclass(frozen=True)
class _Segment:
    marker: int
    start: int  # offset of the content
    end: int


@dataclass(frozen=True)
class _Picture:
    """A picture after the photo: its type in the multi-picture format, and its offsets."""

    kind: int
    start: int
    end: int


def replace_pixels(
    original: bytes,
    encoded: bytes,
    *,
    edit_xmp: Callable[[bytes | None], bytes | None],
    thumbnail: Callable[[int], bytes] | None,
    drop_extras: bool,
) -> bytes:
    """Return `original` with the tables and scans of `encoded`.

    The pictures after the photo and their multi-picture index are left out, since they fit only the old pixels.
    """
    segments, scan = _segments(original)
    new_segments, new_scan = _segments(encoded)
    is_colour = next(
        (encoded[s.start + 5] == 3 for s in new_segments if s.marker in _FRAMES and s.end > s.start + 5), None
    )
    if is_colour is None:
        raise ValueError("the new pixels have no frame header")
    parts: list[bytes] = []
    has_xmp, after_leading = False, 0
    for segment in segments:
        content = original[segment.start : segment.end]
        if segment.marker not in _APPS and segment.marker != _COM:
            continue
        if segment.marker == _APP1 and content.startswith(_XMP) and not has_xmp:
            has_xmp = True
            content = _XMP + (edit_xmp(content[len(_XMP) :]) or b"")
        elif segment.marker == _APP1 and content.startswith(_EXIF) and thumbnail:
            content = tiff.with_thumbnail(content, thumbnail)
        elif segment.marker == _APP14 and content.startswith(_ADOBE) and len(content) > _ADOBE_TRANSFORM and is_colour:
            content = content[:_ADOBE_TRANSFORM] + bytes([_YCBCR]) + content[_ADOBE_TRANSFORM + 1 :]
        elif segment.marker == _APP2 and content.startswith(_dropped(drop_extras)):
            continue
        parts.append(_segment(segment.marker, content))
        if any(segment.marker == marker and content.startswith(start) for marker, start in _LEADING):
            after_leading = len(parts)
    packet = None if has_xmp else edit_xmp(None)
    if packet is not None:
        parts.insert(after_leading, _segment(_APP1, _XMP + packet))
    parts += [
        _segment(segment.marker, encoded[segment.start : segment.end])
        for segment in new_segments
        if segment.marker not in _APPS and segment.marker != _COM
    ]
    new_end = _end(encoded, new_scan)
    trailer = [] if drop_extras else _trailer(original, segments, _end(original, scan))
    return b"".join([_SIGNATURE, *parts, memoryview(encoded)[new_scan:new_end], *trailer])


def extras(data: bytes) -> tuple[str, ...]:
    """Name what a JPEG holds besides the photo, as `container.extras` does."""
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
    """The EXIF block and the XMP packet, each None if the file has none; `ValueError` if the file is broken."""
    segments, _ = _segments(data)
    return _content(data, segments, _APP1, _EXIF), _content(data, segments, _APP1, _XMP)


def frame_and_pixels(data: bytes) -> tuple[int, int]:
    """Offsets of the frame header's content and of the first coded pixels; `ValueError` if the file has none."""
    segments, scan = _segments(data)
    frame = next((segment.start for segment in segments if segment.marker in _FRAMES), None)
    if frame is None:
        raise ValueError("the JPEG has no frame header")
    return frame, scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")


def _dropped(drop_extras: bool) -> tuple[bytes, ...]:
    # The multi-picture index holds lengths and offsets of the old file.
    return (_MPF, *((_ISO_GAIN_MAP,) if drop_extras else ()))


def _segments(data: bytes, offset: int = 0) -> tuple[list[_Segment], int]:
    """The segments before the first scan of the picture at `offset`, and the offset of that scan."""
    if data[offset : offset + 2] != _SIGNATURE:
        raise ValueError("not a JPEG")
    offset += 2
    segments: list[_Segment] = []
    while offset + 4 <= len(data):
        if data[offset] != 0xFF:
            raise ValueError(f"the JPEG has no marker at byte {offset}, where a segment should start")
        marker = data[offset + 1]
        if marker == 0xFF:  # fill
            offset += 1
        elif marker in _ALONE:
            offset += 2
        elif marker == _SOS:
            return segments, offset
        elif marker < 0xC0 or marker in (_SOI, _EOI):
            raise ValueError(f"the JPEG has an impossible marker at byte {offset}")
        else:
            length = int.from_bytes(data[offset + 2 : offset + 4], "big")
            end = offset + 2 + length
            if length < 2 or end > len(data):
                raise ValueError(f"the JPEG's segment at byte {offset} runs past the end of the file")
            segments.append(_Segment(marker, offset + 4, end))
            if len(segments) > _MAX_SEGMENTS:
                raise ValueError(f"the JPEG has more than {_MAX_SEGMENTS} segments")
            offset = end
    raise ValueError("the JPEG ends before its pixels")


def _segment(marker: int, content: bytes) -> bytes:
    if marker == _APP1 and content.startswith(_XMP) and len(content) > len(_XMP) + _MAX_XMP:
        raise ValueError("the XMP packet leaves no room for naturaltone's note")
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _end(data: bytes, scan: int) -> int:
    """The offset after the end marker of the picture with its first scan at `scan`; the file's end if it has none."""
    # Coded pixels never contain these two bytes, and the tables between scans do not use them.
    offset = data.find(_END, scan)
    return len(data) if offset < 0 else offset + len(_END)


def _content(data: bytes, segments: list[_Segment], marker: int, start: bytes) -> bytes | None:
    """The rest of the first segment with this marker and a content that begins with `start`; None if there is none."""
    for segment in segments:
        if segment.marker == marker and data.startswith(start, segment.start, segment.end):
            return data[segment.start + len(start) : segment.end]
    return None


def _pictures(data: bytes, segments: list[_Segment], end: int) -> list[_Picture]:
    """The whole pictures after the photo: those that the multi-picture index lists, and those that follow unlisted."""
    pictures = []
    for segment in segments:
        if segment.marker == _APP2 and data.startswith(_MPF, segment.start, segment.end):
            base = segment.start + len(_MPF)
            pictures += [
                _Picture(attribute & 0xFFFFFF, base + offset, base + offset + size)
                for attribute, size, offset in _index(data[base : segment.end])
                if base + offset >= end and size and base + offset + size <= len(data)
            ]
    pictures = sorted((p for p in pictures if data.startswith(_SIGNATURE, p.start)), key=lambda picture: picture.start)
    known = {picture.start: picture for picture in pictures}
    after = end
    while len(pictures) < _MAX_PICTURES and (start := _skip_zeros(data, after)) < len(data):
        try:
            after = known[start].end if start in known else _end(data, _segments(data, start)[1])
        except ValueError:
            break
        if start not in known:
            pictures.append(_Picture(_LARGE_THUMBNAIL << 16, start, after))
    return pictures


def _skip_zeros(data: bytes, offset: int) -> int:
    match = _ZEROS.match(data, offset)
    return match.end() if match else offset


def _index(block: bytes) -> list[tuple[int, int, int]]:
    """Attribute, size and offset of each picture after the first, from the index of CIPA DC-007; empty if it is broken."""
    try:
        order = tiff.byte_order(block)
        entries, _ = tiff.directory(block, tiff.first_directory(block, order), order)
    except ValueError:
        return []
    entry = tiff.by_tag(entries).get(_MP_ENTRY)
    if entry is None:
        return []
    rows = block[entry.offset : entry.offset + entry.size - entry.size % 16]
    return [row[:3] for row in struct.iter_unpack(f"{order}3I4x", rows)][1:_MAX_PICTURES]


def _is_gain_map(data: bytes, offset: int) -> bool:
    try:
        segments, _ = _segments(data, offset)
    except ValueError:
        return False
    packet = _content(data, segments, _APP1, _XMP)
    if packet is not None and xmp.announces_gain_map(packet):
        return True
    return _content(data, segments, _APP2, _ISO_GAIN_MAP) is not None


def _has_video(data: bytes, end: int) -> bool:
    if data.find(_SAMSUNG_VIDEO, end) >= 0:
        return True
    offset = end
    while (offset := data.find(b"ftyp", offset)) >= 0:
        # A box of ISO/IEC 14496-12 starts with its length. This box lists brands of four letters each.
        length = int.from_bytes(data[offset - 4 : offset], "big")
        if 12 <= length <= 1024 and length % 4 == 0 and data[offset + 4 : offset + 8].isascii():
            return True
        offset += 4
    return False


def _trailer(data: bytes, segments: list[_Segment], end: int) -> list[memoryview]:
    """The bytes after the photo that belong to no other picture; empty if pictures follow and the rest is padding."""
    view = memoryview(data)
    kept, offset = [], end
    for picture in sorted(_pictures(data, segments, end), key=lambda picture: picture.start):
        if picture.start > offset:
            kept.append(view[offset : picture.start])
        offset = max(offset, picture.end)
    kept.append(view[offset:])
    is_padding = offset > end and not any(bytes(part).strip(b"\0") for part in kept)
    return [] if is_padding else kept
