"""HEIF files for the container tests: coded by libheif, or put together box by box in every way that the standard allows."""

from __future__ import annotations

import functools
import io
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from naturaltone.pipeline.photo import heif, isobmff
from naturaltone.pipeline.photo.formats import HAS_HEIF
from naturaltone.pipeline.photo.hevc import Picture
from tests.pipeline.photo.files import PLAIN_XMP, exif

needs_heif = pytest.mark.skipif(not HAS_HEIF, reason="the optional extra [heif] is not installed")
HEIF = pytest.param("HEIF", marks=needs_heif)
CHROMA = {0: 420, 1: 420, 2: 422, 3: 444}
APPLE_GAIN_MAP = b"urn:com:apple:photo:2020:aux:hdrgainmap"
DEPTH = b"urn:mpeg:hevc:2015:auxid:2"
ALPHA = b"urn:mpeg:hevc:2015:auxid:1"


def scene(width: int = 96, height: int = 80, seed: int = 0) -> np.ndarray:
    """A smooth picture with an edge in it, H×W×3 uint8: what it shows survives coding, and turning it shows."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(9, 30) + y / rng.uniform(9, 30) + rng.uniform(0, 6)) for _ in range(3)]
    values = 128 + 70 * np.dstack(waves)
    values[: height // 3, : width // 4] += 40
    return np.clip(values, 0, 255).astype(np.uint8)


def heic(
    pixels: np.ndarray, *, depth: int = 8, chroma: int = 1, quality: int = 90, lossless: bool = False, **options: object
) -> bytes:
    """A HEIC of libheif. pixels: H×W×3 or H×W×4 uint8. chroma: 0 is grey, 1 is 4:2:0, 2 is 4:2:2, 3 is 4:4:4."""
    import pillow_heif

    values = pixels if chroma else np.ascontiguousarray(pixels[..., 1])
    mode = "L" if chroma == 0 else "RGBA" if pixels.shape[2] == 4 else "RGB"
    if depth > 8:
        values = (values.astype(np.uint32) * (2**depth - 1) // 255).astype(np.uint16)
        mode += f";{depth}"
    buffer = io.BytesIO()
    parameters = {"preset": "ultrafast", "chroma": CHROMA[chroma], **dict(options.pop("x265", {}))}  # type: ignore[call-overload]
    pillow_heif.encode(
        mode,
        (pixels.shape[1], pixels.shape[0]),
        np.ascontiguousarray(values).tobytes(),
        buffer,
        quality=-1 if lossless else quality,
        enc_params=parameters,
        bit_depth=depth,
        **options,
    )
    return buffer.getvalue()


def shown(data: bytes) -> np.ndarray:
    """What libheif shows of a HEIC: H×W×3 or H×W×4, or H×W for a grey one; uint8, or uint16 shifted up to 16 bits."""
    import pillow_heif

    file = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
    return np.asarray(file[file.primary_index])


def error(pixels: np.ndarray, others: np.ndarray) -> float:
    """The mean difference, in steps of 8 bits."""
    scale = 1 if pixels.dtype == np.uint8 else 257
    return float(np.abs(pixels.astype(float) - others).mean() / scale)


@functools.cache
def coded(width: int = 64, height: int = 64, seed: int = 0) -> Picture:
    """A coded picture, to be put into a file by hand."""
    file = heif.opened(heic(scene(width, height, seed)))
    return Picture(file.body(next(file.all_of(file.primary, b"hvcC"))), file.content(file.primary))


@dataclass(frozen=True)
class Part:
    """An item for `built`. refers: kind of reference, and the items to which it refers. in_meta: its bytes lie in `idat`."""

    kind: bytes
    data: bytes = b""
    properties: tuple[bytes, ...] = ()
    refers: tuple[tuple[bytes, tuple[int, ...]], ...] = ()
    content_type: bytes = b""
    is_hidden: bool = False
    in_meta: bool = False
    pieces: int = 1


@dataclass(frozen=True)
class Shape:
    """How `built` writes a file, where the standard gives a choice."""

    iloc: int = 1
    infe: int = 2
    iref: int = 0
    ipma: tuple[int, int] = (0, 0)
    iinf: int = 0
    pitm: int = 0
    has_large_mdat: bool = False
    has_open_mdat: bool = False
    meta_is_last: bool = False
    has_base: bool = False
    offset_size: int = 4
    before: tuple[bytes, ...] = ()
    after: tuple[bytes, ...] = ()
    in_meta: tuple[bytes, ...] = field(default=())


def full(kind: bytes, version: int, flags: int, content: bytes) -> bytes:
    return isobmff.made(kind, bytes([version]) + flags.to_bytes(3, "big") + content)


def size_of(width: int, height: int) -> bytes:
    return full(b"ispe", 0, 0, struct.pack(">II", width, height))


def auxiliary(name: bytes) -> bytes:
    return full(b"auxC", 0, 0, name + b"\0")


def nclx(primaries: int = 1, transfer: int = 13, matrix: int = 6, is_full: bool = True) -> bytes:
    return isobmff.made(b"colr", b"nclx" + struct.pack(">HHHB", primaries, transfer, matrix, is_full << 7))


def clap(width: int, height: int, right: int, down: int) -> bytes:
    """A crop. right, down: how far its middle lies from the middle of the picture, in halves of a pixel."""
    return isobmff.made(b"clap", struct.pack(">IIIIiIiI", width, 1, height, 1, right, 2, down, 2))


def picture(number: int = 0, *properties: bytes, width: int = 64, height: int = 64, **options: object) -> Part:
    made = coded(width, height, number)
    kept = (isobmff.made(b"hvcC", made.config), size_of(width, height), *properties)
    return Part(b"hvc1", made.data, kept, **options)  # type: ignore[arg-type]


def grid_of(rows: int, columns: int, width: int, height: int) -> bytes:
    return struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)


def exif_item(thumbnail: bytes = b"\xff\xd8\xff" + b"old" * 300) -> bytes:
    return struct.pack(">I", 6) + exif(thumbnail=thumbnail)


def built(parts: dict[int, Part], primary: int = 1, shape: Shape = Shape(), *, brand: bytes = b"") -> bytes:
    """Put a HEIF file together from its items."""
    boxes: list[bytes] = []
    rows = b""
    flags = shape.ipma[1]
    for number, part in parts.items():
        for content in part.properties:
            if content not in boxes:
                boxes.append(content)
        indices = [boxes.index(content) + 1 for content in part.properties]
        rows += number.to_bytes(4 if shape.ipma[0] else 2, "big") + bytes([len(indices)])
        rows += b"".join((0x8000 | index).to_bytes(2, "big") if flags else bytes([0x80 | index]) for index in indices)
    properties = isobmff.made(b"ipco", b"".join(boxes)) + full(
        b"ipma", *shape.ipma, struct.pack(">I", len(parts)) + rows
    )
    entries = b"".join(_entry(number, part, shape.infe) for number, part in parts.items())
    count = struct.pack(">I" if shape.iinf else ">H", len(parts))
    size = 4 if shape.iref else 2
    references = b"".join(
        isobmff.made(
            kind,
            number.to_bytes(size, "big")
            + struct.pack(">H", len(targets))
            + b"".join(target.to_bytes(size, "big") for target in targets),
        )
        for number, part in parts.items()
        for kind, targets in part.refers
    )
    inner = b"".join(part.data for part in parts.values() if part.in_meta)
    media = b"".join(part.data + b"gap" for part in parts.values() if not part.in_meta)
    head = isobmff.made(b"ftyp", b"heic\0\0\0\0mif1heic" + brand) + b"".join(shape.before)
    mdat = (
        struct.pack(">I4sQ", 1, b"mdat", len(media) + 16)
        if shape.has_large_mdat
        else struct.pack(">I4s", 0 if shape.has_open_mdat else len(media) + 8, b"mdat")
    )

    def meta(start: int) -> bytes:
        return full(
            b"meta",
            0,
            0,
            b"".join(
                [
                    full(b"hdlr", 0, 0, bytes(4) + b"pict" + bytes(13)),
                    full(b"pitm", shape.pitm, 0, primary.to_bytes(4 if shape.pitm else 2, "big")),
                    _locations(parts, start, shape),
                    full(b"iinf", shape.iinf, 0, count + entries),
                    isobmff.made(b"iprp", properties),
                    *([isobmff.made(b"idat", inner)] if inner else []),
                    *([full(b"iref", shape.iref, 0, references)] if references else []),
                    *shape.in_meta,
                ]
            ),
        )

    body = mdat + media
    if shape.meta_is_last:
        return head + body + b"".join(shape.after) + meta(len(head) + len(mdat))
    first = meta(0)
    tail = b"" if shape.has_open_mdat else b"".join(shape.after)
    return head + meta(len(head) + len(first) + len(mdat)) + body + tail


def _entry(number: int, part: Part, version: int) -> bytes:
    head = number.to_bytes(4 if version == 3 else 2, "big") + bytes(2) + part.kind + b"\0"
    if part.kind == b"mime":
        head += part.content_type + b"\0"
    return full(b"infe", version, int(part.is_hidden), head)


def _locations(parts: dict[int, Part], start: int, shape: Shape) -> bytes:
    number_size = 4 if shape.iloc == 2 else 2
    base_size = 4 if shape.has_base else 0
    content = bytes([shape.offset_size << 4 | 4, base_size << 4]) + len(parts).to_bytes(number_size, "big")
    offsets = {True: 0, False: start}
    for number, part in parts.items():
        offset = offsets[part.in_meta]
        offsets[part.in_meta] += len(part.data) + (0 if part.in_meta else len(b"gap"))
        base = offset if shape.has_base else 0
        content += number.to_bytes(number_size, "big")
        if shape.iloc:
            content += struct.pack(">H", part.in_meta)
        cuts = [len(part.data) * step // part.pieces for step in range(part.pieces + 1)]
        content += struct.pack(">H", 0) + base.to_bytes(base_size, "big") + struct.pack(">H", part.pieces)
        for first, last in itertools.pairwise(cuts):
            content += (offset - base + first).to_bytes(shape.offset_size, "big") + struct.pack(">I", last - first)
    return full(b"iloc", shape.iloc, 0, content)


def grid_file(shape: Shape = Shape(), **parts: Part) -> bytes:
    """A photo of 2×2 tiles of 64×64, of which 120×100 are shown, as item 9."""
    tiles = {number: picture(number, is_hidden=True) for number in range(1, 5)}
    photo = Part(
        b"grid",
        grid_of(2, 2, 120, 100),
        (size_of(120, 100), nclx()),
        ((b"dimg", (1, 2, 3, 4)),),
        in_meta=shape.iloc > 0,
    )
    return built({**tiles, 9: photo, **{int(name[1:]): part for name, part in parts.items()}}, 9, shape)


def phone_parts() -> dict[int, Part]:
    """What a phone writes beside its photo, which is item 1: EXIF, XMP, a thumbnail, a gain map, a depth map and mattes."""
    gain_map = picture(3, auxiliary(APPLE_GAIN_MAP), refers=((b"auxl", (1,)),))
    return {
        1: picture(0, nclx(), isobmff.made(b"irot", b"\3"), width=96, height=80),
        2: picture(2, refers=((b"thmb", (1,)),), is_hidden=True),
        3: gain_map,
        4: Part(b"mime", b"of the gain map", (), ((b"cdsc", (3,)),), b"application/rdf+xml"),
        5: Part(b"mime", PLAIN_XMP, (), ((b"cdsc", (1,)),), b"application/rdf+xml"),
        6: Part(b"Exif", exif_item(), (), ((b"cdsc", (1,)),)),
        7: picture(4, auxiliary(DEPTH), refers=((b"auxl", (1,)),)),
        8: Part(b"tmap", b"how bright", (size_of(96, 80),), ((b"dimg", (1, 3)),)),
        11: Part(b"uri ", b"vendor's own", (), ((b"cdsc", (1,)),)),
    }


def items_of(data: bytes) -> dict[int, tuple[bytes, bytes]]:
    """Kind and bytes of each item."""
    file = heif.opened(data)
    return {number: (item.kind, file.content(item)) for number, item in file.items.items() if item.location}


def top(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The boxes of a file, read independently of isobmff.py."""
    offset = 0
    while offset < len(data):
        size, kind = struct.unpack_from(">I4s", data, offset)
        size = struct.unpack_from(">Q", data, offset + 8)[0] if size == 1 else size or len(data) - offset
        yield kind, data[offset : offset + size]
        offset += size


