"""A photo file becomes upright pixels, of whatever depth, layout and orientation."""

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
from PIL import Image, ImageFile

from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.refusals import ImageError
from tests.pipeline.photo.files import reason_of
from tests.pipeline.photo.heif_files import needs_heif

ToFile = Callable[..., bytes]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_truncated_photo_is_refused_not_half_decoded(
    format: str, share: float, photo: np.ndarray, to_file: ToFile
) -> None:
    data = to_file(photo, format)
    assert reason_of(data[: int(len(data) * share)]) in ("truncated", "not_an_image")


def test_too_little_memory_does_not_condemn_a_good_photo(
    photo: np.ndarray, to_file: ToFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(image: ImageFile.ImageFile) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", no_memory)
    with pytest.raises(MemoryError):
        decode(to_file(photo))


def test_the_pixel_limit_is_the_callers(photo: np.ndarray, to_file: ToFile) -> None:
    assert reason_of(to_file(photo), max_pixels=1000) == "too_large"


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
    if suffix == ".png":  # with the orientation in a chunk after IHDR
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


def test_an_avif_of_ten_bits_keeps_them(photo: np.ndarray) -> None:
    ten = photo.astype(np.uint16) * 4
    options = [cv2.IMWRITE_AVIF_DEPTH, 10, cv2.IMWRITE_AVIF_QUALITY, 100]
    decoded = decode(cv2.imencode(".avif", ten[..., ::-1], options)[1].tobytes())
    assert decoded.pixels.dtype == np.uint16
    assert np.abs(decoded.pixels / 65535 - ten / 1023).mean() < 0.01


@needs_heif
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
