"""A figure that is set in any process of Ray is read by Prometheus; without Ray, none costs anything."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import ray

from naturaltone.pipeline import figures
from naturaltone.pipeline.figures import Counter, Gauge
from tests.scrapes import scrape_until, value

GAUGE = Gauge("naturaltone_test_gauge", "A gauge of the test.", "run")
COUNTER = Counter("naturaltone_test_counter", "A counter of the test.", "why")


@ray.remote(num_cpus=0)
def count_in_a_worker() -> None:
    COUNTER.add(2, why="worker")


@pytest.mark.usefixtures("ray_cluster")
def test_what_driver_and_workers_count_is_exported_by_ray_under_the_name_that_we_say() -> None:
    GAUGE.set(1, run="a")
    GAUGE.set(0.25, run="a")
    COUNTER.add(3, why="driver")
    COUNTER.add(0, why="nothing")  # makes no series
    ray.get([count_in_a_worker.remote() for _ in range(2)])
    series = {frozenset({("why", "driver")}): 3.0, frozenset({("why", "worker")}): 4.0}
    # Each process has its own interval, and the two workers may be one.
    found = scrape_until({GAUGE.series, COUNTER.series}, lambda found: found[COUNTER.series] == series)
    assert value(found, GAUGE.series, run="a") == 0.25


def test_a_gauge_that_was_set_once_is_set_again_because_ray_forgets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_AGAIN_SECONDS", 0.01)
    gauge, seen = Gauge("naturaltone_test_again", "A gauge of the test.", "run"), []
    ray_gauge = SimpleNamespace(set=lambda value, labels: seen.append((value, labels)))
    monkeypatch.setattr(gauge, "_of_ray", lambda: ray_gauge)
    gauge.set(1, run="a")
    gauge.set(2, run="b")
    deadline = time.monotonic() + 30
    while len(seen) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert {(value, labels["run"]) for value, labels in seen[-4:]} == {(1, "a"), (2, "b")} and len(seen) >= 8
    monkeypatch.setattr(gauge, "_of_ray", lambda: None)


def test_without_ray_a_figure_is_set_nowhere_and_imports_nothing() -> None:
    script = (
        "import sys\n"
        "from naturaltone.pipeline.figures import S3_RETRIES, Gauge\n"
        "S3_RETRIES.add(why='x')\n"
        "Gauge('naturaltone_x', 'x').set(1)\n"
        "sys.exit('ray' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
