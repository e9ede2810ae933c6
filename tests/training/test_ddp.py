"""Workers that share a batch learn what one worker learns from the whole batch."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from naturaltone.pipeline.stream.plan import lanes
from naturaltone.pipeline.stream.samples import Batch
from naturaltone.training import losses
from naturaltone.training.config import TrainConfig
from naturaltone.training.history import History
from naturaltone.training.step import NETWORKS, GanStep, TrainingDiverged
from naturaltone.training.train import check_ranks_agree

CPU = torch.device("cpu")
STEPS = 20
CLOSE = 1e-5
_GROUPS: list[Any] = []  # kept alive: to destroy a group while its thread runs can deadlock (torch 2.13)
Weights = dict[str, np.ndarray]
Run = Callable[..., list[Any]]


def weights_of(gan: GanStep) -> Weights:
    weights = {f"{name}.{key}": value for name, net in gan.networks.items() for key, value in net.state_dict().items()}
    weights |= {f"ema.{key}": value for key, value in gan.ema.state_dict().items()}
    return {name: weight.numpy().copy() for name, weight in weights.items()}


def same(first: Weights, second: Weights, *, network: str = "") -> bool:
    return all(np.array_equal(first[name], second[name]) for name in first if name.startswith(network))


def batch_of(config: TrainConfig, photo: np.ndarray, step: int) -> Batch:
    """Crops of a real photo, different ones at every step. The inputs are too dark. The natural photos are other crops."""
    random = np.random.default_rng(step)
    crops = np.stack(
        [
            photo[top : top + config.crop, left : left + config.crop]
            for top, left in random.integers(0, 512 - config.crop, (2 * config.batch, 2))
        ]
    )
    return {
        "input": crops[: config.batch] // 2,
        "intermediate": crops[: config.batch],
        "natural": crops[config.batch :],
    }


def slice_of(batch: Batch, rank: int, world_size: int) -> Batch:
    own = lanes(len(batch["input"]), rank, world_size)
    return {name: pixels[own] for name, pixels in batch.items()}


@pytest.fixture(scope="module")
def tiny(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, crop=32, width=4, steps=STEPS)


@pytest.fixture(scope="module")
def on_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """`run(job, world_size, *arguments)`: what `job(rank, world_size, *arguments)` returns or raises on each rank.

    All tests share three processes. A job waits for the other ranks before it begins, so that each rank has its own process.
    """
    numbers = itertools.count()
    folder = tmp_path_factory.mktemp("rendezvous")
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:

        def run(job: Callable[..., Any], world_size: int, *arguments: Any) -> list[Any]:
            meeting = folder / str(next(numbers))
            ranks = [pool.submit(_on_rank, meeting, job, rank, world_size, *arguments) for rank in range(world_size)]
            return [rank.result() for rank in ranks]

        yield run


def _on_rank(meeting: Path, job: Callable[..., Any], rank: int, world_size: int, *arguments: Any) -> Any:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size, timeout=timedelta(seconds=60)
    )
    _GROUPS.append(torch.distributed.group.WORLD)
    try:
        return job(rank, world_size, *arguments)
    except Exception as error:
        return error.with_traceback(None)  # the traceback's frames hold the networks
    finally:
        gc.collect()
        torch.distributed.destroy_process_group()


def make_gan(config: TrainConfig, world_size: int) -> GanStep:
    if world_size == 1:
        return GanStep(config, device=CPU)
    return GanStep(config, device=CPU, wrap=DistributedDataParallel, workers=world_size)


def learn(rank: int, world_size: int, config: TrainConfig, photo: np.ndarray) -> tuple[Weights, dict[str, float]]:
    """The weights after `STEPS` steps, and the means of all metrics over the workers and the last steps."""
    gan = make_gan(config, world_size)
    share = len(lanes(config.batch, rank, world_size)) * world_size / config.batch
    history = History(config, device=CPU, share=share, recorder=None, post=None)
    for number in range(STEPS):
        seen = gan.step(slice_of(batch_of(config, photo, number), rank, world_size), number=number)
        history.add(number, {name: value.item() for name, value in seen.items()})
    history.close()
    check_ranks_agree(gan)
    return weights_of(gan), history.last.mean()


VARIANTS = {
    "all losses": {},
    "identity too, G called twice before one backward": {"lambda_identity": 0.5, "gradient_clip": 0.05},
    "no color": {"lambda_color": 0.0},
    "no natural": {"lambda_natural": 0.0},
    "no artifact": {"lambda_artifact": 0.0, "color_loss": "ms_ssim_l1"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_workers_learn_what_one_learns_from_the_whole_batch_whatever_their_shares(
    variant: str, on_workers: Run, tiny: TrainConfig, astronaut: np.ndarray
) -> None:
    """Shares of 2+2 and of 1+1+2: gradients must be means over photos, not over workers."""
    config = dataclasses.replace(tiny, **VARIANTS[variant])
    alone, metrics_alone = learn(0, 1, config, astronaut)
    untrained = weights_of(make_gan(config, 1))
    assert not np.allclose(alone["generator.decoder.0.weight"], untrained["generator.decoder.0.weight"], atol=1e-3)
    for world_size in (2, 3):
        ranks = on_workers(learn, world_size, config, astronaut)
        assert not any(isinstance(rank, Exception) for rank in ranks), ranks
        for weights, metrics in ranks:
            apart = {name: float(np.abs(weights[name] - weight).max()) for name, weight in alone.items()}
            assert max(apart.values()) <= CLOSE, apart
            assert metrics == pytest.approx(metrics_alone, abs=1e-4), "the metrics are means over photos too"
        assert all(same(ranks[0][0], weights) for weights, _ in ranks), "the workers agree to the bit"


def learn_and_flip(rank: int, world_size: int, config: TrainConfig, photo: np.ndarray, name: str) -> None:
    """Two steps together. Then the lowest bit of parameter `name` changes on the last rank, and all ranks check."""
    gan = make_gan(config, world_size)
    for number in range(2):
        gan.step(slice_of(batch_of(config, photo, number), rank, world_size), number=number)
    check_ranks_agree(gan)
    if rank == world_size - 1:
        network, _, key = name.partition(".")
        changed = (gan.ema if network == "ema" else gan.networks[network]).get_parameter(key)
        bits = changed.data.contiguous().view(torch.int32)
        bits.view(-1)[0] ^= 1
        changed.data.copy_(bits.view(torch.float32))
    check_ranks_agree(gan)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("generator.encoder.1.weight", "generator.encoder.1.weight"),
        ("inverse.layers.0.bias", "inverse.layers.0.bias"),
        ("ema.decoder.2.bias", "average of generator.decoder.2.bias"),
    ],
)
def test_a_difference_of_one_bit_between_the_workers_weights_is_noticed_by_all_and_named(
    name: str, said: str, on_workers: Run, tiny: TrainConfig, astronaut: np.ndarray
) -> None:
    for error in on_workers(learn_and_flip, 3, tiny, astronaut, name):
        assert isinstance(error, RuntimeError), error
        assert f"the workers' weights differ: {said} and 0 more" in str(error)


def learn_until_nan(
    rank: int, world_size: int, config: TrainConfig, photo: np.ndarray, loss: str, in_gradient: bool
) -> tuple[str, Weights, Weights]:
    """One good step, then one in which `loss` or its gradient is NaN on rank 1 alone.

    Returns the error, and the weights before and after the second step.
    """
    gan = make_gan(config, world_size)
    gan.step(slice_of(batch_of(config, photo, 0), rank, world_size), number=0)
    before = weights_of(gan)
    good = getattr(losses, loss)

    def poisoned(*arguments: torch.Tensor, **options: str) -> torch.Tensor:
        value = good(*arguments, **options)
        if not in_gradient:
            return value * math.nan
        value.register_hook(lambda gradient: gradient * math.nan)
        return value

    if rank == 1:
        setattr(losses, loss, poisoned)
    try:
        gan.step(slice_of(batch_of(config, photo, 1), rank, world_size), number=1)
    except TrainingDiverged as error:
        return str(error), before, weights_of(gan)
    finally:
        setattr(losses, loss, good)
    raise AssertionError("the NaN was not noticed")


@pytest.mark.parametrize("in_gradient", [False, True], ids=["loss", "gradient"])
@pytest.mark.parametrize(
    ("loss", "network"),
    [
        ("discriminator_loss", "discriminator"),
        ("inverse_loss", "inverse"),
        ("color_loss", "generator"),
        ("artifact_loss", "generator"),
    ],
)
def test_a_nan_on_one_worker_stops_all_workers_before_that_network_is_updated(
    loss: str, network: str, in_gradient: bool, on_workers: Run, tiny: TrainConfig, astronaut: np.ndarray
) -> None:
    ranks = on_workers(learn_until_nan, 3, tiny, astronaut, loss, in_gradient)
    assert not any(isinstance(rank, Exception) for rank in ranks), ranks
    for rank, (message, before, after) in enumerate(ranks):
        assert message.startswith(f"step 1: loss_{network} is "), message
        assert "the norm of its gradient is nan" in message
        assert ("maybe from another worker" in message) == (rank != 1 or in_gradient), message
        assert same(before, after, network=network), "not updated"
        assert same(before, after, network="generator") and same(before, after, network="ema"), (
            "nor are the generator and its average"
        )
        assert same(after, ranks[0][2]), "all workers have the same weights"


@pytest.mark.parametrize("natural", [0.0, 0.02])
@pytest.mark.parametrize("artifact", [0.0, 0.1])
def test_a_lambda_of_zero_neither_runs_nor_trains_its_network(
    natural: float, artifact: float, tiny: TrainConfig, astronaut: np.ndarray
) -> None:
    gan = make_gan(dataclasses.replace(tiny, lambda_natural=natural, lambda_artifact=artifact), 1)
    called = {name: 0 for name in NETWORKS}

    def count(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            called[name] += 1

        return hook

    for name, network in gan.networks.items():
        network.register_forward_hook(count(name))
    before = weights_of(gan)
    for number in range(2):
        metrics = gan.step(batch_of(tiny, astronaut, number), number=number)
    for name, weight, terms in (
        ("discriminator", natural, {"loss_natural", "activation_natural", "activation_enhanced"}),
        ("inverse", artifact, {"loss_artifact"}),
    ):
        of_it = {f"loss_{name}", f"gradient_{name}"} | terms
        assert (called[name] > 0) == (weight > 0)
        assert same(before, weights_of(gan), network=name) == (weight == 0)
        assert (gan.optimizers[name].state_dict()["state"] == {}) == (weight == 0)
        assert of_it <= set(metrics) if weight else not of_it & set(metrics)
    assert called["generator"] == 2 and not same(before, weights_of(gan), network="generator")


@pytest.mark.parametrize("left_out", ["color", "identity"])
def test_a_lambda_of_zero_leaves_its_term_out(left_out: str, tiny: TrainConfig, astronaut: np.ndarray) -> None:
    gan = make_gan(dataclasses.replace(tiny, **{"lambda_identity": 0.5, f"lambda_{left_out}": 0.0}), 1)
    metrics = gan.step(batch_of(tiny, astronaut, 0), number=0)
    others = {"color", "natural", "artifact", "identity"} - {left_out}
    assert {f"loss_{name}" for name in others} <= set(metrics) and f"loss_{left_out}" not in metrics
