"""The samples of a plan's positions, read from the shards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from cachetools import LRUCache, cached

from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.stream.crop import cut, random_crop
from naturaltone.pipeline.stream.plan import StreamPlan

Batch = dict[str, np.ndarray]
COLUMNS = ("input", "intermediate", "natural")
_CACHE_BYTES = 2**28  # of row groups, for each process
_CROP_KEY = 3


def read_samples(plan: StreamPlan, positions: np.ndarray) -> Batch:
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
class _Row:
    """A stored photo: its height and width, and its pictures (and that of the intermediate, for inputs) as JPEG."""

    size: tuple[int, int]
    pictures: list[bytes]


def _rows(plan: StreamPlan, role: str, indices: np.ndarray) -> list[_Row]:
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
