"""A run's figures for Prometheus. The driver sets them when it looks at the board, so no step waits for them."""

from __future__ import annotations

import time

from naturaltone.pipeline.figures import Gauge
from naturaltone.training.loop import Metrics

STEPS = Gauge("naturaltone_training_steps", "Steps of the whole run.", "run")
STEPS_DONE = Gauge("naturaltone_training_steps_done", "Steps that are done.", "run")
LAST_STEP = Gauge(
    "naturaltone_training_last_step_timestamp_seconds", "When the newest step was seen, or when the run started.", "run"
)
IMAGES = Gauge("naturaltone_training_images_per_second", "Input photos a second, of all workers.", "run")
STREAM_GAP = Gauge(
    "naturaltone_training_stream_gap_seconds", "Longest wait of one of the latest steps for its photos.", "run"
)
STREAM_WAIT = Gauge(
    "naturaltone_training_stream_wait_ratio", "Share of the time that the latest steps waited for their photos.", "run"
)
SATURATED = Gauge(
    "naturaltone_training_discriminator_saturated", "1 while D is saturated, so that G learns nothing from it.", "run"
)
LOSS = Gauge("naturaltone_training_loss", "A loss of the newest step, without its weight lambda.", "run", "loss")
ACTIVATION = Gauge(
    "naturaltone_training_activation", "Mean of D over the natural or the enhanced photos of a step.", "run", "photos"
)

_OWN = {
    "images_per_second": IMAGES,
    "stream_gap_seconds": STREAM_GAP,
    "stream_wait_ratio": STREAM_WAIT,
    "discriminator_saturated": SATURATED,
}


def show_start(run: str, *, steps: int) -> None:
    """A run of so many steps starts or goes on. Where it stands, its first steps will say."""
    STEPS.set(steps, run=run)
    STEPS_DONE.set(0, run=run)
    LAST_STEP.set(time.time(), run=run)


def show_steps(run: str, done: int, metrics: Metrics) -> None:
    """metrics: as `History` posts them."""
    STEPS_DONE.set(done, run=run)
    LAST_STEP.set(time.time(), run=run)
    for name, value in metrics.items():
        kind, _, what = name.partition("_")
        if name in _OWN:
            _OWN[name].set(value, run=run)
        elif kind == "loss":
            LOSS.set(value, run=run, loss=what)
        elif kind == "activation":
            ACTIVATION.set(value, run=run, photos=what)


def show_end(run: str, *, steps: int) -> None:
    """The run has done all its steps. From now on, silence is no alarm."""
    STEPS_DONE.set(steps, run=run)
    STREAM_WAIT.set(0.0, run=run)
    SATURATED.set(0.0, run=run)
