"""A file that cannot be used is refused from its header, with a reason."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import tifffile
from PIL import Image

from naturaltone.pipeline.photo import header, tiff
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.encode import check_rewritable
from naturaltone.pipeline.photo.header import memory_megapixels, size
from naturaltone.pipeline.photo.isobmff import made
from naturaltone.pipeline.photo.refusals import ImageError
from tests.pipeline.photo.files import chunk, reason_of
from tests.pipeline.photo.gain_maps import ultra_hdr
from tests.pipeline.photo.heif_files import Part, built, heic, needs_heif, scene, size_of

ToFile = Callable[..., bytes]


def test_a_text_file_named_jpg_is_not_an_image() -> None:
    assert reason_of(b"just some words, no photo at all\n" * 40) == "not_an_image"
    assert reason_of(b"") == "not_an_image"


def test_a_1x1_image_is_too_small(photo: np.ndarray, to_file: ToFile) -> None:
    assert reason_of(to_file(photo[:1, :1], "PNG")) == "too_small"
    assert reason_of(to_file(photo[:15], "PNG")) == "too_small"


def test_a_decompression_bomb_is_refused_from_its_header() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    bomb += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    assert reason_of(bomb) == "too_large"


def test_other_kinds_of_files_are_refused_by_name(photo: np.ndarray, to_file: ToFile) -> None:
    assert reason_of(to_file(photo, "BMP")) == "unsupported_format"
    assert reason_of(b"\xff\x0a" + bytes(100)) == "unsupported_format"
    frames = [Image.fromarray(photo), Image.fromarray(photo[::-1])]
    buffer = io.BytesIO()
    frames[0].save(buffer, format="WEBP", save_all=True, append_images=frames[1:])
    assert reason_of(buffer.getvalue()) == "animated"
    buffer = io.BytesIO()
    Image.fromarray(photo[..., 0].astype(np.float32)).save(buffer, format="TIFF")
    assert reason_of(buffer.getvalue()) == "unsupported_depth"


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"msf1"])
def test_heic_without_its_package_says_what_to_install(brand: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "HAS_HEIF", False)
    with pytest.raises(ImageError, match=r"unsupported_format: HEIC; `pip install 'naturaltone\[heif\]'` adds what"):
        decode(b"\0\0\0\x18ftyp" + brand + bytes(100))


@needs_heif
def test_a_heic_that_libheif_cannot_read_is_not_called_something_else() -> None:
    start = made(b"ftyp", b"heic\0\0\0\0mif1heic")
    assert reason_of(start + bytes(100)) == "truncated"
    assert reason_of(start + made(b"moov", bytes(100))) == "animated"
    assert reason_of(built({1: Part(b"avc1", b"", (size_of(64, 64),))})) == "unsupported_format"
    assert reason_of(made(b"ftyp", b"isom\0\0\0\0mp42") + bytes(100)) == "not_an_image"


def test_a_tiff_with_a_bad_second_page_is_refused_not_a_traceback(photo: np.ndarray) -> None:
    """Pillow raises an error of its own when it counts the pages."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for _ in range(2):
            writer.write(photo)
    good = buffer.getvalue()
    first = int.from_bytes(good[4:8], "little")
    entries = int.from_bytes(good[first : first + 2], "little")
    link = first + 2 + 12 * entries
    bad = good[:link] + (len(good) - 3).to_bytes(4, "little") + good[link + 4 :]
    for look in (check_rewritable, decode):
        with pytest.raises(ImageError) as refused:
            look(bad)
        assert refused.value.reason == "truncated"
    assert size(bad) == (photo.shape[1], photo.shape[0])
    with pytest.raises(ImageError, match="animated"):
        check_rewritable(good)


