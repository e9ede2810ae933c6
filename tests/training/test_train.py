"""Training under Ray: a run is resumed by its name, and every step is tracked."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import numpy as np
import pytest
import ray
import ray.train
import torch
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from naturaltone.infra import local
from naturaltone.pipeline import lease, s3, storage
from naturaltone.pipeline.listing import list_files
from naturaltone.training import train as training
from naturaltone.training.board import Board
from naturaltone.training.config import TrainConfig
from naturaltone.training.runs import CheckpointLost
from naturaltone.training.train import TrainingFailed, TrainResult, train
from tests.fault_proxy import fault_proxy
from tests.stores import make_store


def test_the_same_run_name_goes_on_where_it_stopped(trained: TrainResult, config: TrainConfig, store: str) -> None:
    assert trained.report.steps == config.steps - config.steps // 2
    assert trained.losses_last["loss_color"] > 0
    checkpoints = list(list_files(storage.join(store, "runs/resumed"), suffixes=(".safetensors",)))
    assert checkpoints, "checkpoints lie beside the store on S3"


def test_a_run_is_not_resumed_with_another_configuration(trained: TrainResult, config: TrainConfig, store: str) -> None:
    other = dataclasses.replace(config, lambda_natural=0.7)
    with pytest.raises(ValueError, match=r"'resumed' was started with lambda_natural 0\.02, now 0\.7; .*another --run"):
        train(store, other, run_name="resumed", workers=2, use_gpu=False, bundle=trained.bundle)


def test_every_steps_losses_and_activations_are_tracked(trained: TrainResult, config: TrainConfig) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    losses = [f"loss_{name}" for name in ("color", "natural", "artifact", "generator", "discriminator", "inverse")]
    for name in [*losses, "activation_natural", "activation_enhanced"]:
        steps = [metric.step for metric in client.get_metric_history(trained.run_id, name)]
        assert sorted(steps) == list(range(config.steps)), name
    assert all(metric.value > 0 for metric in client.get_metric_history(trained.run_id, "images_per_second"))
    run = client.get_run(trained.run_id)
    assert run.data.metrics["images_per_second"] > 0
    assert run.data.params["lambda_natural"] == str(config.lambda_natural)
    assert any("input-intermediate-enhanced" in file.path for file in client.list_artifacts(trained.run_id, "images"))


@pytest.mark.parametrize("taken", [False, True])
def test_training_goes_on_while_the_server_is_away_and_stops_if_another_process_took_the_run(
    taken: bool,
    ray_cluster: None,
    object_store: local.ObjectStore,
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "_RENEW_SECONDS", 0.1)
    monkeypatch.setattr(lease, "_SURE_SECONDS", 0.5)
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    monkeypatch.setattr(training, "_PROGRESS_SECONDS", 0.1)
    uri, upstream = storage.join(object_store.uri, f"taken-{taken}.json"), object_store.environment["AWS_ENDPOINT_URL"]
    weather: Any = SimpleNamespace(share=0.0, kinds=("slow_down",), seed=1, stall_seconds=0.0)
    stopped = threading.Event()

    def fit() -> str:
        weather.share = 1.0
        if taken:
            bucket, key = s3.split(uri)
            # A session of its own: boto3's default one keeps the keys of whichever test used it first.
            other = boto3.session.Session().client("s3", endpoint_url=upstream)
            other.put_object(Bucket=bucket, Key=key, Body=b'{"token": "other"}')
        time.sleep(2)
        weather.share = 0.0
        stopped.wait(60 if taken else 0)
        return "finished"

    trainer: Any = SimpleNamespace(fit=fit)
    board = ray.remote(num_cpus=0)(Board).remote()
    with fault_proxy(upstream, weather) as proxy, local.environment({"AWS_ENDPOINT_URL": proxy.url}):
        with lease.hold(uri, what="it") as held, pytest.raises(lease.LeaseLost) if taken else contextlib.nullcontext():
            result: Any = training._fit_with_progress(trainer, board, "run", config, held)
            assert result == "finished"
    stopped.set()


_GLOO = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer")
_BUG = KeyError("a bug")


@pytest.mark.parametrize(
    ("failures", "is_bug"),
    [
        ({1: _BUG}, True),
        ({0: _GLOO, 1: _BUG}, True),
        ({0: RuntimeError("the workers' weights differ: a and 0 more; report this bug")}, True),
        ({0: _GLOO}, False),
        ({0: torch.distributed.DistBackendError("NCCL error")}, False),
        ({0: OSError("no space left")}, False),
        ({0: CheckpointLost("the server failed 6 times")}, False),
        ({0: _BUG, 1: WorkerHealthCheckFailedError("died", ray.exceptions.RayActorError())}, False),
    ],
)
def test_a_workers_bug_is_told_from_a_lost_worker_or_server(failures: dict[int, Exception], is_bug: bool) -> None:
    error = pickle.loads(pickle.dumps(ray.train.WorkerGroupError("a worker failed", failures)))  # as Ray hands it over
    bug = training._bug_in(error)
    assert isinstance(bug, KeyError | RuntimeError) if is_bug else bug is None
    assert bug is not None and "gloo" not in str(bug) if is_bug else True


@pytest.mark.parametrize(("failure", "raised"), [(_BUG, KeyError), (OSError("no space left"), TrainingFailed)])
def test_a_workers_bug_does_not_ask_to_resume_the_run(
    failure: Exception,
    raised: type[Exception],
    ray_cluster: None,
    tmp_path: Path,
    astronaut: np.ndarray,
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise ray.train.WorkerGroupError("a worker failed", {1: failure})

    monkeypatch.setattr(training, "_fit_with_progress", fail)
    store, small = make_store(tmp_path, astronaut, 14), dataclasses.replace(config, crop=32)
    name = f"stopped-by-{raised.__name__}"
    with pytest.raises(raised):
        train(store, small, run_name=name, workers=2, use_gpu=False, bundle=tmp_path / "bundle")
