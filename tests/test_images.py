"""Photo files: nothing of theirs is lost, and no file of any kind does more than raise ImageError."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from naturaltone.pipeline.photo import header
from naturaltone.pipeline.photo.colour import from_srgb, to_srgb
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.encode import check_rewritable, encode
from naturaltone.pipeline.photo.formats import HAS_HEIF
from naturaltone.pipeline.photo.graphic import is_graphic
from naturaltone.pipeline.photo.pixels import training_pixels
from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.pipeline.photo.stored import decode_rgb, decode_rows, encode_jpeg
from naturaltone.pipeline.photo.xmp import Stamp

ToFile = Callable[..., bytes]


def reason_of(data: bytes, **limits: int) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, **limits)
    assert caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_photo_comes_back_in_its_own_format_and_size(format: str, photo: np.ndarray, to_file: ToFile) -> None:
    decoded = decode(to_file(photo, format))
    again = Image.open(io.BytesIO(encode(decoded, decoded.pixels)))
    assert (again.format, again.size) == (format, (photo.shape[1], photo.shape[0]))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_lossless_formats_keep_every_pixel(format: str, photo: np.ndarray, to_file: ToFile) -> None:
    decoded = decode(to_file(photo, format))
    assert np.array_equal(decoded.pixels, photo)
    assert np.array_equal(decode(encode(decoded, photo)).pixels, photo)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_decoded_upright_and_written_as_it_was_stored_with_its_tag(
    orientation: int, format: str, photo: np.ndarray, to_file: ToFile
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Maker"
    stored = {
        1: photo, 2: photo[:, ::-1], 3: photo[::-1, ::-1], 4: photo[::-1],
        5: photo.transpose(1, 0, 2), 6: np.rot90(photo), 7: np.rot90(photo[:, ::-1], -1), 8: np.rot90(photo, -1),
    }[orientation]  # fmt: skip
    quality = {
        "JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}, "AVIF": {"quality": 95},
    }.get(format, {})  # fmt: skip
    decoded = decode(to_file(np.ascontiguousarray(stored), format, exif=exif, **quality))
    loss = 0 if format in ("PNG", "TIFF") else 4
    assert np.abs(decoded.pixels.astype(int) - photo).mean() <= loss
    written = decode(encode(decoded, decoded.pixels))
    assert np.abs(written.pixels.astype(int) - photo).mean() <= loss, "a viewer would turn the photo again"
    file = encode(decoded, decoded.pixels)
    reopened = Image.open(io.BytesIO(file))
    assert (reopened.getexif().get(0x0112, 1), reopened.getexif()[0x010F]) == (orientation, "Maker")
    if format != "TIFF":  # which Pillow turns at once
        assert reopened.size == stored.shape[1::-1]


def test_the_exif_block_stays_byte_for_byte(photo: np.ndarray, to_file: ToFile) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x927C] = b"maker note with offsets \x00\x01\x02"
    exif.get_ifd(0x8825)[0x0001] = "N"
    data = to_file(photo, exif=exif)
    before = Image.open(io.BytesIO(data)).info["exif"]
    decoded = decode(data)
    after = Image.open(io.BytesIO(encode(decoded, decoded.pixels))).info["exif"]
    assert after == before


def test_profile_xmp_resolution_comment_and_quality_survive(photo: np.ndarray, to_file: ToFile) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = to_file(
        photo, icc_profile=profile, xmp=b"<x:xmpmeta/>", dpi=(240, 240), comment=b"by hand", quality=93, subsampling=0
    )
    decoded = decode(data)
    written = Image.open(io.BytesIO(encode(decoded, decoded.pixels)))
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
    decoded = decode(to_file(photo, "PNG", pnginfo=info))
    written = Image.open(io.BytesIO(encode(decoded, decoded.pixels)))
    assert written.info["xmp"] == b"<x:xmpmeta>five stars</x:xmpmeta>" and written.text["Author"] == "by hand"


def test_a_tiff_of_separate_planes_can_be_read_again(photo: np.ndarray) -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, photo.transpose(2, 0, 1), planarconfig="separate", photometric="rgb")
    decoded = decode(buffer.getvalue())
    assert np.array_equal(decode(encode(decoded, photo)).pixels, photo)


def test_a_tiffs_camera_data_and_place_survive(photo: np.ndarray, to_file: ToFile) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2019:07:21 14:03:12"
    exif.get_ifd(0x8825)[0x0001] = "N"
    decoded = decode(to_file(photo, "TIFF", exif=exif.tobytes()))
    written = Image.open(io.BytesIO(encode(decoded, decoded.pixels))).getexif()
    assert written.get_ifd(0x8769)[0x9003] == "2019:07:21 14:03:12" and written.get_ifd(0x8825)[0x0001] == "N"


def test_metadata_that_cannot_take_a_stamp_is_an_image_error(photo: np.ndarray, to_file: ToFile) -> None:
    decoded = decode(to_file(photo, xmp=b"<x:xmpmeta>cut"))
    with pytest.raises(ImageError, match="unwritable"):
        encode(decoded, photo, stamp=Stamp(model="m", strength=1.0))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_a_photo_says_what_was_done_to_it_and_is_not_enhanced_twice(
    format: str, photo: np.ndarray, to_file: ToFile
) -> None:
    stamp = Stamp(model="pretrained-12ab & <more>", strength=0.75, source="0123")
    once = encode(decode(to_file(photo, format)), photo, stamp=stamp)
    decoded = decode(once)
    assert decoded.stamp == stamp
    for refuse in (lambda: encode(decoded, photo), lambda: check_rewritable(once)):
        with pytest.raises(ImageError, match="already_enhanced: by pretrained-12ab"):
            refuse()


@pytest.mark.parametrize("kind", ["layers", "associated alpha"])
def test_a_tiff_whose_other_half_would_go_wrong_is_not_rewritten(kind: str, photo: np.ndarray) -> None:
    buffer = io.BytesIO()
    if kind == "layers":
        tifffile.imwrite(buffer, photo, photometric="rgb", extratags=[(37724, 7, 4, b"8BIM", True)])
    else:
        pixels = np.dstack([photo // 2, np.full(photo.shape[:2], 128, np.uint8)])
        tifffile.imwrite(buffer, pixels, photometric="rgb", extrasamples=["assocalpha"])
    with pytest.raises(ImageError, match="unsupported_mode"):
        encode(decode(buffer.getvalue()), photo)


@pytest.mark.parametrize(("format", "better"), [("JPEG", 98), ("WEBP", 100), ("AVIF", 100)])
def test_quality_can_be_asked_for(format: str, better: int, photo: np.ndarray, to_file: ToFile) -> None:
    decoded = decode(to_file(photo, format, quality=75))
    sizes = [len(encode(decoded, photo, quality=quality)) for quality in (20, better)]
    assert 2 * sizes[0] < sizes[1]


def test_a_lossless_webp_stays_lossless(photo: np.ndarray, to_file: ToFile) -> None:
    data = to_file(photo, "WEBP", lossless=True, icc_profile=_linear_profile(), exact=True)
    assert np.array_equal(decode(encode(decode(data), photo)).pixels, photo)


def test_screenshots_and_drawings_are_told_from_photos(photo: np.ndarray, to_file: ToFile) -> None:
    drawing = np.full((300, 400, 3), 240, np.uint8)
    drawing[50:120, 60:300] = (20, 90, 200)
    text = np.full((300, 400, 3), 255, np.uint8)
    cv2.putText(text, "screenshot", (20, 100), cv2.FONT_HERSHEY_SIMPLEX, 2, (0, 0, 0), 3)
    assert is_graphic(decode(to_file(drawing, "PNG")))
    assert is_graphic(decode(to_file(text, "PNG")))
    assert not is_graphic(decode(to_file(photo)))
    blown = np.where(photo > 180, 255, photo).astype(np.uint8)
    assert not is_graphic(decode(to_file(blown)))


def test_a_grey_photo_stays_grey(photo: np.ndarray, to_file: ToFile) -> None:
    decoded = decode(to_file(photo[..., 1]))
    assert decoded.pixels.shape == photo.shape
    assert Image.open(io.BytesIO(encode(decoded, decoded.pixels))).mode == "L"


def test_another_profile_is_converted_and_back_within_rounding(photo: np.ndarray) -> None:
    wide = _linear_profile()
    there = to_srgb(photo, wide)
    back = from_srgb(there, wide)
    assert np.abs(there.astype(int) - photo).mean() > 5, "a linear profile must look different in sRGB"
    bright = photo.min(axis=2) > 40  # dark values of a linear encoding share sRGB codes
    assert np.abs(back.astype(int) - photo)[bright].max() <= 2


def test_no_profile_and_srgb_cost_no_conversion(photo: np.ndarray) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert to_srgb(photo, None) is photo
    assert to_srgb(photo, srgb) is photo


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


@given(data=st.data(), height=st.integers(16, 101), width=st.integers(16, 141))
def test_some_rows_of_a_stored_picture_are_those_of_the_whole(
    data: st.DataObject, height: int, width: int, photo: np.ndarray
) -> None:
    stored = encode_jpeg(np.ascontiguousarray(photo[:height, :width]))
    top = data.draw(st.integers(0, height - 1))
    bottom = data.draw(st.integers(top + 1, height))
    assert np.array_equal(decode_rows(stored, top, bottom), decode_rgb(stored)[top:bottom])


def test_rows_of_a_jpeg_without_markers_are_found_too(photo: np.ndarray, to_file: ToFile) -> None:
    plain = to_file(photo, quality=90)
    assert np.array_equal(decode_rows(plain, 20, 60), decode_rgb(plain)[20:60])


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


def test_a_raw_file_is_refused_with_a_pointer_to_a_converter(photo: np.ndarray) -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, photo, photometric="rgb", extratags=[(50706, "B", 4, b"\x01\x04\0\0", True)])
    for data in (buffer.getvalue(), b"FUJIFILMCCD-RAW 0201" + bytes(100), b"\0\0\0\x18ftypcrx " + bytes(100)):
        with pytest.raises(ImageError, match=r"raw: .*darktable"):
            decode(data)


def test_a_file_of_too_many_bytes_is_refused_before_it_is_opened() -> None:
    assert reason_of(b"no image at all", max_bytes=10) == "too_large"


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "AVIF"])
def test_transparency_stays_beside_the_pixels_and_is_written_again(
    format: str, photo: np.ndarray, to_file: ToFile
) -> None:
    alpha = np.tile(np.linspace(0, 255, photo.shape[1]).astype(np.uint8), (photo.shape[0], 1))
    lossless = {"lossless": True, "exact": True} if format == "WEBP" else {}
    decoded = decode(to_file(np.dstack([photo, alpha]), format, **lossless))
    assert decoded.alpha is not None and np.abs(decoded.alpha.astype(int) - alpha).max() <= (
        2 if format == "AVIF" else 0
    )
    again = decode(encode(decoded, decoded.pixels))
    assert again.alpha is not None and np.abs(again.alpha.astype(int) - alpha).max() <= (3 if format == "AVIF" else 0)


def test_for_training_transparent_places_are_white_and_half_transparent_ones_half(
    photo: np.ndarray, to_file: ToFile
) -> None:
    alpha = np.full(photo.shape[:2], 255, np.uint8)
    alpha[:10], alpha[10:20] = 0, 128
    seen = training_pixels(decode(to_file(np.dstack([photo, alpha]), "PNG")))
    assert (seen[:10] == 255).all() and np.array_equal(seen[20:], photo[20:])
    assert np.abs(seen[10:20] - (photo[10:20] * (128 / 255) + 127)).max() <= 1
    opaque = to_file(np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)]), "PNG")
    assert np.array_equal(training_pixels(decode(opaque)), photo)


def test_transparency_by_colour_and_palettes_are_understood(photo: np.ndarray, to_file: ToFile) -> None:
    marked = photo.copy()
    marked[:5] = (1, 2, 3)
    decoded = decode(to_file(marked, "PNG", transparency=(1, 2, 3)))
    assert decoded.alpha is not None and (decoded.alpha[:5] == 0).all() and (decoded.alpha[5:] == 255).mean() > 0.99
    buffer = io.BytesIO()
    Image.fromarray(photo).quantize(200).save(buffer, format="PNG")
    palette = decode(buffer.getvalue())
    assert palette.alpha is None and np.abs(palette.pixels.astype(int) - photo).mean() < 6


def deep(photo: np.ndarray) -> np.ndarray:
    """16-bit pixels whose low bytes matter."""
    return photo.astype(np.uint16) * 256 + np.arange(photo.size, dtype=np.uint16).reshape(photo.shape) % 251


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_sixteen_bits_stay_sixteen_bits_and_are_turned_upright(
    suffix: str, orientation: int, photo: np.ndarray
) -> None:
    pixels = deep(photo)
    data = cv2.imencode(suffix, pixels[..., ::-1])[1].tobytes()
    if suffix == ".png":  # with the orientation in a chunk behind IHDR
        exif = Image.Exif()
        exif[0x0112] = orientation
        block = b"eXIf" + exif.tobytes()[6:]
        chunk = struct.pack(">I", len(block) - 4) + block + struct.pack(">I", zlib.crc32(block))
        data = data[:33] + chunk + data[33:]
    else:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, pixels, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
        data = buffer.getvalue()
    turned = decode(data).pixels
    assert turned.dtype == np.uint16
    expected = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1],
        5: pixels.transpose(1, 0, 2), 6: np.rot90(pixels, -1), 7: np.rot90(pixels[:, ::-1], -1), 8: np.rot90(pixels),
    }[orientation]  # fmt: skip
    assert np.array_equal(turned, expected)


@pytest.mark.parametrize("options", [{"photometric": "miniswhite"}, {"photometric": "minisblack"}])
def test_a_deep_grey_tiff_is_grey_whichever_end_is_white(options: dict[str, str], photo: np.ndarray) -> None:
    grey = deep(photo)[..., 0]
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, 65535 - grey if options["photometric"] == "miniswhite" else grey, **options)
    decoded = decode(buffer.getvalue())
    assert decoded.is_grey and np.array_equal(decoded.pixels[..., 1], grey)


def test_deep_separate_planes_are_refused_not_garbled(photo: np.ndarray) -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, deep(photo).transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    assert reason_of(buffer.getvalue()) == "unsupported_depth"


def test_a_deep_photo_is_trained_on_in_eight_bits(photo: np.ndarray) -> None:
    decoded = decode(cv2.imencode(".png", photo[..., ::-1].astype(np.uint16) * 257)[1].tobytes())
    assert np.array_equal(training_pixels(decoded), photo)


@pytest.mark.parametrize(
    "kind", ["png", "png-alpha", "png-grey", "tiff<", "tiff>", "tiff-deflate", "tiff-alpha", "tiff-grey"]
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_deep_photo_keeps_all_of_its_bits(kind: str, orientation: int, photo: np.ndarray) -> None:
    pixels = np.random.default_rng(0).integers(0, 2**16, photo.shape, np.uint16)
    channels = {"alpha": 4, "grey": 1}.get(kind.partition("-")[2], 3)
    stored = pixels[..., 0] if channels == 1 else np.dstack([pixels, pixels[..., :1]])[..., :channels]
    if kind.startswith("png"):
        data = cv2.imencode(".png", stored if channels == 1 else stored[..., [2, 1, 0, 3][:channels]])[1].tobytes()
    else:
        buffer = io.BytesIO()
        tifffile.imwrite(
            buffer,
            stored,
            byteorder=">" if kind.endswith(">") else "<",
            photometric="minisblack" if channels == 1 else "rgb",
            extrasamples=["unassalpha"] if channels == 4 else None,
            compression="deflate" if "deflate" in kind else None,
            predictor="deflate" in kind,
            extratags=[(274, 3, 1, orientation, True)],
        )
        data = buffer.getvalue()
    decoded = decode(data)
    new = np.random.default_rng(1).integers(0, 2**16, decoded.packed.shape, np.uint16)
    if channels == 1:
        new[...] = new[..., :1]
    again = decode(encode(decoded, new))
    assert again.packed.dtype == np.uint16 and np.array_equal(again.packed, new)
    assert again.has_alpha == decoded.has_alpha == (channels == 4) and again.is_grey == (channels == 1)
    assert again.orientation == decoded.orientation


def test_an_avif_of_ten_bits_keeps_them(photo: np.ndarray) -> None:
    ten = photo.astype(np.uint16) * 4
    options = [cv2.IMWRITE_AVIF_DEPTH, 10, cv2.IMWRITE_AVIF_QUALITY, 100]
    decoded = decode(cv2.imencode(".avif", ten[..., ::-1], options)[1].tobytes())
    assert decoded.pixels.dtype == np.uint16
    assert np.abs(decoded.pixels / 65535 - ten / 1023).mean() < 0.01


def test_avif_goes_through_like_the_others(photo: np.ndarray, to_file: ToFile) -> None:
    decoded = decode(to_file(photo, "AVIF", quality=95))
    assert np.abs(decoded.pixels.astype(int) - photo).mean() < 4
    assert Image.open(io.BytesIO(encode(decoded, decoded.pixels))).format == "AVIF"


@pytest.mark.skipif(not HAS_HEIF, reason="the optional extra [heif] is not installed")
def test_heic_is_read_upright_and_not_rewritten(photo: np.ndarray, to_file: ToFile) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode(to_file(np.ascontiguousarray(np.rot90(photo)), "HEIF", quality=95, exif=exif.tobytes()))
    assert decoded.pixels.shape == photo.shape and np.abs(decoded.pixels.astype(int) - photo).mean() < 6
    with pytest.raises(ImageError, match="HEIC is read, not written"):
        encode(decoded, decoded.pixels)


@pytest.mark.skipif(not HAS_HEIF, reason="the optional extra [heif] is not installed")
@pytest.mark.parametrize("mode", ["RGB;16", "RGBA;16"])
def test_a_heic_of_ten_bits_keeps_them(mode: str, photo: np.ndarray) -> None:
    import pillow_heif

    deep_pixels = photo.astype(np.uint16) * 257
    if mode == "RGBA;16":
        deep_pixels = np.dstack([deep_pixels, deep_pixels[..., 0]])
    size = (photo.shape[1], photo.shape[0])
    buffer = io.BytesIO()
    pillow_heif.from_bytes(mode=mode, size=size, data=np.ascontiguousarray(deep_pixels).tobytes()).save(
        buffer, quality=95
    )
    decoded = decode(buffer.getvalue())
    assert decoded.pixels.dtype == np.uint16 and (decoded.alpha is not None) == (mode == "RGBA;16")
    assert np.abs(decoded.pixels.astype(int) / 257 - photo).mean() < 6


def test_twelve_bits_of_a_tiff_fill_the_range() -> None:
    ramp = np.linspace(0, 4095, 32 * 32).astype(np.uint16).reshape(32, 32)
    bits = np.unpackbits(ramp.astype(">u2").view(np.uint8).reshape(32, 32, 2), axis=2)[:, :, 4:]
    packed = np.packbits(bits.reshape(32, -1), axis=1).tobytes()
    tags = [
        (256, 3, 1, 32), (257, 3, 1, 32), (258, 3, 1, 12), (259, 3, 1, 1),
        (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1), (278, 3, 1, 32),
        (279, 4, 1, len(packed)),
    ]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHI", tag, kind, count)
        + struct.pack("<HH" if kind == 3 else "<I", *((value, 0) if kind == 3 else (value,)))
        for tag, kind, count, value in tags
    )
    data = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + directory + bytes(4)
    decoded = decode(data)
    assert decoded.is_grey and np.abs(decoded.pixels[..., 0] / 65535 - ramp / 4095).max() < 1e-3


def test_heic_without_its_package_says_what_to_install(
    photo: np.ndarray, to_file: ToFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(header, "HAS_HEIF", False)
    with pytest.raises(ImageError, match=r"naturaltone\[heif\]"):
        decode(b"\0\0\0\x18ftypheic" + bytes(100))


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_inks_become_the_colours_they_print(adobe: bool, photo: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(photo).convert("CMYK").save(buffer, format="JPEG" if adobe else "TIFF")
    decoded = decode(buffer.getvalue())
    assert np.abs(decoded.pixels.astype(int) - photo).mean() < 6, "not inverted"
    with pytest.raises(ImageError, match="CMYK"):
        encode(decoded, decoded.pixels)


def test_a_grey_profile_is_converted_as_grey(photo: np.ndarray) -> None:
    bright = to_srgb(np.repeat(photo[..., :1], 3, axis=2), _linear_profile(grey=True))
    assert bright.mean() > photo[..., 0].mean() + 20 and np.ptp(bright.astype(int), axis=2).max() <= 1


def test_a_multi_picture_jpeg_is_read_but_not_rewritten_without_its_other_pictures(photo: np.ndarray) -> None:
    buffer = io.BytesIO()
    first, second = Image.fromarray(photo), Image.fromarray(photo[::-1])
    first.save(buffer, format="MPO", save_all=True, append_images=[second])
    decoded = decode(buffer.getvalue())
    with pytest.raises(ImageError, match=r"other_pictures: .*--hdr drop"):
        encode(decoded, decoded.pixels)
    alone = Image.open(io.BytesIO(encode(decoded, decoded.pixels, drop_extras=True)))
    assert (alone.format, getattr(alone, "n_frames", 1)) == ("JPEG", 1)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), format=st.sampled_from(["JPEG", "PNG", "TIFF", "WEBP", "AVIF"]))
def test_mutated_bytes_raise_nothing_but_image_errors(
    data: st.DataObject, format: str, photo: np.ndarray, to_file: ToFile
) -> None:
    original = bytearray(to_file(photo[:40, :40], format, exif=Image.Exif()))
    for _ in range(data.draw(st.integers(1, 8))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode(bytes(original), max_pixels=10_000_000)
    except ImageError as error:
        assert error.reason and error.detail
    else:
        assert decoded.pixels.dtype == np.uint8 and decoded.pixels.shape[2] == 3


def _linear_profile(*, grey: bool = False) -> bytes:
    """A matrix or grey profile with sRGB's colours and a linear curve, built by hand: no tool here writes one."""

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
