"""The figures that Prometheus reads: one page for all processes of the service on a machine.

Each process writes its figures into files of one folder (the multi-process mode of prometheus_client). The proxy answers for
all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from naturaltone.pipeline.private_folder import private_folder

# prometheus_client reads this variable when it is imported.
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(private_folder("metrics"))

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

# Counted by the proxy.
REQUESTS = Counter(
    "naturaltone_requests",
    "Answered requests. reason: the word of the error, empty if there is none.",
    ["path", "status", "reason"],
)
REQUEST_SECONDS = Histogram(
    "naturaltone_request_seconds",
    "Seconds from the first byte of a request to the last of its answer.",
    ["path"],
    buckets=_SECONDS,
)
UPLOADS = Gauge("naturaltone_uploads", "Requests whose body is still arriving.", multiprocess_mode="livesum")
BUFFERED = Gauge("naturaltone_buffered_bytes", "Bytes of request bodies in memory.", multiprocess_mode="livesum")
INSIDE = Gauge(
    "naturaltone_requests_inside", "Requests that wait for a replica or are worked on.", multiprocess_mode="livesum"
)
# Counted by the replicas.
SLOTS = Gauge(
    "naturaltone_slots", "Photos that the replicas can work on at the same time.", multiprocess_mode="livesum"
)
BUSY = Gauge("naturaltone_busy_slots", "Photos that are worked on.", multiprocess_mode="livesum")
MEGAPIXELS = Counter("naturaltone_megapixels", "Megapixels enhanced.", ["model"])
STAGE_SECONDS = Histogram(
    "naturaltone_stage_seconds",
    "Seconds of a photo in a stage: wait (for a slot and memory), decode, network, apply, encode.",
    ["stage"],
    buckets=_SECONDS,
)
BATCH_SIZE = Histogram(
    "naturaltone_network_batch_size", "Photos in a batch of the network on a GPU.", buckets=(1, 2, 4, 8, 16, 32, 64)
)
MODEL = Gauge(
    "naturaltone_model_replicas", "Replicas that serve this version. which: model or challenger.", ["which", "version"],
    multiprocess_mode="livesum",
)  # fmt: skip
SWAPS = Counter("naturaltone_model_swaps", "Changes to another version of a model, without a restart.", ["which"])
REFUSALS = Counter("naturaltone_model_refusals", "Versions that failed their self-test or cannot be read.", ["which"])
MISSED_LOOKS = Counter(
    "naturaltone_model_missed_looks",
    "Looks for a new version that failed, for example because the registry is away.",
    ["which"],
)


def answer_prometheus(address: str) -> None:
    """Serve the figures of all processes at HOST:PORT, from a thread. `OSError` if the port is taken."""
    host, _, port = address.rpartition(":")
    _remove_dead("*.db")  # counters may start again at 0 when the proxy starts, but not while it runs
    registry = CollectorRegistry()
    _Living(registry)
    start_http_server(int(port), host.strip("[]") or "127.0.0.1", registry)  # an IPv6 address stands in brackets


class _Living(MultiProcessCollector):
    """Leaves out the gauges of replicas that were killed."""

    def collect(self) -> Iterable[Metric]:
        _remove_dead("gauge_live*.db")
        return super().collect()


def _remove_dead(pattern: str) -> None:
    """Remove the files of processes that ended."""
    for path in private_folder("metrics").glob(pattern):
        pid = path.stem.rpartition("_")[2]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            path.unlink(missing_ok=True)
