"""Busy threads never exceed the slots, and nobody works for a client that has gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from naturaltone.serving.service import metrics
from naturaltone.serving.service.slots import Abandoned, Slots, Stages
from tests.serving.service.conftest import LONGEST, wait_until


def busy() -> float:
    return float(metrics.BUSY._value.get())


async def until(happened: Callable[[], object]) -> None:
    await asyncio.wait_for(asyncio.to_thread(wait_until, happened), LONGEST)


def run(test: Callable[[], Awaitable[Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(test(), LONGEST))  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 3])
def test_busy_threads_never_exceed_the_slots_although_all_requests_are_cancelled(count: int) -> None:
    """With anyio's limiter, 8 threads were busy at a limit of 2: a cancelled request freed its token at once."""
    slots, gate, lock = Slots(count), threading.Event(), threading.Lock()
    now, most, begun = 0, 0, 0

    def work() -> None:
        nonlocal now, most, begun
        with lock:
            now, begun = now + 1, begun + 1
            most = max(most, now)
        gate.wait(LONGEST)
        with lock:
            now -= 1

    async def test() -> None:
        for _ in range(4):
            tasks = [asyncio.create_task(slots.run(work, Stages())) for _ in range(count + 2)]
            await until(lambda: now == count)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert now == count, "the threads of cancelled requests still run"
            assert busy() == count
        waiting = asyncio.create_task(slots.run(lambda: "mine", Stages()))
        await asyncio.sleep(0.02)
        assert not waiting.done(), "the slot is not free before its thread has ended"
        gate.set()
        assert await waiting == "mine"

    run(test)
    slots.close()
    wait_until(lambda: busy() == 0)
    assert most == count and begun == count, "cancelled requests that waited never began"


def test_cancelled_work_that_runs_stops_at_its_next_stage() -> None:
    slots, stages = Slots(1), Stages()
    in_network, go_on = threading.Event(), threading.Event()
    ended: list[BaseException | str] = []

    def work() -> None:
        try:
            stages.end("decode")
            in_network.set()
            go_on.wait(LONGEST)
            stages.end("network")
            ended.append("went on")
        except Abandoned as abandoned:
            ended.append(abandoned)
            raise

    async def test() -> None:
        task = asyncio.create_task(slots.run(work, stages))
        await until(in_network.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        assert await slots.run(lambda: "next", Stages()) == "next", "the slot is free again"

    run(test)
    slots.close()
    assert isinstance(ended[0], Abandoned) and set(stages.seconds) == {"decode", "network"}


def test_work_that_fails_frees_its_slot_and_its_error_arrives() -> None:
    slots = Slots(1)

    def fail() -> None:
        raise ValueError("in the thread")

    async def test() -> None:
        for _ in range(3):
            with pytest.raises(ValueError, match="in the thread"):
                await slots.run(fail, Stages())
        assert await slots.run(lambda: 7, Stages()) == 7

    run(test)
    slots.close()
    assert busy() == 0


def test_after_the_close_running_work_ends_and_waiting_work_does_not_begin() -> None:
    slots, gate, done = Slots(1), threading.Event(), []

    async def test() -> list[Any]:
        tasks = [
            asyncio.create_task(slots.run(lambda: gate.wait(LONGEST) and done.append(1), Stages())) for _ in range(3)
        ]
        await until(lambda: busy() == 1)
        slots.close()
        gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = run(test)
    assert len(done) == 1 and results[0] is None
    assert all(isinstance(result, asyncio.CancelledError) for result in results[1:])


def test_the_slots_are_a_figure() -> None:
    before = metrics.SLOTS._value.get()
    Slots(3).close()
    assert metrics.SLOTS._value.get() == before + 3


def test_the_stages_are_the_header_server_timing() -> None:
    stages = Stages()
    stages.seconds = {"wait": 0.0, "decode": 0.0123, "network": 1.5}
    assert stages.server_timing() == "wait;dur=0.0, decode;dur=12.3, network;dur=1500.0, total;dur=1512.3"


def test_each_stage_is_measured_from_the_end_of_the_one_before() -> None:
    stages = Stages()
    before = [metrics.STAGE_SECONDS.labels(stage)._sum.get() for stage in ("decode", "encode")]
    stages.end("decode")
    stages.end("encode")
    after = [metrics.STAGE_SECONDS.labels(stage)._sum.get() for stage in ("decode", "encode")]
    measured = [late - early for late, early in zip(after, before, strict=True)]
    assert measured == pytest.approx(list(stages.seconds.values())) and min(measured) >= 0
