"""Starts training runs for the commands: checks them, chooses the workers, and trains one run after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from naturaltone.infra import local
from naturaltone.pipeline.errors import UserError
from naturaltone.training.checkpoint import Snapshot
from naturaltone.training.config import TrainConfig
from naturaltone.training.train import TrainResult, check
from naturaltone.training.train import train as run_training

Workers = int | tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """A run to train. bundle: the folder for its model bundle. The last four: see `training.train.train`."""

    name: str
    config: TrainConfig
    bundle: Path
    intermediates: str | None = None
    beside: str | None = None
    start: Callable[[], Snapshot] | None = None
    lineage: Mapping[str, str] | None = None


def train(store: str, runs: Sequence[TrainingRun], *, workers: Workers) -> list[TrainResult]:
    """Train the runs one after the other in one Ray session.

    Raises `UserError` before Ray starts if a run cannot be trained. Only the workers of a cluster (`RAY_ADDRESS`) are
    checked later, because Ray must be asked.
    """
    if not os.environ.get("RAY_ADDRESS"):
        local.check_workers(workers)
    for run in runs:
        check(store, run.config, workers=workers, intermediates=run.intermediates)
    with local.ray_session():
        use_gpu = local.check_workers(workers)
        return [
            run_training(
                store,
                run.config,
                run_name=run.name,
                workers=workers,
                use_gpu=use_gpu,
                bundle=run.bundle,
                intermediates=run.intermediates,
                beside=run.beside,
                start=run.start,
                lineage=run.lineage,
            )
            for run in runs
        ]


def default_workers() -> int:
    """One worker for each GPU of this machine; one worker if it has no GPU."""
    return max(1, local.num_gpus())


def parse_workers(text: str) -> Workers:
    """Parse `N` or `MIN-MAX` DDP workers; raises `UserError` for any other text."""
    fewest, separator, most = text.partition("-")
    if not fewest.isdecimal() or (separator and not most.isdecimal()):
        raise UserError(f"--workers '{text}': give a number, or MIN-MAX as in 2-8")
    if not separator:
        return int(fewest)
    if not 1 <= int(fewest) <= int(most):
        raise UserError(f"--workers '{text}': MIN must be at least 1 and at most MAX")
    return int(fewest), int(most)
