"""Read the samples of a plan's positions from the shards."""

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
_CACHE_BYTES = 2**28  # of row groups, in each process
_CROP_KEY = 3


def read_samples(plan: StreamPlan, positions: np.ndarray) -> Batch:
    """The samples at `positions`, in that order; needs no Ray.

    Returns N×crop×crop×3 uint8 for each of `COLUMNS`, and the positions as column `position`.
    """
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
    """A stored photo. size: height and width. pictures: its JPEG, for inputs also the intermediate's."""

    size: tuple[int, int]
    pictures: list[bytes]


def _rows(plan: StreamPlan, role: str, photos: np.ndarray) -> list[_Row]:
    """The stored photo of each photo index; each row group is read once."""
    groups = plan.row_groups(role)
    pictures = ("image", "intermediate") if role == "input" and plan.algorithm is None else ("image",)
    group_of = groups.find(photos)
    rows: dict[int, _Row] = {}
    for index in np.argsort(group_of, kind="stable"):
        group = int(group_of[index])
        file = groups.files[group].as_py()
        table = _row_group(plan.store, ("height", "width", *pictures), file, int(groups.indices[group]))
        height, width, *stored = (column[int(photos[index] - groups.starts[group])].as_py() for column in table.columns)
        if role == "input" and plan.algorithm is not None:
            stored.append(shards.make_intermediate(stored[0], plan.algorithm))
        rows[int(index)] = _Row((height, width), stored)
    return [rows[index] for index in range(len(photos))]


# A row group is needed again: by the next task where runs are shorter than row groups, and by each epoch of a small store.
@cached(LRUCache(_CACHE_BYTES, getsizeof=lambda table: table.nbytes))
def _row_group(store: str, columns: tuple[str, ...], file: str, index: int) -> pa.Table:
    return shards.read_row_group(store, file, index, columns)
