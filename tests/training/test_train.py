"""Training under Ray: a run is resumed by its name, and every step is tracked."""

from __future__ import annotations

import dataclasses

import pytest

from naturaltone.pipeline import storage
from naturaltone.pipeline.listing import list_files
from naturaltone.training.config import TrainConfig
from naturaltone.training.train import TrainResult, train


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
