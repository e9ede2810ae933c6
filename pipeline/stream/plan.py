"""The plan of a run: the photo, crop and flip that each position has, computed for each position by itself."""

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
class StreamPlan:
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
        key = mix(np.uint64(self.seed) ^ mix(epoch.astype(np.uint64) * np.uint64(8) + np.uint64(_ROLE_KEYS[role])))
        run = np.where(is_full, permute(np.where(is_full, run, 0), max(full_runs, 1), key), run)
        row = permute(row, np.where(is_full, groups.run, rest), mix(key ^ run.astype(np.uint64)))
        return run * groups.run + row

    def row_groups(self, role: str) -> RowGroups:
        return self.input if role == "input" else self.natural


def make_plan(store: shards.Store, *, batch: int, crop: int, seed: int, intermediates: str | None = None) -> StreamPlan:
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
    return StreamPlan(store=store.uri, **groups, batch=batch, crop=crop, seed=seed, block=block, algorithm=algorithm)


def lanes(batch: int, rank: int, world_size: int) -> np.ndarray:
    """The places in every global batch that are rank `rank`'s; as many as another's, or one more or less."""
    if batch < world_size:
        raise UserError(f"batch={batch}: cannot be shared by {world_size} workers; set it to at least {world_size}")
    return np.arange(batch * rank // world_size, batch * (rank + 1) // world_size)


def _at_most_a_row_group(photos: int) -> int:
    return int(np.clip(photos, 1, shards.ROW_GROUP_PHOTOS))
