"""The threads that enhance photos: as many as the replica has slots, and never more, also when clients go away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from naturaltone.serving.service import metrics

Result = TypeVar("Result")


class Abandoned(Exception):
    """The client has gone, so nobody wants the result."""


class Stages:
    """Measures the seconds of each stage of one photo, and ends the work at the next stage if the client has gone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.is_abandoned = False
        self._last = time.perf_counter()

    def end(self, stage: str) -> None:
        """Note that a stage has ended. `Abandoned` if the client has gone."""
        now = time.perf_counter()
        self.seconds[stage] = now - self._last
        metrics.STAGE_SECONDS.labels(stage).observe(now - self._last)
        self._last = now
        if self.is_abandoned:
            raise Abandoned

    def server_timing(self) -> str:
        """The header `Server-Timing`, in milliseconds."""
        parts = {**self.seconds, "total": sum(self.seconds.values())}
        return ", ".join(f"{stage};dur={1000 * seconds:.1f}" for stage, seconds in parts.items())


class Slots:
    """Threads for `count` photos at the same time. A slot is free again when its thread has ended, not when its client goes."""

    def __init__(self, count: int) -> None:
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="enhance")
        metrics.SLOTS.inc(count)

    async def run(self, work: Callable[[], Result], stages: Stages) -> Result:
        """Run `work` in a free slot. If this call is cancelled, waiting work is dropped, and running work ends soon."""

        def in_slot() -> Result:
            with metrics.BUSY.track_inprogress():
                return work()

        future = self._threads.submit(in_slot)
        try:
            return await asyncio.wrap_future(future)  # its cancelling also cancels a future that has not begun
        except asyncio.CancelledError:
            stages.is_abandoned = True
            raise

    def close(self) -> None:
        """Let the work that runs come to its end."""
        self._threads.shutdown(wait=False, cancel_futures=True)
