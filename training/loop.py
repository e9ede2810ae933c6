"""The training loop without Ray: it runs a step for each batch, reports the metrics, and says when to save."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from naturaltone.pipeline.stream.samples import Batch
from naturaltone.training.step import GanStep, TrainingDiverged

Metrics = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """How fast a fit was, in wall-clock seconds.

    seconds: from the first batch to the end. longest_gap_seconds: the longest wait for a batch after the first one.
    median_step_seconds: a step with the wait for its batch. steady_step_seconds: mean of the steps in the second half, with
    their waits and all work of the caller.
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
    on_step: Callable[[int, Metrics, float], None],
    on_checkpoint: Callable[[int], None],
) -> FitReport:
    """Train on `batches` until they end or the configured steps are done.

    first_step: number of the first batch's step, from 0. on_step(k, metrics, wait): called after every step k, which waited so
    many seconds for its batch. on_checkpoint(k): called when k steps are done and should be saved. It is not called after the
    last step of the run: the caller saves that one. `TrainingDiverged` names the step, the loss and the last good checkpoint.
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
        # .item() waits for the device at every step. With steps this long that costs less than a second copy of the metrics.
        try:
            metrics = {name: value.item() for name, value in gan.step(batch, number=number).items()}
        except TrainingDiverged as error:
            good = f"the last good checkpoint is of step {saved}" if saved else "there is no checkpoint yet"
            raise TrainingDiverged(f"{error}; {good}; start again with a lower learning_rate") from None
        steps.append(time.perf_counter() - before)
        ends.append(time.perf_counter())
        on_step(number, metrics, waits[-1])
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
