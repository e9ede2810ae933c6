"""Every step is recorded once, averaged over the workers, and a saturated discriminator is noticed."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from naturaltone.training import history as history_module
from naturaltone.training.config import TrainConfig
from naturaltone.training.history import History, Saturation

CPU = torch.device("cpu")
STUCK = {"activation_natural": 0.999, "activation_enhanced": 0.001}
ALIVE = {"activation_natural": 0.7, "activation_enhanced": 0.3}


def said(*steps: dict[str, float]) -> list[float]:
    saturation = Saturation()
    return [saturation.add(step)["discriminator_saturated"] for step in steps]


def test_a_stuck_d_is_reported_from_its_50th_step_in_a_row_until_it_moves_again() -> None:
    assert said(*[STUCK] * 52, ALIVE, *[STUCK] * 50) == [0] * 49 + [1] * 3 + [0] + [0] * 49 + [1]


def test_one_step_that_is_not_stuck_restarts_the_count() -> None:
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
    """Stands in for the recorder and keeps the rows."""

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


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_short_run_has_a_first_and_a_last_fifth_too(steps: int, config: TrainConfig) -> None:
    history = History(dataclasses.replace(config, steps=steps), device=CPU, recorder=None, post=None)
    for step in range(steps):
        history.add(step, {"loss_color": float(step)})
    history.close()
    assert history.first.mean()["loss_color"] <= history.last.mean()["loss_color"]
    assert (steps < 2) or history.first.mean() != history.last.mean()


def test_the_wait_for_photos_is_told_as_the_longest_gap_and_as_a_share_of_the_time(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0, 8)  # ten steps take eight seconds
    monkeypatch.setattr(history_module.time, "monotonic", lambda: float(next(clock)))
    rows, posted = Rows(), []
    history = History(
        dataclasses.replace(config, steps=20, batch=4),
        device=CPU,
        recorder=rows,  # type: ignore[arg-type]
        post=lambda done, metrics: posted.append(metrics),
    )
    for step in range(20):
        history.add(step, {"loss_color": 1.0}, 2.0 if step == 3 else 0.0)
    assert posted[0] == {
        "loss_color": 1.0,
        "images_per_second": 5.0,
        "stream_gap_seconds": 2.0,
        "stream_wait_ratio": 0.25,
    }
    assert (posted[1]["stream_gap_seconds"], posted[1]["stream_wait_ratio"]) == (0, 0), "each wait is told once"
    assert [step for step, row in rows.rows if "stream_gap_seconds" in row] == [9, 19]
