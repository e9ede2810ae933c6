"""The plan names every sample by its position."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from naturaltone.pipeline import tone
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.stream.plan import make_plan
from tests.plans import plan_of


@given(photos=st.integers(1, 400), run=st.integers(1, 16), seed=st.integers(0, 2**32), epoch=st.integers(0, 50))
def test_every_photo_is_seen_once_an_epoch(photos: int, run: int, seed: int, epoch: int) -> None:
    plan = plan_of(photos, photos, run=run, seed=seed)
    for role in shards.ROLES:
        assert sorted(plan.photo_at(role, np.arange(epoch * photos, (epoch + 1) * photos))) == list(range(photos))


sizes = {"photos": st.integers(1, 700), "batch": st.integers(1, 24), "block": st.integers(1, 16)}


@given(**sizes, epoch=st.integers(0, 60))
def test_each_epochs_positions_are_its_visits_once(photos: int, batch: int, block: int, epoch: int) -> None:
    visits = np.arange(epoch * photos, (epoch + 1) * photos)
    assert sorted(plan_of(photos, 1, batch=batch, block=block).walk(visits)) == visits.tolist()


@given(**sizes, run=st.integers(1, 16), seed=st.integers(0, 2**32), epoch=st.integers(0, 60))
def test_every_input_photo_appears_once_an_epoch(
    photos: int, batch: int, block: int, run: int, seed: int, epoch: int
) -> None:
    plan = plan_of(photos, 1, run=run, block=block, batch=batch, seed=seed)
    seen = plan.photo_index("input", np.arange(epoch * photos, (epoch + 1) * photos))
    assert sorted(seen) == list(range(photos))


@given(**sizes, position=st.integers(0, 10**9))
def test_a_position_has_the_same_visit_whatever_else_is_asked_for(
    photos: int, batch: int, block: int, position: int
) -> None:
    plan = plan_of(photos, 1, batch=batch, block=block)
    assert plan.walk(np.array([position]))[0] == plan.walk(np.arange(position, position + 50))[0]


@given(batch=st.integers(1, 40), block=st.integers(1, 16))
def test_about_as_many_blocks_begin_at_every_step(batch: int, block: int) -> None:
    begun = np.bincount(plan_of(1, 1, batch=batch, block=block).shift(np.arange(batch)), minlength=block)
    assert begun.max() <= batch // block + 2


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_each_ranks_blocks_begin_spread_over_the_steps(world_size: int) -> None:
    plan = plan_of(1000, 1000, batch=16, block=16)
    for lanes in np.split(np.arange(16), world_size):
        gaps = np.diff(np.sort(plan.shift(lanes)))
        assert gaps.min() >= world_size // 2 and gaps.max() <= 2 * world_size


@given(photos=st.integers(1, 200), run=st.integers(1, 16), visit=st.integers(0, 10_000))
def test_a_visit_has_the_same_photo_whatever_else_is_asked_for(photos: int, run: int, visit: int) -> None:
    plan = plan_of(photos, photos, run=run)
    alone = plan.photo_at("input", np.array([visit]))
    assert alone[0] == plan.photo_at("input", np.arange(visit, visit + 300))[0]


@given(inputs=st.integers(1, 300), natural=st.integers(1, 300), block=st.integers(1, 16), steps=st.integers(1, 200))
def test_natural_photos_are_drawn_evenly_whatever_their_number(
    inputs: int, natural: int, block: int, steps: int
) -> None:
    """Whole epochs of inputs: each natural photo is drawn as often as any other, or once more."""
    plan = plan_of(inputs, natural, block=block)
    epochs = np.arange(-(-steps * plan.batch // inputs) * inputs)
    counts = np.bincount(plan.photo_index("natural", epochs), minlength=natural)
    assert counts.max() - counts.min() <= 1


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    first, second = (plan_of(500, 500).photo_at("input", np.arange(500) + 500 * epoch) for epoch in (0, 1))
    other = plan_of(500, 500, seed=2).photo_at("input", np.arange(500))
    assert (first != second).mean() > 0.9 and (first != other).mean() > 0.9


def test_a_batch_comes_from_as_many_row_groups_as_it_has_lanes() -> None:
    plan = plan_of(16 * 200, 16 * 200)
    for step in range(40):
        photos = plan.photo_index("input", np.arange(step * 8, step * 8 + 8))
        assert len(set(photos // 16)) == 8


def test_a_lane_reads_a_row_group_to_its_end_before_the_next() -> None:
    plan = plan_of(16 * 200, 16 * 200)
    lane = 3
    start = int(plan.block - plan.shift(np.array([lane]))[0])
    photos = plan.photo_index("input", (np.arange(start, start + 16)) * plan.batch + lane)
    assert len(set(photos // 16)) == 1 and len(set(photos)) == 16


def test_a_store_without_natural_photos_says_how_to_add_them(numbered: shards.Store) -> None:
    only_inputs = dataclasses.replace(numbered, row_groups=numbered.select("input"))
    with pytest.raises(ValueError, match=r"no natural photos.*--role natural"):
        make_plan(only_inputs, batch=4, crop=32, seed=0)


def test_a_folder_that_is_no_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no store here.*naturaltone ingest"):
        shards.open_store(str(tmp_path))


PHOTOS = 100_000_000
_FIRST_POSITIONS = r"""
import json, re, sys, time
import numpy as np
from naturaltone.pipeline.stream.plan import make_plan
from naturaltone.pipeline.dataset import shards
started = time.perf_counter()
plan = make_plan(shards.open_store(sys.argv[1]), batch=256, crop=256, seed=1)
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

    )  # fmt: skip
    measured = json.loads(finished.stdout)
    print(measured)
    assert measured["photos"] == {"input": PHOTOS // 2, "natural": PHOTOS // 2}
    assert measured["mib"] < 500
    assert measured["distinct"] == {"input": 1000, "natural": 1000}
    assert min(measured["files"].values()) > 250, "photos of one batch come from as many shards"
