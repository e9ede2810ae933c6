"""Figures for Prometheus of work that runs on Ray. Ray's agent on each machine exports those of its processes.

The only file that imports `ray.util.metrics`. Without a running Ray, a figure is counted nowhere and costs nothing. Ray sends
the figures of a process every ten seconds and when the process ends. It sends a gauge only once after it was set, and forgets
it 20 s later. So a thread sets the gauges of this process again and again, and they vanish when the process ends.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from typing import Any

_AGAIN_SECONDS = 5.0


class _Figure:
    """name: without the `ray_` that Ray puts before it. labels: the names of its labels. Ray takes only ASCII."""

    _kind: str

    def __init__(self, name: str, description: str, *labels: str) -> None:
        self.name, self.labels = name, labels
        self._description = description
        self._metric: Any = None

    def _of_ray(self) -> Any:
        """Ray's object for the figure, or None without a running Ray. Ray is not imported: that would take a second."""
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            return None
        if self._metric is None:
            from ray.util import metrics

            self._metric = getattr(metrics, self._kind)(self.name, self._description, self.labels)
        return self._metric


class Gauge(_Figure):
    """A value that goes up and down. It stays until this process ends."""

    _kind = "Gauge"

    def __init__(self, name: str, description: str, *labels: str) -> None:
        super().__init__(name, description, *labels)
        self._values: dict[tuple[str, ...], float] = {}

    @property
    def series(self) -> str:
        """The name in Prometheus."""
        return f"ray_{self.name}"

    def set(self, value: float, **labels: str) -> None:
        if metric := self._of_ray():
            metric.set(value, labels)
            self._values[tuple(labels[label] for label in self.labels)] = value
            _set_again.add(self)
            _start()

    def set_again(self) -> None:
        for said, value in list(self._values.items()):
            if metric := self._of_ray():
                metric.set(value, dict(zip(self.labels, said, strict=True)))


_set_again: set[Gauge] = set()


@functools.cache
def _start() -> None:
    """Start the thread that sets the gauges again, once in a process."""

    def work() -> None:
        while True:
            time.sleep(_AGAIN_SECONDS)
            for gauge in list(_set_again):
                gauge.set_again()

    threading.Thread(target=work, name="figures", daemon=True).start()


class Counter(_Figure):
    """A number that only grows."""

    _kind = "Counter"

    @property
    def series(self) -> str:
        """The name in Prometheus."""
        return f"ray_{self.name}_total"

    def add(self, count: float = 1, **labels: str) -> None:
        if count > 0 and (metric := self._of_ray()):
            metric.inc(count, labels)


S3_RETRIES = Counter(
    "naturaltone_s3_retries", "Requests to S3 that were tried again. why: the status and code, or the error.", "why"
)
S3_FAILURES = Counter(
    "naturaltone_s3_failures",
    "Requests to S3 that were given up, or that the server refused. why: as for retries.",
    "why",
)
