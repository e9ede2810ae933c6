"""The plan of a run names the photos, crop and flip of every position. It computes each position by itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from naturaltone.pipeline import tone
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.stream.permute import mix, permute

_ROLE_KEYS = {"input": 1, "natural": 2}


@dataclass(frozen=True, kw_only=True)
class RowGroups:
    """The row groups of one role's training photos.

    files: the shard of each row group, as a dictionary array. indices: the index of each row group in its shard.
    starts: the index of each row group's first photo; the last element is the number of photos. run: this many
    neighbours stay together in every epoch's order, at most a row group.
    """

    files: pa.DictionaryArray
    indices: np.ndarray
    starts: np.ndarray
    run: int

    @property
    def num_photos(self) -> int:
        return int(self.starts[-1])

    def find(self, photos: np.ndarray) -> np.ndarray:
        """The row group of each photo index."""
        return np.searchsorted(self.starts, photos, side="right") - 1


@dataclass(frozen=True, kw_only=True)
class StreamPlan:
    """The photos, crop and flip of every position of a run.

    batch: global batch B. crop: side of the square crops, in pixels. block: steps for which a lane reads neighbours.
    algorithm: makes the intermediates from the stored inputs; None if the store holds the intermediates.
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
        """The index of the photo of `role` at each position. Every epoch (`num_photos` positions) has each input once."""
        return self.photo_at(role, self.walk(position))

    def walk(self, position: np.ndarray) -> np.ndarray:
        """The visit of each position. Visits count through all photos, epoch by epoch; a bijection within each epoch.

        A lane's neighbouring positions get neighbouring visits, a whole block at a time. An epoch does not begin or end
        with whole blocks in every lane: the steps before and after them get the epoch's last visits.
        """
        position = np.asarray(position, np.int64)
        epochs = position // self.input.num_photos
        visit = np.empty_like(position)
        for epoch in np.unique(epochs):
            visit[epochs == epoch] = self._walk_epoch(int(epoch), position[epochs == epoch])
        return visit

    def _walk_epoch(self, epoch: int, position: np.ndarray) -> np.ndarray:
        size, lanes = self.input.num_photos, np.arange(self.batch)
        # Each lane's first step in this epoch, and its first in the next.
        begin = -(-(epoch * size - lanes) // self.batch)
        end = -(-((epoch + 1) * size - lanes) // self.batch)
        head = np.minimum((-(begin + self.shift(lanes))) % self.block, end - begin)
        blocks = int(((end - begin - head) // self.block).min())
        rest = end - begin - blocks * self.block
        step, lane = np.divmod(position, self.batch)
        row = step - begin[lane] - head[lane]
        block, inside = np.divmod(row, self.block)
        in_block = (row >= 0) & (row < blocks * self.block)
        block_visit = (block * self.batch + lane) * self.block + inside
        rest_begin = blocks * self.batch * self.block + (np.cumsum(rest) - rest)[lane]
        rest_visit = rest_begin + np.where(row < 0, row, row - blocks * self.block) + head[lane]
        return np.asarray(epoch * size + np.where(in_block, block_visit, rest_visit))

    def shift(self, lane: np.ndarray) -> np.ndarray:
        """A lane begins its blocks at steps ≡ −shift modulo `block`.

        Shifts follow the van der Corput sequence, so neighbouring lanes begin far apart.
        """
        reversed_bits = np.zeros(np.shape(lane))
        rest, unit = np.array(lane), 0.5
        while rest.any():
            reversed_bits += unit * (rest % 2)
            rest, unit = rest // 2, unit / 2
        return (reversed_bits * self.block).astype(np.int64)

    def photo_at(self, role: str, visit: np.ndarray) -> np.ndarray:
        """The photo of `role` at each visit. Each epoch has an order of its own.

        The order permutes runs of neighbours, and the photos within each run. The few photos after the last full run come
        at the end of the epoch.
        """
        groups = self.row_groups(role)
        epoch, index = np.divmod(np.asarray(visit, np.int64), groups.num_photos)
        run, row = np.divmod(index, groups.run)
        full_runs, rest = divmod(groups.num_photos, groups.run)
        is_full = run < full_runs
        key = mix(np.uint64(self.seed) ^ mix(epoch.astype(np.uint64) * np.uint64(8) + np.uint64(_ROLE_KEYS[role])))
        run = np.where(is_full, permute(np.where(is_full, run, 0), max(full_runs, 1), key), run)
        row = permute(row, np.where(is_full, groups.run, rest), mix(key ^ run.astype(np.uint64)))
        return run * groups.run + row

    def row_groups(self, role: str) -> RowGroups:
        return self.input if role == "input" else self.natural


def make_plan(store: shards.Store, *, batch: int, crop: int, seed: int, intermediates: str | None = None) -> StreamPlan:
    """Plan a run over the training split of `store`.

    intermediates: `cached` reads them from the shards, `stream` computes the same pixels; None takes what the store was
    made for. `UserError` if a role has no photos to train on.
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
            indices=table["row_group"].to_numpy(),
            starts=starts,
            run=_at_most_a_row_group(int(starts[-1]) // (4 * batch)),
        )
        del table
        pa.default_memory_pool().release_unused()  # a tenth of the peak memory with 100 million photos
    # If a block were longer than an epoch, a batch would hold a photo twice.
    block = _at_most_a_row_group(min(group.num_photos for group in groups.values()) // batch)
    algorithm = tone.algorithm_of(store.algorithm) if intermediates == "stream" else None
    return StreamPlan(store=store.uri, **groups, batch=batch, crop=crop, seed=seed, block=block, algorithm=algorithm)


def lanes(batch: int, rank: int, world_size: int) -> np.ndarray:
    """The lanes of rank `rank`: indices into every global batch. Ranks have equally many lanes, or one more or less.

    `UserError` if there are fewer lanes than ranks.
    """
    if batch < world_size:
        raise UserError(f"batch={batch}: cannot be shared by {world_size} workers; set it to at least {world_size}")
    return np.arange(batch * rank // world_size, batch * (rank + 1) // world_size)


def _at_most_a_row_group(photos: int) -> int:
    return int(np.clip(photos, 1, shards.ROW_GROUP_PHOTOS))
