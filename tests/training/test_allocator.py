"""A training process keeps what a step frees; the threads of the service share it."""

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
    assert page_faults("", allocator.KEEP_ENVIRONMENT) < 1_000


_THREADS = """
import threading

def use():
    with turn:
        blocks = [bytearray(100_000) for _ in range(300)]
        del blocks
    end.wait()

turn, end = threading.Lock(), threading.Barrier(9)
for _ in range(8):
    threading.Thread(target=use).start()
end.wait()
with open("/proc/self/statm") as file:
    print(int(file.read().split()[1]))
"""


def resident_pages(environment: dict[str, str]) -> int:
    """What a process holds after each of eight threads has used 30 MB and freed them."""
    command = [sys.executable, "-c", _THREADS]
    return int(subprocess.run(command, env=os.environ | environment, capture_output=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_a_thread_uses_what_another_one_has_freed() -> None:
    apart = {**allocator.SERVE_ENVIRONMENT, "MALLOC_ARENA_MAX": "8"}
    assert resident_pages(allocator.SERVE_ENVIRONMENT) < resident_pages(apart) / 2
