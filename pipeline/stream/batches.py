"""Read a rank's batches, in order, by Ray Data's tasks."""

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
# The least and the most photos of one read. To hand over fewer costs Ray more than to read them; with more, batches come
# in bursts.
_READ_PHOTOS = (8, 32)
_CHUNK_READS = 256  # reads of one Ray task: to start a task costs Ray about as much as to read 16 photos
_SEGMENT_READS = 4096  # reads of one Ray dataset: Ray makes all tasks of a dataset before it runs the first
_LEAD_READS = 128  # the next dataset starts this many reads before the end of the current one
_WAITING_BLOCKS = 8  # results that each Ray task may hold ready


@dataclass(frozen=True, kw_only=True)
class _Read:
    """One read: the samples of a few lanes over the steps [first, last), lane by lane.

    The lanes begin their blocks at the same steps.
    """

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
    """Rank `rank`'s slice of each step in [first_step, last_step), in order: N×crop×crop×3 uint8 for each of `COLUMNS`.

    Each rank has a Ray dataset of its own, so no rank waits for another. cpus: Ray tasks at a time; by default the rank's
    share of the CPUs that the workers leave free. reserved: the worker has reserved a CPU for its stream, so the stream's
    tasks ask Ray for none. `UserError` if the workers leave no CPU.
    """
    import ray

    own = lanes(plan.batch, rank, world_size)
    share = len(own)
    cpus = max(1, int(cpus or _cpus_per_rank(world_size, reserved=reserved)))
    # A batch takes one read from each CPU, so a late read delays that batch only.
    read_photos = int(np.clip(share // cpus, *_READ_PHOTOS))
    reads = _reads(plan, own, first_step, last_step, read_photos)
    results = _in_segments(reads, functools.partial(_read_all, ray.put(plan), cpus=cpus, reserved=reserved))
    held: list[tuple[_Read, Batch] | None] = [None] * share
    for step in range(first_step, last_step):
        for lane in range(share):
            while (current := held[lane]) is None or current[0].last <= step:
                read, samples = next(results)
                by_lane = {name: np.split(samples[name], len(read.lanes)) for name in samples}
                for number, column in enumerate(read.lanes - own[0]):
                    held[column] = read, {name: parts[number] for name, parts in by_lane.items()}
        now = [(samples, step - read.first) for read, samples in filter(None, held)]
        yield {name: np.stack([samples[name][row] for samples, row in now]) for name in now[0][0]}


def _reads(plan: StreamPlan, lanes: np.ndarray, first_step: int, last_step: int, photos: int) -> Iterator[_Read]:
    """A rank's reads of about `photos` photos each, in the order in which its batches need them."""
    shifts = plan.shift(lanes)
    groups = [(int(shift), lanes[shifts == shift]) for shift in np.unique(shifts)]
    spans = [_span(plan.block, photos // len(together)) for _, together in groups]
    for step in range(first_step, last_step):
        for (shift, together), span in zip(groups, spans, strict=True):
            if step == first_step or (step + shift) % span == 0:
                yield _Read(lanes=together, first=step, last=min(step + span - (step + shift) % span, last_step))


def _span(block: int, steps: int) -> int:
    """About `steps` steps, chosen so that each read takes whole blocks or equal parts of one."""
    if steps >= block:
        return block * (steps // block)
    return max(part for part in range(1, block + 1) if block % part == 0 and part <= max(1, steps))


def _in_segments(
    reads: Iterator[_Read], read_all: Callable[[list[_Read]], Iterator[tuple[_Read, Batch]]]
) -> Iterator[tuple[_Read, Batch]]:
    """The results of all reads, a segment at a time. The next segment starts before the current one ends."""
    with ThreadPoolExecutor(max_workers=1) as ahead:
        current, results = list(islice(reads, _SEGMENT_READS)), None
        while current:
            results = results or read_all(current)
            following: list[_Read] = []
            started = None
            for number, result in enumerate(results):
                if number == max(0, len(current) - _LEAD_READS):
                    following = list(islice(reads, _SEGMENT_READS))
                    started = ahead.submit(_started, read_all(following)) if following else None
                yield result
            current, results = following, started.result() if started else None


def _started(results: Iterator[T]) -> Iterator[T]:
    """The same iterator, after its first result has been computed."""
    return chain([next(results)], results)


def _read_all(plan: ray.ObjectRef, reads: list[_Read], *, cpus: int, reserved: bool) -> Iterator[tuple[_Read, Batch]]:
    """The samples of each read, in order. One Ray dataset does the reads: each of its tasks does many, and hands over each.

    `cpus` Ray tasks run at a time and take the reads in turns, so that together they go through the list in order. A result
    that comes early waits here.
    """
    import ray
    from ray.data.block import BlockAccessor

    chunks = [
        list(range(start + turn, min(start + cpus * _CHUNK_READS, len(reads)), cpus))
        for start in range(0, len(reads), cpus * _CHUNK_READS)
        for turn in range(min(cpus, len(reads) - start))
    ]
    # `ray.data.range` would start a task of its own, which asks for a CPU even where ours asks for none. Items need no task.
    dataset = ray.data.from_items(list(range(len(chunks))), override_num_blocks=len(chunks)).map_batches(
        functools.partial(_read_chunk, plan=plan, reads=ray.put([[(n, reads[n]) for n in chunk] for chunk in chunks])),
        batch_size=None,
        compute=ray.data.TaskPoolStrategy(size=min(cpus, len(chunks))),
        num_cpus=0 if reserved else 1,
    )
    dataset.context.execution_options.resource_limits = ray.data.ExecutionResources(cpu=cpus)
    early: dict[int, Batch] = {}  # views into Ray's shared memory, not copies
    expected = 0
    for block in handover.hand_over(dataset, waiting=_WAITING_BLOCKS):
        row = BlockAccessor.for_block(block).to_numpy()
        early[int(row["number"][0])] = {name: row[name][0] for name in (*COLUMNS, "position")}
        while expected in early:
            yield reads[expected], early.pop(expected)
            expected += 1


def _read_chunk(rows: Batch, *, plan: ray.ObjectRef, reads: ray.ObjectRef) -> Iterator[Batch]:
    """Do the reads of one chunk: each yields one row with the read's number and its samples, lane by lane."""
    cv2.setNumThreads(1)  # Ray runs one task a core
    shared_plan = _get(plan)
    for number, read in _get(reads)[int(rows["item"][0])]:
        samples = read_samples(shared_plan, read.positions(shared_plan.batch))
        yield {"number": np.array([number])} | {name: column[None] for name, column in samples.items()}


@functools.lru_cache(maxsize=4)
def _get(reference: ray.ObjectRef) -> Any:
    # Each process keeps it: to unpickle a plan costs more than to look it up. Its arrays stay in Ray's shared memory.
    import ray

    return ray.get(reference)


def _cpus_per_rank(world_size: int, *, reserved: bool) -> float:
    """Each rank's share of the CPUs that Train's workers leave free. `UserError` if there is none: Ray would wait for ever."""
    import ray

    free = ray.cluster_resources().get("CPU", 0) - world_size
    if free < world_size and not reserved:
        raise UserError(
            f"{world_size} workers leave {free:g} CPUs for the stream, which needs one a worker; "
            f"use a cluster with {2 * world_size} CPUs or fewer --workers"
        )
    return free // world_size
