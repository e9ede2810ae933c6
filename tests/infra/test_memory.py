"""The peak counts what was started too, and what has ended since."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from naturaltone.infra import memory

_GIB = 0.5


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(memory, "_SECONDS", 0.05)
    yield


def test_memory_of_a_process_that_was_started_counts_and_stays_counted() -> None:
    # numpy.ones, since zeros would not be given any memory before they are written.
    hold = f"import numpy, time; held = numpy.ones(int({_GIB} * 2**30), numpy.uint8); time.sleep(1)"
    with memory.PeakMemory() as peak:
        subprocess.run([sys.executable, "-c", hold], check=True)
    assert peak.gib > _GIB
