"""Measures the peak memory of this process and of all processes that it started."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

_SECONDS = 2.0  # between two measurements


class PeakMemory:
    """Measures memory every 2 s while its context lasts. gib: the peak, in GiB.

    It is the largest sum of the processes' proportional set sizes, which count shared pages once.
    """

    def __init__(self) -> None:
        self.gib = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(_SECONDS):
            own = psutil.Process()
            total = sum(_proportional_set_size(process) for process in [own, *own.children(recursive=True)])
            self.gib = max(self.gib, total / 2**30)


def _proportional_set_size(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
    except psutil.Error:  # the process has ended, or belongs to another user
        return 0
    return int(getattr(memory, "pss", memory.rss))
