"""The training loop without Ray: takes batches, steps, and hands out metrics and moments to save."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pipeline.stream import Batch
from training.step import GanStep

Metrics = dict[str, float]


class TrainingDiverged(RuntimeError):
    """A loss is no longer a finite number; the last checkpoint is from before."""


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """How a fit went; seconds are wall-clock, gaps are waits for a batch after the first one."""

    steps: int
    seconds: float
    first_batch_seconds: float
    longest_gap_seconds: float
    median_step_seconds: float

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
    not called for the last: what the caller saves then holds this report too.
    """
    config = gan.config
    iterator = iter(batches)
    waits, steps = [], []
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
        metrics = {name: value.item() for name, value in gan.step(batch, number=number).items()}
        broken = {name: value for name, value in metrics.items() if not math.isfinite(value)}
        if broken:
            raise TrainingDiverged(
                f"step {number}: {', '.join(f'{name} is {value}' for name, value in broken.items())}; "
                "lower learning_rate or lambda_natural and resume from the last checkpoint"
            )
        steps.append(time.perf_counter() - before)
        on_step(number, metrics)
        if (number + 1) % config.checkpoint_every == 0 and number + 1 < config.steps:
            on_checkpoint(number + 1)
    return FitReport(
        steps=len(steps),
        seconds=time.perf_counter() - started,
        first_batch_seconds=waits[0] if waits else 0.0,
        longest_gap_seconds=max(waits[1:], default=0.0),
        median_step_seconds=sorted(steps)[len(steps) // 2] if steps else 0.0,
    )
