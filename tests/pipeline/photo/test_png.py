"""A PNG with new pixels: its chunks stay byte for byte and in order."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from naturaltone.pipeline.photo import container
from naturaltone.pipeline.photo.xmp import read_stamp
from tests.pipeline.photo.files import (
    AFTER,
    BEFORE,
    PLAIN_XMP,
    PNG_XMP,
    STAMP,
    XMP_CHUNK,
    chunk,
    chunks,
    exif,
    file,
    picture,
    pixels,
    png,
)


@pytest.mark.parametrize("packet", PNG_XMP)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_a_pngs_chunks_stay_byte_for_byte_and_in_order(mode: str, packet: str) -> None:
    old = png(mode, *BEFORE, *PNG_XMP[packet], after=AFTER)
    new_mode = {"P": "RGB", "1": "L"}.get(mode, mode)
    new = file(picture(new_mode, seed=5), "PNG")
    data = container.replace_pixels(old, new, stamp=STAMP)
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
    unmarked = container.replace_pixels(old, new, stamp=None)
    assert [each for each in chunks(unmarked) if each[1].startswith(XMP_CHUNK)] == PNG_XMP[packet]


def test_chunks_that_describe_a_pngs_old_pixels_go_with_them() -> None:
    old = png("P", (b"iDOT", bytes(28)))
    offset = old.index(b"IDAT") - 4
    old = old[:offset] + chunk(b"bKGD", b"\3") + chunk(b"hIST", bytes(512)) + old[offset:]
    kinds = [kind for kind, _ in chunks(container.replace_pixels(old, file(picture(seed=1), "PNG"), stamp=None))]
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]
    background = png("RGB", (b"bKGD", bytes(6)))
    kinds = [kind for kind, _ in chunks(container.replace_pixels(background, file(picture(seed=1), "PNG"), stamp=None))]
    assert b"bKGD" in kinds, "the layout is the same, so the chunk still fits"


def test_a_pngs_thumbnail_shows_the_new_picture() -> None:
    new = file(picture(seed=1), "PNG")
    data = container.replace_pixels(png("RGB", *BEFORE), new, stamp=None, thumbnail=lambda limit: b"\xff\xd8\xffnew")
    assert dict(chunks(data))[b"eXIf"].endswith(b"\xff\xd8\xffnew".ljust(903, b"\0"))


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"\1\0\0\0" + packed
            for packed in (zlib.compress(PLAIN_XMP)[:-6], b"no zlib", zlib.compress(bytes(2**26 + 1)))
        ),
        *(bytes(length) for length in range(4)),  # a whole chunk has four bytes in front of the packet
    ],
)
def test_an_xmp_chunk_that_cannot_be_read_is_refused(content: bytes) -> None:
    old = png("RGB", (b"iTXt", XMP_CHUNK + content))
    with pytest.raises(ValueError, match="XMP chunk"):
        container.replace_pixels(old, file(picture(seed=1), "PNG"), stamp=STAMP)
    assert container.read(old) == container.Metadata(None, None)


# A broken XMP chunk is refused, and hypothesis takes the prefix of such chunks from our code.
_contents = st.binary(max_size=40).filter(lambda content: not content.startswith(XMP_CHUNK))


@given(st.lists(st.tuples(st.sampled_from([b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"prVt"]), _contents), max_size=8))
def test_a_png_with_its_own_pixels_does_not_change(own: list[tuple[bytes, bytes]]) -> None:
    old = png("RGB", *own, after=AFTER)
    assert container.replace_pixels(old, file(picture(), "PNG"), stamp=None) == old
