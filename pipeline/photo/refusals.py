"""Say why a photo cannot be used (`ImageError`), and set the limits of size."""

from __future__ import annotations

from typing import Any

from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.reasons import Reason

MAX_PIXELS = 200_000_000
MAX_BYTES = 2**30
MIN_SIDE = 16


class ImageError(UserError):
    """A photo cannot be used: `reason` says why, and `detail` says what to do about it."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageError, (self.reason, self.detail)


def check_bytes(size: int, *, max_bytes: int = MAX_BYTES) -> None:
    """Refuse a file of more than `max_bytes` before it is read (`ImageError`)."""
    if size > max_bytes:
        raise ImageError(Reason.TOO_LARGE, f"{size / 2**20:.0f} MiB; the limit is {max_bytes / 2**20:.0f} MiB")
