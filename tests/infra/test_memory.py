"""The peak also counts processes that this process started, even after they end."""

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


def test_the_memory_of_a_child_process_counts_and_stays_counted() -> None:
    # numpy.ones, because the system gives zeros no memory until they are written.
    hold = f"import numpy, time; held = numpy.ones(int({_GIB} * 2**30), numpy.uint8); time.sleep(1)"
    with memory.PeakMemory() as peak:
        subprocess.run([sys.executable, "-c", hold], check=True)
    assert peak.gib > _GIB
