"""The training stream: a seeded plan that names every sample by its position, and the Ray Data job that reads it.

A run is a pure function of (store, configuration, seed). Global step k is the positions kB … (k+1)B−1; position kB+j is
lane j. Along its steps a lane walks through runs of photos that lie together in one row group, so a task reads a row
group once and uses all of it, while the B lanes of a batch come from B different row groups. Inside a row group the
photos are a random sample of the store already (ingest sorts by content hash). A small store has runs shorter than its
row groups: it can afford to read them more often, and could not fill a batch with different photos otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import pyarrow as pa

from pipeline import images, shards, tone

Batch = dict[str, np.ndarray]
COLUMNS = ("input", "intermediate", "natural")

_TASK_PHOTOS = 64  # crops a task yields: below, Ray's cost of a task shows; above, the first batch is late
_CACHED_ROW_GROUPS = 4
_ROLE_KEYS = {"input": 1, "natural": 2}
_CROP_KEY = 3
_FEISTEL_ROUNDS = 6  # four suffice for large halves; these are a few bits wide in small stores


@dataclass(frozen=True, kw_only=True)
class RowGroups:
    """The row groups of one role's training photos.

    starts: the index of each one's first photo, and behind them the number of photos. run: neighbours that stay together
    in every epoch's order, at most a row group's.
    """

    files: tuple[str, ...]
    numbers: np.ndarray
    starts: np.ndarray
    run: int

    @property
    def num_photos(self) -> int:
        return int(self.starts[-1])


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
        """The index of the photo of `role` at each position; every photo once in each `num_photos` places of the walk."""
        return self.photo_at(role, self.walk(position))

    def walk(self, position: np.ndarray) -> np.ndarray:
        """Place in the walk through all photos: inside a block of steps, lanes and steps are exchanged."""
        step, lane = np.divmod(np.asarray(position, np.int64), self.batch)
        block, row = np.divmod(step, self.block)
        return (block * self.batch + lane) * self.block + row

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
        raise ValueError(f"--intermediates '{intermediates}'; use one of {', '.join(shards.INTERMEDIATES)}")
    if (intermediates, store.intermediates) == ("cached", "stream"):
        raise ValueError(f"'{store.uri}': holds no intermediates; use --intermediates stream, or leave it out")
    groups = {}
    for role in shards.ROLES:
        table = store.select(role, "train")
        if not table.num_rows:
            raise ValueError(
                f"'{store.uri}': no {role} photos to train on; "
                f"add some with `naturaltone ingest SRC --role {role} --to {store.uri}`"
            )
        starts = np.concatenate([[0], np.cumsum(table["num_photos"].to_numpy())]).astype(np.int64)
        groups[role] = RowGroups(
            files=tuple(table["file"].to_pylist()),
            numbers=table["row_group"].to_numpy(),
            starts=starts,
            run=_at_most_a_row_group(int(starts[-1]) // (4 * batch)),
        )
    # A block no longer than an epoch: else a batch would hold a photo twice.
    block = _at_most_a_row_group(min(group.num_photos for group in groups.values()) // batch)
    algorithm = tone.algorithm_of(store.algorithm) if intermediates == "stream" else None
    return Plan(store=store.uri, **groups, batch=batch, crop=crop, seed=seed, block=block, algorithm=algorithm)


def batches(plan: Plan, *, rank: int, world_size: int, first_step: int, last_step: int) -> Iterator[Batch]:
    """Rank `rank`'s slice of the steps [first_step, last_step) in order; each N×crop×crop×3 uint8 a column of `COLUMNS`.

    One Ray dataset a rank, so that no rank waits for another; its tasks run on whatever CPUs the cluster has free.
    """
    if plan.batch % world_size:
        raise ValueError(f"batch={plan.batch}: set it to a multiple of the {world_size} workers")
    import ray

    lanes = plan.batch // world_size
    # A task covers whole blocks, several where they are short: a task of a few photos costs Ray more than reading them.
    span = plan.block * max(1, shards.ROW_GROUP_PHOTOS // plan.block)
    first_span, last_span = first_step // span, -(-last_step // span)
    lanes_per_task = max(1, min(lanes, _TASK_PHOTOS // span))
    tasks_per_span = -(-lanes // lanes_per_task)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ray.data.ExecutionResources(cpu=_cpus_per_rank(world_size))
    num_tasks = (last_span - first_span) * tasks_per_span
    dataset = ray.data.range(num_tasks, override_num_blocks=num_tasks).map_batches(
        functools.partial(
            _read_task,
            plan=plan,
            span=span,
            first_task=first_span * tasks_per_span,
            tasks_per_span=tasks_per_span,
            lanes=np.arange(rank * lanes, (rank + 1) * lanes),
        ),
        batch_size=None,
    )
    step = first_span * span
    for rows in dataset.iter_batches(batch_size=lanes * span, batch_format="numpy", prefetch_batches=1):
        by_lane = {name: column.reshape(lanes, span, *column.shape[1:]) for name, column in rows.items()}
        for row in range(span):
            if first_step <= step < last_step:
                yield {name: column[:, row] for name, column in by_lane.items()}
            step += 1


def read_positions(plan: Plan, positions: np.ndarray) -> Batch:
    """The samples at `positions`, in their order; needs no Ray. Also returns the positions as column `position`."""
    pairs = {role: _photos(plan, role, plan.photo_index(role, positions)) for role in shards.ROLES}
    samples: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
    for index, position in enumerate(positions):
        random = np.random.Generator(np.random.Philox(key=[plan.seed, (int(position) << 2) | _CROP_KEY]))
        image, intermediate = pairs["input"][index]
        for name, crop in zip(
            COLUMNS,
            [
                *_crop_and_flip([image, intermediate], plan.crop, random),
                *_crop_and_flip(pairs["natural"][index], plan.crop, random),
            ],
            strict=True,
        ):
            samples[name].append(crop)
    return {name: np.stack(column) for name, column in samples.items()} | {"position": np.asarray(positions)}


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


def _read_task(rows: Batch, *, plan: Plan, span: int, first_task: int, tasks_per_span: int, lanes: np.ndarray) -> Batch:
    """The samples of one or more tasks, each some lanes over the steps of one span, lane by lane."""
    cv2.setNumThreads(1)  # Ray runs one task a core
    parts = []
    for task in rows["id"] + first_task:
        number, part = divmod(int(task), tasks_per_span)
        own = np.array_split(lanes, tasks_per_span)[part]
        steps = np.arange(number * span, (number + 1) * span)
        parts.append(read_positions(plan, (steps[None, :] * plan.batch + own[:, None]).ravel()))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _photos(plan: Plan, role: str, indices: np.ndarray) -> list[list[np.ndarray]]:
    """The decoded pictures (image, and intermediate for inputs) of each photo index; each row group is read once."""
    groups = plan.row_groups(role)
    numbers = np.searchsorted(groups.starts, indices, side="right") - 1
    photos: list[list[np.ndarray]] = [[] for _ in indices]
    for place in np.argsort(numbers, kind="stable"):
        number = int(numbers[place])
        columns = ("image", "intermediate") if role == "input" and plan.algorithm is None else ("image",)
        table = _row_group(plan.store, columns, groups.files[number], int(groups.numbers[number]))
        row = int(indices[place] - groups.starts[number])
        stored = [column[row].as_py() for column in table.columns]
        if role == "input" and plan.algorithm is not None:
            stored.append(shards.make_intermediate(stored[0], plan.algorithm))
        photos[place] = [images.decode_rgb(data) for data in stored]
    return photos


@functools.lru_cache(maxsize=_CACHED_ROW_GROUPS)
def _row_group(store: str, columns: tuple[str, ...], file: str, number: int) -> pa.Table:
    # Cached by process: one task's last row group is often the next one's first.
    return shards.read_row_group(store, file, number, columns)


def _crop_and_flip(pictures: list[np.ndarray], side: int, random: np.random.Generator) -> list[np.ndarray]:
    """The same random square window of each picture, mirrored or not; smaller pictures are enlarged to hold it."""
    height, width = pictures[0].shape[:2]
    scale = side / min(height, width)
    if scale > 1:
        width, height = (max(side, round(length * scale)) for length in (width, height))
        pictures = [cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR) for picture in pictures]
    top, left = random.integers(height - side + 1), random.integers(width - side + 1)
    mirrored = random.integers(2)
    windows = [picture[top : top + side, left : left + side] for picture in pictures]
    return [window[:, ::-1] if mirrored else window for window in windows]


def _at_most_a_row_group(photos: int) -> int:
    return int(np.clip(photos, 1, shards.ROW_GROUP_PHOTOS))


def _cpus_per_rank(world_size: int) -> float:
    """The CPUs that Train's workers leave, shared out; `ValueError` where there are none and Ray would wait for ever."""
    import ray

    free = ray.cluster_resources().get("CPU", 0) - world_size
    if free < world_size:
        raise ValueError(
            f"{world_size} workers leave {free:g} CPUs for the stream, which needs one a worker; "
            f"use a cluster with {2 * world_size} CPUs or fewer --workers"
        )
    return free // world_size
