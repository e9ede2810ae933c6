"""An archive's figures for Prometheus: what is done, what failed and why, and how long it will take."""

from __future__ import annotations

import time
from collections import Counter as Tally

from naturaltone.pipeline.figures import Counter, Gauge
from naturaltone.serving.archive.plan import ArchivePlan
from naturaltone.serving.archive.report import Entry

FILES = Gauge("naturaltone_archive_files", "Files that this run has to do.", "target")
FILES_LEFT = Gauge("naturaltone_archive_files_left", "Files that this run still has to do.", "target")
SECONDS_LEFT = Gauge(
    "naturaltone_archive_seconds_left",
    "How long the rest will take, if its bytes take as long as those before.",
    "target",
)
LAST_FILE = Gauge(
    "naturaltone_archive_last_file_timestamp_seconds",
    "When the newest file was done, or when the run started.",
    "target",
)
DONE = Counter(
    "naturaltone_archive_files_done",
    "Files that are done. status: enhanced, copied, skipped or failed. reason: of a skipped or failed file.",
    *("target", "status", "reason"),
)
MEGAPIXELS = Counter("naturaltone_archive_megapixels", "Megapixels enhanced.", "target")

_SHOW_SECONDS = 1.0  # a set of figures for each file would cost the driver more than the file's line in the report


class ArchiveFigures:
    """Shows a run's figures at most once a second. The driver gives it each finished file."""

    def __init__(self, plan: ArchivePlan) -> None:
        self._plan = plan
        self._files, self._bytes = 0, 0
        self._started: float | None = None  # with the first file, which waits for Ray to start
        self._first_bytes = 0
        self._done: Tally[tuple[str, str]] = Tally()
        self._megapixels = 0.0
        self._shown = time.monotonic()
        FILES.set(plan.num_files, target=plan.target)
        FILES_LEFT.set(plan.num_files, target=plan.target)
        LAST_FILE.set(time.time(), target=plan.target)

    def add(self, entry: Entry) -> None:
        self._files += 1
        self._bytes += entry.bytes
        self._done[entry.status, entry.reason or ""] += 1
        self._megapixels += entry.megapixels
        if self._started is None:
            self._started, self._first_bytes = time.monotonic(), self._bytes
        if time.monotonic() - self._shown > _SHOW_SECONDS:
            self.show()

    def show(self) -> None:
        target, now = self._plan.target, time.monotonic()
        FILES_LEFT.set(self._plan.num_files - self._files, target=target)
        LAST_FILE.set(time.time(), target=target)
        rated = self._bytes - self._first_bytes
        if self._started is not None and rated:
            left = max(0, self._plan.num_bytes - self._bytes)
            SECONDS_LEFT.set(left * (now - self._started) / rated, target=target)
        for (status, reason), count in self._done.items():
            DONE.add(count, target=target, status=status, reason=reason)
        MEGAPIXELS.add(self._megapixels, target=target)
        self._done.clear()
        self._megapixels, self._shown = 0.0, now
