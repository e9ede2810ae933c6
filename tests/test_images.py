"""Photo files: nothing of theirs is lost, and no file of any kind does more than raise ImageError."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from pipeline import images

ToFile = Callable[..., bytes]


def reason_of(data: bytes, **limits: int) -> str:
    with pytest.raises(images.ImageError) as caught:
        images.decode(data, **limits)
    assert caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_photo_comes_back_in_its_own_format_and_size(format: str, photo: np.ndarray, to_file: ToFile) -> None:
    decoded = images.decode(to_file(photo, format))
    again = Image.open(io.BytesIO(images.encode(decoded, decoded.pixels)))
    assert (again.format, again.size) == (format, (photo.shape[1], photo.shape[0]))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_lossless_formats_keep_every_pixel(format: str, photo: np.ndarray, to_file: ToFile) -> None:
    decoded = images.decode(to_file(photo, format))
    assert np.array_equal(decoded.pixels, photo)
    assert np.array_equal(images.decode(images.encode(decoded, photo)).pixels, photo)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_the_pixels_and_reset_in_the_file(
    orientation: int, format: str, photo: np.ndarray, to_file: ToFile
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Maker"
    stored = {
        1: photo, 2: photo[:, ::-1], 3: photo[::-1, ::-1], 4: photo[::-1],
        5: photo.transpose(1, 0, 2), 6: np.rot90(photo), 7: np.rot90(photo[:, ::-1], -1), 8: np.rot90(photo, -1),
    }[orientation]  # fmt: skip
    quality = {"quality": 95, "subsampling": 0} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
    decoded = images.decode(to_file(np.ascontiguousarray(stored), format, exif=exif, **quality))
    loss = 0 if format in ("PNG", "TIFF") else 4
    assert np.abs(decoded.pixels.astype(int) - photo).mean() <= loss
    written = images.decode(images.encode(decoded, decoded.pixels))
    assert np.abs(written.pixels.astype(int) - photo).mean() <= loss, "a viewer would turn the photo again"
    reopened = Image.open(io.BytesIO(images.encode(decoded, decoded.pixels))).getexif()
    assert (reopened.get(0x0112, 1), reopened[0x010F]) == (1, "Maker")


def test_only_the_orientation_changes_in_the_exif_block(photo: np.ndarray, to_file: ToFile) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x927C] = b"maker note with offsets \x00\x01\x02"
    exif.get_ifd(0x8825)[0x0001] = "N"
    data = to_file(photo, exif=exif)
    before = Image.open(io.BytesIO(data)).info["exif"]
    decoded = images.decode(data)
    after = Image.open(io.BytesIO(images.encode(decoded, decoded.pixels))).info["exif"]
    assert len(after) == len(before)
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 1


def test_profile_xmp_resolution_comment_and_quality_survive(photo: np.ndarray, to_file: ToFile) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = to_file(
        photo, icc_profile=profile, xmp=b"<x:xmpmeta/>", dpi=(240, 240), comment=b"by hand", quality=93, subsampling=0
    )
    decoded = images.decode(data)
    written = Image.open(io.BytesIO(images.encode(decoded, decoded.pixels)))
    original = Image.open(io.BytesIO(data))
    for name in ("icc_profile", "xmp", "dpi", "comment"):
        assert written.info[name] == original.info[name], name
    assert written.quantization == original.quantization
    assert written.layer == original.layer, "chroma subsampling"


def test_a_pngs_xmp_and_text_survive(photo: np.ndarray, to_file: ToFile) -> None:
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta>five stars</x:xmpmeta>")
    info.add_text("Author", "by hand")
    decoded = images.decode(to_file(photo, "PNG", pnginfo=info))
    written = Image.open(io.BytesIO(images.encode(decoded, decoded.pixels)))
    assert written.info["xmp"] == b"<x:xmpmeta>five stars</x:xmpmeta>" and written.text["Author"] == "by hand"


def test_a_tiff_of_separate_planes_can_be_read_again(photo: np.ndarray) -> None:
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, photo.transpose(2, 0, 1), planarconfig="separate", photometric="rgb")
    decoded = images.decode(buffer.getvalue())
    assert np.array_equal(images.decode(images.encode(decoded, photo)).pixels, photo)


def test_metadata_that_cannot_be_written_again_is_an_image_error(photo: np.ndarray, to_file: ToFile) -> None:
    decoded = images.decode(to_file(photo))
    decoded.save_options["exif"] = b"Exif\0\0" + bytes(70_000)  # two APP1 blocks read as one
    with pytest.raises(images.ImageError, match="unwritable"):
        images.encode(decoded, photo)


def test_a_grey_photo_stays_grey(photo: np.ndarray, to_file: ToFile) -> None:
    decoded = images.decode(to_file(photo[..., 1]))
    assert decoded.pixels.shape == photo.shape
    assert Image.open(io.BytesIO(images.encode(decoded, decoded.pixels))).mode == "L"


def test_another_profile_is_converted_and_back_within_rounding(photo: np.ndarray) -> None:
    wide = _linear_profile()
    there = images.to_srgb(photo, wide)
    back = images.from_srgb(there, wide)
    assert np.abs(there.astype(int) - photo).mean() > 5, "a linear profile must look different in sRGB"
    bright = photo.min(axis=2) > 40  # dark values of a linear encoding share sRGB codes
    assert np.abs(back.astype(int) - photo)[bright].max() <= 2


def test_no_profile_and_srgb_cost_no_conversion(photo: np.ndarray) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert images.to_srgb(photo, None) is photo
    assert images.to_srgb(photo, srgb) is photo


def test_a_text_file_named_jpg_is_not_an_image() -> None:
    assert reason_of(b"just some words, no photo at all\n" * 40) == "not_an_image"
    assert reason_of(b"") == "not_an_image"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_truncated_photo_is_refused_not_half_decoded(
    format: str, share: float, photo: np.ndarray, to_file: ToFile
) -> None:
    data = to_file(photo, format)
    assert reason_of(data[: int(len(data) * share)]) in ("truncated", "not_an_image")


def test_a_1x1_image_is_too_small(photo: np.ndarray, to_file: ToFile) -> None:
    assert reason_of(to_file(photo[:1, :1], "PNG")) == "too_small"
    assert reason_of(to_file(photo[:15], "PNG")) == "too_small"


def test_a_decompression_bomb_is_refused_from_its_header() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    bomb += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    assert reason_of(bomb) == "too_large"


def test_the_pixel_limit_is_the_callers(photo: np.ndarray, to_file: ToFile) -> None:
    assert reason_of(to_file(photo), max_pixels=1000) == "too_large"


def test_what_would_lose_something_is_refused_with_its_reason(photo: np.ndarray, to_file: ToFile) -> None:
    alpha = np.dstack([photo, photo[..., 0]])
    assert reason_of(to_file(alpha, "PNG")) == "unsupported_mode"
    assert reason_of(to_file(photo, "PNG", transparency=(0, 0, 0))) == "unsupported_mode"
    assert reason_of(to_file(photo, "BMP")) == "unsupported_format"
    frames = [Image.fromarray(photo), Image.fromarray(photo[::-1])]
    buffer = io.BytesIO()
    frames[0].save(buffer, format="WEBP", save_all=True, append_images=frames[1:])
    assert reason_of(buffer.getvalue()) == "animated"


def test_sixteen_bits_are_refused_not_cut_to_eight(photo: np.ndarray) -> None:
    import cv2

    deep = cv2.imencode(".png", photo.astype(np.uint16) * 257)[1].tobytes()
    assert reason_of(deep) == "unsupported_depth"
    deep = cv2.imencode(".tif", photo.astype(np.uint16) * 257)[1].tobytes()
    assert reason_of(deep) == "unsupported_depth"


def test_a_multi_picture_jpeg_is_read_but_not_rewritten_without_its_other_pictures(photo: np.ndarray) -> None:
    buffer = io.BytesIO()
    first, second = Image.fromarray(photo), Image.fromarray(photo[::-1])
    first.save(buffer, format="MPO", save_all=True, append_images=[second])
    decoded = images.decode(buffer.getvalue())
    with pytest.raises(images.ImageError, match="unsupported_format"):
        images.encode(decoded, decoded.pixels)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), format=st.sampled_from(["JPEG", "PNG", "TIFF", "WEBP"]))
def test_mutated_bytes_raise_nothing_but_image_errors(
    data: st.DataObject, format: str, photo: np.ndarray, to_file: ToFile
) -> None:
    original = bytearray(to_file(photo[:40, :40], format, exif=Image.Exif()))
    for _ in range(data.draw(st.integers(1, 8))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = images.decode(bytes(original), max_pixels=10_000_000)
    except images.ImageError as error:
        assert error.reason and error.detail
    else:
        assert decoded.pixels.dtype == np.uint8 and decoded.pixels.shape[2] == 3


def _linear_profile() -> bytes:
    """A matrix profile with sRGB's colours and a linear curve, built by hand: no tool here writes one."""

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
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = bytearray(128)
    head[8:24] = b"\x02\x10\0\0mntrRGB XYZ "
    head[36:40] = b"acsp"
    head[68:80] = b"".join(map(fixed, (0.9642, 1.0, 0.8249)))
    profile = bytes(head) + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(profile)) + profile[4:]
