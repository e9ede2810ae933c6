"""Split PNG files into chunks, to put the coded pixels of one file among the metadata of another."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from naturaltone.pipeline.photo import tiff
from naturaltone.pipeline.photo.formats import HDR_CURVES

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_DEPTH = 24  # offset of the bit depth in the file; the header is always the first chunk

_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_OF_LAYOUT = (b"bKGD", b"hIST", b"sBIT")  # their content depends on the bit depth or the palette
_OFFSETS = b"iDOT"  # Apple's: the offsets of the two halves of the old pixels
_XMP = b"XML:com.adobe.xmp\0"
_MAX_XMP = 2**26  # bytes; a small compressed packet could unpack to any size


@dataclass(frozen=True)
class _Chunk:
    kind: bytes
    start: int
    end: int


def replace_pixels(
    original: bytes,
    encoded: bytes,
    *,
    edit_xmp: Callable[[bytes | None], bytes | None],
    thumbnail: Callable[[int], bytes] | None,
) -> bytes:
    """Return `original` with the header, palette and pixels of `encoded`."""
    chunks, new_chunks = _chunks(original), _chunks(encoded)
    view, new_view = memoryview(original), memoryview(encoded)
    # The layout is the depth, the colour type and the palette.
    same_layout = _layout(original, chunks) == _layout(encoded, new_chunks)
    new_pixels = {
        kind: [new_view[chunk.start : chunk.end] for chunk in new_chunks if chunk.kind == kind] for kind in _PIXELS
    }
    if not (new_pixels[b"IHDR"] and new_pixels[b"IDAT"]):
        raise ValueError("the new PNG has no header or no pixels")
    palette = [*new_pixels[b"PLTE"], *new_pixels[b"tRNS"]]
    parts: list[bytes | memoryview] = [SIGNATURE, *new_pixels[b"IHDR"]]
    has_xmp = any(_is_xmp(original, chunk) for chunk in chunks)
    has_pixels, is_edited = False, False
    for chunk in chunks:
        if chunk.kind == b"PLTE":
            parts += palette
            palette = []
        elif chunk.kind == b"IDAT" and not has_pixels:
            packet = None if has_xmp else edit_xmp(None)
            parts += palette
            parts += [] if packet is None else [_chunk(b"iTXt", _XMP + bytes(4) + packet)]
            parts += new_pixels[b"IDAT"]
            has_pixels = True
        elif chunk.kind == b"eXIf" and thumbnail:
            content = original[chunk.start + 8 : chunk.end - 4]
            changed = tiff.with_thumbnail(content, thumbnail)
            parts.append(view[chunk.start : chunk.end] if changed == content else _chunk(b"eXIf", changed))
        elif _is_xmp(original, chunk) and not is_edited:
            is_edited = True
            parts.append(_edited(original, chunk, edit_xmp))
        elif chunk.kind not in (*_PIXELS, _OFFSETS, *(() if same_layout else _OF_LAYOUT)):
            parts.append(view[chunk.start : chunk.end])
    if not has_pixels:
        raise ValueError("the PNG has no pixels")
    return b"".join([*parts, *new_pixels[b"IEND"], view[chunks[-1].end :]])


def bit_depth(data: bytes) -> int:
    """Bits a channel, from the header."""
    return data[_DEPTH]


def is_hdr(data: bytes) -> bool:
    """Whether a cICP chunk says that the pixels mean light by a curve of `HDR_CURVES`."""
    try:
        chunks = _chunks(data)
    except ValueError:
        return False
    return any(chunk.kind == b"cICP" and data[chunk.start + 9] in HDR_CURVES for chunk in chunks)


def read(data: bytes) -> tuple[bytes | None, bytes | None]:
    """The EXIF block and the XMP packet, each None if the file has none; `ValueError` if the file is broken."""
    chunks = _chunks(data)
    exif = next((data[chunk.start + 8 : chunk.end - 4] for chunk in chunks if chunk.kind == b"eXIf"), None)
    xmp = next((_packet(data, chunk)[1] for chunk in chunks if _is_xmp(data, chunk)), None)
    return exif, xmp


def _chunks(data: bytes) -> list[_Chunk]:
    """All chunks up to the end chunk."""
    chunks = []
    offset = len(SIGNATURE)
    while offset + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, offset)
        end = offset + 12 + length
        if end > len(data):
            raise ValueError(f"the PNG's chunk at byte {offset} runs past the end of the file")
        chunks.append(_Chunk(kind, offset, end))
        if kind == b"IEND":
            return chunks
        offset = end
    raise ValueError("the PNG has no end chunk")


def _layout(data: bytes, chunks: list[_Chunk]) -> tuple[bytes, list[bytes]]:
    palette = [data[chunk.start : chunk.end] for chunk in chunks if chunk.kind == b"PLTE"]
    return data[_DEPTH : _DEPTH + 2], palette  # depth and colour type


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


def _is_xmp(data: bytes, chunk: _Chunk) -> bool:
    return chunk.kind == b"iTXt" and data.startswith(_XMP, chunk.start + 8, chunk.end - 4)


def _packet(data: bytes, chunk: _Chunk) -> tuple[bytes, bytes]:
    """The bytes before a packet in its chunk, and the packet, unpacked."""
    content = data[chunk.start + 8 : chunk.end - 4]
    flags = len(_XMP)
    language = content.find(b"\0", flags + 2)
    keyword = content.find(b"\0", language + 1)
    if language < 0 or keyword < 0:
        raise ValueError("the PNG's XMP chunk is cut short")
    head, packet = content[: keyword + 1], content[keyword + 1 :]
    if head[flags] == 0:
        return head, packet
    decompressor = zlib.decompressobj()
    try:
        unpacked = decompressor.decompress(packet, _MAX_XMP)
    except zlib.error as error:
        raise ValueError(f"the PNG's XMP chunk cannot be unpacked ({error})") from None
    if not decompressor.eof:
        raise ValueError("the PNG's XMP chunk is cut short, or too large")
    return head, unpacked


def _edited(data: bytes, chunk: _Chunk, edit_xmp: Callable[[bytes | None], bytes | None]) -> bytes | memoryview:
    head, packet = _packet(data, chunk)
    edited = edit_xmp(packet)
    if edited is None or edited == packet:
        return memoryview(data)[chunk.start : chunk.end]
    return _chunk(b"iTXt", head + (zlib.compress(edited) if head[len(_XMP)] else edited))
