"""Programs that tests start, and their ends."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable

import psutil

_START_SECONDS = 240.0


def title(process: psutil.Process) -> str:
    """What the process calls itself, as Ray's workers do by their task; empty if it has ended."""
    with contextlib.suppress(psutil.Error, IndexError):
        return process.cmdline()[0]
    return ""


def start_until_ready(
    start: Callable[[], subprocess.Popen[bytes]], is_ready: Callable[[], bool]
) -> subprocess.Popen[bytes]:
    """Start a program until one is ready, as a supervisor does: on a busy machine `ray start` gives up after 30 s."""
    deadline = time.monotonic() + _START_SECONDS
    process = start()
    while not is_ready():
        if process.poll() is not None:
            process = start()
        if time.monotonic() > deadline:
            kill_with_children(process)
            raise AssertionError(f"not ready after {_START_SECONDS:.0f} s: {process.args}")
        time.sleep(0.1)
    return process


def kill_with_children(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a process and all that it has started, as a machine that is lost does.

    `ray start --block` takes half a minute to end on SIGTERM.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        for each in [*parent.children(recursive=True), parent]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    process.wait()
