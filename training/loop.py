"""The training loop without Ray: takes batches, steps, and hands out metrics and moments to save."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from naturaltone.pipeline.stream.samples import Batch
from naturaltone.training.step import GanStep, TrainingDiverged

Metrics = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """How a fit went; seconds are wall-clock, gaps are waits for a batch after the first one.

    steady_step_seconds: a step on average over the second half, with its wait and all that the caller does.
    """

    steps: int
    seconds: float
    first_batch_seconds: float
    longest_gap_seconds: float
    median_step_seconds: float
    steady_step_seconds: float

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.seconds if self.steps else 0.0


def fit(
    gan: GanStep,
    batches: Iterable[Batch],
    *,
    first_step: int,
    on_step: Callable[[int, Metrics], None],
    on_checkpoint: Callable[[int], None],
) -> FitReport:
    """Train on `batches` (the first is step `first_step`) until they or the configured steps end.

    `on_step(k, metrics)` follows every step; `on_checkpoint(k)` means that k steps are done and worth saving, and is
    not called for the last: what the caller saves then holds this report too. `TrainingDiverged` names the step, the loss
    and the last good checkpoint.
    """
    config = gan.config
    iterator = iter(batches)
    waits, steps, ends = [], [], []
    saved = first_step
    started = time.perf_counter()
    for number in range(first_step, config.steps):
        before = time.perf_counter()
        batch = next(iterator, None)
        if batch is None:
            break
        waits.append(time.perf_counter() - before)
        if len(waits) == 1:
            started = time.perf_counter()
        # .item() waits for the device each step; at these step times that costs less than a second copy of the metrics.
        try:
            metrics = {name: value.item() for name, value in gan.step(batch, number=number).items()}
        except TrainingDiverged as error:
            good = f"the last good checkpoint is of step {saved}" if saved else "there is no checkpoint yet"
            raise TrainingDiverged(f"{error}; {good}; start again with a lower learning_rate") from None
        steps.append(time.perf_counter() - before)
        ends.append(time.perf_counter())
        on_step(number, metrics)
        if (number + 1) % config.checkpoint_every == 0 and number + 1 < config.steps:
            on_checkpoint(number + 1)
            saved = number + 1
    return FitReport(
        steps=len(steps),
        seconds=time.perf_counter() - started,
        first_batch_seconds=waits[0] if waits else 0.0,
        longest_gap_seconds=max(waits[1:], default=0.0),
        median_step_seconds=sorted(steps)[len(steps) // 2] if steps else 0.0,
        steady_step_seconds=_mean_gap(ends[len(ends) // 2 - 1 :]) if len(ends) > 2 else 0.0,
    )


def _mean_gap(times: list[float]) -> float:
    return (times[-1] - times[0]) / (len(times) - 1)
