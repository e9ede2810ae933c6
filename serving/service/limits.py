"""Limits the cost of a request: its bytes are counted as they arrive, and its pixels wait for free memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from naturaltone.pipeline.photo.encode import check_rewritable
from naturaltone.pipeline.photo.header import size
from naturaltone.pipeline.photo.refusals import ImageError, check_bytes
from naturaltone.pipeline.reasons import Reason
from naturaltone.serving.enhancer import EnhancedFile, Enhancer
from naturaltone.serving.room import room_for

MAX_BYTES = 100 * 2**20
_FORM_BYTES = 2**16  # a form may be larger than its photo by this much


async def read_photo(request: Request) -> bytes:
    """Read the photo of a request, from its body or its form field `photo`.

    `ImageError` if it is larger than `MAX_BYTES` or missing. The announced length is checked first. The announcement
    may be missing or wrong, so reading also stops as soon as more than the limit has arrived.
    """
    is_form = request.headers.get("content-type", "").startswith("multipart/form-data")
    limit = MAX_BYTES + (_FORM_BYTES if is_form else 0)
    check_bytes(_announced(request), max_bytes=limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        check_bytes(len(body), max_bytes=limit)
    data = await _photo_in_form(request, bytes(body)) if is_form else bytes(body)
    if not data:
        raise ImageError(Reason.NOT_AN_IMAGE, "the request holds no photo; send its bytes as the body")
    check_bytes(len(data), max_bytes=MAX_BYTES)
    return data


def enhance_in_room(enhancer: Enhancer, data: bytes, *, strength: float) -> EnhancedFile:
    """Enhance a photo once the machine has memory for its pixels; until then only this thread waits.

    `ImageError` at once if the photo's header shows that it is refused.
    """
    check_rewritable(data)  # before `room_for`: all others wait for a huge photo, and this one may be refused
    width, height = size(data)
    with room_for(width * height / 1e6):
        return enhancer.enhance_file(data, strength=strength)


def _announced(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0


async def _photo_in_form(request: Request, body: bytes) -> bytes:
    async def parts() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(request.headers, parts(), max_part_size=MAX_BYTES).parse()
    except MultiPartException as error:
        raise ImageError(Reason.NOT_AN_IMAGE, f"the form cannot be read ({error.message})") from None
    field = form.get("photo")
    if not isinstance(field, UploadFile):
        raise ImageError(Reason.NOT_AN_IMAGE, "the form has no file 'photo'; send the photo as the form field 'photo'")
    return await field.read()
