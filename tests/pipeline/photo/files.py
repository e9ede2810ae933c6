"""Photo files built by hand, with everything that cameras and programs put into them, for the container tests."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image, ImageCms

from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.pipeline.photo.xmp import Stamp

STAMP = Stamp(model="retouch@3", strength=0.8, source="12ab")
RDF = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{}</rdf:RDF></x:xmpmeta>'
PLAIN_XMP = RDF.format(
    '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="5"/>'
).encode()
GAIN_XMP = RDF.format(
    '<rdf:Description rdf:about="" xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"/>'
).encode()
APPLE_XMP = RDF.format(
    '<rdf:Description rdf:about="" xmlns:H="http://ns.apple.com/HDRGainMap/1.0/" H:HDRGainMapVersion="1"/>'
).encode()
MOTION_XMP = RDF.format(
    '<rdf:Description rdf:about="" xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MotionPhoto="1"/>'
).encode()
XMP = b"http://ns.adobe.com/xap/1.0/\0"
EXTENDED = b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 32 + struct.pack(">II", 4, 0) + b"more"
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
FTYP = struct.pack(">I", 24) + b"ftypmp42" + bytes(4) + b"mp42isom" + b"moov and the rest"
Segment = tuple[int, bytes]


def picture(mode: str = "RGB", seed: int = 0, size: tuple[int, int] = (40, 24)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 4)).astype(np.uint8), "RGBA").convert(mode)


def file(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg(*segments: Segment, trailer: bytes = b"", mode: str = "RGB", jfif: bool = False, **options: object) -> bytes:
    """A JPEG with only these segments before its own."""
    data = file(picture(mode), "JPEG", **options)
    start = 2 if jfif else 4 + int.from_bytes(data[4:6], "big")
    return data[:2] + b"".join(segment(*each) for each in segments) + data[start:] + trailer


def metadata_segments(data: bytes) -> list[Segment]:
    """All APPn and COM segments before the first scan, read independently of pipeline/photo/jpeg.py."""
    found, offset = [], 2
    while data[offset + 1] != 0xDA:
        length = int.from_bytes(data[offset + 2 : offset + 4], "big")
        if data[offset + 1] >= 0xE0:
            found.append((data[offset + 1], data[offset + 4 : offset + 2 + length]))
        offset += 2 + length
    return found


def exif(order: str = "<", thumbnail: bytes = b"\xff\xd8\xff" + b"old" * 300) -> bytes:
    """Orientation 6, a maker note with an offset in it, a GPS block and a thumbnail, all at offsets that must stay."""
    note = b"Nikon\0\2\0" + (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8) + bytes(range(64))
    offsets = {"exif": 62, "gps": 92, "second": 122, "note": 160, "latitude": 260, "thumbnail": 300}

    def ifd(rows: list[tuple[int, int, int, int]], following: int) -> bytes:
        packed = b"".join(struct.pack(f"{order}HHII", *row) for row in rows)
        return struct.pack(f"{order}H", len(rows)) + packed + struct.pack(f"{order}I", following)

    orientation = 6 if order == "<" else 6 << 16
    block = bytearray(300)
    for offset, content in (
        (0, (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)),
        (8, ifd([(274, 3, 1, orientation), (34665, 4, 1, 62), (34853, 4, 1, 92)], offsets["second"])),
        (offsets["exif"], ifd([(0x927C, 7, len(note), offsets["note"])], 0)),
        (offsets["gps"], ifd([(2, 5, 3, offsets["latitude"])], 0)),
        (offsets["second"], ifd([(0x201, 4, 1, offsets["thumbnail"]), (0x202, 4, 1, len(thumbnail))], 0)),
        (offsets["note"], note),
        (offsets["latitude"], struct.pack(f"{order}6I", 47, 1, 22, 1, 5, 1)),
    ):
        block[offset : offset + len(content)] = content
    return b"Exif\0\0" + bytes(block) + thumbnail


def icc_segments(profile: bytes) -> list[Segment]:
    parts = [profile[offset : offset + 65_519] for offset in range(0, len(profile), 65_519)]
    return [(0xE2, b"ICC_PROFILE\0" + bytes([i + 1, len(parts)]) + part) for i, part in enumerate(parts)]


def mpf(kinds: list[int], pictures: list[bytes], *segments: Segment, order: str = "<", trailer: bytes = b"") -> bytes:
    """A JPEG with a multi-picture index, and the pictures after it."""
    size = 8 + 2 + 12 * 3 + 4 + 16 * (1 + len(pictures))
    bare = jpeg(*segments, (0xE2, b"MPF\0" + bytes(size)))
    base = bare.index(b"MPF\0") + 4
    rows, offset = struct.pack(f"{order}IIIHH", 0x030000, len(bare), 0, 0, 0), len(bare)
    for kind, data in zip(kinds, pictures, strict=True):
        rows += struct.pack(f"{order}IIIHH", kind, len(data), offset - base, 0, 0)
        offset += len(data)
    index = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 3)
    index += struct.pack(f"{order}HHI", 0xB000, 7, 4) + b"0100"
    index += struct.pack(f"{order}HHIIHHIII", 0xB001, 4, 1, 1 + len(pictures), 0xB002, 7, len(rows), 50, 0)
    return bare[:base] + index + rows + bare[base + size :] + b"".join(pictures) + trailer


NEW = file(picture(seed=9), "JPEG", quality=90)
RICH: dict[str, Callable[[], list[Segment]]] = {
    "EXIF of Intel order": lambda: [(0xE1, exif("<"))],
    "EXIF of Motorola order": lambda: [(0xE1, exif(">"))],
    "XMP": lambda: [(0xE1, XMP + PLAIN_XMP)],
    "extended XMP": lambda: [(0xE1, XMP + PLAIN_XMP), (0xE1, EXTENDED), (0xE1, EXTENDED)],
    "IPTC": lambda: [(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x0a\x1c\x02\x05\0\5title")],
    "a long profile": lambda: icc_segments(bytes(np.random.default_rng(0).bytes(150_000))),
    "two comments": lambda: [(0xFE, b"first"), (0xFE, b"second \xff\xd8\xff\xd9")],
    "vendors' own": lambda: [
        (0xE2, b"FPXR\0\0..."),
        (0xE4, b"vendor"),
        (0xEB, b"JP.."),
        (0xEC, b"Ducky\0"),
        (0xEF, b""),
    ],
    "all in a strange order": lambda: [
        *((0xFE, b"comment"), (0xED, b"Photoshop 3.0\0"), *icc_segments(PROFILE)),
        *((0xE1, XMP + PLAIN_XMP), (0xE1, exif()), (0xE0, b"JFIF\0\1\1\1\0\xf0\0\xf0\0\0"), (0xE1, b"another APP1")),
    ],
}
PREVIEW = file(picture(seed=4, size=(160, 120)), "JPEG")
GAIN_MAP = jpeg((0xE1, XMP + GAIN_XMP), mode="L")
ISO_GAIN_MAP = jpeg((0xE2, b"urn:iso:std:iso:ts:21496:-1\0data"), mode="L")
APPLE_GAIN_MAP = jpeg((0xE1, XMP + APPLE_XMP), mode="L")
HOLDING: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "nothing": (jpeg((0xE1, XMP + PLAIN_XMP)), ()),
    "a camera's previews": (mpf([0x010001, 0x010002], [PREVIEW, PREVIEW]), ("preview",)),
    "previews of Motorola order": (mpf([0x010002], [PREVIEW], order=">", trailer=bytes(500)), ("preview",)),
    "a preview without an index": (jpeg(trailer=bytes(100) + PREVIEW), ("preview",)),
    "an index of pictures that are gone": (mpf([0], [PREVIEW])[: -len(PREVIEW)], ()),
    "a depth map": (mpf([0x020002], [PREVIEW]), ("other pictures",)),
    "a panorama and a preview": (mpf([0x020001, 0x010001], [PREVIEW, PREVIEW]), ("other pictures",)),
    "an undefined picture": (mpf([0], [PREVIEW]), ("other pictures",)),
    "Ultra HDR": (mpf([0], [GAIN_MAP], (0xE1, XMP + GAIN_XMP)), ("HDR gain map",)),
    "a gain map of ISO 21496-1": (
        mpf([0], [ISO_GAIN_MAP], (0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0")),
        ("HDR gain map",),
    ),
    "Apple's gain map": (mpf([0], [APPLE_GAIN_MAP]), ("HDR gain map",)),
    "a gain map without an index": (jpeg(trailer=GAIN_MAP), ("HDR gain map",)),
    "a motion photo": (jpeg((0xE1, XMP + MOTION_XMP), trailer=FTYP), ("motion video",)),
    "a video that the XMP does not mention": (jpeg(trailer=FTYP), ("motion video",)),
    "Samsung's video": (jpeg(trailer=b"\0\0\x30\x0a\x10\0\0\0MotionPhoto_Data...SEFT"), ("motion video",)),
    "all of it": (
        mpf([0, 0x010001], [GAIN_MAP, PREVIEW], (0xE1, XMP + MOTION_XMP), trailer=FTYP),
        ("HDR gain map", "motion video", "preview"),
    ),
}


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    offset = 8
    while offset < len(data):
        length = int.from_bytes(data[offset : offset + 4], "big")
        kind, content = data[offset + 4 : offset + 8], data[offset + 8 : offset + 8 + length]
        assert data[offset + 8 + length : offset + 12 + length] == struct.pack(">I", zlib.crc32(kind + content)), kind
        yield kind, content
        offset += 12 + length


XMP_CHUNK = b"XML:com.adobe.xmp\0"
BEFORE = (
    *((b"gAMA", struct.pack(">I", 45455)), (b"iCCP", b"icc\0\0" + zlib.compress(PROFILE)), (b"sBIT", b"\x08\x08\x08")),
    *(
        (b"pHYs", struct.pack(">IIB", 9449, 9449, 1)),
        (b"tEXt", b"Author\0by hand"),
        (b"zTXt", b"T\0\0" + zlib.compress(b"x")),
    ),
    *((b"iTXt", b"Title\0\0\0de\0Titel\0\xc3\xa9"), (b"eXIf", exif()[6:]), (b"tIME", b"\x07\xe3\7\x15\x0e\3\x0c")),
    (b"tEXt", b"Raw profile type iptc\0\niptc\n      4\nabcdef01\n"),
)
AFTER = ((b"tEXt", b"Comment\0behind the pixels"), (b"prVt", b"vendor's own"))
PNG_XMP = {
    "none": [],
    "plain": [(b"iTXt", XMP_CHUNK + bytes(4) + PLAIN_XMP)],
    "packed": [(b"iTXt", XMP_CHUNK + b"\1\0en\0\0" + zlib.compress(PLAIN_XMP))],
}


def png(mode: str, *before: tuple[bytes, bytes], after: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    data = file(picture(mode), "PNG")
    head, tail = data[:33], data[33:]
    own = b"".join(chunk(*each) for each in before)
    return head + own + tail[:-12] + b"".join(chunk(*each) for each in after) + tail[-12:]


def riff(*parts: tuple[bytes, bytes]) -> bytes:
    body = b"".join(
        kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2) for kind, content in parts
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def riff_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    assert struct.unpack_from("<I", data, 4)[0] == len(data) - 8
    found, offset = [], 12
    while offset < len(data):
        kind, length = struct.unpack_from("<4sI", data, offset)
        found.append((kind, data[offset + 8 : offset + 8 + length]))
        offset += 8 + length + length % 2
    return found


RIFF = riff_chunks(file(picture(), "WEBP"))
WEBP = [{"quality": 80}, {"lossless": True}]
DAMAGED = {
    "JPEG": (
        mpf(
            [0, 0x010001],
            [GAIN_MAP, PREVIEW],
            (0xE1, exif()),
            (0xE1, XMP + PLAIN_XMP),
            (0xEE, b"Adobe\0\x64\0\0\0\0\0"),
        ),
        NEW,
    ),
    "PNG": (png("RGB", *BEFORE, *PNG_XMP["packed"], after=AFTER), file(picture(seed=1), "PNG")),
    "WEBP": (
        file(picture("RGBA"), "WEBP", icc_profile=PROFILE, exif=exif(), xmp=PLAIN_XMP),
        file(picture("RGBA", seed=1), "WEBP"),
    ),
}


def linear_profile(*, grey: bool = False) -> bytes:
    """A matrix or grey profile with sRGB's colours and a linear curve, built by hand, as no tool here writes one."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))

    text = b"linear test"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + b"\0" + bytes(78),
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.4360, 0.2225, 0.0139),
        b"gXYZ": xyz(0.3851, 0.7169, 0.0971),
        b"bXYZ": xyz(0.1431, 0.0606, 0.7139),
        **{name: b"curv\0\0\0\0\0\0\0\0" for name in (b"rTRC", b"gTRC", b"bTRC")},
    }
    if grey:
        tags = {name: tags[name] for name in (b"desc", b"wtpt")} | {b"kTRC": tags[b"rTRC"]}
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = bytearray(128)
    head[8:24] = b"\x02\x10\0\0mntr" + (b"GRAY" if grey else b"RGB ") + b"XYZ "
    head[36:40] = b"acsp"
    head[68:80] = b"".join(map(fixed, (0.9642, 1.0, 0.8249)))
    profile = bytes(head) + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(profile)) + profile[4:]


def reason_of(data: bytes, **limits: int) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, **limits)
    assert caught.value.detail
    return caught.value.reason
