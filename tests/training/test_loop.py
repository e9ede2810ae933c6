"""The loop counts its steps, saves between them, and stops if a loss is not finite."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from naturaltone.pipeline.stream.samples import Batch
from naturaltone.training.config import TrainConfig
from naturaltone.training.loop import fit
from naturaltone.training.step import GanStep, TrainingDiverged

CPU = torch.device("cpu")


def test_fit_counts_steps_and_saves_between_but_not_at_the_end(config: TrainConfig, batch: Batch) -> None:
    steps, saved = [], []
    report = fit(
        GanStep(config, device=CPU),
        iter([batch] * 20),
        first_step=3,
        on_step=lambda step, *_: steps.append(step),
        on_checkpoint=saved.append,
    )
    assert steps == list(range(3, config.steps)) and saved == [4]
    assert report.steps == config.steps - 3


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(config: TrainConfig, batch: Batch) -> None:
    gan = GanStep(config, device=CPU)
    with torch.no_grad():
        gan.networks["generator"].decoder[-1].bias.fill_(float("nan"))  # type: ignore[union-attr, operator]
    with pytest.raises(TrainingDiverged, match=r"step 0: loss_discriminator is nan .* there is no checkpoint yet"):
        fit(gan, [batch], first_step=0, on_step=lambda *_: None, on_checkpoint=lambda _: None)


def test_each_step_says_how_long_it_waited_for_its_batch(config: TrainConfig, batch: Batch) -> None:
    waits: list[float] = []

    def late() -> Iterator[Batch]:
        for number in range(3):
            time.sleep(0.2 if number == 1 else 0)
            yield batch

    report = fit(
        GanStep(config, device=CPU),
        late(),
        first_step=0,
        on_step=lambda step, metrics, wait: waits.append(wait),
        on_checkpoint=lambda _: None,
    )
    assert len(waits) == 3 and waits[1] >= 0.2 and waits[1] == report.longest_gap_seconds