def hdr_parts(
    values: np.ndarray,
    photo: np.ndarray,
    *properties: bytes,
    note: bytes = b"",
    tone_map: bytes = b"",
    name: bytes = APPLE_GAIN_MAP,
) -> dict[int, Part]:
    """A photo (H×W×3) as item 1, its gain map (h×w) without loss as item 2, and EXIF with a maker note, or an ISO tone map."""

    def part(pixels: np.ndarray, *more: bytes, refers: tuple[tuple[bytes, tuple[int, ...]], ...] = ()) -> Part:
        is_map = pixels.ndim == 2
        file = heif.opened(
            heic(np.dstack([pixels] * 3) if is_map else pixels, chroma=0 if is_map else 1, lossless=is_map)
        )
        size = size_of(pixels.shape[1], pixels.shape[0])
        config = isobmff.made(b"hvcC", file.body(next(file.all_of(file.primary, b"hvcC"))))
        return Part(b"hvc1", file.content(file.primary), (config, size, *more, *properties), refers, is_hidden=is_map)

    parts = {1: part(photo, nclx()), 2: part(values, auxiliary(name), refers=((b"auxl", (1,)),))}
    if note:
        head = b"MM\0*" + struct.pack(">IHHHIII", 8, 1, 0x8769, 4, 1, 26, 0)
        block = head + struct.pack(">HHHIII", 1, 0x927C, 7, len(note), 44, 0) + note
        parts[3] = Part(b"Exif", bytes(4) + block, (), ((b"cdsc", (1,)),))
    if tone_map:
        size = size_of(photo.shape[1], photo.shape[0])
        parts[4] = Part(b"tmap", b"\0" + tone_map, (size,), ((b"dimg", (1, 2)),))
    return parts


def apple_note(*numbers: tuple[int, int, int], kind: int = 10) -> bytes:
    """Apple's maker note with some rationals: tag, numerator, denominator."""
    start = 14 + 2 + 12 * len(numbers) + 4
    rows = [struct.pack(">HHII", tag, kind, 1, start + 8 * place) for place, (tag, _, _) in enumerate(numbers)]
    values = b"".join(struct.pack(">ii", above, below) for _, above, below in numbers)
    return b"Apple iOS\0\0\1MM" + struct.pack(">H", len(numbers)) + b"".join(rows) + bytes(4) + values