def samples(photo: np.ndarray, kind: str, **options: object) -> bytes:
    """A TIFF with samples of a NumPy type: grey if `photo` is H×W."""
    buffer = io.BytesIO()
    photometric = "rgb" if photo.ndim == 3 else "minisblack"
    tifffile.imwrite(buffer, (photo // 2).astype(kind), photometric=photometric, metadata=None, **options)
    return buffer.getvalue()


def with_formats(photo: np.ndarray, formats: tuple[int, ...]) -> bytes:
    """A TIFF of 8 bits that says of each channel what its samples are. tifffile does not write what is not so."""
    data = samples(photo, "int8")
    entries, _ = tiff.directory(data, tiff.first_directory(data, "<"), "<")
    said = tiff.by_tag(entries)[339]
    assert said.count == len(formats)
    return data[: said.offset] + struct.pack(f"<{len(formats)}H", *formats) + data[said.offset + said.size :]


def refusal(look: Callable[[bytes], object], data: bytes) -> tuple[str, str]:
    with pytest.raises(ImageError) as refused:
        look(data)
    return refused.value.reason, refused.value.detail


SIGNED, FLOATING = "signed integers", "floating-point numbers"
KINDS = {
    **dict.fromkeys(("int8", "int16", "int32", "int64"), SIGNED),
    **dict.fromkeys(("float16", "float32", "float64"), FLOATING),
    "complex64": "complex numbers",
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_grey", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_signed_and_floating_point_samples_are_never_read_as_unsigned_ones(
    kind: str, is_grey: bool, order: str, photo: np.ndarray
) -> None:
    data = samples(photo[..., 0] if is_grey else photo, kind, byteorder=order)
    for look in (check_rewritable, decode):
        reason, detail = refusal(look, data)
        assert reason == "unsupported_depth" and KINDS[kind] in detail and "save it with unsigned" in detail


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_unsigned_samples_are_read_whether_the_file_says_so_or_not(kind: str, order: str, photo: np.ndarray) -> None:
    for data in (samples(photo, kind, byteorder=order), with_formats(photo, (1, 1, 1))):
        check_rewritable(data)
        assert np.array_equal(decode(data).pixels, photo // 2)


@pytest.mark.parametrize("formats", [(1, 1, 2), (3, 1, 1), (4, 2, 1)])
def test_one_channel_of_another_kind_is_enough(formats: tuple[int, ...], photo: np.ndarray) -> None:
    data = with_formats(photo, formats)
    for look in (check_rewritable, decode):
        assert refusal(look, data)[0] == "unsupported_depth"


def test_undefined_samples_are_not_guessed(photo: np.ndarray) -> None:
    for data in (with_formats(photo, (4, 4, 4)), with_formats(photo[..., 0], (4,))):
        assert {refusal(look, data)[0] for look in (check_rewritable, decode)} == {"unsupported_format"}


@pytest.mark.parametrize(("kind", "what"), [("int8", SIGNED), ("int16", SIGNED), ("float32", FLOATING)])
def test_a_bigtiff_that_opens_is_refused_for_its_samples(kind: str, what: str, photo: np.ndarray) -> None:
    data = samples(photo[..., 0], kind, bigtiff=True)
    for look in (check_rewritable, decode):
        reason, detail = refusal(look, data)
        assert reason == "unsupported_depth" and what in detail
    assert np.array_equal(decode(samples(photo, "uint8", bigtiff=True)).pixels, photo // 2)


def test_a_tiff_whose_directory_is_broken_is_still_a_reason(photo: np.ndarray) -> None:
    data = samples(photo, "float64")
    for cut in (data[:8], data[:200], data[:4] + b"\xff\xff\xff\xff" + data[8:]):
        assert {refusal(look, cut)[0] for look in (check_rewritable, decode)} <= {"unsupported_format", "truncated"}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["uint32", "float64"])
def test_a_bigtiff_that_does_not_open_is_no_damaged_file_to_remove(kind: str, order: str, photo: np.ndarray) -> None:
    data = samples(photo, kind, bigtiff=True, byteorder=order)
    for look in (check_rewritable, decode):
        reason, detail = refusal(look, data)
        assert reason == "unsupported_format" and "plain TIFF" in detail and "remove" not in detail


@pytest.mark.parametrize(("curve", "is_hdr"), [(16, True), (18, True), (13, False), (1, False)])
def test_a_png_whose_light_is_coded_for_hdr_screens_is_left_alone(
    curve: int, is_hdr: bool, photo: np.ndarray, to_file: ToFile
) -> None:
    plain = to_file(photo, "PNG")
    data = plain[:33] + chunk(b"cICP", bytes([9, curve, 0, 1])) + plain[33:]
    if is_hdr:
        assert reason_of(data) == "hdr_still"
    else:
        assert np.array_equal(decode(data).pixels, photo)


@pytest.mark.parametrize(("said", "is_hdr"), [("True", True), ("False", False)])
def test_an_ultra_hdr_photo_whose_own_pixels_are_the_hdr_picture_is_left_alone(said: str, is_hdr: bool) -> None:
    plain = ultra_hdr(scene(), np.ones((40, 48)), most=2)
    # As long as before, so that all lengths stay true.
    old = b'hdrgm:GainMapMin="0" hdrgm:GainMapMax="2"'
    new = f'hdrgm:BaseRenditionIsHDR="{said}"'.encode().ljust(len(old))
    data = plain.replace(old, new)
    assert len(data) == len(plain) and data != plain
    if is_hdr:
        assert reason_of(data) == "hdr_still"
    else:
        assert decode(data).extras == ("HDR gain map",)


@needs_heif
def test_a_heic_of_one_picture_or_with_more_bits_counts_for_more_memory(photo: np.ndarray, to_file: ToFile) -> None:
    pixels = np.tile(photo, (3, 3, 1))
    area = pixels.shape[0] * pixels.shape[1] / 1e6
    shares = [
        memory_megapixels(data) / area
        for data in (to_file(pixels, "JPEG"), heic(pixels, tile_size=64), heic(pixels), heic(pixels, depth=10))
    ]
    assert shares == pytest.approx([1, 1, 1.75, 2.625])
