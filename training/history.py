"""Average a run's metrics over its workers, for tracking and for progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
import torch.distributed

from naturaltone.training.config import TrainConfig
from naturaltone.training.loop import Metrics
from naturaltone.training.recorder import Recorder

_REDUCE_STEPS = 10  # steps between all-reduces of the metrics; one at every step would cost more than it is worth
_WINDOW = 0.2
_STUCK, _STUCK_STEPS = 0.01, 50


class Mean:
    """A running mean of metrics."""

    def __init__(self) -> None:
        self._sums: Metrics = {}
        self._count = 0

    def add(self, metrics: Metrics) -> None:
        self._count += 1
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def mean(self) -> Metrics:
        return {name: value / self._count for name, value in self._sums.items()}


class Saturation:
    """Notices when D is saturated, so that G learns nothing from it.

    G learns through the slope of D's sigmoid. At the activation a the slope is a(1 − a), which is 0 at a = 0 and a = 1.
    """

    def __init__(self) -> None:
        self._steps = 0

    def add(self, metrics: Metrics) -> Metrics:
        """`discriminator_saturated` of a step: 1 if all activations are stuck near 0 or 1, 50 steps in a row or more; else 0.

        Empty if the metrics have no activations.
        """
        activations = [metrics[name] for name in ("activation_natural", "activation_enhanced") if name in metrics]
        stuck = [min(activation, 1 - activation) < _STUCK for activation in activations]
        self._steps = self._steps + 1 if stuck and all(stuck) else 0
        return {"discriminator_saturated": float(self._steps >= _STUCK_STEPS)} if activations else {}


class History:
    """Collects the metrics of all workers. Rank 0 has the recorder: it records the means and posts its progress.

    All workers must call `add` equally often. first, last: the means over the first and the last fifth of the run's steps.
    share: this worker's share of the photos in a global batch, times the number of workers. post: called with (steps done,
    metrics) every few steps. The posted metrics also say how fast the steps were.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        device: torch.device,
        share: float = 1.0,
        recorder: Recorder | None,
        post: Callable[[int, Metrics], None] | None,
    ) -> None:
        self.first, self.last = Mean(), Mean()
        self._steps = config.steps
        self._batch = config.batch
        self._reduced = time.monotonic()
        self._window = max(1, math.ceil(_WINDOW * config.steps))
        self._device = device
        self._share = share
        self._saturation = Saturation()
        self._recorder, self._post = recorder, post
        self._waiting: list[tuple[int, Metrics]] = []
        self._waits: list[float] = []

    def add(self, step: int, metrics: Metrics, wait: float = 0.0) -> None:
        """wait: the seconds that the step waited for its batch."""
        self._waiting.append((step, metrics))
        self._waits.append(wait)
        if len(self._waiting) == _REDUCE_STEPS:
            self._reduce()

    def close(self) -> None:
        """Average and record what is left."""
        if self._waiting:
            self._reduce()
        if self._recorder:
            self._recorder.close()

    def _reduce(self) -> None:
        pace = self._pace()
        names = list(self._waiting[0][1])
        table = torch.tensor([[metrics[name] for name in names] for _, metrics in self._waiting], device=self._device)
        if torch.distributed.is_initialized():
            table *= self._share / torch.distributed.get_world_size()
            torch.distributed.all_reduce(table)
        for (step, _), row in zip(self._waiting, table.tolist(), strict=True):
            metrics = dict(zip(names, row, strict=True))
            metrics |= self._saturation.add(metrics)
            if step < self._window:
                self.first.add(metrics)
            if step >= self._steps - self._window:
                self.last.add(metrics)
            if self._recorder:
                self._recorder.log(step, metrics)
        if self._recorder:
            self._recorder.log(step, pace)
        self._waiting.clear()
        if self._post:
            self._post(step + 1, metrics | pace)

    def _pace(self) -> Metrics:
        """How fast the latest steps were: `images_per_second`, and what the slowest stream of all workers cost.

        stream_gap_seconds: the longest wait of a step for its batch. stream_wait_ratio: the share of the time that steps
        waited.
        """
        now = time.monotonic()
        seconds, self._reduced = now - self._reduced, now
        # A worker whose stream is late holds up all others, which then wait for it and not for their own streams.
        waits = torch.tensor(self._waits, device=self._device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(waits, op=torch.distributed.ReduceOp.MAX)
        self._waits.clear()
        return {
            "images_per_second": len(waits) * self._batch / seconds,
            "stream_gap_seconds": waits.max().item(),
            "stream_wait_ratio": min(1.0, waits.sum().item() / seconds),
        }
