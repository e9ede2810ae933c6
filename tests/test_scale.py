"""A store of a hundred million photos: what the driver needs does not grow with what it does not look at."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from naturaltone.pipeline import tone
from naturaltone.pipeline.dataset import shards

PHOTOS = 100_000_000

_FIRST_POSITIONS = r"""
import json, re, sys, time
import numpy as np
from naturaltone.pipeline import stream
from naturaltone.pipeline.dataset import shards
started = time.perf_counter()
plan = stream.make_plan(shards.open_store(sys.argv[1]), batch=256, crop=256, seed=1)
first = {role: plan.photo_index(role, np.arange(1000)) for role in shards.ROLES}
groups = {role: plan.row_groups(role) for role in shards.ROLES}
names = {role: [groups[role].files[int(n)].as_py() for n in groups[role].find(first[role])] for role in shards.ROLES}
print(json.dumps({
    "seconds": time.perf_counter() - started,
    "mib": int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) / 1024,
    "photos": {role: plan.row_groups(role).num_photos for role in shards.ROLES},
    "distinct": {role: len(set(indices.tolist())) for role, indices in first.items()},
    "files": {role: len(set(files)) for role, files in names.items()},
}))
"""


def synthetic_row_groups(photos: int) -> pa.Table:
    """The row groups of a store of so many photos, half of them inputs."""
    count, in_a_shard = photos // shards.ROW_GROUP_PHOTOS, shards.SHARD_PHOTOS // shards.ROW_GROUP_PHOTOS
    is_natural = np.arange(count) >= count // 2
    numbers = np.arange(count // in_a_shard)
    names = [
        f"{shards.ROLES[int(number * in_a_shard >= count // 2)]}/train-{number:016x}.parquet" for number in numbers
    ]

    def dictionary(indices: np.ndarray, values: list[str]) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(indices), pa.array(values))

    columns = {
        "role": dictionary(is_natural.astype(np.int8), list(shards.ROLES)),
        "split": dictionary(np.zeros(count, np.int8), ["train"]),
        "file": dictionary((np.arange(count) // in_a_shard).astype(np.int32), names),
        "row_group": (np.arange(count) % in_a_shard).astype(np.int16),
        "num_photos": np.full(count, shards.ROW_GROUP_PHOTOS, np.int16),
        "num_bytes": np.random.default_rng(0).integers(2_000_000, 4_000_000, count).astype(np.int32),
    }
    return pa.table(columns, schema=shards.ROW_GROUPS)


def test_a_hundred_million_photos_are_planned_in_little_memory(tmp_path: Path) -> None:
    """The time is measured too, and written into RESULTS.md; here only memory, which does not depend on the machine."""
    store = shards.empty_store(str(tmp_path), algorithm=tone.algorithm_id(), long_side=1024)
    row_groups = synthetic_row_groups(PHOTOS)
    shards.update_manifest(store, lambda empty: dataclasses.replace(empty, row_groups=row_groups))
    finished = subprocess.run(
        [sys.executable, "-c", _FIRST_POSITIONS, str(tmp_path)], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    measured = json.loads(finished.stdout)
    print(measured)
    assert measured["photos"] == {"input": PHOTOS // 2, "natural": PHOTOS // 2}
    assert measured["mib"] < 500
    assert measured["distinct"] == {"input": 1000, "natural": 1000}
    assert min(measured["files"].values()) > 250, "photos of one batch come from as many shards"
