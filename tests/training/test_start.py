"""A run that goes on from another model starts with its weights; networks of another size are refused in one line."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from naturaltone.pipeline.errors import UserError
from naturaltone.training import checkpoint, runs
from naturaltone.training.alone import train_alone
from naturaltone.training.checkpoint import Bundle, Snapshot
from naturaltone.training.config import TrainConfig
from naturaltone.training.start import from_bundle, last_checkpoint
from naturaltone.training.step import GanStep
from tests.stores import make_store

CPU = torch.device("cpu")


@pytest.fixture
def store(tmp_path: Path, astronaut: np.ndarray) -> str:
    return make_store(tmp_path, astronaut, 14)


@pytest.fixture
def first(store: str, config: TrainConfig) -> Snapshot:
    return train_alone(store, config, run_name="first", device=CPU)


def test_a_run_goes_on_from_all_networks_and_optimisers_of_another(
    store: str, config: TrainConfig, first: Snapshot
) -> None:
    found = last_checkpoint(store, "first", config)
    assert found is not None and found.tensors.keys() == first.tensors.keys()
    run = runs.begin(store, "second", dataclasses.replace(config, seed=5), start=lambda: found)
    start = runs.read_checkpoint(run.uri, 0)
    assert (start.step, start.config.seed) == (0, 5) and math.isnan(start.score)
    assert all(torch.equal(start.tensors[name], tensor) for name, tensor in first.tensors.items())
    last = train_alone(store, dataclasses.replace(config, seed=5), run_name="second", device=CPU)
    anew = train_alone(store, dataclasses.replace(config, seed=5), run_name="anew", device=CPU)
    assert 0 < _apart(last, first) < 0.5 * _apart(anew, first)


def _apart(a: Snapshot, b: Snapshot) -> float:
    """The distance between the weights of two generators."""
    names = [name for name in a.tensors if name.startswith("generator/weights/")]
    return float(torch.cat([(a.tensors[name] - b.tensors[name]).flatten() for name in names]).norm())


def test_an_absent_checkpoint_is_none_and_other_sizes_are_refused(
    store: str, config: TrainConfig, first: Snapshot
) -> None:
    assert last_checkpoint(store, "never", config) is None
    with pytest.raises(UserError, match=r"run 'first' has width 8, now 16; crop 64, now 32: a run can only go on from"):
        last_checkpoint(store, "first", dataclasses.replace(config, width=16, crop=32))


def test_a_bundle_gives_g_and_its_average_and_nothing_else(bundle: Bundle, config: TrainConfig) -> None:
    snapshot = from_bundle(bundle, config)
    gan = GanStep(config, device=CPU)
    checkpoint.restore(snapshot, gan)
    for name, weight in bundle.generator.state_dict().items():
        assert torch.equal(gan.networks["generator"].state_dict()[name], weight)
        assert torch.equal(gan.ema.state_dict()[name], weight)
    new = GanStep(config, device=CPU)
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(gan.networks["inverse"].parameters(), new.networks["inverse"].parameters(), strict=True)
    )
    with pytest.raises(UserError, match="the model has residual_blocks 1, now 3"):
        from_bundle(bundle, dataclasses.replace(config, residual_blocks=3))


@pytest.mark.parametrize("newer", ["colour_gain", "peaks"])
def test_a_bundle_of_an_older_version_has_none_of_what_is_newer(
    bundle: Bundle, config: TrainConfig, newer: str
) -> None:
    known = {name: value for name, value in bundle.description["training"].items() if name != newer}
    older = dataclasses.replace(bundle, description=bundle.description | {"training": known})
    assert from_bundle(older, config).step == 0
    with pytest.raises(UserError, match=f"the model has {newer} False, now True"):
        from_bundle(older, dataclasses.replace(config, **{newer: True}))  # type: ignore[arg-type]


def test_a_store_knows_no_checkpoint_of_a_run_that_only_began(store: str, config: TrainConfig) -> None:
    runs.begin(store, "begun", config)
    assert last_checkpoint(store, "begun", config) is None
