"""The demo runs every step, and a stopped demo leaves no process behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

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


def test_the_demo_runs_every_step_and_names_the_photos_that_it_rejected(
    photo_folder: Path, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    inputs = Path(shutil.copytree(photo_folder, tmp_path / "inputs"))
    good = (inputs / "01.jpg").read_bytes()
    (inputs / "cut.jpg").write_bytes(good[: len(good) // 2])
    (inputs / "text.jpg").write_text("no photo")
    Image.new("RGB", (1, 1)).save(inputs / "dot.png")
    out = tmp_path / "demo"
    command = [*COMMAND, "--inputs", str(inputs), "--natural", str(photo_folder), "--out", str(out), "--steps", "8"]
    done = subprocess.run(command, env=clean_environment, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 1, done.stderr  # finished, but some photos failed
    assert "Traceback" not in done.stderr

    summary = json.loads((out / "summary.json").read_text())
    assert (summary["photos"]["inputs"], summary["photos"]["natural"], summary["photos"]["rejected"]) == (24, 24, 3)
    reasons = {row["source"].rpartition("/")[2]: row["reason"] for row in summary["photos"]["rejects"]}
    assert reasons == {"cut.jpg": "truncated", "text.jpg": "not_an_image", "dot.png": "too_small"}
    assert all(name in done.stderr for name in reasons)
    assert summary["train"]["workers"] == min(2, len(os.sched_getaffinity(0))) and summary["train"]["steps"] == 8
    assert {"first", "last"} == set(summary["train"]["losses"])
    assert set(summary["evaluation"]["table"]) == {"input", "intermediate", "result"}
    archived = summary["archive"]
    assert (archived["enhanced"], archived["left_alone"], archived["failed"]) == (24, 1, 2)
    assert summary["serve"]["status"] == 200 and summary["model"]["version"] == "1"
    assert {"start", "ingest", "train", "register", "evaluate", "enhance", "serve", "total"} == set(summary["seconds"])
    assert "local contrast" in done.stdout and "Next:" in done.stdout
    report = (out / "report.html").read_text()
    assert report.count("<img") >= 3 and "cut.jpg" in report and "http://" not in report.replace("http://127.0.0.1", "")
