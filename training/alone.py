"""Train on one machine without Ray, in one process: the same run folder and batches, and so the same model."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from naturaltone.pipeline.progress import Progress
from naturaltone.pipeline.stream.plan import StreamPlan, make_plan
from naturaltone.pipeline.stream.samples import Batch, read_samples
from naturaltone.training import allocator, checkpoint, runs
from naturaltone.training.checkpoint import Snapshot
from naturaltone.training.config import TrainConfig
from naturaltone.training.loop import Metrics, fit
from naturaltone.training.step import GanStep
from naturaltone.training.validation import ValidationPhotos

_READERS = 2
_AHEAD = 8  # batches
_SHOWN_STEPS = 10


def train_alone(store_uri: str, config: TrainConfig, *, run_name: str, device: torch.device) -> Snapshot:
    """Train on a store up to the configured steps and return the last checkpoint. A run that has begun is resumed.

    You can begin a run here and resume it with `train.train`, or the other way round. Nothing goes to a tracking server.
    `UserError` for a wrong store, name or configuration, `RunFailed` if the run itself fails.
    """
    allocator.keep_freed_memory()
    with runs.hold(store_uri, run_name) as lease:
        run = runs.begin(store_uri, run_name, config)
        plan = make_plan(run.store, batch=config.batch, crop=config.crop, seed=config.seed)
        gan = GanStep(config, device=device)
        newest = runs.newest_checkpoint(run.uri)
        if newest is not None:
            checkpoint.restore(runs.read_checkpoint(run.uri, newest), gan)
        first_step = newest or 0
        validation = ValidationPhotos.of(run.store)
        writer = runs.CheckpointWriter(
            run.uri,
            judge=lambda snapshot: validation.judge(snapshot.generator()).naturalness,
            check_lock=lease.check,
        )

        def save(steps_done: int) -> None:
            lease.check_not_taken()
            writer.put(checkpoint.take_snapshot(gan, step=steps_done))

        with Progress("train", total=config.steps - first_step, unit="step") as progress:

            def show(step: int, metrics: Metrics, _: float) -> None:
                if (step + 1 - first_step) % _SHOWN_STEPS == 0:
                    note = "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())
                    progress.advance(_SHOWN_STEPS, note=note)

            batches = _batches(plan, first_step, config.steps)
            report = fit(gan, batches, first_step=first_step, on_step=show, on_checkpoint=save)
        if report.steps:
            save(config.steps)
        writer.close()
        return runs.read_checkpoint(run.uri, config.steps)


def _batches(plan: StreamPlan, first_step: int, last_step: int) -> Iterator[Batch]:
    """The global batches in order. A few threads read some batches ahead."""
    steps = iter(range(first_step, last_step))

    def read(step: int) -> Batch:
        return read_samples(plan, np.arange(step * plan.batch, (step + 1) * plan.batch))

    with ThreadPoolExecutor(_READERS) as readers:
        waiting: deque[Future[Batch]] = deque(readers.submit(read, step) for step in itertools.islice(steps, _AHEAD))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(readers.submit(read, step) for step in itertools.islice(steps, 1))
            yield batch
