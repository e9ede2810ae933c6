"""What Prometheus would read from the Ray of the tests."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable

import ray

Scrape = dict[str, dict[frozenset[tuple[str, str]], float]]

_SECONDS = 60.0  # Ray's processes send their figures every second here, but not while the cores are busy
_LINE = re.compile(r"^(\w+)(?:{(.*)})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
# Ray adds these to each series.
_OF_RAY = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId"}


def parse(text: str) -> Scrape:
    """The values of our series by name and labels, summed over processes."""
    found: Scrape = {}
    for name, given, value in _LINE.findall(text):
        if name.startswith(("ray_naturaltone", "naturaltone")):
            labels = {
                (label, said)
                for label, said in _LABEL.findall(given)
                if label not in _OF_RAY and not label.startswith("otel_scope")
            }
            series = found.setdefault(name, {})
            series[frozenset(labels)] = series.get(frozenset(labels), 0.0) + float(value)
    return found


def scrape() -> Scrape:
    """Scrape the agent of the one node of the Ray that this process is connected to."""
    [node] = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        return parse(answer.read().decode())


def scrape_until(names: set[str], is_so: Callable[[Scrape], bool] = lambda _: True) -> Scrape:
    """Scrape until all these series are there, and have the values that the test waits for."""
    deadline = time.monotonic() + _SECONDS
    while (missing := names - set(found := scrape())) or not is_so(found):
        assert time.monotonic() < deadline, f"Ray does not export {sorted(missing)}; it has {found}"
        time.sleep(0.5)
    return found


def value(found: Scrape, series: str, /, **labels: str) -> float:
    return found[series][frozenset(labels.items())]
