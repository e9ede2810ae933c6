"""A run ends with the weights of an undisturbed run, even if workers, drivers, servers or disks fail during training."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from naturaltone import cli
from naturaltone.infra import exit_codes, local
from naturaltone.pipeline import storage
from naturaltone.training import checkpoint, runs
from naturaltone.training import train as training
from naturaltone.training.config import TrainConfig
from naturaltone.training.train import TrainResult, train
from tests import fault_proxy
from tests.stores import make_store

pytestmark = pytest.mark.usefixtures("ray_cluster")

EVERY = 30
SETTINGS = {"steps": 6 * EVERY, "checkpoint_every": EVERY, "crop": 32, "width": 4}
_DRIVER = """
import json, sys
from pathlib import Path
from naturaltone.infra.local import ray_session
from naturaltone.training.config import TrainConfig
from naturaltone.training.train import train
store, run, workers, bundle, config = sys.argv[1:]
with ray_session():
    config = TrainConfig(**json.loads(config))
    train(store, config, run_name=run, workers=int(workers), use_gpu=False, bundle=Path(bundle))
"""

# Starts a new cluster: the node of the driver has room for one worker, the other node for both workers.
_SHRINKING_CLUSTER = """
import json, os, sys, threading, time
from pathlib import Path
os.environ["RAY_AUTH_MODE"] = "disabled"  # the nodes that cluster_utils adds have no token
os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "20"  # Ray Train first waits this long for the lost node
from ray.cluster_utils import Cluster
from naturaltone.infra.local import ray_session
from naturaltone.training import runs
from naturaltone.training.config import TrainConfig
from naturaltone.training.train import train
store, run, lost_after, bundle, config = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
node = cluster.add_node(num_cpus=4)
os.environ["RAY_ADDRESS"] = cluster.address

def lose_node():
    while max(runs.list_checkpoints(f"{store}/runs/{run}"), default=0) < int(lost_after):
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)

threading.Thread(target=lose_node, daemon=True).start()
with ray_session():
    result = train(
        store, TrainConfig(**json.loads(config)), run_name=run, workers=(1, 2), use_gpu=False, bundle=Path(bundle)
    )
print(json.dumps([result.workers, result.report.steps]))
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def tiny(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, **SETTINGS)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> str:
    return make_store(tmp_path_factory.mktemp("fault"), astronaut, 18)


