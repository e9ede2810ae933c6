"""Progress of long work: a bar with an ETA on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

_LINE_SECONDS = 10.0

T = TypeVar("T")


class Progress:
    """Shows on stderr how many of `total` (None: unknown) items are done. A context manager."""

    def __init__(self, what: str, *, unit: str, total: int | None = None) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._done = 0
        self._note = ""
        self._started: float | None = None
        self._printed = time.monotonic()
        self._bar = tqdm(total=total, desc=what, unit=unit, leave=False) if sys.stderr.isatty() else None

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """Count `count` more items as done. note: a few words to show after the count."""
        # The clock starts with the first items: the time that processes take to start would distort the rate.
        if self._started is None:
            self._started, self._skipped = time.monotonic(), count
        self._done += count
        self._note = note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._printed > _LINE_SECONDS:
            self._print()

    def expect(self, total: int) -> None:
        """Set the total, as soon as it is known."""
        self._total = total
        if self._bar is not None:
            self._bar.total = total
            self._bar.refresh()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def _print(self) -> None:
        self._printed = time.monotonic()
        assert self._started is not None  # advance() has been called
        of = f"/{self._total}" if self._total else ""
        line = f"{self._what}: {self._done}{of} {self._unit}s"
        counted = self._done - self._skipped
        if counted:  # the first advance only starts the clock, so there is no rate before the second
            rate = counted / max(self._printed - self._started, 1e-9)
            line += f", {rate:.1f}/s"
            line += f", {(self._total - self._done) / rate:.0f} s left" if self._total else ""
        note = f"  {self._note}" if self._note else ""
        print(f"{line}{note}", file=sys.stderr, flush=True)


def track(items: Iterable[T], what: str, *, total: int | None = None, unit: str = "photo") -> Iterator[T]:
    """Yield the items, and show how many are done."""
    with Progress(what, total=total, unit=unit) as progress:
        for item in items:
            yield item
            progress.advance()
