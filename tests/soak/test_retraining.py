"""Retraining as a team runs it, with MLflow on PostgreSQL, and a slot that is killed."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from naturaltone.infra import exit_codes, local
from naturaltone.pipeline.dataset import shards
from naturaltone.serving import promotions, registry
from naturaltone.training import model_registry
from tests.postgresql import running
from tests.soak.test_service import mlflow_server

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The URI of a new PostgreSQL database; the server is Debian's."""
    with running(password="any") as server:
        yield f"postgresql+psycopg2://mlflow:any@{server}/mlflow"


@pytest.fixture
def environment(clean_environment: dict[str, str], tmp_path: Path, postgresql: str) -> Iterator[dict[str, str]]:
    """The environment of the commands, with an MLflow server on PostgreSQL; this process has its address too."""
    port = local.free_port()
    own = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}", "NATURALTONE_CACHE": str(tmp_path / "cache")}
    (tmp_path / "mlflow").mkdir()
    with mlflow_server(tmp_path / "mlflow", port, clean_environment, postgresql), local.environment(own):
        yield clean_environment | own


def test_a_slot_that_is_killed_while_it_trains_goes_on(
    environment: dict[str, str],
    tmp_path: Path,
    astronaut: np.ndarray,
    to_file: Callable[..., bytes],
) -> None:
    """The real commands with the smoke recipe: the second slot is killed while it trains."""

    def photos(folder: str, first: int, count: int) -> None:
        (tmp_path / folder).mkdir(exist_ok=True)
        for number in range(first, first + count):
            top, left = 13 * number % 390, 11 * number % 360
            pixels = np.ascontiguousarray(astronaut[top : top + 120, left : left + 150])
            (tmp_path / folder / f"{number}.jpg").write_bytes(to_file(pixels, quality=92))

    for folder in ("inputs", "natural"):
        photos(folder, 0, 60)
    (tmp_path / "retrain.toml").write_text(
        'store = "store"\n[ingest]\ninputs = ["inputs"]\nnatural = ["natural"]\nlong_side = 128\n[train]\nrecipe = "smoke"\n'
        "workers = 2\nset = { steps = 40, checkpoint_every = 10 }\n"
    )
    slot = [sys.executable, "-m", "naturaltone", "retrain", str(tmp_path / "retrain.toml"), "--slot"]
    first = subprocess.run([*slot, "1"], env=environment, capture_output=True, text=True, check=False)
    assert first.returncode == exit_codes.OK and "promoted version 1" in first.stdout, first.stderr
    again = subprocess.run([*slot, "1"], env=environment, capture_output=True, text=True, check=False)
    assert again.stdout == first.stdout, "a finished slot does nothing"
    for folder in ("inputs", "natural"):
        photos(folder, 60, 20)

    state = tmp_path / "store/slots/nightly/2.json"
    killed(slot, environment, state, after="plan", seconds=20.0)  # while it trains
    done = subprocess.run([*slot, "2"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == exit_codes.OK, done.stderr
    assert tuple(json.loads(state.read_text())["seconds"]) == ("ingest", "plan", "train", "gate", "promote", "report")
    assert json.loads(state.read_text())["start"] == "checkpoint"
    print(done.stdout)
    assert [each.version for each in model_registry.versions()] == ["2", "1"]
    champion = model_registry.aliases()["champion"]
    assert [each.version for each in promotions.history() if each.is_done][-1] == champion
    assert registry.load_model("models:/naturaltone@champion")[0].description["lineage"]["store"] == str(
        tmp_path / "store"
    )
    assert shards.open_store(str(tmp_path / "store")).count("input") == 80


def killed(slot: list[str], environment: dict[str, str], state: Path, *, after: str, seconds: float) -> None:
    """Run the slot and SIGKILL it some time after a stage has ended."""
    process = subprocess.Popen([*slot, "2"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while after not in _stages(state):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(seconds)
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    process.wait()
    psutil.wait_procs(children, timeout=30)  # Ray's processes end when they find their driver gone


def _stages(state: Path) -> list[str]:
    with contextlib.suppress(OSError, ValueError):
        return list(json.loads(state.read_text())["seconds"])
    return []
