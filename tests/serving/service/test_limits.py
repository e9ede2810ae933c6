"""A request cannot exceed the limits, whatever length it announces."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, Callable

import numpy as np
import pytest
from starlette.requests import Request

from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.serving import room
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.service import limits
from tests.pipeline.photo.files import chunk as png_chunk

_HEAD = b'--x\r\nContent-Disposition: form-data; name="photo"; filename="p.png"\r\n\r\n'
_TAIL = b"\r\n--x--\r\n"
_FORM = "multipart/form-data; boundary=x"


def read(chunks: list[bytes], **headers: str) -> tuple[bytes, int]:
    """The photo that `read_photo` reads from a body in chunks, and the number of chunks that it read."""
    taken = 0

    async def arrive() -> AsyncGenerator[dict[str, object], None]:
        nonlocal taken
        for chunk in chunks:
            taken += 1
            yield {"type": "http.request", "body": chunk, "more_body": True}
        yield {"type": "http.request", "body": b"", "more_body": False}

    messages = arrive()
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    request = Request({"type": "http", "method": "POST", "headers": raw}, lambda: messages.__anext__())  # type: ignore[arg-type]
    return asyncio.run(limits.read_photo(request)), taken


def refused(chunks: list[bytes], **headers: str) -> str:
    with pytest.raises(ImageError) as error:
        read(chunks, **headers)
    return error.value.reason


def test_a_body_and_a_form_give_the_photo() -> None:
    assert read([b"ab", b"c"])[0] == b"abc"
    assert read([_HEAD, b"abc", _TAIL], content_type=_FORM)[0] == b"abc"


@pytest.mark.parametrize("content_type", ["image/jpeg", _FORM])
def test_a_body_with_no_or_a_false_length_is_refused_while_it_arrives(
    content_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_BYTES", 1000)
    monkeypatch.setattr(limits, "_FORM_BYTES", 200)
    chunks = [_HEAD] + [bytes(400)] * 50
    with pytest.raises(ImageError, match="too_large"):
        read(chunks, content_type=content_type)
    assert refused([bytes(400)] * 50, content_type=content_type, content_length="10") == "too_large", "false length"


def test_an_announced_length_is_refused_before_anything_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_BYTES", 1000)
    assert refused([], content_length="5000") == "too_large"


@pytest.mark.parametrize(
    ("chunks", "content_type"),
    [
        ([], ""),
        ([_HEAD.replace(b'"photo"', b'"other"'), b"abc", _TAIL], _FORM),
        ([b"no form"], _FORM),
        ([_HEAD, _TAIL], _FORM),
    ],
)
def test_a_request_without_a_photo_is_refused(chunks: list[bytes], content_type: str) -> None:
    assert refused(chunks, content_type=content_type) == "not_an_image"


def test_photos_wait_for_memory_before_they_are_decoded(
    enhancer: Enhancer, photo: np.ndarray, to_file: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(limits, "room_for", lambda megapixels: asked.append(megapixels) or room.room_for(megapixels))
    done = limits.enhance_in_room(enhancer, to_file(photo), strength=1.0)
    assert asked == [photo.shape[0] * photo.shape[1] / 1e6] == [done.megapixels]


def test_a_photo_that_is_refused_from_its_header_does_not_wait_for_memory(
    enhancer: Enhancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(limits, "room_for", lambda megapixels: asked.append(megapixels) or room.room_for(megapixels))
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
        + png_chunk(b"IDAT", b"")
    )
    with pytest.raises(ImageError, match="too_large"):
        limits.enhance_in_room(enhancer, bomb, strength=1.0)
    assert asked == []
