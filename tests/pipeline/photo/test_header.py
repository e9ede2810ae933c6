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

from naturaltone.pipeline.photo import header
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.encode import check_rewritable
from naturaltone.pipeline.photo.header import size
from naturaltone.pipeline.photo.refusals import ImageError
from tests.pipeline.photo.files import reason_of

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


def test_heic_without_its_package_says_what_helps_to_enhance_and_what_to_train(
    photo: np.ndarray, to_file: ToFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(header, "HAS_HEIF", False)
    with pytest.raises(ImageError, match=r"enhance it, convert it .*train on it, .*naturaltone\[heif\]"):
        decode(b"\0\0\0\x18ftypheic" + bytes(100))


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
