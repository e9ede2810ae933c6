"""Whose a file is that lies where an enhanced photo is to go: naturaltone overwrites only what it wrote itself."""

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
    """A file that is there already: its bytes, and the note in it if naturaltone enhanced it."""

    data: bytes
    stamp: Stamp | None


def read_output(uri: str) -> Output | None:
    """The file at `uri`, None if there is none."""
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError:
        return None
    return Output(data=data, stamp=stamp_of(data))


def refuse_foreign(uri: str) -> NoReturn:
    """The `ImageError` for a file that somebody else wrote."""
    raise ImageError(
        Reason.OUTPUT_EXISTS, f"'{uri}' exists, and naturaltone did not make it; move it, or choose another target"
    )
