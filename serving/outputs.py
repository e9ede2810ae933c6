"""Protects files of the user: an enhanced photo may only overwrite a file that naturaltone wrote itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from naturaltone.pipeline import storage
from naturaltone.pipeline.photo.header import stamp_of
from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.pipeline.photo.xmp import Stamp
from naturaltone.pipeline.reasons import Reason


@dataclass(frozen=True, kw_only=True)
class Output:
    """A file that exists already: its bytes, and its stamp if naturaltone enhanced it."""

    data: bytes
    stamp: Stamp | None


def read_output(uri: str) -> Output | None:
    """Read the file at `uri`; None if it does not exist."""
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError:
        return None
    return Output(data=data, stamp=stamp_of(data))


def refuse_foreign(uri: str) -> NoReturn:
    """Raise the `ImageError` for a file that naturaltone did not write."""
    raise ImageError(
        Reason.OUTPUT_EXISTS, f"'{uri}' exists, and naturaltone did not make it; move it or choose another target"
    )
