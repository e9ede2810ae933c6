"""The training stream: a seeded plan that names every sample by its position, and the Ray Data job that reads it.

A run is a pure function of (store, configuration, seed). Global step k is the positions kB … (k+1)B−1; position kB+j is
lane j. A lane goes straight on through a block of photos that lie together in one row group, then takes another block:
a task reads a row group once and uses all of it, while the B lanes of a batch come from B different row groups. Blocks
of different lanes begin at different steps, so that every step needs about as many new blocks. Inside a row group the
photos are a random sample of their wave already (ingest shuffles it). A small store has blocks shorter than its
row groups: it can afford to read them more often, and could not fill a batch with different photos otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

import cv2
import numpy as np
import pyarrow as pa
from cachetools import LRUCache, cached

from naturaltone.pipeline import handover, tone
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.photo.stored import decode_rgb, decode_rows

if TYPE_CHECKING:
    import ray

T = TypeVar("T")
Batch = dict[str, np.ndarray]
COLUMNS = ("input", "intermediate", "natural")

_CACHE_BYTES = 2**28  # of row groups, for each process
_READ_PHOTOS = (8, 32)  # handed over at a time: fewer cost Ray more than reading them, more make batches come in bursts
_CHUNK_TASKS = 256  # reads that one Ray task does: Ray's cost of a task is about that of reading 16 photos
_SEGMENT_TASKS = 4096  # reads that one Ray dataset plans; all its tasks are made before the first one runs
_LEAD_TASKS = 128  # how long before its end the next dataset is started
_WAITING_BLOCKS = 8  # that each Ray task may have ready
_ROLE_KEYS = {"input": 1, "natural": 2}
_CROP_KEY = 3
_FEISTEL_ROUNDS = 6  # four suffice for large halves; these are a few bits wide in small stores


@dataclass(frozen=True, kw_only=True)
class RowGroups:
    """The row groups of one role's training photos.

    files: each one's file, as a dictionary array. numbers: each one's place in its file. starts: the index of each one's
    first photo, and behind them the number of photos. run: neighbours that stay together in every epoch's order, at most
    a row group's.
    """

    files: pa.DictionaryArray
    numbers: np.ndarray
    starts: np.ndarray
    run: int

    @property
    def num_photos(self) -> int:
        return int(self.starts[-1])

    def find(self, indices: np.ndarray) -> np.ndarray:
        """The row group of each photo index."""
        return np.searchsorted(self.starts, indices, side="right") - 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which photos, crop and flip every position of a run has.

    batch: global batch B. crop: side of the square crops in pixels. block: steps that a lane goes straight on.
    algorithm: makes the intermediates from the stored inputs; None if they are stored too.
    """

    store: str
    input: RowGroups
    natural: RowGroups
    batch: int
    crop: int
    seed: int
    block: int
    algorithm: tone.Algorithm | None = None

    def photo_index(self, role: str, position: np.ndarray) -> np.ndarray:
        """The index of the photo of `role` at each position; each input exactly once in every `num_photos` positions."""
        return self.photo_at(role, self.walk(position))

    def walk(self, position: np.ndarray) -> np.ndarray:
        """Place in the walk through all photos: a bijection of each epoch's positions in which lanes get whole blocks.

        An epoch's places are first all whole blocks that every lane has, then what its lanes have before and behind them.
        """
        position = np.asarray(position, np.int64)
        epochs = position // self.input.num_photos
        place = np.empty_like(position)
        for epoch in np.unique(epochs):
            place[epochs == epoch] = self._walk_epoch(int(epoch), position[epochs == epoch])
        return place

    def _walk_epoch(self, epoch: int, position: np.ndarray) -> np.ndarray:
        size, lanes = self.input.num_photos, np.arange(self.batch)
        begin = -(
            -(epoch * size - lanes) // self.batch
        )  # each lane's first step in the epoch, and the one behind its last
        end = -(-((epoch + 1) * size - lanes) // self.batch)
        head = np.minimum((-(begin + self.shift(lanes))) % self.block, end - begin)
        blocks = int(((end - begin - head) // self.block).min())
        rest = end - begin - blocks * self.block
        step, lane = np.divmod(position, self.batch)
        row = step - begin[lane] - head[lane]
        block, inside = np.divmod(row, self.block)
        whole = (block * self.batch + lane) * self.block + inside
        before = blocks * self.batch * self.block + (np.cumsum(rest) - rest)[lane]
        behind = np.where(row < 0, row, row - blocks * self.block) + head[lane]
        in_block = (row >= 0) & (row < blocks * self.block)
        return np.asarray(epoch * size + np.where(in_block, whole, before + behind))

    def shift(self, lane: np.ndarray) -> np.ndarray:
        """Lane's blocks begin at steps ≡ −shift modulo `block`; neighbouring lanes' lie far apart (van der Corput)."""
        reversed_bits = np.zeros(np.shape(lane))
        rest, unit = np.array(lane), 0.5
        while rest.any():
            reversed_bits += unit * (rest % 2)
            rest, unit = rest // 2, unit / 2
        return (reversed_bits * self.block).astype(np.int64)

    def photo_at(self, role: str, place: np.ndarray) -> np.ndarray:
        """The photo of `role` at each place of the walk: epochs follow each other, each in an order of its own.

        Runs of neighbours are permuted, and the photos in each run; the few photos behind the last full run end the epoch.
        """
        groups = self.row_groups(role)
        epoch, place = np.divmod(np.asarray(place, np.int64), groups.num_photos)
        run, row = np.divmod(place, groups.run)
        full_runs, rest = divmod(groups.num_photos, groups.run)
        is_full = run < full_runs
        key = _mix(np.uint64(self.seed) ^ _mix(epoch.astype(np.uint64) * np.uint64(8) + np.uint64(_ROLE_KEYS[role])))
        run = np.where(is_full, permute(np.where(is_full, run, 0), max(full_runs, 1), key), run)
        row = permute(row, np.where(is_full, groups.run, rest), _mix(key ^ run.astype(np.uint64)))
        return run * groups.run + row

    def row_groups(self, role: str) -> RowGroups:
        return self.input if role == "input" else self.natural


def make_plan(store: shards.Store, *, batch: int, crop: int, seed: int, intermediates: str | None = None) -> Plan:
    """The plan over the training split of `store`; `ValueError` if a role has no photos to train on.

    intermediates: `cached` reads those in the shards, `stream` computes the same pixels; None does what the store is for.
    """
    intermediates = intermediates or store.intermediates
    if intermediates not in shards.INTERMEDIATES:
        raise UserError(f"--intermediates '{intermediates}'; use one of {', '.join(shards.INTERMEDIATES)}")
    if (intermediates, store.intermediates) == ("cached", "stream"):
        raise UserError(f"'{store.uri}': holds no intermediates; use --intermediates stream, or leave it out")
    groups = {}
    for role in shards.ROLES:
        table = store.select(role, "train", columns=("file", "row_group", "num_photos"))
        if not table.num_rows:
            raise UserError(
                f"'{store.uri}': no {role} photos to train on; "
                f"add some with `naturaltone ingest SRC --role {role} --to {store.uri}`"
            )
        starts = np.zeros(table.num_rows + 1, np.int64)
        np.cumsum(table["num_photos"].to_numpy(), dtype=np.int64, out=starts[1:])
        groups[role] = RowGroups(
            files=table["file"].unify_dictionaries().combine_chunks(),
            numbers=table["row_group"].to_numpy(),
            starts=starts,
            run=_at_most_a_row_group(int(starts[-1]) // (4 * batch)),
        )
        del table
        pa.default_memory_pool().release_unused()  # a tenth of the memory that a store of 100 million photos takes
    # A block no longer than an epoch: else a batch would hold a photo twice.
    block = _at_most_a_row_group(min(group.num_photos for group in groups.values()) // batch)
    algorithm = tone.algorithm_of(store.algorithm) if intermediates == "stream" else None
    return Plan(store=store.uri, **groups, batch=batch, crop=crop, seed=seed, block=block, algorithm=algorithm)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """The samples of some lanes that begin their blocks together, over the steps [first, last): lane by lane."""

    lanes: np.ndarray
    first: int
    last: int

    def positions(self, batch: int) -> np.ndarray:
        return (np.arange(self.first, self.last) * batch + self.lanes[:, None]).ravel()


def batches(
    plan: Plan,
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


def lanes(batch: int, rank: int, world_size: int) -> np.ndarray:
    """The places in every global batch that are rank `rank`'s; as many as another's, or one more or less."""
    if batch < world_size:
        raise UserError(f"batch={batch}: cannot be shared by {world_size} workers; set it to at least {world_size}")
    return np.arange(batch * rank // world_size, batch * (rank + 1) // world_size)


def _tasks(plan: Plan, lanes: np.ndarray, first_step: int, last_step: int, photos: int) -> Iterator[_Task]:
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


def read_positions(plan: Plan, positions: np.ndarray) -> Batch:
    """The samples at `positions`, in their order; needs no Ray. Also returns the positions as column `position`."""
    rows = {role: _rows(plan, role, plan.photo_index(role, positions)) for role in shards.ROLES}
    samples = {name: np.empty((len(positions), plan.crop, plan.crop, 3), np.uint8) for name in COLUMNS}
    for index, position in enumerate(positions):
        random = np.random.Generator(np.random.Philox(key=[plan.seed, (int(position) << 2) | _CROP_KEY]))
        for role, names in (("input", ("input", "intermediate")), ("natural", ("natural",))):
            crop = random_crop(rows[role][index].size, plan.crop, random)
            for name, picture in zip(names, rows[role][index].pictures, strict=True):
                samples[name][index] = cut(picture, crop)
    return samples | {"position": np.asarray(positions)}


@dataclass(frozen=True)
class Crop:
    """A square window of a picture that has been enlarged to `size` (height, width) if that is not its own, and mirrored."""

    size: tuple[int, int] | None
    top: int
    left: int
    side: int
    mirrored: bool


def random_crop(size: tuple[int, int], side: int, random: np.random.Generator) -> Crop:
    """A random window of a picture of `size` (height, width), which is enlarged to hold it if it is smaller."""
    scale = side / min(size)
    height, width = (max(side, round(length * scale)) for length in size) if scale > 1 else size
    return Crop(
        size=(height, width) if scale > 1 else None,
        top=int(random.integers(height - side + 1)),
        left=int(random.integers(width - side + 1)),
        side=side,
        mirrored=bool(random.integers(2)),
    )


def cut(picture: bytes, crop: Crop) -> np.ndarray:
    """The window of a stored picture, side×side×3 uint8; only its rows are decoded."""
    if crop.size:
        return cut_pixels(decode_rgb(picture), crop)
    return cut_pixels(decode_rows(picture, crop.top, crop.top + crop.side), replace(crop, top=0))


def cut_pixels(pixels: np.ndarray, crop: Crop) -> np.ndarray:
    """The window of H×W×3 uint8 pixels."""
    if crop.size:
        pixels = cv2.resize(pixels, crop.size[::-1], interpolation=cv2.INTER_LINEAR)
    window = pixels[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side]
    return cv2.flip(window, 1) if crop.mirrored else window  # NumPy takes thirty times as long to copy a mirrored view


def permute(index: np.ndarray, size: int | np.ndarray, key: np.ndarray) -> np.ndarray:
    """A keyed bijection of range(size), computed for each index by itself: a Feistel network with cycle walking."""
    value = np.array(index, np.uint64)
    size = np.broadcast_to(np.asarray(size, np.uint64), value.shape)
    key = np.broadcast_to(np.asarray(key, np.uint64), value.shape)
    # Half the bits of the largest index, by each index's own size: the company must not matter. frexp is exact to 2**53.
    half = np.maximum(1, (np.frexp((size - np.uint64(1)).astype(np.float64))[1] + 1) // 2).astype(np.uint64)
    pending = np.ones(value.shape, bool)
    while pending.any():
        bits, mask = half[pending], (np.uint64(1) << half[pending]) - np.uint64(1)
        left, right = value[pending] >> bits, value[pending] & mask
        for number in range(_FEISTEL_ROUNDS):
            left, right = right, left ^ (_mix(right ^ _mix(key[pending] + np.uint64(number))) & mask)
        value[pending] = (left << bits) | right
        pending = value >= size
    return value.astype(np.int64)


def _mix(value: np.ndarray | np.uint64) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014): every input bit changes half of the output bits."""
    with np.errstate(over="ignore"):
        value = np.asarray(value, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(value ^ (value >> np.uint64(31)))


def _read_chunk(rows: Batch, *, plan: ray.ObjectRef, tasks: ray.ObjectRef) -> Iterator[Batch]:
    """The samples of each task of one chunk, lane by lane: one row each, with its number."""
    cv2.setNumThreads(1)  # Ray runs one task a core
    of = _get(plan)
    for number, task in _get(tasks)[int(rows["item"][0])]:
        samples = read_positions(of, task.positions(of.batch))
        yield {"number": np.array([number])} | {name: column[None] for name, column in samples.items()}


@functools.lru_cache(maxsize=4)
def _get(reference: ray.ObjectRef) -> Any:
    # Kept by process: unpickling a plan costs more than looking it up. Its arrays stay in Ray's shared memory.
    import ray

    return ray.get(reference)


@dataclass(frozen=True)
class _Row:
    """A stored photo: its height and width, and its pictures (and that of the intermediate, for inputs) as JPEG."""

    size: tuple[int, int]
    pictures: list[bytes]


def _rows(plan: Plan, role: str, indices: np.ndarray) -> list[_Row]:
    """The stored photo of each index; each row group is read once."""
    groups = plan.row_groups(role)
    pictures = ("image", "intermediate") if role == "input" and plan.algorithm is None else ("image",)
    numbers = groups.find(indices)
    found: dict[int, _Row] = {}
    for place in np.argsort(numbers, kind="stable"):
        number = int(numbers[place])
        file = groups.files[number].as_py()
        table = _row_group(plan.store, ("height", "width", *pictures), file, int(groups.numbers[number]))
        height, width, *stored = (
            column[int(indices[place] - groups.starts[number])].as_py() for column in table.columns
        )
        if role == "input" and plan.algorithm is not None:
            stored.append(shards.make_intermediate(stored[0], plan.algorithm))
        found[int(place)] = _Row((height, width), stored)
    return [found[place] for place in range(len(indices))]


# Row groups are needed again: by the next task where runs are shorter than they are, and by every epoch of a small store.
@cached(LRUCache(_CACHE_BYTES, getsizeof=lambda table: table.nbytes))
def _row_group(store: str, columns: tuple[str, ...], file: str, number: int) -> pa.Table:
    return shards.read_row_group(store, file, number, columns)


def _at_most_a_row_group(photos: int) -> int:
    return int(np.clip(photos, 1, shards.ROW_GROUP_PHOTOS))


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
