"""A step trains all three networks, each on its own losses, on one worker as on many."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from naturaltone.pipeline.stream.samples import Batch
from naturaltone.training import checkpoint
from naturaltone.training.config import TrainConfig
from naturaltone.training.step import NETWORKS, GanStep, to_pixels, to_tensor

CPU = torch.device("cpu")


def weights(gan: GanStep, name: str) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in gan.networks[name].parameters()])


def test_a_step_trains_all_three_networks(config: TrainConfig, batch: Batch) -> None:
    gan = GanStep(config, device=CPU)
    before = {name: weights(gan, name) for name in NETWORKS}
    gan.step(batch, number=0)
    assert all(not torch.equal(before[name], weights(gan, name)) for name in NETWORKS)


def test_while_d_warms_up_g_stays_as_it_is(config: TrainConfig, batch: Batch) -> None:
    warming = dataclasses.replace(config, discriminator_warmup=2, lambda_identity=0.1)
    gan = GanStep(warming, device=CPU)
    before = {name: weights(gan, name) for name in NETWORKS}
    seen = [gan.step(batch, number=number) for number in range(2)]
    assert torch.equal(before["generator"], weights(gan, "generator"))
    assert not torch.equal(before["discriminator"], weights(gan, "discriminator"))
    assert not torch.equal(before["inverse"], weights(gan, "inverse"))
    assert seen[0].keys() == gan.step(batch, number=2).keys() and seen[0]["gradient_generator"] == 0
    assert not torch.equal(before["generator"], weights(gan, "generator"))


def test_gs_losses_leave_no_gradient_in_d_and_c(config: TrainConfig, batch: Batch) -> None:
    """If D and C were not frozen, L_natural's gradient in D would be all-reduced for nothing or even used for a step."""
    gan = GanStep(config, device=CPU)
    seen: dict[str, torch.Tensor] = {}
    update = gan._update

    def spy(name: str, loss: torch.Tensor, share: float, number: int) -> torch.Tensor:
        norm = update(name, loss, share, number)
        for network in ("discriminator", "inverse"):
            grads = [p.grad.clone() for p in gan.networks[network].parameters() if p.grad is not None]
            if name == network:
                seen[network] = torch.cat([grad.flatten() for grad in grads])
            elif name == "generator":
                assert torch.equal(seen[network], torch.cat([grad.flatten() for grad in grads]))
        return norm

    gan._update = spy  # type: ignore[method-assign]
    gan.step(batch, number=0)
    assert set(seen) == {"discriminator", "inverse"}
    assert all(p.requires_grad for network in gan.networks.values() for p in network.parameters())


def test_training_on_one_batch_nears_the_intermediate(config: TrainConfig, batch: Batch) -> None:
    gan = GanStep(dataclasses.replace(config, steps=30, learning_rate=3e-3), device=CPU)
    losses = [gan.step(batch, number=number)["loss_color"].item() for number in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_d_learns_to_tell_natural_from_enhanced(config: TrainConfig, batch: Batch) -> None:
    gan = GanStep(dataclasses.replace(config, steps=40, discriminator_learning_rate=4e-3), device=CPU)
    for number in range(40):
        metrics = gan.step(batch, number=number)
    assert metrics["activation_natural"] > metrics["activation_enhanced"] + 0.3


def test_lambda_natural_pulls_g_towards_what_d_finds_natural(config: TrainConfig, batch: Batch) -> None:
    still = dataclasses.replace(
        config, steps=12, lambda_color=0, lambda_artifact=0, lambda_natural=1, discriminator_learning_rate=1e-9
    )
    gan = GanStep(still, device=CPU)  # D stands still here; the test before shows that it learns
    losses = [gan.step(batch, number=number)["loss_natural"].item() for number in range(12)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_weights(config: TrainConfig, batch: Batch) -> None:
    first, second = GanStep(config, device=CPU), GanStep(config, device=CPU)
    for gan in (first, second):
        gan.step(batch, number=0)
    assert all(torch.equal(weights(first, name), weights(second, name)) for name in NETWORKS)


def test_a_restored_state_goes_on_bit_for_bit(config: TrainConfig, batch: Batch) -> None:
    whole, part = GanStep(config, device=CPU), GanStep(config, device=CPU)
    for number in range(4):
        whole.step(batch, number=number)
    for number in range(2):
        part.step(batch, number=number)
    resumed = GanStep(dataclasses.replace(config, seed=99), device=CPU)
    resumed.load_state_dict(part.state_dict())
    for number in range(2, 4):
        resumed.step(batch, number=number)
    assert all(torch.equal(weights(whole, name), weights(resumed, name)) for name in NETWORKS)


def test_the_learning_rate_falls_to_a_tenth(config: TrainConfig, batch: Batch) -> None:
    gan = GanStep(config, device=CPU)
    rates = []
    for number in range(config.steps):
        gan.step(batch, number=number)
        rates.append(gan.optimizers["generator"].param_groups[0]["lr"])
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == config.learning_rate and 0.1 < rates[-1] / config.learning_rate < 0.2


def test_pixels_survive_the_way_to_a_tensor_and_back(astronaut: np.ndarray) -> None:
    tensor = to_tensor(astronaut[None], CPU)
    assert tensor.shape == (1, 3, 512, 512) and tensor.min() >= -1 and tensor.max() <= 1
    assert np.array_equal(to_pixels(tensor)[0], astronaut)


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
    assert (shares == shares[0]).all(), "all weights have the same share"
    return shares[0].item()


@pytest.mark.parametrize(("batch", "steps"), [(1, 40), (4, 10), (8, 5), (40, 1), (80, 0.5)])
def test_the_averages_half_life_is_in_photos_whatever_the_batch(config: TrainConfig, batch: int, steps: float) -> None:
    """The half-life is 40 photos: 40 steps of 1 or 10 of 4. One step of 80 photos is two half-lives and leaves a quarter."""
    gan = gan_with_ones(config, batch=batch, ema_half_life=40)
    expected = 0.5 if steps >= 1 else 0.75
    assert averaged(gan, *range(LATE, LATE + max(1, int(steps)))) == pytest.approx(expected, abs=1e-5)


def test_the_averages_half_life_grows_with_the_photos_seen_up_to_the_configured_one(config: TrainConfig) -> None:
    """After n photos the half-life is n/20. At step k, the share of G is 1 − 2^(−20/(k+1)): nearly all of it at first."""
    by_hand = {0: 1 - 2**-20, 1: 1 - 2**-10, 19: 0.5, 39: 1 - 2**-0.5, 199: 1 - 2**-0.1}
    for batch in (4, 8):
        for number, expected in by_hand.items():
            gan = gan_with_ones(config, batch=batch, ema_half_life=10**6)
            assert averaged(gan, number) == pytest.approx(expected, abs=1e-6), (batch, number)
    short = gan_with_ones(config, batch=4, ema_half_life=8)
    assert averaged(short, 199) == pytest.approx(1 - 2**-0.5), "never longer than configured"


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
            checkpoint.restore(checkpoint.unpack(files, uri="here"), resumed)
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
