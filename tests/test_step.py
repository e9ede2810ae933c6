"""One step of the learning loop: each network learns from its own loss and from no other's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from naturaltone.pipeline.stream import Batch
from naturaltone.training.config import TrainConfig
from naturaltone.training.history import History
from naturaltone.training.loop import fit
from naturaltone.training.step import NETWORKS, GanStep, TrainingDiverged, to_pixels, to_tensor

CPU = torch.device("cpu")


@pytest.fixture
def batch(config: TrainConfig, astronaut: np.ndarray) -> Batch:
    side, count = config.crop, config.batch
    crops = np.stack([astronaut[40 * i :, 30 * i :][:side, :side] for i in range(3 * count)])
    return {"input": crops[:count] // 2, "intermediate": crops[:count], "natural": crops[2 * count :]}


def weights(gan: GanStep, name: str) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in gan.networks[name].parameters()])


def test_a_step_trains_all_three_networks(config: TrainConfig, batch: Batch) -> None:
    gan = GanStep(config, device=CPU)
    before = {name: weights(gan, name) for name in NETWORKS}
    gan.step(batch, number=0)
    assert all(not torch.equal(before[name], weights(gan, name)) for name in NETWORKS)


def test_gs_losses_leave_no_gradient_in_d_and_c(config: TrainConfig, batch: Batch) -> None:
    """Were they not frozen, the gradient of L_natural in D would be all-reduced for nothing, or worse, stepped on."""
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
    gan = GanStep(still, device=CPU)  # a D that stands still: that it learns too is the test before
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


def test_fit_counts_steps_and_saves_between_but_not_at_the_end(config: TrainConfig, batch: Batch) -> None:
    steps, saved = [], []
    report = fit(
        GanStep(config, device=CPU),
        iter([batch] * 20),
        first_step=3,
        on_step=lambda step, _: steps.append(step),
        on_checkpoint=saved.append,
    )
    assert steps == list(range(3, config.steps)) and saved == [4]
    assert report.steps == config.steps - 3


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_short_run_has_a_first_and_a_last_fifth_too(steps: int, config: TrainConfig) -> None:
    history = History(dataclasses.replace(config, steps=steps), device=CPU, recorder=None, post=None)
    for step in range(steps):
        history.add(step, {"loss_color": float(step)})
    history.close()
    assert history.first.mean()["loss_color"] <= history.last.mean()["loss_color"]
    assert (steps < 2) or history.first.mean() != history.last.mean()


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(config: TrainConfig, batch: Batch) -> None:
    gan = GanStep(config, device=CPU)
    with torch.no_grad():
        gan.networks["generator"].decoder[-1].bias.fill_(float("nan"))  # type: ignore[union-attr, operator]
    with pytest.raises(TrainingDiverged, match=r"step 0: loss_discriminator is nan .* there is no checkpoint yet"):
        fit(gan, [batch], first_step=0, on_step=lambda *_: None, on_checkpoint=lambda _: None)
