"""A rank's batches, in order, from Ray Data's tasks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np

from naturaltone.pipeline import handover
from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.stream.plan import StreamPlan, lanes
from naturaltone.pipeline.stream.samples import COLUMNS, Batch, read_samples

if TYPE_CHECKING:
    import ray

T = TypeVar("T")
_READ_PHOTOS = (8, 32)  # handed over at a time: fewer cost Ray more than reading them, more make batches come in bursts
_CHUNK_TASKS = 256  # reads that one Ray task does: Ray's cost of a task is about that of reading 16 photos
_SEGMENT_TASKS = 4096  # reads that one Ray dataset plans; all its tasks are made before the first one runs
_LEAD_TASKS = 128  # how long before its end the next dataset is started
_WAITING_BLOCKS = 8  # that each Ray task may have ready


@dataclass(frozen=True, kw_only=True)
class _Task:
    """The samples of some lanes that begin their blocks together, over the steps [first, last): lane by lane."""

    lanes: np.ndarray
    first: int
    last: int

    def positions(self, batch: int) -> np.ndarray:
        return (np.arange(self.first, self.last) * batch + self.lanes[:, None]).ravel()


def read_batches(
    plan: StreamPlan,
    *,
    rank: int,
    world_size: int,
    first_step: int,
    last_step: int,
    cpus: float | None = None,
    reserved: bool = False,
) -> Iterator[Batch]:
    """Rank `rank`'s slice of the steps [first_step, last_step) in order; each N×crop×crop×3 uint8 a column of `COLUMNS`.

    One Ray dataset a rank, so that no rank waits for another; `cpus` tasks of it run at a time, by default on the rank's
    share of the CPUs that the workers leave free. `ValueError` if they leave none. reserved: the worker holds the CPU of
    its stream with its own, so that the stream's tasks ask Ray for none.
    """
    import ray

    own = lanes(plan.batch, rank, world_size)
    share = len(own)
    cpus = max(1, int(cpus or _cpus_per_rank(world_size, reserved=reserved)))
    # A batch takes a read from each CPU: what one of them hands over late keeps no more than that batch waiting.
    read_photos = int(np.clip(share // cpus, *_READ_PHOTOS))
    tasks = _tasks(plan, own, first_step, last_step, read_photos)
    results = _in_segments(tasks, functools.partial(_read, ray.put(plan), cpus=cpus, reserved=reserved))
    held: list[tuple[_Task, Batch] | None] = [None] * share
    for step in range(first_step, last_step):
        for lane in range(share):
            while (current := held[lane]) is None or current[0].last <= step:
                task, samples = next(results)
                by_lane = {name: np.split(samples[name], len(task.lanes)) for name in samples}
                for number, place in enumerate(task.lanes - own[0]):
                    held[place] = task, {name: parts[number] for name, parts in by_lane.items()}
        now = [(samples, step - task.first) for task, samples in filter(None, held)]
        yield {name: np.stack([samples[name][row] for samples, row in now]) for name in now[0][0]}


def _tasks(plan: StreamPlan, lanes: np.ndarray, first_step: int, last_step: int, photos: int) -> Iterator[_Task]:
    """What a rank reads, about `photos` at a time, in the order in which its batches need it."""
    shifts = plan.shift(lanes)
    groups = [(int(shift), lanes[shifts == shift]) for shift in np.unique(shifts)]
    spans = [_span(plan.block, photos // len(together)) for _, together in groups]
    for step in range(first_step, last_step):
        for (shift, together), span in zip(groups, spans, strict=True):
            if step == first_step or (step + shift) % span == 0:
                yield _Task(lanes=together, first=step, last=min(step + span - (step + shift) % span, last_step))


def _span(block: int, steps: int) -> int:
    """About `steps`, but so many that blocks are read whole or in equal parts."""
    if steps >= block:
        return block * (steps // block)
    return max(part for part in range(1, block + 1) if block % part == 0 and part <= max(1, steps))


def _in_segments(
    tasks: Iterator[_Task], read: Callable[[list[_Task]], Iterator[tuple[_Task, Batch]]]
) -> Iterator[tuple[_Task, Batch]]:
    """What `read` yields for all tasks, a segment of them at a time; the next one is begun before its turn."""
    with ThreadPoolExecutor(max_workers=1) as ahead:
        current, results = list(islice(tasks, _SEGMENT_TASKS)), None
        while current:
            results = results or read(current)
            following: list[_Task] = []
            started = None
            for number, result in enumerate(results):
                if number == max(0, len(current) - _LEAD_TASKS):
                    following = list(islice(tasks, _SEGMENT_TASKS))
                    started = ahead.submit(_started, read(following)) if following else None
                yield result
            current, results = following, started.result() if started else None


def _started(results: Iterator[T]) -> Iterator[T]:
    """The same iterator, its first result made already."""
    return chain([next(results)], results)


def _read(plan: ray.ObjectRef, tasks: list[_Task], *, cpus: int, reserved: bool) -> Iterator[tuple[_Task, Batch]]:
    """The samples of each task, in order, read by a Ray dataset whose tasks do many of them and hand over each.

    `cpus` Ray tasks take turns at the list, so that together they go through it in order; what one of them has ready too
    early waits here.
    """
    import ray
    from ray.data.block import BlockAccessor

    chunks = [
        list(range(start + turn, min(start + cpus * _CHUNK_TASKS, len(tasks)), cpus))
        for start in range(0, len(tasks), cpus * _CHUNK_TASKS)
        for turn in range(min(cpus, len(tasks) - start))
    ]
    # Items, not a range: those need no task of their own, which would ask for a CPU whatever this one asks for.
    dataset = ray.data.from_items(list(range(len(chunks))), override_num_blocks=len(chunks)).map_batches(
        functools.partial(_read_chunk, plan=plan, tasks=ray.put([[(n, tasks[n]) for n in chunk] for chunk in chunks])),
        batch_size=None,
        compute=ray.data.TaskPoolStrategy(size=min(cpus, len(chunks))),
        num_cpus=0 if reserved else 1,
    )
    dataset.context.execution_options.resource_limits = ray.data.ExecutionResources(cpu=cpus)
    early: dict[int, Batch] = {}  # views of Ray's shared memory, not copies
    expected = 0
    for block in handover.hand_over(dataset, waiting=_WAITING_BLOCKS):
        row = BlockAccessor.for_block(block).to_numpy()
        early[int(row["number"][0])] = {name: row[name][0] for name in (*COLUMNS, "position")}
        while expected in early:
            yield tasks[expected], early.pop(expected)
            expected += 1


def _read_chunk(rows: Batch, *, plan: ray.ObjectRef, tasks: ray.ObjectRef) -> Iterator[Batch]:
    """The samples of each task of one chunk, lane by lane: one row each, with its number."""
    cv2.setNumThreads(1)  # Ray runs one task a core
    of = _get(plan)
    for number, task in _get(tasks)[int(rows["item"][0])]:
        samples = read_samples(of, task.positions(of.batch))
        yield {"number": np.array([number])} | {name: column[None] for name, column in samples.items()}


@functools.lru_cache(maxsize=4)
def _get(reference: ray.ObjectRef) -> Any:
    # Kept by process: unpickling a plan costs more than looking it up. Its arrays stay in Ray's shared memory.
    import ray

    return ray.get(reference)


def _cpus_per_rank(world_size: int, *, reserved: bool) -> float:
    """The CPUs that Train's workers leave, shared out; `ValueError` where there are none and Ray would wait for ever."""
    import ray

    free = ray.cluster_resources().get("CPU", 0) - world_size
    if free < world_size and not reserved:
        raise UserError(
            f"{world_size} workers leave {free:g} CPUs for the stream, which needs one a worker; "
            f"use a cluster with {2 * world_size} CPUs or fewer --workers"
        )
    return free // world_size
