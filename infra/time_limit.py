"""Ends work of the main thread that takes too long."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from naturaltone.pipeline.errors import RunFailed


class TookTooLong(RunFailed):
    """The work was ended. What it had finished is kept."""


@contextlib.contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raise `TookTooLong` in the main thread after `seconds`. The timer counts on while the wall clock is set.

    what: begins the message.
    """

    def end(signum: int, frame: FrameType | None) -> None:
        raise TookTooLong(f"{what} took longer than {seconds:,.0f} s; give the same command again to go on")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
