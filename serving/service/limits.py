"""Limits the cost of a photo: its bytes and pixels are checked before it is decoded, and its pixels wait for free memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from naturaltone.pipeline.photo.encode import check_rewritable
from naturaltone.pipeline.photo.header import memory_megapixels
from naturaltone.pipeline.photo.refusals import MAX_PIXELS, ImageError, check_bytes
from naturaltone.pipeline.reasons import Reason
from naturaltone.serving.room import room_for

Result = TypeVar("Result")

MAX_BYTES = 100 * 2**20
MAX_MEGAPIXELS = MAX_PIXELS / 1e6
MAX_BODY = MAX_BYTES + 2**16  # a form is larger than its photo, but not by more than this


async def photo_in(body: bytes, headers: Headers) -> bytes:
    """The photo in a request: its whole body, or its form field `photo`. `ImageError` if it is too large or missing."""
    is_form = headers.get("content-type", "").lower().startswith("multipart/form-data")
    data = await _photo_in_form(headers, body) if is_form else body
    if not data:
        raise ImageError(Reason.NOT_AN_IMAGE, "the request holds no photo; send its bytes as the body")
    check_bytes(len(data), max_bytes=MAX_BYTES)
    return data


def in_room(data: bytes, work: Callable[[], Result]) -> Result:
    """Do the work on a photo once the machine has memory for its pixels; until then only this thread waits.

    `ImageError` at once if the photo's header shows that it is refused.
    """
    check_rewritable(data)  # before `room_for`: all others wait for a huge photo, and this one may be refused
    with room_for(memory_megapixels(data)):
        return work()


async def _photo_in_form(headers: Headers, body: bytes) -> bytes:
    async def parts() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(headers, parts(), max_files=1, max_fields=16, max_part_size=MAX_BODY).parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise ImageError(Reason.NOT_AN_IMAGE, f"the form cannot be read ({error})") from None
    field = form.get("photo")
    if not isinstance(field, UploadFile):
        raise ImageError(Reason.NOT_AN_IMAGE, "the form has no file 'photo'; send the photo as the form field 'photo'")
    for name in form:
        if name != "photo":  # ignored, it would silently give the full strength, for example
            raise ImageError(
                Reason.BAD_PARAMETER,
                f"form field '{name}': only 'photo' is one; parameters stand in the address, after a `?`",
            )
    return await field.read()
