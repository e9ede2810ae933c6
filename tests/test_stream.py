"""The plan of the training stream: every photo once an epoch, the same batches for any number of workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
def store(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> shards.Store:
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


def test_input_and_intermediate_are_cut_and_mirrored_alike(store: shards.Store) -> None:
    samples = stream.read_positions(stream.make_plan(store, batch=4, crop=32, seed=3), np.arange(40))
    assert np.array_equal(samples["input"], samples["intermediate"])
    assert samples["input"].shape == (40, 32, 32, 3) and samples["input"].dtype == np.uint8


def test_crops_move_and_mirror(store: shards.Store) -> None:
    samples = stream.read_positions(stream.make_plan(store, batch=4, crop=32, seed=3), np.arange(80))["input"]
    rising = (samples[:, 0, -1, 1] > samples[:, 0, 0, 1]).mean()
    assert 0.3 < rising < 0.7, "half of the crops are mirrored"
    assert len({int(crop[0, :, 1].min()) // 3 for crop in samples}) > 10, "windows lie at many places"


def test_natural_photos_are_unpaired_with_inputs(store: shards.Store) -> None:
    samples = stream.read_positions(stream.make_plan(store, batch=4, crop=32, seed=3), np.arange(200))
    numbers = [(samples[name][..., 0].mean(axis=(1, 2)) / 5).round() for name in ("input", "natural")]
    pairs = set(zip(*numbers, strict=True))
    assert len(pairs) > 150


def test_a_position_gives_the_same_sample_alone_and_in_company(store: shards.Store) -> None:
    plan = stream.make_plan(store, batch=4, crop=32, seed=3)
    together = stream.read_positions(plan, np.arange(20))
    alone = stream.read_positions(plan, np.array([13]))
    for name in stream.COLUMNS:
        assert np.array_equal(together[name][13], alone[name][0])


def test_a_photo_smaller_than_the_crop_is_enlarged(store: shards.Store) -> None:
    assert stream.read_positions(stream.make_plan(store, batch=4, crop=64, seed=3), np.arange(4))["natural"].shape[
        1:
    ] == (64, 64, 3)


def test_a_store_without_natural_photos_says_how_to_add_them(store: shards.Store) -> None:
    only_inputs = dataclasses.replace(store, row_groups=store.select("input"))
    with pytest.raises(ValueError, match=r"no natural photos.*--role natural"):
        stream.make_plan(only_inputs, batch=4, crop=32, seed=0)


def test_a_folder_that_is_no_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no store here.*naturaltone ingest"):
        shards.open_store(str(tmp_path))


def test_a_photo_stays_in_its_split_and_a_tenth_is_held_out(to_file: Callable[..., bytes]) -> None:
    assert [shards.split_of(start + "0" * 56) for start in ("00000000", "00000009", "0000000a", "ffffffff")] == [
        "test", "test", "train", "train",
    ]  # fmt: skip
    ids = [f"{number * 2654435761 % 2**32:08x}" + "0" * 56 for number in range(5000)]
    splits = [shards.split_of(photo_id) for photo_id in ids]
    assert 0.08 < splits.count("test") / len(splits) < 0.12
