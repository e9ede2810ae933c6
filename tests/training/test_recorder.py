"""A tracking server that is slow or away holds up no step and loses no metric; one that is gone does not hold the run."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from naturaltone.infra import local
from naturaltone.training import recorder as recording
from naturaltone.training import tracking
from naturaltone.training.recorder import Recorder
from tests.fault_proxy import Faults, fault_proxy

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


def client_of(uri: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


def new_run(client: MlflowClient) -> str:
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    return str(client.create_run(experiment.experiment_id).info.run_id)


class Server:
    """`mlflow server` on SQLite, which a test starts when it needs it. `own` reads its database without the server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = local.free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.database = f"sqlite:///{folder}/mlflow.db"
        self.own = client_of(self.database)
        self.own.create_experiment(tracking.EXPERIMENT, artifact_location="mlflow-artifacts:/all")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", self.database, "--artifacts-destination", str(self.folder / "artifacts")]
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                [*command, "--workers", "1"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                preexec_fn=local._die_with_parent() if sys.platform == "linux" else None,
            )
        wait_for(self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "server.log").read_text()
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


def wait_for(happened: Callable[[], object], *, seconds: float = 120.0) -> None:
    """Wait for `happened`; fail the test after `seconds`, so that it cannot hang."""
    asleep = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if happened():
            return
        asleep.wait(0.05)
    raise AssertionError(f"did not happen within {seconds:.0f} s")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come soon. By default, MLflow's client alone waits for minutes."""
    monkeypatch.setattr(recording, "_FLUSH_SECONDS", 0.2)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")


def recorder_of(run_id: str) -> Recorder:
    return Recorder(run_id, tracking_uri=os.environ["MLFLOW_TRACKING_URI"])


def closing(recorder: Recorder) -> threading.Thread:
    thread = threading.Thread(target=recorder.close, daemon=True)
    thread.start()
    return thread


def picture(step: int) -> np.ndarray:
    return np.full((8, 12, 3), step, np.uint8)


def assert_complete(
    client: MlflowClient, run_id: str, steps: int, names: tuple[str, ...] = ("loss", "gradient")
) -> None:
    for name in names:
        rows = [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]
        assert sorted(rows) == [(step, step + 0.5) for step in range(steps)], f"every step of {name} once"


def pictures_of(server: Server, run_id: str) -> set[int]:
    """The steps that have pictures, from the file names that MLflow gives them."""
    names = [path.name for path in (server.folder / "artifacts").rglob("*.png") if run_id in path.parts]
    return {int(step) for name in names for step in re.findall(r"step\D+(\d+)", name)}


def test_a_server_that_is_away_delays_no_step_and_loses_no_metric_and_no_picture(
    server: Server, soon: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = new_run(server.own)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    server.stop()
    recorder = recorder_of(run_id)
    for step in range(1200):  # more than a server takes in one request
        recorder.log(
            step, {"loss": step + 0.5, "gradient": step + 0.5}
        )  # returns although the server starts only below
        if step % 600 == 0:
            recorder.log_image(step, picture(step % 256), key="samples")
    wait_for(lambda: "metrics wait" in caplog.text)
    ending = closing(recorder)
    ending.join(0.5)
    assert ending.is_alive(), "close() waits"
    server.start()
    ending.join(120)
    assert not ending.is_alive()
    assert_complete(server.own, run_id, 1200)
    assert pictures_of(server, run_id) == {0, 600}


def test_a_server_that_fails_now_and_then_loses_nothing(
    server: Server, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = new_run(server.own)
    server.stop()
    server.start()
    faults = Faults(share=0.4, kinds=("reset", "slow_down", "truncate"), seed=4)
    with fault_proxy(server.uri, faults) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
        recorder = recorder_of(run_id)
        for step in range(400):
            recorder.log(step, {"loss": step + 0.5, "gradient": step + 0.5})
            if step % 100 == 0:
                recorder.log_image(step, picture(step % 256), key="samples")
                threading.Event().wait(0.2)  # so that the recorder sends several times
        ending = closing(recorder)
        ending.join(120)
        assert not ending.is_alive()
    assert sum(proxy.injected.values()) > 3
    assert_complete(server.own, run_id, 400)
    assert pictures_of(server, run_id) == {0, 100, 200, 300}


def test_a_recorder_on_a_server_that_answers_writes_everything_when_it_closes(tracking_uri: str) -> None:
    client = client_of(tracking_uri)
    run_id = new_run(client)
    recorder = recorder_of(run_id)
    for step in range(30):
        recorder.log(step, {"loss": step + 0.5})
    recorder.log_image(29, picture(29), key="samples")
    ending = closing(recorder)
    ending.join(120)
    assert not ending.is_alive()
    assert_complete(client, run_id, 30, names=("loss",))
    assert len(list(client.list_artifacts(run_id, "images"))) >= 1
    recorder_of(run_id).close()  # works with nothing to write too


def test_a_server_that_never_comes_back_does_not_hold_the_run_for_ever(
    soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_PATIENCE_SECONDS", 0.3)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{local.free_port()}")
    recorder = recorder_of("0" * 32)
    recorder.log(0, {"loss": 1.0})
    ending = closing(recorder)
    ending.join(60)
    assert not ending.is_alive()
    assert recorder.problem == "the tracking server did not answer; the last 1 metrics are lost"


def test_the_load_of_the_machine_is_recorded_while_a_run_goes_on_and_after_a_resume(
    tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's monitor stops by itself if the run is marked as finished."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING", "1")
    monkeypatch.setattr(recording, "_FLUSH_SECONDS", 0.1)
    client = client_of(tracking_uri)
    for _ in range(2):  # the run begins, and is resumed
        run_id = tracking.start_run(run_name="loaded", params={}, tags={"store": "/a"}, dataset="/a/manifest.parquet")
        with tracking.running(run_id):
            recorder = recorder_of(run_id)
            recorder.log(0, {"loss": 0.5})
            before = len(client.get_metric_history(run_id, "system/cpu_utilization_percentage"))

            def more(run_id: str = run_id, before: int = before) -> bool:
                return len(client.get_metric_history(run_id, "system/cpu_utilization_percentage")) > before + 1

            try:
                wait_for(more, seconds=10)
            finally:
                recorder.close()
        assert client.get_run(run_id).info.status == "FINISHED"


def test_a_run_that_the_server_does_not_know_is_reported_at_once_and_holds_nothing_up(
    tracking_uri: str, soon: None
) -> None:
    recorder = recorder_of("0" * 32)
    recorder.log(0, {"loss": 1.0})
    wait_for(lambda: recorder.problem is not None)
    assert recorder.problem and recorder.problem.startswith(
        "the tracking server refused the latest metrics or pictures ("
    )
    recorder.log(1, {"loss": 1.0})
    assert recorder._entries.empty(), "nothing piles up"
    recorder.close()
