"""Programs that tests start, and their ends."""

from __future__ import annotations

import contextlib
import subprocess

import psutil


def title(process: psutil.Process) -> str:
    """What the process calls itself, as Ray's workers do by their task; empty if it has ended."""
    with contextlib.suppress(psutil.Error, IndexError):
        return process.cmdline()[0]
    return ""


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
