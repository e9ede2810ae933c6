"""What a run remembers: G's average, whether D still says anything, and metrics that reach MLflow whatever it does."""

from __future__ import annotations

import dataclasses
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
import torch

from naturaltone.infra import local
from naturaltone.training import checkpoint, tracking
from naturaltone.training.config import TrainConfig
from naturaltone.training.history import History, Saturation
from naturaltone.training.step import GanStep
from naturaltone.training.tracking import Recorder
from tests.fault_proxy import Faults, fault_proxy

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CPU = torch.device("cpu")
LATE = 10**6  # a step by which the average's ramp has long ended


def gan_with_ones(config: TrainConfig, **settings: float) -> GanStep:
    """G's weights are 1, those of its average 0."""
    gan = GanStep(dataclasses.replace(config, width=4, crop=32, steps=2 * LATE, **settings), device=CPU)
    with torch.no_grad():
        for network, value in ((gan.networks["generator"], 1.0), (gan.ema, 0.0)):
            for weight in network.parameters():
                weight.fill_(value)
    return gan


def averaged(gan: GanStep, *numbers: int) -> float:
    """The share of G in its average after these steps."""
    for number in numbers:
        gan._average(number)
    shares = torch.cat([weight.flatten() for weight in gan.ema.parameters()])
    assert (shares == shares[0]).all(), "all weights alike"
    return shares[0].item()


@pytest.mark.parametrize(("batch", "steps"), [(1, 40), (4, 10), (8, 5), (40, 1), (80, 0.5)])
def test_the_averages_half_life_is_in_photos_whatever_the_batch(config: TrainConfig, batch: int, steps: float) -> None:
    """40 photos halve what was there before: in 40 steps of 1, in 10 of 4; half a step of 80 is 80 photos, a quarter."""
    gan = gan_with_ones(config, batch=batch, ema_half_life=40)
    expected = 0.5 if steps >= 1 else 0.75
    assert averaged(gan, *range(LATE, LATE + max(1, int(steps)))) == pytest.approx(expected, abs=1e-5)


def test_the_averages_half_life_grows_with_the_photos_seen_until_it_is_the_configured_one(config: TrainConfig) -> None:
    """After n photos it is n/20 of them; 1 − 2^(−20/(k+1)) of step k is G: all of it at first."""
    by_hand = {0: 1 - 2**-20, 1: 1 - 2**-10, 19: 0.5, 39: 1 - 2**-0.5, 199: 1 - 2**-0.1}
    for batch in (4, 8):
        for number, expected in by_hand.items():
            gan = gan_with_ones(config, batch=batch, ema_half_life=10**6)
            assert averaged(gan, number) == pytest.approx(expected, abs=1e-6), (batch, number)
    short = gan_with_ones(config, batch=4, ema_half_life=8)
    assert averaged(short, 199) == pytest.approx(1 - 2**-0.5), "not beyond what was configured"


