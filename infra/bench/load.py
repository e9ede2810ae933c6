"""Sends photos to the HTTP service, from a process of its own, and measures each answer."""

from __future__ import annotations

import asyncio
import itertools
import resource
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

import aiohttp

_TIMEOUT = 120.0


@dataclass(kw_only=True)
class Load:
    """What a load met. seconds: of the whole load. cpu_seconds: that the load generator itself used.

    accepted, refused: seconds to the end of each answer with status 200 and 503. failed: how often any other answer or none
    came, by what came instead. without_retry: 503 answers that did not say when to try again.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    without_retry: int = 0
    late: float = 0.0  # seconds by which the open loop fell behind its plan


def load_generator() -> Executor:
    """The process that sends. A service on the same machine has to share the cores with it; `Load.cpu_seconds` tells."""
    return ProcessPoolExecutor(1, get_context("spawn"))


def closed_loop(generator: Executor, address: str, photos: list[bytes], *, concurrency: int, seconds: float) -> Load:
    """`concurrency` clients, each of which sends its next photo as soon as it has the answer to the one before.

    A client that is refused waits for as long as the answer says.
    """
    return generator.submit(_measured, _closed, address, photos, concurrency, seconds).result()


def open_loop(generator: Executor, address: str, photos: list[bytes], *, rate: float, seconds: float) -> Load:
    """Send `rate` photos a second, whether the answers come or not."""
    return generator.submit(_measured, _open, address, photos, rate, seconds).result()


def _measured(run, *arguments) -> Load:  # type: ignore[no-untyped-def]
    load = Load()
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    asyncio.run(run(load, *arguments))
    after = resource.getrusage(resource.RUSAGE_SELF)
    load.seconds = time.perf_counter() - started
    load.cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return load


async def _closed(load: Load, address: str, photos: list[bytes], concurrency: int, seconds: float) -> None:
    end = time.perf_counter() + seconds
    turns = itertools.cycle(photos)

    async def client() -> None:
        while time.perf_counter() < end:
            await asyncio.sleep(await _send(session, load, address, next(turns)))

    async with _session() as session:
        await asyncio.gather(*(client() for _ in range(concurrency)))


async def _open(load: Load, address: str, photos: list[bytes], rate: float, seconds: float) -> None:
    turns = itertools.cycle(photos)
    started = time.perf_counter()
    async with _session() as session, asyncio.TaskGroup() as sending:
        for number in range(round(rate * seconds)):
            ahead = started + number / rate - time.perf_counter()
            load.late = max(load.late, -ahead)
            await asyncio.sleep(max(0.0, ahead))
            sending.create_task(_send(session, load, address, next(turns)))


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=_TIMEOUT), auto_decompress=False
    )


async def _send(session: aiohttp.ClientSession, load: Load, address: str, photo: bytes) -> float:
    """Returns the seconds to wait before the next photo."""
    started = time.perf_counter()
    try:
        async with session.post(f"{address}/v1/enhance", data=photo, headers={"Content-Type": "image/jpeg"}) as answer:
            await answer.read()
            status, retry = answer.status, answer.headers.get("Retry-After")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        name = type(error).__name__
        load.failed[name] = load.failed.get(name, 0) + 1
        return 0.0
    seconds = time.perf_counter() - started
    if status == 200:
        load.accepted.append(seconds)
    elif status == 503:
        load.refused.append(seconds)
        load.without_retry += retry is None
    else:
        load.failed[str(status)] = load.failed.get(str(status), 0) + 1
    return float(retry or 0)
