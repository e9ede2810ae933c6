"""The process keeps what a training step frees: the next step does not ask the system for the same pages again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from naturaltone.training import allocator

_ROUNDS = """
import resource, sys
import torch
from naturaltone.training import allocator

def page_faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
if sys.argv[1] == "keep":
    allocator.keep_freed_memory()
page_faults(20)
print(page_faults(20))
"""


def page_faults(what: str, environment: dict[str, str]) -> int:
    """The page faults of twenty allocations of 40 MB, one after the other."""
    command = [sys.executable, "-c", _ROUNDS, what]
    return int(subprocess.run(command, env=os.environ | environment, capture_output=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_freed_memory_is_kept() -> None:
    assert page_faults("", {}) > 10_000, "otherwise there is nothing to keep"
    assert page_faults("keep", {}) < 1_000
    assert page_faults("", allocator.ENVIRONMENT) < 1_000
