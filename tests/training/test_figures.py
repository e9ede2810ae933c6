"""A run shows Prometheus where it stands, and that it has ended by itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from naturaltone.pipeline.figures import Gauge
from naturaltone.training import figures
from tests.scrapes import scrape_until, value

if TYPE_CHECKING:
    from naturaltone.training.train import TrainResult

GAUGES = {each for each in vars(figures).values() if isinstance(each, Gauge)}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, ...], float]:
    """What was set, by name and labels."""
    found: dict[tuple[str, ...], float] = {}

    def set_(gauge: Gauge, value: float, **labels: str) -> None:
        assert tuple(labels) == gauge.labels
        found[(gauge.name.removeprefix("naturaltone_training_"), *labels.values())] = value

    monkeypatch.setattr(Gauge, "set", set_)
    return found


def test_each_figure_says_what_the_board_says(shown: dict[tuple[str, ...], Any]) -> None:
    figures.show_start("r", steps=100)
    assert (shown["steps", "r"], shown["steps_done", "r"]) == (100, 0)
    assert shown["last_step_timestamp_seconds", "r"] == pytest.approx(time.time(), abs=60)
    posted = {
        **{"loss_color": 0.5, "activation_natural": 0.9, "gradient_generator": 7.0, "learning_rate": 1e-4},
        **{"images_per_second": 40.0, "stream_gap_seconds": 2.0, "stream_wait_ratio": 0.25},
        "discriminator_saturated": 1.0,
    }
    figures.show_steps("r", 30, posted)
    del shown["last_step_timestamp_seconds", "r"]
    assert shown == {
        **{("steps", "r"): 100, ("steps_done", "r"): 30, ("images_per_second", "r"): 40},
        **{("loss", "r", "color"): 0.5, ("activation", "r", "natural"): 0.9},
        **{("stream_gap_seconds", "r"): 2, ("stream_wait_ratio", "r"): 0.25, ("discriminator_saturated", "r"): 1},
    }


def test_a_run_that_has_ended_alarms_nobody(shown: dict[tuple[str, ...], Any]) -> None:
    figures.show_start("r", steps=100)
    figures.show_steps("r", 95, {"stream_wait_ratio": 0.9, "discriminator_saturated": 1.0})
    figures.show_end("r", steps=100)
    assert shown["steps_done", "r"] == shown["steps", "r"]
    assert shown["stream_wait_ratio", "r"] == shown["discriminator_saturated", "r"] == 0


def test_prometheus_reads_a_real_run(trained: TrainResult) -> None:
    steps = 2 * trained.report.steps  # it was resumed after half of them
    found = scrape_until(
        {gauge.series for gauge in GAUGES},
        lambda found: value(found, figures.STEPS_DONE.series, run="resumed") == steps,
    )
    assert value(found, figures.STEPS.series, run="resumed") == steps
    assert value(found, figures.LOSS.series, run="resumed", loss="color") > 0
    assert 0 < value(found, figures.ACTIVATION.series, run="resumed", photos="natural") < 1
    assert value(found, figures.IMAGES.series, run="resumed") > 0
    assert value(found, figures.LAST_STEP.series, run="resumed") == pytest.approx(time.time(), abs=900)
