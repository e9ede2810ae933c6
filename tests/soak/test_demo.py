"""A stopped demo leaves no process behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

COMMAND = [sys.executable, "-m", "naturaltone", "demo"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_stopped_demo_leaves_no_process_behind(
    number: signal.Signals, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--out", str(tmp_path / "demo")],
        env=clean_environment,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "] train" in line:
            break
    time.sleep(8)  # the workers are starting now: most processes depend on each other
    started = psutil.Process(process.pid).children(recursive=True)
    assert any("rclone" in child.name() for child in started) and any("raylet" in child.name() for child in started)
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 128 + number
    assert "interrupted" in rest and "Traceback" not in rest
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive, [child.name() for child in alive]
