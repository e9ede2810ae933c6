"""A photo cannot exceed the limits, in a body or in a form, and waits for memory before it is decoded."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.serving import room
from naturaltone.serving.service import limits
from tests.pipeline.photo.files import chunk as png_chunk

_HEAD = b'--x\r\nContent-Disposition: form-data; name="photo"; filename="p.png"\r\n\r\n'
_TAIL = b"\r\n--x--\r\n"
_FORM = "multipart/form-data; boundary=x"


def read(body: bytes, content_type: str = "image/jpeg") -> bytes:
    return asyncio.run(limits.photo_in(body, Headers({"content-type": content_type})))


def refused(body: bytes, content_type: str = "image/jpeg") -> ImageError:
    with pytest.raises(ImageError) as error:
        read(body, content_type)
    return error.value


@given(photo=st.binary(min_size=1).filter(lambda data: b"\r\n--x" not in data))
def test_a_body_and_a_form_give_the_photo_byte_for_byte(photo: bytes) -> None:
    assert read(photo) == photo
    for content_type in (_FORM, _FORM.upper().replace("BOUNDARY=X", "boundary=x"), 'multipart/form-data; boundary="x"'):
        assert read(_HEAD + photo + _TAIL, content_type) == photo


def test_a_body_without_a_type_is_a_photo() -> None:
    assert asyncio.run(limits.photo_in(b"abc", Headers())) == b"abc"


@pytest.mark.parametrize("content_type", ["image/jpeg", _FORM])
def test_a_photo_that_is_too_large_is_refused(content_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_BYTES", 1000)
    monkeypatch.setattr(limits, "MAX_BODY", 1200)
    head, tail = (_HEAD, _TAIL) if content_type == _FORM else (b"", b"")
    assert len(read(head + bytes(1000) + tail, content_type)) == 1000
    assert refused(head + bytes(1001) + tail, content_type).reason == "too_large"


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    return f'--x\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", ""),
        (b"", _FORM),
        (_HEAD.replace(b'"photo"', b'"other"') + b"abc" + _TAIL, _FORM),
        (b"no form", _FORM),
        (_HEAD + _TAIL, _FORM),
        (_HEAD + b"abc", _FORM),
        (_HEAD + b"abc" + _TAIL, "multipart/form-data"),
        (_HEAD + b"abc" + _TAIL, "multipart/form-data; boundary="),
        (_HEAD + b"abc" + _TAIL, "multipart/form-data; boundary=" + "y" * 300),
        (_HEAD + b"abc" + _TAIL, "multipart/form-data; boundary=é"),
        (part("photo", b"abc") + b"--x--\r\n", _FORM),
        (part("photo", b"a", "a.jpg") + part("photo", b"b", "b.jpg") + b"--x--\r\n", _FORM),
        (b"".join(part(f"f{n}", b"a") for n in range(17)) + part("photo", b"a", "a.jpg") + b"--x--\r\n", _FORM),
        (b"--x\r\n\r\nabc" + _TAIL, _FORM),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\nabc" + _TAIL, _FORM),
        (b"--x\r\nContent-Disposition: ;;;\r\n\r\nabc" + _TAIL, _FORM),
        (b"--x\r\n" + b"A: b\r\n" * 5000 + b"\r\nabc" + _TAIL, _FORM),
    ],
)
def test_a_request_without_one_photo_is_refused(body: bytes, content_type: str) -> None:
    assert refused(body, content_type).reason == "not_an_image"


@pytest.mark.parametrize("name", ["strength", "quality", "Photo", ""])
def test_a_parameter_in_the_form_is_refused_since_it_would_have_no_effect(name: str) -> None:
    body = part("photo", b"abc", "a.jpg") + part(name, b"0.5") + b"--x--\r\n"
    error = refused(body, _FORM)
    assert error.reason == "bad_parameter" and f"'{name}'" in error.detail


@given(
    body=st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.sampled_from(
                [_HEAD, _TAIL, b"--x", b"--", b"\r\n", b"Content-Disposition: form-data", b'; name="', b":"]
            ),
        ),
        max_size=12,
    ),
    charset=st.sampled_from(["", "; charset=utf-16", "; charset=nonsense", "; charset=\xff"]),
)
def test_a_damaged_form_is_never_a_bug(body: list[bytes], charset: str) -> None:
    try:
        assert read(b"".join(body), _FORM + charset)
    except ImageError as error:
        assert error.reason == "not_an_image"


@given(content_type=st.text(st.characters(codec="latin-1"), max_size=40))
def test_a_damaged_content_type_is_never_a_bug(content_type: str) -> None:
    try:
        asyncio.run(
            limits.photo_in(_HEAD + b"abc" + _TAIL, Headers({"content-type": f"multipart/form-data{content_type}"}))
        )
    except ImageError as error:
        assert error.reason == "not_an_image"


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a.jpg\\r\\nX-Evil: 1", "x" * 3000, "%00", "日本.jpg", "C:\\\\x"]
)
def test_the_name_of_a_file_is_not_used_for_anything(name: str) -> None:
    assert read(part("photo", b"abc", name) + b"--x--\r\n", _FORM) == b"abc"


def test_photos_wait_for_memory_before_they_are_decoded(
    photo: np.ndarray, to_file: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(limits, "room_for", lambda megapixels: asked.append(megapixels) or room.room_for(megapixels))
    assert limits.in_room(to_file(photo), lambda: list(asked)) == [photo.shape[0] * photo.shape[1] / 1e6]


def bomb(side: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b"")


def test_a_photo_that_is_refused_from_its_header_does_not_wait_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setattr(limits, "room_for", lambda megapixels: asked.append(megapixels) or room.room_for(megapixels))
    with pytest.raises(ImageError, match="too_large"):
        limits.in_room(bomb(60_000), lambda: asked.append(0))
    assert asked == []


def test_the_limits_of_a_photo_and_of_its_form_fit_together() -> None:
    assert limits.MAX_BYTES < limits.MAX_BODY < limits.MAX_BYTES + 2**20 and limits.MAX_MEGAPIXELS == 200
