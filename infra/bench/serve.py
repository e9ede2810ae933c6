"""Times the HTTP service, beside the bare enhancer in as many processes as the service has replicas."""

from __future__ import annotations

import itertools
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from naturaltone.infra import local
from naturaltone.infra.bench.bare import bare_enhancers, enhance, photo_of
from naturaltone.infra.bench.load import Load, closed_loop, load_generator, open_loop
from naturaltone.pipeline.photo.find import find_photos
from naturaltone.pipeline.spread import spread
from naturaltone.serving.service import app

MEGAPIXELS = 2.0
CONCURRENCY = 16
_PHOTOS = 16
_ROUNDS = 3
_OVERLOAD = 10.0


def bench_serve(photos: str, *, model: str, seconds: float = 15.0) -> dict[str, Any]:
    """Time the service on 2-megapixel JPEGs made from the folder `photos`; returns a dict of figures.

    seconds: of each load. Service and peer take turns; a round before the timed rounds warms both up.
    """
    files = [photo_of(uri, MEGAPIXELS)[0] for uri in spread(find_photos(photos), _PHOTOS)]
    replicas = local.cores()
    ours: list[Load] = []
    alone: list[Load] = []
    peers: list[float] = []
    peers_alone: list[list[float]] = []
    args = app.AppArgs(model=model, replicas=replicas)
    with (
        local.environment(app.environment(args)),
        local.ray_session(),
        app.running(args, host="127.0.0.1", port=local.free_port()) as address,
        load_generator() as generator,
        bare_enhancers(replicas, model) as pool,
    ):
        for number in range(_ROUNDS + 1):
            length = seconds if number else seconds / 3
            ours.append(closed_loop(generator, address, files, concurrency=CONCURRENCY, seconds=length))
            peers.append(_peer_rate(pool, files, replicas, length))
            alone.append(closed_loop(generator, address, files, concurrency=1, seconds=length))
            peers_alone.append(_peer_alone(pool, files, length))
        rate = statistics.median(_rate(load) for load in ours[1:])
        overload = open_loop(generator, address, files, rate=_OVERLOAD * rate, seconds=seconds)
    peer = statistics.median(peers[1:])
    unloaded = [second for load in alone[1:] for second in load.accepted]
    bare = [second for round_ in peers_alone[1:] for second in round_]
    every = [*ours, *alone, overload]
    return {
        "photos": len(files),
        "megapixels": MEGAPIXELS,
        "file_mib": statistics.mean(map(len, files)) / 2**20,
        "replicas": replicas,
        "requests_per_second": rate,
        "peer_photos_per_second": peer,
        "throughput_ratio": rate / peer,
        "rounds": [[_rate(load), own] for load, own in zip(ours[1:], peers[1:], strict=True)],
        "p50_seconds": statistics.median(unloaded),
        "peer_p50_seconds": statistics.median(bare),
        "p50_ratio": statistics.median(unloaded) / statistics.median(bare),
        "p99_seconds": _quantile(unloaded, 0.99),
        "overload_rate": _OVERLOAD * rate,
        "overload_sent_per_second": (len(overload.accepted) + len(overload.refused)) / overload.seconds,
        "overload_accepted_per_second": len(overload.accepted) / overload.seconds,
        "overload_refused": len(overload.refused),
        "overload_p99_seconds": _quantile(overload.accepted, 0.99),
        "p99_overload_ratio": _quantile(overload.accepted, 0.99) / _quantile(unloaded, 0.99),
        "refusal_p50_seconds": _quantile(overload.refused, 0.5),
        "refusal_p99_seconds": _quantile(overload.refused, 0.99),
        "overload_late_seconds": overload.late,
        "load_generator_cores": statistics.median(load.cpu_seconds / load.seconds for load in ours[1:]),
        "overload_generator_cores": overload.cpu_seconds / overload.seconds,
        "refused_at_concurrency": sum(len(load.refused) for load in ours),
        "failed": sum(sum(load.failed.values()) + load.without_retry for load in every),
        "failures": [load.failed for load in every if load.failed],
    }


def format_figures(figures: dict[str, Any]) -> str:
    """The figures as lines of text."""
    return (
        f"{figures['requests_per_second']:.1f} photos/s at concurrency {CONCURRENCY}; the bare enhancer in "
        f"{figures['replicas']} processes {figures['peer_photos_per_second']:.1f}: {figures['throughput_ratio']:.2f}x\n"
        f"one at a time {1000 * figures['p50_seconds']:.0f} ms (p50), the bare enhancer "
        f"{1000 * figures['peer_p50_seconds']:.0f}: {figures['p50_ratio']:.2f}x\n"
        f"at {figures['overload_rate']:.0f} photos/s: {figures['overload_accepted_per_second']:.1f}/s accepted, p99 "
        f"{figures['p99_overload_ratio']:.1f}x the unloaded; {figures['overload_refused']} refused, p50 "
        f"{1000 * figures['refusal_p50_seconds']:.0f} ms, p99 {1000 * figures['refusal_p99_seconds']:.0f} ms\n"
        f"failed: {figures['failed']}; the load generator used {figures['load_generator_cores']:.2f} cores, in the overload "
        f"{figures['overload_generator_cores']:.2f}"
    )


def _rate(load: Load) -> float:
    return len(load.accepted) / load.seconds


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def _seconds_of(data: bytes) -> float:
    started = time.perf_counter()
    enhance(data)
    return time.perf_counter() - started


def _enhance_for(files: list[bytes], seconds: float) -> int:
    end = time.perf_counter() + seconds
    turns = itertools.cycle(files)
    done = 0
    while time.perf_counter() < end:
        enhance(next(turns))
        done += 1
    return done


def _peer_rate(pool: ProcessPoolExecutor, files: list[bytes], processes: int, seconds: float) -> float:
    """Photos a second of all processes together. The photos are in their memory: nothing is sent but the start."""
    started = time.perf_counter()
    runs = [pool.submit(_enhance_for, files, seconds) for _ in range(processes)]
    return sum(run.result() for run in runs) / (time.perf_counter() - started)


def _peer_alone(pool: ProcessPoolExecutor, files: list[bytes], seconds: float) -> list[float]:
    """The seconds of each photo, one after the other."""
    end = time.perf_counter() + seconds
    taken: list[float] = []
    for photo in itertools.cycle(files):
        if time.perf_counter() > end:
            return taken
        taken.append(pool.submit(_seconds_of, photo).result())
    return taken
