"""One scrape has the figures of all processes, and those of dead ones only where they count."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from naturaltone.infra import local
from naturaltone.serving.service import metrics

_OTHER = """
from naturaltone.serving.service import metrics
metrics.SLOTS.inc(5); metrics.BUSY.inc(2); metrics.MODEL.labels("model", "m-1").set(1)
metrics.SWAPS.labels("model").inc(3); metrics.MEGAPIXELS.labels("m-1").inc(2.5)
metrics.STAGE_SECONDS.labels("decode").observe(0.2); metrics.REQUESTS.labels("/", "200", "").inc()
metrics.REQUEST_SECONDS.labels("/").observe(1); metrics.UPLOADS.inc(); metrics.BUFFERED.inc(); metrics.INSIDE.inc()
metrics.REFUSALS.labels("model").inc(); metrics.MISSED_LOOKS.labels("model").inc(); metrics.BATCH_SIZE.observe(4)
print("written", flush=True)
input()
"""


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a proxy's figures, and a replica that has counted; both are processes of their own."""
    folder = tmp_path_factory.mktemp("figures")
    dead = Path(folder, f"naturaltone-{os.getuid()}", "metrics", "counter_4194304.db")
    dead.parent.mkdir(parents=True, mode=0o700)
    dead.parent.parent.chmod(0o700)
    dead.write_bytes(b"of a process of yesterday")
    port = local.free_port()
    with local.environment({"TMPDIR": str(folder)}):
        proxy = subprocess.Popen(
            [
                sys.executable, "-c",
                "from naturaltone.serving.service import metrics\n"
                f"metrics.answer_prometheus('127.0.0.1:{port}')\nprint('ready', flush=True)\ninput()",
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert proxy.stdout is not None and proxy.stdout.readline() == "ready\n"
        replica = subprocess.Popen(
            [sys.executable, "-c", _OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert replica.stdout is not None and replica.stdout.readline() == "written\n"
    yield f"http://127.0.0.1:{port}/metrics", replica
    for process in (replica, proxy):
        process.kill()
        process.wait()
    assert not dead.exists(), "counters of processes before the proxy are gone"


def scrape(address: str) -> dict[str, Metric]:
    with urllib.request.urlopen(address, timeout=30) as response:
        return {family.name: family for family in text_string_to_metric_families(response.read().decode())}


def test_a_scrape_has_every_figure_and_keeps_the_counts_of_the_dead_but_not_their_gauges(
    other: tuple[str, subprocess.Popen[str]],
) -> None:
    address, replica = other
    names = {
        each._name
        for each in vars(metrics).values()
        if isinstance(each, metrics.Counter | metrics.Gauge | metrics.Histogram)
    }
    assert len(names) >= 14
    families = scrape(address)
    assert names <= set(families) and all(name.startswith("naturaltone_") for name in names)
    assert all(families[name].documentation for name in names)
    assert families["naturaltone_slots"].samples[0].value == 5
    assert families["naturaltone_model_replicas"].samples[0].labels == {"which": "model", "version": "m-1"}
    replica.kill()
    replica.wait()
    families = scrape(address)
    for name in ("naturaltone_slots", "naturaltone_busy_slots", "naturaltone_model_replicas"):
        assert [sample.value for sample in families[name].samples if sample.value] == [] if name in families else True
    assert families["naturaltone_model_swaps"].samples[0].value == 3
    assert families["naturaltone_megapixels"].samples[0].value == 2.5


def test_only_the_given_address_answers(other: tuple[str, subprocess.Popen[str]]) -> None:
    address, _ = other
    port = int(address.split(":")[2].split("/")[0])
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.2:{port}/metrics", timeout=5)