@pytest.fixture(scope="module")
def undisturbed(store: str, tiny: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A run of two workers that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return train(store, tiny, run_name="undisturbed", workers=2, use_gpu=False, bundle=folder)


def run_uri(store: str, name: str) -> str:
    return storage.join(store, "runs", name)


def final_tensors(uri: str) -> dict[str, torch.Tensor]:
    tensors = runs.read_checkpoint(uri, SETTINGS["steps"]).tensors
    assert len(tensors) > 50
    return tensors


def assert_same_weights(store: str, name: str, *, of: str | None = None, within: float = 0.0) -> None:
    """The last checkpoint equals that of the undisturbed run, including the states of Adam and of the moving average.

    With `within`, only the weights are compared: another number of workers adds up in another order.
    """
    expected, found = final_tensors(run_uri(of or store, "undisturbed")), final_tensors(run_uri(store, name))
    assert expected.keys() == found.keys()
    apart = {key: (found[key] - tensor).abs().max().item() for key, tensor in expected.items()}
    if within:
        apart = {key: value for key, value in apart.items() if "/weights/" in key}
    worst = max(apart, key=lambda key: apart[key])
    assert apart[worst] <= within, (worst, apart[worst])


def losses_of(result: TrainResult) -> dict[int, float]:
    from mlflow.tracking import MlflowClient

    return {metric.step: metric.value for metric in MlflowClient().get_metric_history(result.run_id, "loss_color")}


def wait_for(happened: Callable[[], object]) -> None:
    """Wait until `happened()` is true. Fail after two minutes, which no test comes near, so that no test hangs."""
    asleep = threading.Event()
    for _ in range(24_000):
        if happened():
            return
        asleep.wait(0.005)
    raise AssertionError("did not happen within two minutes")


def wait_for_some_step(uri: str, seed: int) -> None:
    """Wait for a random moment, drawn from `seed`, after the first checkpoint and long before the last one."""
    moment = random.Random(seed)
    after = EVERY * moment.choice([1, 2])
    wait_for(lambda: max(runs.list_checkpoints(uri), default=0) >= after)
    threading.Event().wait(moment.uniform(0.0, 0.2))


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """The DDP workers that `process`, a driver or this process, has started."""
    found = []
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.cmdline() and child.cmdline()[0].startswith("ray::RayTrainWorker"):
                found.append(child)
    return sorted(found, key=lambda child: child.pid)


@pytest.mark.parametrize("seed", [1])
def test_a_killed_worker_changes_no_bit_of_the_weights(
    seed: int, undisturbed: TrainResult, store: str, tiny: TrainConfig, tmp_path: Path
) -> None:
    name, killed = f"worker-{seed}", []

    def kill() -> None:
        wait_for_some_step(run_uri(store, name), seed)
        victim = random.Random(seed).choice(workers_of(psutil.Process()))
        victim.kill()
        killed.append(max(runs.list_checkpoints(run_uri(store, name))))

    killer = threading.Thread(target=kill)
    killer.start()
    result = train(store, tiny, run_name=name, workers=2, use_gpu=False, bundle=tmp_path)
    killer.join()
    assert killed and killed[0] < tiny.steps, "killed before the last step"
    assert 0 < result.report.steps < tiny.steps, "resumed at a checkpoint"
    assert_same_weights(store, name)
    # If rank 0 was killed, the losses of its last seconds are lost.
    seen, expected = losses_of(result), losses_of(undisturbed)
    assert set(range(tiny.steps - result.report.steps, tiny.steps)) <= set(seen)
    assert seen == {step: expected[step] for step in seen}


def is_at_work(process: psutil.Process) -> bool:
    """Whether `process` has not ended. One that ends between two looks at it has ended too."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def driver(store: str, name: str, workers: int, folder: Path, config: TrainConfig) -> subprocess.Popen[str]:
    arguments = [store, name, str(workers), str(folder / "model"), json.dumps(dataclasses.asdict(config))]
    with open(folder / "driver.log", "a") as log:
        return subprocess.Popen([sys.executable, "-c", _DRIVER, *arguments], stdout=log, stderr=log, text=True)


@pytest.mark.parametrize("seed", [2])
def test_a_killed_driver_leaves_nothing_behind_and_its_run_goes_on_to_the_same_bits(
    seed: int, undisturbed: TrainResult, store: str, tiny: TrainConfig, tmp_path: Path
) -> None:
    name = f"driver-{seed}"
    process = driver(store, name, 2, tmp_path, tiny)

    def going() -> bool:
        assert process.poll() is None, (tmp_path / "driver.log").read_text()
        return bool(runs.list_checkpoints(run_uri(store, name)))

    wait_for(going)
    wait_for_some_step(run_uri(store, name), seed)
    # The two agents of Ray's node do no work. They notice the kill only after one or two minutes.
    family = [child for child in psutil.Process(process.pid).children(recursive=True) if "Agent" not in child.name()]
    assert any("raylet" in child.name() for child in family)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(is_at_work(child) for child in family))
    assert max(runs.list_checkpoints(run_uri(store, name))) < tiny.steps, "killed before the last step"
    result = train(store, tiny, run_name=name, workers=2, use_gpu=False, bundle=tmp_path / "model")
    assert 0 < result.report.steps < tiny.steps
    assert_same_weights(store, name)


def copy_run(store: str, name: str, *, up_to: int, to: str | None = None) -> None:
    """Copy the undisturbed run, as it was after `up_to` steps, to the run `name` in this store or in the store `to`."""
    folder = Path(run_uri(to or store, name))
    shutil.copytree(run_uri(store, "undisturbed"), folder)
    for step in runs.list_checkpoints(str(folder)):
        if step > up_to:
            shutil.rmtree(folder / "checkpoints" / f"step-{step:08}")
    assert max(runs.list_checkpoints(str(folder))) == up_to


def test_fewer_workers_go_on_with_the_same_batches_to_the_same_weights(
    undisturbed: TrainResult, store: str, tiny: TrainConfig, tmp_path: Path
) -> None:
    copy_run(store, "fewer", up_to=tiny.steps - EVERY)
    result = train(store, tiny, run_name="fewer", workers=1, use_gpu=False, bundle=tmp_path)
    assert (result.workers, result.report.steps) == (1, EVERY)
    assert_same_weights(store, "fewer", within=1e-5)
    after = losses_of(result)
    assert sorted(after) == list(range(tiny.steps - EVERY, tiny.steps))
    assert after == pytest.approx({step: losses_of(undisturbed)[step] for step in after}, abs=1e-4)


def test_a_full_disk_ends_the_run_in_one_line_and_with_space_elastic_workers_go_on(
    undisturbed: TrainResult,
    store: str,
    tiny: TrainConfig,
    tmp_path: Path,
    disk: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    size = sum(path.stat().st_size for path in Path(store).rglob("*") if path.is_file() and "runs" not in path.parts)
    snapshot = sum(map(len, checkpoint.pack(runs.read_checkpoint(run_uri(store, "undisturbed"), tiny.steps)).values()))
    full = str(disk(10 * (size + snapshot)) / "store")
    shutil.copytree(store, full, ignore=shutil.ignore_patterns("runs"))
    copy_run(store, "full", up_to=tiny.steps - EVERY, to=full)
    for step in runs.list_checkpoints(run_uri(full, "full"))[:-1]:
        shutil.rmtree(Path(run_uri(full, "full"), "checkpoints", f"step-{step:08}"))
    used = shutil.disk_usage(full).used
    disk(used + snapshot // 2)
    monkeypatch.setattr(local, "ray_session", contextlib.nullcontext)  # Ray runs already
    monkeypatch.chdir(tmp_path)
    settings = [f"{name}={value}" for name, value in SETTINGS.items()]
    command = ["train", full, "--recipe", "smoke", *(word for setting in settings for word in ("--set", setting))]
    code = cli.main([*command, "--run", "full", "--workers", "1"])
    assert code == exit_codes.RUN_FAILED
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("naturaltone: run 'full' stopped: checkpoint not written: ")
    assert "No space left on device" in line and "resume it with --run full (details: " in line
    assert runs.list_checkpoints(run_uri(full, "full")) == [tiny.steps - EVERY]

    disk(10 * (size + snapshot))
    result = train(full, tiny, run_name="full", workers=(1, 2), use_gpu=False, bundle=tmp_path / "model")
    assert result.report.steps == EVERY and result.workers in (1, 2)
    assert_same_weights(full, "full", of=store, within=1e-5)


def test_a_server_that_refuses_writes_for_a_while_costs_no_checkpoint(
    undisturbed: TrainResult,
    store: str,
    tiny: TrainConfig,
    object_store: local.ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endpoint = object_store.environment["AWS_ENDPOINT_URL"]
    remote = storage.join(object_store.uri, "refusing", "store")
    for path in Path(store).rglob("*"):
        if path.is_file() and "runs" not in path.parts:
            storage.write_bytes(storage.join(remote, str(path.relative_to(store))), path.read_bytes())
    refusing, refused = threading.Event(), []

    def draw(self: fault_proxy._Server, method: str) -> str | None:
        if method not in ("PUT", "POST") or not refusing.is_set():
            return None
        refused.append(method)
        if len(refused) == 15:  # more than the client's retries of one request
            refusing.clear()
        return "slow_down"

    monkeypatch.setattr(fault_proxy._Server, "draw", draw)
    with fault_proxy.fault_proxy(endpoint, fault_proxy.Faults(share=0.0)) as proxy:
        with local.environment({"AWS_ENDPOINT_URL": proxy.url}):
            process = driver(remote, "refused", 1, tmp_path, tiny)

        def going() -> bool:
            assert process.poll() is None, (tmp_path / "driver.log").read_text()
            return bool(runs.list_checkpoints(run_uri(remote, "refused")))

        wait_for(going)
        refusing.set()
        assert process.wait(300) == 0, (tmp_path / "driver.log").read_text()
    assert len(refused) >= 15
    kept = runs.list_checkpoints(run_uri(remote, "refused"))
    assert kept[-1] == tiny.steps and 2 <= len(kept) <= 3
    for step in kept:
        assert runs.read_checkpoint(run_uri(remote, "refused"), step).step == step
    assert_same_weights(remote, "refused", of=store, within=1e-5)
    assert os.path.exists(tmp_path / "model" / checkpoint.BUNDLE_JSON)


def test_a_damaged_checkpoint_is_refused_before_any_worker_starts(
    undisturbed: TrainResult, store: str, tiny: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_workers(*_: Any, **__: Any) -> None:
        raise AssertionError("workers are started")

    monkeypatch.setattr(training, "TorchTrainer", start_workers)
    copy_run(store, "damaged", up_to=tiny.steps - EVERY)
    folder = f"checkpoints/step-{tiny.steps - EVERY:08}"
    file = Path(run_uri(store, "damaged"), folder, checkpoint.CHECKPOINT_TENSORS)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"damaged/{folder}': damaged, .* delete it to go on from the one before"):
        train(store, tiny, run_name="damaged", workers=1, use_gpu=False, bundle=tmp_path)


def test_a_lost_node_costs_an_elastic_run_its_workers_and_no_weight(
    undisturbed: TrainResult, store: str, tiny: TrainConfig, tmp_path: Path
) -> None:
    arguments = [store, "shrunk", str(4 * EVERY), str(tmp_path / "model"), json.dumps(dataclasses.asdict(tiny))]
    process = subprocess.run(
        [sys.executable, "-c", _SHRINKING_CLUSTER, *arguments], capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    workers, steps = json.loads(process.stdout.splitlines()[-1])
    assert workers == 1, "the remaining node has room for one worker"
    assert 0 < steps <= tiny.steps - 4 * EVERY, "resumed at a checkpoint"
    assert_same_weights(store, "shrunk", within=1e-5)
