"""Containers: whatever a photo's file holds beside its pixels, it holds it byte for byte when the pixels are new."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from naturaltone.pipeline.photo import container
from naturaltone.pipeline.photo.xmp import Stamp, read_stamp, stamped

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
    """A JPEG with just these segments before its own."""
    data = file(picture(mode), "JPEG", **options)
    start = 2 if jfif else 4 + int.from_bytes(data[4:6], "big")
    return data[:2] + b"".join(segment(*each) for each in segments) + data[start:] + trailer


def metadata_segments(data: bytes) -> list[Segment]:
    """All APPn and COM segments up to the first scan; read by another hand than pipeline/jpeg.py."""
    found, place = [], 2
    while data[place + 1] != 0xDA:
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place + 1] >= 0xE0:
            found.append((data[place + 1], data[place + 4 : place + 2 + length]))
        place += 2 + length
    return found


def exif(order: str = "<", thumbnail: bytes = b"\xff\xd8\xff" + b"old" * 300) -> bytes:
    """Orientation 6, a maker note with an offset in it, a GPS block and a thumbnail, all at places that must stay."""
    note = b"Nikon\0\2\0" + (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8) + bytes(range(64))
    places = {"exif": 62, "gps": 92, "second": 122, "note": 160, "latitude": 260, "thumbnail": 300}

    def ifd(rows: list[tuple[int, int, int, int]], following: int) -> bytes:
        packed = b"".join(struct.pack(f"{order}HHII", *row) for row in rows)
        return struct.pack(f"{order}H", len(rows)) + packed + struct.pack(f"{order}I", following)

    orientation = 6 if order == "<" else 6 << 16
    block = bytearray(300)
    for place, content in (
        (0, (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)),
        (8, ifd([(274, 3, 1, orientation), (34665, 4, 1, 62), (34853, 4, 1, 92)], places["second"])),
        (places["exif"], ifd([(0x927C, 7, len(note), places["note"])], 0)),
        (places["gps"], ifd([(2, 5, 3, places["latitude"])], 0)),
        (places["second"], ifd([(0x201, 4, 1, places["thumbnail"]), (0x202, 4, 1, len(thumbnail))], 0)),
        (places["note"], note),
        (places["latitude"], struct.pack(f"{order}6I", 47, 1, 22, 1, 5, 1)),
    ):
        block[place : place + len(content)] = content
    return b"Exif\0\0" + bytes(block) + thumbnail


def icc_segments(profile: bytes) -> list[Segment]:
    parts = [profile[place : place + 65_519] for place in range(0, len(profile), 65_519)]
    return [(0xE2, b"ICC_PROFILE\0" + bytes([i + 1, len(parts)]) + part) for i, part in enumerate(parts)]


def mpf(kinds: list[int], pictures: list[bytes], *segments: Segment, order: str = "<", trailer: bytes = b"") -> bytes:
    """A JPEG with a multi-picture index and the pictures behind it."""
    size = 8 + 2 + 12 * 3 + 4 + 16 * (1 + len(pictures))
    bare = jpeg(*segments, (0xE2, b"MPF\0" + bytes(size)))
    base = bare.index(b"MPF\0") + 4
    rows, place = struct.pack(f"{order}IIIHH", 0x030000, len(bare), 0, 0, 0), len(bare)
    for kind, data in zip(kinds, pictures, strict=True):
        rows += struct.pack(f"{order}IIIHH", kind, len(data), place - base, 0, 0)
        place += len(data)
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


@pytest.mark.parametrize("kind", RICH)
@pytest.mark.parametrize("jfif", [True, False])
def test_a_jpegs_segments_stay_byte_for_byte_and_in_order(kind: str, jfif: bool) -> None:
    old = jpeg(*RICH[kind](), jfif=jfif, dpi=(240, 240))
    data = container.rebuild(old, NEW, stamp=None)
    assert metadata_segments(data) == metadata_segments(old)
    assert np.array_equal(pixels(data), pixels(NEW))
    marked = metadata_segments(container.rebuild(old, NEW, stamp=STAMP))
    packets = [content for _, content in marked if content.startswith(XMP)]
    assert len(packets) == 1 and read_stamp(packets[0][len(XMP) :]) == STAMP
    expected = [each for each in metadata_segments(old) if not each[1].startswith(XMP)]
    assert [each for each in marked if not each[1].startswith(XMP)] == expected


def test_a_new_packet_stands_behind_what_readers_look_for_first() -> None:
    old = jpeg((0xE0, b"JFIF\0\1\1\1\0\xf0\0\xf0\0\0"), (0xE1, exif()), (0xED, b"Photoshop 3.0\0"))
    assert [marker for marker, _ in metadata_segments(container.rebuild(old, NEW, stamp=STAMP))] == [
        0xE0, 0xE1, 0xE1, 0xED,
    ]  # fmt: skip
    assert metadata_segments(container.rebuild(old, NEW, stamp=STAMP))[2][1].startswith(XMP)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "restart_marker_rows": 1}])
def test_any_kind_of_jpeg_can_be_put_into_any_other(mode: str, options: dict[str, object]) -> None:
    for old_mode in ("RGB", "L"):
        old = jpeg((0xFE, b"comment"), mode=old_mode, progressive=not options.get("progressive"))
        new = file(picture(mode, seed=3), "JPEG", **options)
        data = container.rebuild(old, new, stamp=STAMP)
        assert np.array_equal(pixels(data), pixels(new)) and metadata_segments(data)[1] == (0xFE, b"comment")


def test_an_rgb_jpeg_is_not_read_with_wrong_colours() -> None:
    adobe = b"Adobe\0\x64\0\0\0\0"
    old = jpeg((0xEE, adobe + b"\0"), (0xFE, b"comment"))
    data = container.rebuild(old, NEW, stamp=None)
    assert metadata_segments(data) == [(0xEE, adobe + b"\1"), (0xFE, b"comment")]
    assert np.array_equal(pixels(data), pixels(NEW))


def test_fill_bytes_between_segments_are_passed_over() -> None:
    old = jpeg((0xFE, b"comment"))
    assert metadata_segments(container.rebuild(old[:2] + b"\xff\xff\xff" + old[2:], NEW, stamp=None)) == [
        (0xFE, b"comment")
    ]


@pytest.mark.parametrize("order", "<>")
def test_the_thumbnail_shows_the_new_picture_and_no_offset_moves(order: str) -> None:
    old = jpeg((0xE1, exif(order)))
    limits = []

    def thumbnail(limit: int) -> bytes:
        limits.append(limit)
        return b"\xff\xd8\xffnew"

    data = container.rebuild(old, NEW, stamp=None, thumbnail=thumbnail)
    before, after = container.read(old).exif, container.read(data).exif
    assert before and after and limits == [903]
    length = 122 + 2 + 12 + 8
    assert after[:length] == before[:length] and after[length + 4 : 300] == before[length + 4 : 300]
    assert after[length : length + 4] == struct.pack(f"{order}I", 6)
    assert after[300:] == b"\xff\xd8\xffnew".ljust(903, b"\0")
    assert container.read(container.rebuild(old, NEW, stamp=None, thumbnail=lambda limit: b"")).exif == before


def test_a_note_that_does_not_fit_is_refused_rather_than_cut() -> None:
    packet = PLAIN_XMP + b" " * (65_502 - len(PLAIN_XMP))
    assert container.rebuild(jpeg((0xE1, XMP + packet)), NEW, stamp=None)
    with pytest.raises(ValueError, match="no room"):
        container.rebuild(jpeg((0xE1, XMP + packet)), NEW, stamp=STAMP)


def test_a_trailer_stays() -> None:
    trailer = b"SEFH and what a phone writes there\0\0SEFT"
    data = container.rebuild(jpeg(trailer=trailer), NEW, stamp=STAMP)
    assert data.endswith(b"\xff\xd9" + trailer) and container.extras(data) == ()
    assert container.rebuild(jpeg(trailer=trailer), NEW, stamp=STAMP, drop_extras=True).endswith(NEW[-10:])


PREVIEW = file(picture(seed=4, size=(160, 120)), "JPEG")
GAIN_MAP = jpeg((0xE1, XMP + GAIN_XMP), mode="L")
ISO_GAIN_MAP = jpeg((0xE2, b"urn:iso:std:iso:ts:21496:-1\0data"), mode="L")
APPLE_GAIN_MAP = jpeg((0xE1, XMP + APPLE_XMP), mode="L")
HOLDING: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "nothing": (jpeg((0xE1, XMP + PLAIN_XMP)), ()),
    "a camera's previews": (mpf([0x010001, 0x010002], [PREVIEW, PREVIEW]), ("preview",)),
    "previews of Motorola order": (mpf([0x010002], [PREVIEW], order=">", trailer=bytes(500)), ("preview",)),
    "a preview without an index": (jpeg(trailer=bytes(100) + PREVIEW), ("preview",)),
    "an index of what is gone": (mpf([0], [PREVIEW])[: -len(PREVIEW)], ()),
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
    "a video nobody speaks of": (jpeg(trailer=FTYP), ("motion video",)),
    "Samsung's video": (jpeg(trailer=b"\0\0\x30\x0a\x10\0\0\0MotionPhoto_Data...SEFT"), ("motion video",)),
    "all of it": (
        mpf([0, 0x010001], [GAIN_MAP, PREVIEW], (0xE1, XMP + MOTION_XMP), trailer=FTYP),
        ("HDR gain map", "motion video", "preview"),
    ),
}


@pytest.mark.parametrize("name", HOLDING)
def test_what_else_a_jpeg_holds_is_known_and_can_be_left_out(name: str) -> None:
    data, expected = HOLDING[name]
    assert Image.open(io.BytesIO(data)).size == (40, 24)
    assert container.extras(data) == expected
    plain = container.rebuild(data, NEW, stamp=STAMP, drop_extras=True)
    assert container.extras(plain) == () and plain.endswith(NEW[-100:])
    assert Image.open(io.BytesIO(plain)).format == "JPEG" and np.array_equal(pixels(plain), pixels(NEW))
    assert not any(content.startswith((b"MPF\0", b"urn:iso")) for _, content in metadata_segments(plain))


@pytest.mark.parametrize("name", [name for name, (_, found) in HOLDING.items() if found == ("preview",)])
def test_stale_previews_go_and_what_stands_behind_them_stays(name: str) -> None:
    data = container.rebuild(HOLDING[name][0] + b"vendor's trailer", NEW, stamp=None)
    assert b"MPF\0" not in data and PREVIEW[-50:] not in data
    assert data.endswith(b"vendor's trailer") and container.extras(data) == ()


def test_padding_behind_stale_previews_goes_with_them() -> None:
    data = container.rebuild(HOLDING["previews of Motorola order"][0], NEW, stamp=None)
    assert data.endswith(NEW[-100:])


def test_only_the_first_of_two_packets_is_marked() -> None:
    old = jpeg((0xE1, XMP + PLAIN_XMP), (0xE1, XMP + MOTION_XMP))
    found = metadata_segments(container.rebuild(old, NEW, stamp=STAMP))
    assert read_stamp(found[0][1][len(XMP) :]) == STAMP and found[1] == (0xE1, XMP + MOTION_XMP)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b"\xff\xfe\0\0", "runs out"),
        (b"\xff\xfe\0\1", "runs out"),
        (b"\xff\xfe\xff\xff", "runs out"),
        (b"\0\0\0\0", "no marker"),
        (b"\xff\xd9\0\0", "impossible marker"),
        (b"\xff\xff\xff", "ends before"),
    ],
)
def test_a_broken_jpeg_is_refused_by_name(damage: bytes, message: str) -> None:
    start = b"\xff\xd8" + segment(0xFE, b"comment")
    with pytest.raises(ValueError, match=message):
        container.rebuild(start + damage + (b"" if message == "ends before" else bytes(99)), NEW, stamp=STAMP)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        kind, content = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        assert data[place + 8 + length : place + 12 + length] == struct.pack(">I", zlib.crc32(kind + content)), kind
        yield kind, content
        place += 12 + length


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


@pytest.mark.parametrize("packet", PNG_XMP)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_a_pngs_chunks_stay_byte_for_byte_and_in_order(mode: str, packet: str) -> None:
    old = png(mode, *BEFORE, *PNG_XMP[packet], after=AFTER)
    new_mode = {"P": "RGB", "1": "L"}.get(mode, mode)
    new = file(picture(new_mode, seed=5), "PNG")
    data = container.rebuild(old, new, stamp=STAMP)
    assert np.array_equal(pixels(data), pixels(new))
    layout = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", *(() if mode == new_mode else (b"sBIT",)))

    def others(file: bytes) -> list[tuple[bytes, bytes]]:
        return [each for each in chunks(file) if each[0] not in layout and not each[1].startswith(XMP_CHUNK)]

    assert others(data) == others(old)
    kinds = [kind for kind, _ in chunks(data)]
    assert kinds.index(b"iCCP") < kinds.index(b"IDAT") < kinds.index(b"prVt") and kinds.count(b"IDAT") >= 1
    assert read_stamp(container.read(data).xmp) == STAMP and container.read(data).exif == exif()[6:]
    found = [content for _, content in chunks(data) if content.startswith(XMP_CHUNK)]
    assert len(found) == 1 and (found[0][len(XMP_CHUNK)] == 1) == (packet == "packed")
    unmarked = container.rebuild(old, new, stamp=None)
    assert [each for each in chunks(unmarked) if each[1].startswith(XMP_CHUNK)] == PNG_XMP[packet]


def test_what_a_pngs_old_pixels_were_described_by_goes_with_them() -> None:
    old = png("P", (b"iDOT", bytes(28)))
    place = old.index(b"IDAT") - 4
    old = old[:place] + chunk(b"bKGD", b"\3") + chunk(b"hIST", bytes(512)) + old[place:]
    kinds = [kind for kind, _ in chunks(container.rebuild(old, file(picture(seed=1), "PNG"), stamp=None))]
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]
    background = png("RGB", (b"bKGD", bytes(6)))
    kinds = [kind for kind, _ in chunks(container.rebuild(background, file(picture(seed=1), "PNG"), stamp=None))]
    assert b"bKGD" in kinds, "of the same layout it still fits"


def test_a_pngs_thumbnail_shows_the_new_picture() -> None:
    new = file(picture(seed=1), "PNG")
    data = container.rebuild(png("RGB", *BEFORE), new, stamp=None, thumbnail=lambda limit: b"\xff\xd8\xffnew")
    assert dict(chunks(data))[b"eXIf"].endswith(b"\xff\xd8\xffnew".ljust(903, b"\0"))


@pytest.mark.parametrize("packed", [zlib.compress(PLAIN_XMP)[:-6], b"no zlib", zlib.compress(bytes(2**26 + 1))])
def test_a_packed_packet_that_cannot_be_unpacked_is_refused(packed: bytes) -> None:
    old = png("RGB", (b"iTXt", XMP_CHUNK + b"\1\0\0\0" + packed))
    with pytest.raises(ValueError, match="XMP chunk"):
        container.rebuild(old, file(picture(seed=1), "PNG"), stamp=STAMP)
    assert container.read(old) == container.Metadata(None, None)


def test_what_stands_behind_a_png_or_webp_stays() -> None:
    for old, new in ((png("RGB"), file(picture(seed=1), "PNG")), (riff(*RIFF), file(picture(seed=1), "WEBP"))):
        assert container.rebuild(old + b"trailer", new, stamp=STAMP).endswith(b"trailer")


def riff(*parts: tuple[bytes, bytes]) -> bytes:
    body = b"".join(
        kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2) for kind, content in parts
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def riff_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    assert struct.unpack_from("<I", data, 4)[0] == len(data) - 8
    found, place = [], 12
    while place < len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        found.append((kind, data[place + 8 : place + 8 + length]))
        place += 8 + length + length % 2
    return found


RIFF = riff_chunks(file(picture(), "WEBP"))
WEBP = [{"quality": 80}, {"lossless": True}]


@pytest.mark.parametrize("options", WEBP)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("with_xmp", [True, False])
def test_a_webps_chunks_stay_byte_for_byte(options: dict[str, object], mode: str, with_xmp: bool) -> None:
    own = [each for each in riff_chunks(file(picture(mode), "WEBP", **options)) if each[0] != b"VP8X"]
    kept = [(b"ICCP", PROFILE), (b"EXIF", exif()[6:] + b"odd"), *([(b"XMP ", PLAIN_XMP)] if with_xmp else [])]
    sides = (39).to_bytes(3, "little") + (23).to_bytes(3, "little")
    flags = 0x28 | (0x04 if with_xmp else 0) | (0x10 if mode == "RGBA" else 0)
    header = (b"VP8X", bytes([flags, 0, 0, 0]) + sides)
    old = riff(header, kept[0], *own, *kept[1:], (b"abcd", b"vendor's"))
    for new_options in WEBP:
        new = file(picture(mode, seed=2), "WEBP", **new_options)
        data = container.rebuild(old, new, stamp=None)
        found = riff_chunks(data)
        assert [each for each in found if each[0] not in (b"ALPH", b"VP8 ", b"VP8L")] == [
            header,
            *kept,
            (b"abcd", b"vendor's"),
        ]
        assert np.array_equal(pixels(data), pixels(new))
        data = container.rebuild(old, new, stamp=STAMP)
        assert read_stamp(container.read(data).xmp) == STAMP and container.read(data).exif == exif()[6:] + b"odd"
        assert read_stamp(Image.open(io.BytesIO(data)).info["xmp"]) == STAMP


@pytest.mark.parametrize("options", WEBP)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_bare_webp_stays_bare_and_gets_a_header_for_its_first_metadata(options: dict[str, object], mode: str) -> None:
    old, new = file(picture(mode), "WEBP", **options), file(picture(mode, seed=2), "WEBP", **options)
    assert riff_chunks(container.rebuild(old, new, stamp=None)) == riff_chunks(new)
    data = container.rebuild(old, new, stamp=STAMP)
    assert riff_chunks(data)[0][0] == b"VP8X" and np.array_equal(pixels(data), pixels(new))
    assert (riff_chunks(data)[0][1][0] & 0x10 != 0) == (mode == "RGBA")
    assert read_stamp(Image.open(io.BytesIO(data)).info["xmp"]) == STAMP


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_profile_that_no_longer_fits_can_be_left_out(format: str) -> None:
    old = file(picture(), format, icc_profile=PROFILE, compression="raw" if format == "TIFF" else None)
    for kept in (True, False):
        data = container.rebuild(old, file(picture(seed=1), format), stamp=STAMP, icc=kept)
        assert Image.open(io.BytesIO(data)).info.get("icc_profile") == (PROFILE if kept else None)


@pytest.mark.parametrize("format", ["GIF", "BMP", "PNG"])
def test_other_formats_are_refused_by_name(format: str) -> None:
    with pytest.raises(ValueError, match="JPEG, PNG, WebP or TIFF"):
        container.rebuild(file(picture("RGB"), format), NEW, stamp=STAMP)
    assert container.extras(file(picture("RGB"), format)) == ()


@given(
    st.lists(
        st.tuples(st.sampled_from([0xFE, *range(0xE0, 0xF0)]), st.binary(max_size=40))
        | st.sampled_from([each for make in RICH.values() for each in make()]),
        max_size=8,
    )
)
def test_a_jpeg_with_its_own_pixels_is_itself(segments: list[Segment]) -> None:
    old = jpeg(*segments)
    own = jpeg()
    if not any(content.startswith((b"MPF\0", b"Adobe")) for _, content in segments):
        assert container.rebuild(old, own, stamp=None) == old


@given(
    st.lists(
        st.tuples(st.sampled_from([b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"prVt"]), st.binary(max_size=40)), max_size=8
    )
)
def test_a_png_with_its_own_pixels_is_itself(own: list[tuple[bytes, bytes]]) -> None:
    old = png("RGB", *own, after=AFTER)
    assert container.rebuild(old, file(picture(), "PNG"), stamp=None) == old


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


@pytest.mark.parametrize("format", DAMAGED)
@settings(max_examples=200)
@given(data=st.data())
def test_a_damaged_file_raises_value_error_or_gets_its_pixels(format: str, data: st.DataObject) -> None:
    whole, new = DAMAGED[format]
    old = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(old) - 1))
        old[place : place + data.draw(st.integers(1, 4))] = data.draw(st.binary(min_size=1, max_size=4))
    if data.draw(st.booleans()):
        del old[data.draw(st.integers(0, len(old))) :]
    container.extras(bytes(old))
    container.read(bytes(old))
    try:
        rebuilt = container.rebuild(
            bytes(old), new, stamp=STAMP, thumbnail=lambda limit: PREVIEW[:limit], drop_extras=data.draw(st.booleans())
        )
    except ValueError:
        return
    assert rebuilt
    try:
        Image.open(io.BytesIO(bytes(old))).load()
    except Exception:  # it did not open before either
        return
    assert np.array_equal(pixels(rebuilt), pixels(new))


@given(
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"II*\0"]), st.binary(max_size=60)
)
def test_reading_never_raises(start: bytes, rest: bytes) -> None:
    container.read(start + rest)
    assert container.extras(start + rest) in ((), ("preview",))


def test_a_marked_jpeg_marked_again_has_one_mark() -> None:
    once = container.rebuild(jpeg((0xE1, XMP + PLAIN_XMP)), NEW, stamp=STAMP)
    second = Stamp(model="other", strength=1.0)
    assert container.read(container.rebuild(once, NEW, stamp=second)).xmp == stamped(PLAIN_XMP, second)
