"""Every rank reads its slice of every batch, in order, with Ray."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from naturaltone.infra import local
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.stream import batches
from naturaltone.pipeline.stream.batches import _in_segments, _Read, _reads, read_batches
from naturaltone.pipeline.stream.plan import make_plan
from naturaltone.pipeline.stream.samples import COLUMNS, Batch, read_samples
from tests.plans import plan_of


@given(
    batch=st.integers(1, 24),
    block=st.integers(1, 16),
    first=st.integers(0, 100),
    steps=st.integers(1, 80),
    data=st.data(),
)
def test_a_ranks_reads_hold_each_of_its_positions_once_and_in_time(
    batch: int, block: int, first: int, steps: int, data: st.DataObject
) -> None:
    plan = plan_of(500, 500, batch=batch, block=block)
    world_size = data.draw(st.sampled_from([size for size in range(1, batch + 1) if batch % size == 0]))
    share = batch // world_size
    lanes = np.arange(share) + share * data.draw(st.integers(0, world_size - 1))
    reads = list(_reads(plan, lanes, first, first + steps, data.draw(st.integers(1, 64))))
    positions = np.concatenate([read.positions(batch) for read in reads])
    wanted = (np.arange(first, first + steps)[:, None] * batch + lanes).ravel()
    assert sorted(positions) == wanted.tolist()
    assert [read.first for read in reads] == sorted(read.first for read in reads)


def test_segments_of_a_long_run_follow_each_other_without_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_SEGMENT_READS", 10)
    monkeypatch.setattr(batches, "_LEAD_READS", 3)
    reads = [_Read(lanes=np.arange(1), first=number, last=number + 1) for number in range(35)]
    opened = []

    def read_all(segment: list[_Read]):  # type: ignore[no-untyped-def]
        opened.append((segment[0].first, len(segment)))
        return ((read, {"n": np.array([read.first])}) for read in segment)

    results = _in_segments(iter(reads), read_all)
    for number in range(8):
        assert next(results)[0].first == number
    assert opened == [(0, 10), (10, 10)], "the next one is started before this one ends"
    assert [read.first for read, _ in results] == list(range(8, 35))
    assert opened == [(0, 10), (10, 10), (20, 10), (30, 5)]


def test_global_batches_are_the_same_for_one_two_and_three_workers_in_every_run_and_from_any_step(store: str) -> None:
    plan = make_plan(shards.open_store(store), batch=6, crop=32, seed=5)
    last = 30

    def read(rank: int, world_size: int, first: int) -> list[Batch]:
        return list(read_batches(plan, rank=rank, world_size=world_size, first_step=first, last_step=last))

    alone, again, late = read(0, 1, 0), read(0, 1, 0), read(0, 1, 13)
    shared = {size: [read(rank, size, 0) for rank in range(size)] for size in (2, 3)}
    assert len(alone) == len(again) == last and len(late) == last - 13
    for step, batch in enumerate(alone):
        assert batch["position"].tolist() == list(range(6 * step, 6 * step + 6))
        direct = read_samples(plan, batch["position"])
        for name in COLUMNS:
            assert np.array_equal(batch[name], direct[name]) and np.array_equal(batch[name], again[step][name])
            for ranks in shared.values():
                assert np.array_equal(batch[name], np.concatenate([rank[step][name] for rank in ranks]))
            if step >= 13:
                assert np.array_equal(batch[name], late[step - 13][name])


def test_a_stream_that_would_wait_for_cpus_for_ever_is_refused(store: str) -> None:
    plan = make_plan(shards.open_store(store), batch=2 * local.local_cpus(), crop=32, seed=5)
    workers = local.local_cpus()
    needed = rf"{workers} workers leave 0 CPUs for the stream, .* {2 * workers} CPUs or fewer --workers"
    with pytest.raises(ValueError, match=needed):
        next(read_batches(plan, rank=0, world_size=workers, first_step=0, last_step=1))


def test_fewer_reads_than_cpus_are_a_stream_too(store: str) -> None:
    plan = make_plan(shards.open_store(store), batch=1, crop=32, seed=5)
    batches = list(read_batches(plan, rank=0, world_size=1, first_step=0, last_step=1, cpus=3))
    assert [batch["position"].tolist() for batch in batches] == [[0]]


def test_a_stream_that_is_closed_early_leaves_the_cpus_to_the_next(store: str) -> None:
    plan = make_plan(shards.open_store(store), batch=4, crop=32, seed=5)
    for _ in range(4):
        batches = read_batches(plan, rank=0, world_size=1, first_step=0, last_step=10**6)
        assert len(next(batches)["input"]) == 4
        batches.close()  # type: ignore[attr-defined]
