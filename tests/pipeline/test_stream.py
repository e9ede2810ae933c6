"""The plan names every sample by its position, and the stream reads what the plan says."""

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

from naturaltone.infra import local
from naturaltone.pipeline import stream, tone
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.photo.stored import encode_jpeg


def groups(sizes: list[int], run: int) -> stream.RowGroups:
    return stream.RowGroups(
        files=pa.array(["file"] * len(sizes)).dictionary_encode(),
        numbers=np.arange(len(sizes)),
        starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        run=run,
    )


def plan(inputs: int, natural: int, *, run: int = 16, block: int = 16, batch: int = 8, seed: int = 1) -> stream.Plan:
    return stream.Plan(
        store="unused",
        input=groups([inputs], run),
        natural=groups([natural], run),
        batch=batch,
        crop=32,
        seed=seed,
        block=block,
    )


@given(size=st.integers(1, 3000), key=st.integers(0, 2**63))
def test_permute_is_a_bijection(size: int, key: int) -> None:
    assert sorted(stream.permute(np.arange(size), size, np.uint64(key))) == list(range(size))


@given(size=st.integers(2, 10**12), key=st.integers(0, 2**63))
def test_permute_computes_single_places_of_a_huge_range(size: int, key: int) -> None:
    places = np.array([0, size // 2, size - 1])
    permuted = stream.permute(places, size, np.uint64(key))
    assert np.array_equal(
        permuted, np.concatenate([stream.permute(places[i : i + 1], size, np.uint64(key)) for i in range(3)])
    )
    assert (permuted >= 0).all() and (permuted < size).all() and len(set(permuted)) == len(set(places))


@given(photos=st.integers(1, 400), run=st.integers(1, 16), seed=st.integers(0, 2**32), epoch=st.integers(0, 50))
def test_every_photo_is_seen_once_an_epoch(photos: int, run: int, seed: int, epoch: int) -> None:
    of = plan(photos, photos, run=run, seed=seed)
    for role in shards.ROLES:
        assert sorted(of.photo_at(role, np.arange(epoch * photos, (epoch + 1) * photos))) == list(range(photos))


sizes = {"photos": st.integers(1, 700), "batch": st.integers(1, 24), "block": st.integers(1, 16)}


@given(**sizes, epoch=st.integers(0, 60))
def test_each_epochs_positions_are_its_places_once(photos: int, batch: int, block: int, epoch: int) -> None:
    places = np.arange(epoch * photos, (epoch + 1) * photos)
    assert sorted(plan(photos, 1, batch=batch, block=block).walk(places)) == places.tolist()


@given(**sizes, run=st.integers(1, 16), seed=st.integers(0, 2**32), epoch=st.integers(0, 60))
def test_every_input_photo_appears_once_an_epoch(
    photos: int, batch: int, block: int, run: int, seed: int, epoch: int
) -> None:
    of = plan(photos, 1, run=run, block=block, batch=batch, seed=seed)
    seen = of.photo_index("input", np.arange(epoch * photos, (epoch + 1) * photos))
    assert sorted(seen) == list(range(photos))


@given(**sizes, position=st.integers(0, 10**9))
def test_a_position_has_the_same_place_alone_and_in_company(photos: int, batch: int, block: int, position: int) -> None:
    of = plan(photos, 1, batch=batch, block=block)
    assert of.walk(np.array([position]))[0] == of.walk(np.arange(position, position + 50))[0]


@given(batch=st.integers(1, 40), block=st.integers(1, 16))
def test_about_as_many_blocks_begin_at_every_step(batch: int, block: int) -> None:
    begun = np.bincount(plan(1, 1, batch=batch, block=block).shift(np.arange(batch)), minlength=block)
    assert begun.max() <= batch // block + 2


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_each_ranks_blocks_begin_spread_over_the_steps(world_size: int) -> None:
    of = plan(1000, 1000, batch=16, block=16)
    for lanes in np.split(np.arange(16), world_size):
        gaps = np.diff(np.sort(of.shift(lanes)))
        assert gaps.min() >= world_size // 2 and gaps.max() <= 2 * world_size


@given(photos=st.integers(1, 200), run=st.integers(1, 16), place=st.integers(0, 10_000))
def test_a_place_names_the_same_photo_alone_and_in_company(photos: int, run: int, place: int) -> None:
    of = plan(photos, photos, run=run)
    alone = of.photo_at("input", np.array([place]))
    assert alone[0] == of.photo_at("input", np.arange(place, place + 300))[0]


@given(inputs=st.integers(1, 300), natural=st.integers(1, 300), block=st.integers(1, 16), steps=st.integers(1, 200))
def test_natural_photos_are_drawn_evenly_whatever_their_number(
    inputs: int, natural: int, block: int, steps: int
) -> None:
    """The walk of an epoch visits natural photos in another order than places, by a part of the epoch's at most."""
    of = plan(inputs, natural, block=block)
    epochs = np.arange(-(-steps * of.batch // inputs) * inputs)
    counts = np.bincount(of.photo_index("natural", epochs), minlength=natural)
    assert counts.max() - counts.min() <= 1


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    first, second = (plan(500, 500).photo_at("input", np.arange(500) + 500 * epoch) for epoch in (0, 1))
    other = plan(500, 500, seed=2).photo_at("input", np.arange(500))
    assert (first != second).mean() > 0.9 and (first != other).mean() > 0.9


def test_a_batch_comes_from_as_many_row_groups_as_it_has_lanes() -> None:
    of = plan(16 * 200, 16 * 200)
    for step in range(40):
        photos = of.photo_index("input", np.arange(step * 8, step * 8 + 8))
        assert len(set(photos // 16)) == 8


def test_a_lane_reads_a_row_group_to_its_end_before_the_next() -> None:
    of = plan(16 * 200, 16 * 200)
    lane = 3
    start = int(of.block - of.shift(np.array([lane]))[0])
    photos = of.photo_index("input", (np.arange(start, start + 16)) * of.batch + lane)
    assert len(set(photos // 16)) == 1 and len(set(photos)) == 16


@given(
    batch=st.integers(1, 24),
    block=st.integers(1, 16),
    first=st.integers(0, 100),
    steps=st.integers(1, 80),
    data=st.data(),
)
def test_a_ranks_tasks_hold_each_of_its_positions_once_and_in_time(
    batch: int, block: int, first: int, steps: int, data: st.DataObject
) -> None:
    of = plan(500, 500, batch=batch, block=block)
    world_size = data.draw(st.sampled_from([size for size in range(1, batch + 1) if batch % size == 0]))
    share = batch // world_size
    lanes = np.arange(share) + share * data.draw(st.integers(0, world_size - 1))
    tasks = list(stream._tasks(of, lanes, first, first + steps, data.draw(st.integers(1, 64))))
    positions = np.concatenate([task.positions(batch) for task in tasks])
    wanted = (np.arange(first, first + steps)[:, None] * batch + lanes).ravel()
    assert sorted(positions) == wanted.tolist()
    assert [task.first for task in tasks] == sorted(task.first for task in tasks)


def test_segments_of_a_long_run_follow_each_other_without_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_SEGMENT_TASKS", 10)
    monkeypatch.setattr(stream, "_LEAD_TASKS", 3)
    tasks = [stream._Task(lanes=np.arange(1), first=number, last=number + 1) for number in range(35)]
    opened = []

    def read(segment: list[stream._Task]):  # type: ignore[no-untyped-def]
        opened.append((segment[0].first, len(segment)))
        return ((task, {"n": np.array([task.first])}) for task in segment)

    results = stream._in_segments(iter(tasks), read)
    for number in range(8):
        assert next(results)[0].first == number
    assert opened == [(0, 10), (10, 10)], "the next one is begun before this one ends"
    assert [task.first for task, _ in results] == list(range(8, 35))
    assert opened == [(0, 10), (10, 10), (20, 10), (30, 5)]


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> shards.Store:
    """A store of flat pictures that carry their own number, so that a crop tells which photo it is of."""
    uri = str(tmp_path_factory.mktemp("store"))
    tables = []
    for role, count in (("input", 40), ("natural", 27)):
        rows = []
        for number in range(count):
            pixels = np.zeros((48, 64, 3), np.uint8)
            pixels[..., 0] = 5 * number
            pixels[:, :, 1] = 3 * np.arange(64)
            pixels[:, :, 2] = 4 * np.arange(48)[:, None]
            image = encode_jpeg(pixels, quality=100)
            rows.append(
                {
                    "photo_id": f"{number:064x}",
                    "source": "",
                    "width": 64,
                    "height": 48,
                    "split": "train",
                    "image": image,
                }
                | ({"intermediate": image} if role == "input" else {})
            )
        photos = pa.Table.from_pylist(rows, schema=shards.PHOTOS)
        tables.append(shards.write_shard(uri, photos, role=role, algorithm="test"))
    made = shards.empty_store(uri, algorithm=tone.algorithm_id(), long_side=64)
    return shards.update_manifest(made, lambda empty: dataclasses.replace(empty, row_groups=pa.concat_tables(tables)))


def test_input_and_intermediate_are_cut_and_mirrored_alike(numbered: shards.Store) -> None:
    samples = stream.read_positions(stream.make_plan(numbered, batch=4, crop=32, seed=3), np.arange(40))
    assert np.array_equal(samples["input"], samples["intermediate"])
    assert samples["input"].shape == (40, 32, 32, 3) and samples["input"].dtype == np.uint8


def test_crops_move_and_mirror(numbered: shards.Store) -> None:
    samples = stream.read_positions(stream.make_plan(numbered, batch=4, crop=32, seed=3), np.arange(80))["input"]
    rising = (samples[:, 0, -1, 1] > samples[:, 0, 0, 1]).mean()
    assert 0.3 < rising < 0.7, "half of the crops are mirrored"
    assert len({int(crop[0, :, 1].min()) // 3 for crop in samples}) > 10, "windows lie at many places"


def test_natural_photos_are_unpaired_with_inputs(numbered: shards.Store) -> None:
    samples = stream.read_positions(stream.make_plan(numbered, batch=4, crop=32, seed=3), np.arange(200))
    numbers = [(samples[name][..., 0].mean(axis=(1, 2)) / 5).round() for name in ("input", "natural")]
    pairs = set(zip(*numbers, strict=True))
    assert len(pairs) > 150


def test_a_position_gives_the_same_sample_alone_and_in_company(numbered: shards.Store) -> None:
    plan = stream.make_plan(numbered, batch=4, crop=32, seed=3)
    together = stream.read_positions(plan, np.arange(20))
    alone = stream.read_positions(plan, np.array([13]))
    for name in stream.COLUMNS:
        assert np.array_equal(together[name][13], alone[name][0])


def test_a_photo_smaller_than_the_crop_is_enlarged(numbered: shards.Store) -> None:
    assert stream.read_positions(stream.make_plan(numbered, batch=4, crop=64, seed=3), np.arange(4))["natural"].shape[
        1:
    ] == (64, 64, 3)


def test_a_store_without_natural_photos_says_how_to_add_them(numbered: shards.Store) -> None:
    only_inputs = dataclasses.replace(numbered, row_groups=numbered.select("input"))
    with pytest.raises(ValueError, match=r"no natural photos.*--role natural"):
        stream.make_plan(only_inputs, batch=4, crop=32, seed=0)


def test_a_folder_that_is_no_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no store here.*naturaltone ingest"):
        shards.open_store(str(tmp_path))


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

    )  # fmt: skip
    measured = json.loads(finished.stdout)
    print(measured)
    assert measured["photos"] == {"input": PHOTOS // 2, "natural": PHOTOS // 2}
    assert measured["mib"] < 500
    assert measured["distinct"] == {"input": 1000, "natural": 1000}
    assert min(measured["files"].values()) > 250, "photos of one batch come from as many shards"


def test_global_batches_are_the_same_for_one_two_and_three_workers_in_every_run_and_from_any_step(store: str) -> None:
    plan = stream.make_plan(shards.open_store(store), batch=6, crop=32, seed=5)
    last = 30

    def read(rank: int, world_size: int, first: int) -> list[stream.Batch]:
        return list(stream.batches(plan, rank=rank, world_size=world_size, first_step=first, last_step=last))

    alone, again, late = read(0, 1, 0), read(0, 1, 0), read(0, 1, 13)
    shared = {size: [read(rank, size, 0) for rank in range(size)] for size in (2, 3)}
    assert len(alone) == len(again) == last and len(late) == last - 13
    for step, batch in enumerate(alone):
        assert batch["position"].tolist() == list(range(6 * step, 6 * step + 6))
        direct = stream.read_positions(plan, batch["position"])
        for name in stream.COLUMNS:
            assert np.array_equal(batch[name], direct[name]) and np.array_equal(batch[name], again[step][name])
            for ranks in shared.values():
                assert np.array_equal(batch[name], np.concatenate([rank[step][name] for rank in ranks]))
            if step >= 13:
                assert np.array_equal(batch[name], late[step - 13][name])


def test_a_stream_that_would_wait_for_cpus_for_ever_is_refused(store: str) -> None:
    plan = stream.make_plan(shards.open_store(store), batch=2 * local.local_cpus(), crop=32, seed=5)
    workers = local.local_cpus()
    needed = rf"{workers} workers leave 0 CPUs for the stream, .* {2 * workers} CPUs or fewer --workers"
    with pytest.raises(ValueError, match=needed):
        next(stream.batches(plan, rank=0, world_size=workers, first_step=0, last_step=1))


def test_fewer_reads_than_cpus_are_a_stream_too(store: str) -> None:
    plan = stream.make_plan(shards.open_store(store), batch=1, crop=32, seed=5)
    batches = list(stream.batches(plan, rank=0, world_size=1, first_step=0, last_step=1, cpus=3))
    assert [batch["position"].tolist() for batch in batches] == [[0]]


def test_a_stream_that_is_closed_early_leaves_the_cpus_to_the_next(store: str) -> None:
    plan = stream.make_plan(shards.open_store(store), batch=4, crop=32, seed=5)
    for _ in range(4):
        batches = stream.batches(plan, rank=0, world_size=1, first_step=0, last_step=10**6)
        assert len(next(batches)["input"]) == 4
        batches.close()  # type: ignore[attr-defined]


def test_streamed_intermediates_are_the_cached_ones(stores: dict[str, shards.Store]) -> None:
    group = stores["stream"].select("input").to_pylist()[0]
    stored = shards.read_row_group(stores["stream"].uri, group["file"], group["row_group"], ["intermediate"])
    assert stored["intermediate"].null_count == stored.num_rows
    plans = [
        stream.make_plan(stores["cached"], batch=4, crop=32, seed=1),
        stream.make_plan(stores["stream"], batch=4, crop=32, seed=1),
        stream.make_plan(stores["cached"], batch=4, crop=32, seed=1, intermediates="stream"),
    ]
    samples = [stream.read_positions(plan, np.arange(60)) for plan in plans]
    for name in stream.COLUMNS:
        assert np.array_equal(samples[0][name], samples[1][name]) and np.array_equal(samples[0][name], samples[2][name])