def test_a_half_life_of_zero_is_g_itself_to_the_bit(config: TrainConfig, astronaut: np.ndarray) -> None:
    gan = GanStep(dataclasses.replace(config, ema_half_life=0, width=4, crop=32), device=CPU)
    crops = astronaut[None, :32, 100:132].repeat(4, axis=0)
    for number in range(3):
        gan.step({"input": crops // 2, "intermediate": crops, "natural": crops}, number=number)
        for own, mean in zip(gan.networks["generator"].parameters(), gan.ema.parameters(), strict=True):
            assert torch.equal(own, mean)


def test_the_average_goes_on_from_a_checkpoint_and_is_what_the_bundle_holds(
    config: TrainConfig, astronaut: np.ndarray, tmp_path: Path
) -> None:
    config = dataclasses.replace(config, width=4, crop=32)
    crops = astronaut[None, :32, 100:132].repeat(4, axis=0)
    batch = {"input": crops // 2, "intermediate": crops, "natural": crops}
    whole, resumed = GanStep(config, device=CPU), GanStep(dataclasses.replace(config, seed=9), device=CPU)
    for number in range(6):
        whole.step(batch, number=number)
        if number == 2:
            files = checkpoint.pack(checkpoint.take_snapshot(whole, step=3))
            checkpoint.restore(checkpoint.unpack(files, place="here"), resumed)
        elif number > 2:
            resumed.step(batch, number=number)
    own = whole.networks["generator"].state_dict()
    mean = whole.ema.state_dict()
    assert not all(torch.equal(own[name], mean[name]) for name in own), "an average, not G"
    assert all(torch.equal(mean[name], weight) for name, weight in resumed.ema.state_dict().items())
    snapshot = checkpoint.take_snapshot(resumed, step=6)
    checkpoint.save_bundle(tmp_path, snapshot.generator(), config, working_resolution=96, lineage={})
    bundled = checkpoint.load_bundle(tmp_path).generator.state_dict()
    assert all(torch.allclose(mean[name], bundled[name], rtol=0, atol=1e-12) for name in mean)


STUCK = {"activation_natural": 0.999, "activation_enhanced": 0.001}
ALIVE = {"activation_natural": 0.7, "activation_enhanced": 0.3}


def said(*steps: dict[str, float]) -> list[float]:
    saturation = Saturation()
    return [saturation.add(step)["discriminator_saturated"] for step in steps]


def test_a_stuck_d_is_told_from_its_50th_step_in_a_row_until_it_moves_again() -> None:
    assert said(*[STUCK] * 52, ALIVE, *[STUCK] * 50) == [0] * 49 + [1] * 3 + [0] + [0] * 49 + [1]


def test_one_step_of_life_begins_the_count_anew() -> None:
    assert not any(said(*[STUCK] * 49, ALIVE, *[STUCK] * 49))


@pytest.mark.parametrize(
    "stuck", [{"activation_natural": 0.999}, {"activation_enhanced": 0.001}], ids=lambda s: next(iter(s))
)
def test_a_d_that_is_stuck_on_one_side_alone_still_teaches(stuck: dict[str, float]) -> None:
    assert not any(said(*[ALIVE | stuck] * 80))


@pytest.mark.parametrize("activation", [0.0, 0.0099, 0.9901, 1.0])
def test_stuck_at_either_end_is_stuck(activation: float) -> None:
    assert said(*[{name: activation for name in STUCK}] * 50)[-1] == 1


def test_a_run_without_d_has_no_saturation() -> None:
    assert Saturation().add({"loss_color": 0.1}) == {}


class Rows:
    """In place of a recorder."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.closed = False

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.rows.append((step, metrics))

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("steps", [9, 10, 67])
def test_every_step_is_recorded_once_with_its_saturation(config: TrainConfig, steps: int) -> None:
    rows, posted = Rows(), []
    history = History(
        dataclasses.replace(config, steps=steps),
        device=CPU,
        recorder=rows,  # type: ignore[arg-type]
        post=lambda done, metrics: posted.append((done, metrics)),
    )
    for step in range(steps):
        history.add(step, STUCK | {"loss_color": float(step)})
    history.close()
    losses = {step: metrics for step, metrics in rows.rows if "loss_color" in metrics}
    assert [step for step, metrics in rows.rows if "loss_color" in metrics] == list(range(steps))
    assert all(metrics["loss_color"] == step for step, metrics in losses.items())
    assert [metrics["discriminator_saturated"] for metrics in losses.values()] == [
        float(step >= 49) for step in range(steps)
    ]
    assert posted[-1][0] == steps and [done for done, _ in posted[:-1]] == list(range(10, steps, 10))[: len(posted) - 1]
    assert rows.closed


def client_of(uri: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


def new_run(client: MlflowClient) -> str:
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    return str(client.create_run(experiment.experiment_id).info.run_id)


class Server:
    """`mlflow server` on SQLite, which a test starts when it wants it there. `own` looks into its files without it."""

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
    """Fails the test after a time that is never near, so that it cannot hang."""
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
    """What is tried again is so soon; as it is, MLflow's client alone waits for minutes."""
    monkeypatch.setattr(tracking, "_FLUSH_SECONDS", 0.2)
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
        assert sorted(rows) == [(step, step + 0.5) for step in range(steps)], f"each once, {name}"


def pictures_of(server: Server, run_id: str) -> set[int]:
    """The steps of which there are pictures, by the names that MLflow gives them."""
    names = [path.name for path in (server.folder / "artifacts").rglob("*.png") if run_id in path.parts]
    return {int(step) for name in names for step in re.findall(r"step\D+(\d+)", name)}


def test_a_server_that_is_away_delays_no_step_and_loses_no_metric_and_no_picture(
    server: Server, soon: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = new_run(server.own)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    server.stop()
    recorder = recorder_of(run_id)
    for step in range(1200):  # more than a server takes at once
        recorder.log(step, {"loss": step + 0.5, "gradient": step + 0.5})  # returns: the server starts only below
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


def test_a_server_that_stops_in_between_and_one_that_fails_now_and_then_lose_nothing(
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
                threading.Event().wait(0.2)  # several sendings
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
    recorder_of(run_id).close()  # and with nothing to write


def test_a_server_that_never_comes_back_does_not_hold_the_run_for_ever(
    soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_PATIENCE_SECONDS", 0.3)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{local.free_port()}")
    recorder = recorder_of("0" * 32)
    recorder.log(0, {"loss": 1.0})
    ending = closing(recorder)
    ending.join(60)
    assert not ending.is_alive()
    assert recorder.problem == "the tracking server did not answer, the last 1 metrics are lost"


def test_the_load_of_the_machine_is_recorded_while_a_run_goes_also_after_it_was_opened(
    tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's monitor stops by itself at a run that is marked as finished."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING", "1")
    monkeypatch.setattr(tracking, "_FLUSH_SECONDS", 0.1)
    client = client_of(tracking_uri)
    for _ in range(2):  # begun, and resumed
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


def test_a_run_is_shown_as_running_and_then_as_it_ended(tracking_uri: str) -> None:
    client = client_of(tracking_uri)
    run_id = tracking.start_run(run_name="ends", params={}, tags={"store": "/a"}, dataset="/a/manifest.parquet")
    for error, status in ((RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")):
        with pytest.raises(error), tracking.running(run_id):
            assert client.get_run(run_id).info.status == "RUNNING"
            raise error
        assert client.get_run(run_id).info.status == status


def test_a_run_that_the_server_does_not_know_is_said_at_once_and_holds_nothing_up(
    tracking_uri: str, soon: None
) -> None:
    recorder = recorder_of("0" * 32)
    recorder.log(0, {"loss": 1.0})
    wait_for(lambda: recorder.problem is not None)
    assert recorder.problem and recorder.problem.startswith("the tracking server refused what came last (")
    recorder.log(1, {"loss": 1.0})
    assert recorder._entries.empty(), "nothing piles up"
    recorder.close()
