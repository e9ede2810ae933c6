"""Training without Ray takes the plan's batches and goes on where it stopped."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.lease import Lease, LeaseLost
from naturaltone.pipeline.stream.plan import make_plan
from naturaltone.pipeline.stream.samples import read_samples
from naturaltone.training.alone import train_alone
from naturaltone.training.config import TrainConfig
from naturaltone.training.runs import CheckpointLost
from naturaltone.training.step import GanStep
from tests.stores import make_store

CPU = torch.device("cpu")


@pytest.fixture
def store(tmp_path: Path, astronaut: np.ndarray) -> str:
    return make_store(tmp_path, astronaut, 18)


def test_a_run_alone_learns_from_the_plans_batches_and_goes_on_where_it_stopped(
    store: str, config: TrainConfig
) -> None:
    tiny = dataclasses.replace(config, crop=32, steps=6, checkpoint_every=2)
    whole = train_alone(store, tiny, run_name="whole", device=CPU)
    folder = Path(store) / "runs"
    shutil.copytree(folder / "whole", folder / "stopped")
    shutil.rmtree(folder / "stopped" / "checkpoints" / "step-00000006")  # as if killed after step 4
    resumed = train_alone(store, tiny, run_name="stopped", device=CPU)
    assert whole.step == resumed.step == 6
    assert all(torch.equal(tensor, resumed.tensors[name]) for name, tensor in whole.tensors.items())

    plan = make_plan(shards.open_store(store), batch=tiny.batch, crop=tiny.crop, seed=tiny.seed)
    gan = GanStep(tiny, device=CPU)
    for step in range(6):
        gan.step(read_samples(plan, np.arange(step * tiny.batch, (step + 1) * tiny.batch)), number=step)
    for name, weight in gan.networks["generator"].state_dict().items():
        assert torch.equal(weight, whole.tensors[f"generator/weights/{name}"]), name


def test_a_run_alone_checks_its_lock_before_it_writes_a_checkpoint(
    store: str, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_: Lease) -> None:
        raise LeaseLost("another process has the lock")

    monkeypatch.setattr(Lease, "check", lost)
    tiny = dataclasses.replace(config, crop=32, steps=2, checkpoint_every=1)
    with pytest.raises(CheckpointLost, match="another process has the lock"):
        train_alone(store, tiny, run_name="lost", device=CPU)
    assert not list(Path(store).rglob("checkpoint.*"))
