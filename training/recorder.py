"""Send metrics and pictures to the tracking server while a run trains, without holding up a step."""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
import time

import numpy as np

from naturaltone.pipeline.errors import first_line

Metric = tuple[str, float, int, int]  # name, value, milliseconds, step

_FLUSH_SECONDS = 2.0
_PATIENCE_SECONDS = 600.0  # to wait for a server that is away when a run ends
_FINAL_ERRORS = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "PERMISSION_DENIED", "UNAUTHENTICATED"}
_MOST_METRICS = 1000  # in one request; a server refuses more

log = logging.getLogger(__name__)


class Recorder:
    """Writes metrics and pictures to a run from its own thread, so that a slow or absent server never holds up a step.

    It keeps what the server does not take and tries again. `close` waits for the server for up to ten minutes. While the
    recorder is open, it also records the load of this machine (MLflow's system metrics).
    """

    def __init__(self, run_id: str, *, tracking_uri: str) -> None:
        self._run_id = run_id
        self._tracking_uri = tracking_uri
        self._entries: queue.SimpleQueue[list[Metric] | tuple[int, np.ndarray, str]] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._load_recorded = False
        self.problem: str | None = None  # tells the user what was lost; None if nothing was
        self._thread = threading.Thread(target=self._write, name="mlflow", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: dict[str, float]) -> None:
        if self.problem:
            return
        now = int(time.time() * 1000)
        self._entries.put([(name, value, now, step) for name, value in metrics.items()])

    def log_image(self, step: int, pixels: np.ndarray, *, key: str) -> None:
        """Add an H×W×3 uint8 picture."""
        self._entries.put((step, pixels, key))

    def close(self) -> None:
        """Wait until everything is written, or until `problem` says why it cannot be."""
        self._closing.set()
        self._thread.join()

    def _write(self) -> None:
        metrics: list[Metric] = []
        pictures: list[tuple[int, np.ndarray, str]] = []
        deadline = None
        with contextlib.ExitStack() as load:
            while True:
                if self._closing.wait(_FLUSH_SECONDS) and deadline is None:
                    deadline = time.monotonic() + _PATIENCE_SECONDS
                while not self._entries.empty():
                    entry = self._entries.get()
                    if isinstance(entry, list):
                        metrics += entry
                    else:
                        pictures.append(entry)
                try:
                    self._send(metrics, pictures)
                    if deadline is None:
                        self._record_load(load)
                except Exception as error:  # MLflow has many network errors: keep everything and try again
                    log.warning("tracking: %d metrics wait for the server (%s)", len(metrics), first_line(error))
                    if getattr(error, "error_code", None) in _FINAL_ERRORS:
                        self.problem = (
                            f"the tracking server refused the latest metrics or pictures ({first_line(error)})"
                        )
                        return
                if deadline is not None and not (metrics or pictures):
                    return
                if deadline is not None and time.monotonic() > deadline:
                    self.problem = f"the tracking server did not answer; the last {len(metrics)} metrics are lost"
                    return
                if deadline is not None:
                    time.sleep(_FLUSH_SECONDS)

    def _send(self, metrics: list[Metric], pictures: list[tuple[int, np.ndarray, str]]) -> None:
        """Send both lists and remove from them what has arrived."""
        if not (metrics or pictures):
            return
        # Imported only when there is something to write: the import takes seconds, which would delay the first batch.
        from mlflow.entities import Metric as MlflowMetric
        from mlflow.tracking import MlflowClient

        client = MlflowClient(self._tracking_uri)
        while metrics:
            rows = [
                MlflowMetric(name, value, timestamp, step) for name, value, timestamp, step in metrics[:_MOST_METRICS]
            ]
            client.log_batch(self._run_id, metrics=rows, synchronous=True)
            del metrics[:_MOST_METRICS]
        while pictures:
            step, pixels, key = pictures[0]
            client.log_image(self._run_id, pixels, key=key, step=step, synchronous=True)
            del pictures[0]

    def _record_load(self, load: contextlib.ExitStack) -> None:
        """Start MLflow's system metrics once. They stop when `load` closes."""
        if self._load_recorded or "mlflow" not in sys.modules:
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._load_recorded = True
        monitor = SystemMetricsMonitor(self._run_id, resume_logging=True, tracking_uri=self._tracking_uri)
        monitor.start()
        load.callback(monitor.finish)
