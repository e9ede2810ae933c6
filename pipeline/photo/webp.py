"""Split WebP files into chunks, to put the coded pixels of one file among the metadata of another."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from naturaltone.pipeline.photo import tiff

_HEAD = 12
_PIXELS = (b"ALPH", b"VP8 ", b"VP8L")
_ANIMATION, _XMP, _EXIF, _ALPHA, _ICC = 0x02, 0x04, 0x08, 0x10, 0x20  # flags of VP8X
_LOSSY_START = b"\x9d\x01\x2a"


@dataclass(frozen=True)
class _Chunk:
    kind: bytes
    start: int  # offset of the content
    end: int


def replace_pixels(
    original: bytes,
    encoded: bytes,
    *,
    edit_xmp: Callable[[bytes | None], bytes | None],
    thumbnail: Callable[[int], bytes] | None,
) -> bytes:
    """Return `original` with the coded pixels of `encoded`, and with an extended header if metadata or opacity need one."""
    chunks, end = _chunks(original)
    new_chunks, _ = _chunks(encoded)
    if any(chunk.kind in (b"ANIM", b"ANMF") for chunk in chunks):
        raise ValueError("the WebP is an animation")
    pixels = [
        part for c in new_chunks if c.kind in _PIXELS for part in _chunk(c.kind, memoryview(encoded)[c.start : c.end])
    ]
    width, height, has_alpha = _shape(encoded, new_chunks)
    parts: list[bytes | memoryview] = []
    has_pixels, has_xmp = False, False
    present: set[bytes] = set()
    for chunk in chunks:
        if chunk.kind == b"VP8X":
            continue
        if chunk.kind in _PIXELS:
            parts += [] if has_pixels else pixels
            has_pixels = True
            continue
        content = original[chunk.start : chunk.end]
        if chunk.kind == b"EXIF" and thumbnail:
            content = tiff.with_thumbnail(content, thumbnail)
        elif chunk.kind == b"XMP " and not has_xmp:
            has_xmp = True
            content = edit_xmp(content) or b""
        present.add(chunk.kind)
        parts += _chunk(chunk.kind, content)
    if not has_pixels:
        raise ValueError("the WebP has no pixels")
    packet = None if has_xmp else edit_xmp(None)
    if packet is not None:
        present.add(b"XMP ")
        parts += _chunk(b"XMP ", packet)
    header = next((original[chunk.start : chunk.end] for chunk in chunks if chunk.kind == b"VP8X"), None)
    if header is not None or present or any(chunk.kind == b"ALPH" for chunk in new_chunks):
        flags = (header[0] if header else 0) & ~(_ANIMATION | _XMP | _EXIF | _ALPHA | _ICC)
        flags |= (_ICC if b"ICCP" in present else 0) | (_EXIF if b"EXIF" in present else 0)
        flags |= (_XMP if b"XMP " in present else 0) | (_ALPHA if has_alpha else 0)
        reserved = header[1:4] if header else bytes(3)
        sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        parts = [*_chunk(b"VP8X", bytes([flags]) + reserved + sides), *parts]
    size = 4 + sum(map(len, parts))
    if size >= 2**32:
        raise ValueError("the WebP would be larger than 4 GiB, the limit of its header")
    return b"".join([b"RIFF", struct.pack("<I", size), b"WEBP", *parts, memoryview(original)[end:]])


def is_lossless(data: bytes) -> bool:
    """Whether the pixels are coded without loss; `ValueError` if the file has none."""
    kinds = [chunk.kind for chunk in _chunks(data)[0]]
    coded = next((kind for kind in kinds if kind in (b"VP8 ", b"VP8L")), None)
    if coded is None:
        raise ValueError("the WebP has no pixels")
    return coded == b"VP8L"


def read(data: bytes) -> tuple[bytes | None, bytes | None]:
    """The EXIF block and the XMP packet."""
    chunks, _ = _chunks(data)
    exif, xmp = (next((data[c.start : c.end] for c in chunks if c.kind == kind), None) for kind in (b"EXIF", b"XMP "))
    return exif, xmp


def _chunks(data: bytes) -> tuple[list[_Chunk], int]:
    """The chunks, and the offset after the RIFF container."""
    size = struct.unpack_from("<I", data, 4)[0] if len(data) >= _HEAD else 0
    whole = 8 + size + size % 2
    # Some writers leave out the last padding byte.
    if size < 4 or 8 + size > len(data):
        raise ValueError("the WebP is cut short")
    chunks = []
    offset = _HEAD
    while offset < 8 + size:
        if offset + 8 > 8 + size:
            break  # the few bytes left cannot hold a chunk
        kind, length = struct.unpack_from("<4sI", data, offset)
        end = offset + 8 + length
        if end > 8 + size:
            raise ValueError(f"the WebP's chunk at byte {offset} runs past the end of the file")
        chunks.append(_Chunk(kind, offset + 8, end))
        offset = end + length % 2
    return chunks, min(whole, len(data))


def _chunk(kind: bytes, content: bytes | memoryview) -> list[bytes | memoryview]:
    return [kind + struct.pack("<I", len(content)), content, bytes(len(content) % 2)]


def _shape(data: bytes, chunks: list[_Chunk]) -> tuple[int, int, bool]:
    """Width, height and whether there is opacity, from the coded pixels themselves (RFC 9649 and RFC 6386, 9.1)."""
    has_alpha = any(chunk.kind == b"ALPH" for chunk in chunks)
    for chunk in chunks:
        content = data[chunk.start : min(chunk.start + 10, chunk.end)]
        if chunk.kind == b"VP8L" and len(content) >= 5:
            bits = int.from_bytes(content[1:5], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
        if chunk.kind == b"VP8 " and content[3:6] == _LOSSY_START and len(content) == 10:
            width, height = struct.unpack_from("<HH", content, 6)
            return width & 0x3FFF, height & 0x3FFF, has_alpha
    raise ValueError("the new WebP has no pixels")
