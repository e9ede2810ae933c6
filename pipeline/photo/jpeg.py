"""Put the coded pixels of one JPEG among the metadata of another."""

from __future__ import annotations

import re
from collections.abc import Callable

from naturaltone.pipeline.photo import mpf, tiff
from naturaltone.pipeline.photo.segments import (
    APP1,
    APP2,
    APP14,
    APPS,
    COM,
    EXIF,
    SIGNATURE,
    XMP,
    content_of,
    end_of,
    pack,
    read_segments,
)
from naturaltone.pipeline.photo.trailer import ISO_GAIN_MAP, is_gain_map, moved_index, read_trailer

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LEADING = ((0xE0, b"JFIF\0"), (0xE0, b"JFXX\0"), (APP1, EXIF))
_HDR_BASE, _TRUE = b"BaseRenditionIsHDR", re.compile(rb"""\s*(?:=\s*["']|>)\s*True\b""")
_ADOBE, _ADOBE_TRANSFORM, _YCBCR = b"Adobe", 11, 1


def replace_pixels(
    original: bytes,
    encoded: bytes,
    *,
    edit_xmp: Callable[[bytes | None], bytes | None],
    thumbnail: Callable[[int], bytes] | None,
    drop_extras: bool,
) -> bytes:
    """Return `original` with the tables and scans of `encoded`.

    Previews after the photo are left out, since they show the old pixels. All other bytes after it stay: gain maps, depth maps,
    videos, vendors' own. Their rows in the multi-picture index say where they are now. drop_extras: leave out all bytes after
    the photo.
    """
    segments, scan = read_segments(original)
    new_segments, new_scan = read_segments(encoded)
    trailer = read_trailer(original, segments, end_of(original, scan))
    kept = [] if drop_extras else trailer.kept
    is_colour = next(
        (encoded[s.start + 5] == 3 for s in new_segments if s.marker in _FRAMES and s.end > s.start + 5), None
    )
    if is_colour is None:
        raise ValueError("the new pixels have no frame header")
    parts: list[bytes] = []
    has_xmp, after_leading, indexes = False, 0, []
    for segment in segments:
        content = original[segment.start : segment.end]
        if segment.marker not in APPS and segment.marker != COM:
            continue
        if segment.marker == APP1 and content.startswith(XMP) and not has_xmp:
            has_xmp = True
            content = XMP + (edit_xmp(content[len(XMP) :]) or b"")
        elif segment.marker == APP1 and content.startswith(EXIF) and thumbnail:
            content = tiff.with_thumbnail(content, thumbnail)
        elif segment.marker == APP14 and content.startswith(_ADOBE) and len(content) > _ADOBE_TRANSFORM and is_colour:
            content = content[:_ADOBE_TRANSFORM] + bytes([_YCBCR]) + content[_ADOBE_TRANSFORM + 1 :]
        elif segment.marker == APP2 and content.startswith(mpf.PREFIX):
            if not kept or moved_index(original, segment, trailer, base=0, start=0) is None:
                continue
            indexes.append((len(parts), segment))
        elif segment.marker == APP2 and drop_extras and content.startswith(ISO_GAIN_MAP):
            continue
        parts.append(pack(segment.marker, content))
        if any(segment.marker == marker and content.startswith(start) for marker, start in _LEADING):
            after_leading = len(parts)
    packet = None if has_xmp else edit_xmp(None)
    if packet is not None:
        parts.insert(after_leading, pack(APP1, XMP + packet))
        indexes = [(number + (number >= after_leading), segment) for number, segment in indexes]
    tables = [
        pack(segment.marker, encoded[segment.start : segment.end])
        for segment in new_segments
        if segment.marker not in APPS and segment.marker != COM
    ]
    scans = memoryview(encoded)[new_scan : end_of(encoded, new_scan)]
    end = len(SIGNATURE) + sum(map(len, parts)) + sum(map(len, tables)) + len(scans)
    for number, segment in indexes:
        base = len(SIGNATURE) + sum(map(len, parts[:number])) + 4 + len(mpf.PREFIX)
        index = moved_index(original, segment, trailer, base=base, start=end)
        parts[number] = pack(APP2, mpf.PREFIX + (index or b""))
    after = [memoryview(original)[begin:stop] for begin, stop in kept]
    return b"".join([SIGNATURE, *parts, *tables, scans, *after])


def extras(data: bytes) -> tuple[str, ...]:
    """Name what a JPEG holds besides the photo, as `container.extras` does."""
    try:
        segments, scan = read_segments(data)
    except ValueError:
        return ()
    trailer = read_trailer(data, segments, end_of(data, scan))
    found = {
        "HDR gain map": bool(trailer.gain_maps) or is_gain_map(data, 0),
        "motion video": trailer.has_video,
        "other pictures": bool(trailer.others),
        "preview": bool(trailer.previews) and not trailer.others,
    }
    return tuple(name for name, is_there in found.items() if is_there)


def is_hdr(data: bytes) -> bool:
    """Whether a JPEG's own pixels are the HDR picture, of which a gain map makes the SDR one, by Ultra HDR 1.0."""
    # All of the file is searched: this costs less than to find the gain map, which has the words in its packet.
    start = data.find(_HDR_BASE)
    while start >= 0:
        if _TRUE.match(data, start + len(_HDR_BASE)):
            return True
        start = data.find(_HDR_BASE, start + 1)
    return False


def read(data: bytes) -> tuple[bytes | None, bytes | None]:
    """The EXIF block and the XMP packet, each None if the file has none; `ValueError` if the file is broken."""
    segments, _ = read_segments(data)
    return content_of(data, segments, APP1, EXIF), content_of(data, segments, APP1, XMP)


def frame_and_pixels(data: bytes) -> tuple[int, int]:
    """Offsets of the frame header's content and of the first coded pixels; `ValueError` if the file has none."""
    segments, scan = read_segments(data)
    frame = next((segment.start for segment in segments if segment.marker in _FRAMES), None)
    if frame is None:
        raise ValueError("the JPEG has no frame header")
    return frame, scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
