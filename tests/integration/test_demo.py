"""The demo runs every step."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.ray  # the command starts a Ray of its own

COMMAND = [sys.executable, "-m", "naturaltone", "demo"]


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
