"""Times the training stream beside a torch DataLoader that decodes and crops the same photos in as many processes."""

from __future__ import annotations

import functools
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from naturaltone.infra import local
from naturaltone.pipeline import storage
from naturaltone.pipeline.dataset import ingest, shards
from naturaltone.pipeline.listing import list_files
from naturaltone.pipeline.photo.stored import decode_rgb
from naturaltone.pipeline.stream.batches import read_batches
from naturaltone.pipeline.stream.crop import cut_pixels, random_crop
from naturaltone.pipeline.stream.plan import StreamPlan, make_plan
from naturaltone.pipeline.stream.samples import COLUMNS, Batch

_STORAGE_KINDS = ("local", "s3")
_FIRST = 64  # batches of the warm-up: enough for Ray to start all its processes
# Measurements of each contender on each kind of storage. The contenders take turns, because a machine's speed changes.
_ROUNDS = 2


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One measurement of one contender. Images are input photos. gaps: seconds between two batches."""

    images_per_second: float
    first_batch_seconds: float
    gaps: list[float]

    @property
    def longest_gap_ratio(self) -> float:
        """The longest gap between two batches, as a multiple of the median gap."""
        return max(self.gaps) / statistics.median(self.gaps)


def bench_stream(photos: str, *, seconds: float, processes: int, batch: int, crop: int) -> dict[str, Any]:
    """Ingest the folder `photos`, then time both contenders, warmed up, on local disk and on S3.

    seconds: for each contender on each kind of storage. Returns a dict of figures and ratios.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        local.object_store(Path(folder) / "s3") as s3,
        local.environment(s3.environment),
        local.ray_session(),
    ):
        uris = {"local": f"{folder}/local", "s3": storage.join(s3.uri, "bench")}
        for uri in uris.values():
            for role in shards.ROLES:
                ingest.ingest(photos, role=role, store=storage.join(uri, "store"))
            _export(uri)
        figures: dict[str, Any] = {"processes": processes, "batch": batch, "crop": crop, "seconds": seconds}
        for storage_kind, uri in uris.items():
            ours, peers = [], []
            for number in range(_ROUNDS):
                plan = make_plan(shards.open_store(storage.join(uri, "store")), batch=batch, crop=crop, seed=number)
                ours.append(_time(functools.partial(_stream, plan, processes), batch, seconds / _ROUNDS))
                peers.append(_time(functools.partial(_loader, uri, batch, crop, processes), batch, seconds / _ROUNDS))
            figures[storage_kind] = {"stream": _summary(ours), "loader": _summary(peers)}
    return figures | {
        "ratio_local": _ratio(figures["local"]),
        "ratio_s3": _ratio(figures["s3"]),
        "images_per_second": figures["local"]["stream"]["images_per_second"],
        "peer_images_per_second": figures["local"]["loader"]["images_per_second"],
        "first_batch_seconds": max(figures[kind]["stream"]["first_batch_seconds"] for kind in _STORAGE_KINDS),
        "longest_gap_ratio": max(figures[kind]["stream"]["longest_gap_ratio"] for kind in _STORAGE_KINDS),
    }


def format_figures(figures: dict[str, Any]) -> str:
    """The figures as a table."""
    lines = [f"{'':16}{'images/s':>10}{'ratio':>8}{'first batch s':>15}{'longest gap / median':>22}"]
    for storage_kind in _STORAGE_KINDS:
        for contender, name in (("stream", "stream"), ("loader", "DataLoader")):
            row = figures[storage_kind][contender]
            ratio = f"{figures[f'ratio_{storage_kind}']:.2f}" if contender == "stream" else ""
            lines.append(
                f"{storage_kind:6}{name:10}{row['images_per_second']:>10.1f}{ratio:>8}{row['first_batch_seconds']:>15.2f}"
                f"{row['longest_gap_ratio']:>22.1f}"
            )
    return "\n".join(lines)


def _stream(plan: StreamPlan, processes: int) -> Iterator[Batch]:
    return read_batches(plan, rank=0, world_size=1, first_step=0, last_step=10**9, cpus=processes)


def _loader(uri: str, batch: int, crop: int, processes: int) -> Iterator[Any]:
    photos = {name: list(_names(uri, name)) for name in COLUMNS}
    # A fork of this process would share the sockets of Ray's gRPC and OpenCV's pool without its threads: either can hang.
    # So a server that knows neither forks the workers. It has imported this module, so they start as fast as by a fork.
    server = get_context("forkserver")
    server.set_forkserver_preload([__name__])
    loader = DataLoader(
        _Photos(uri, photos, crop),
        sampler=_Forever(len(photos["input"])),
        batch_size=batch,
        num_workers=processes,
        collate_fn=_collate,
        persistent_workers=True,
        multiprocessing_context=server,
        worker_init_fn=functools.partial(_begin, dict(os.environ)),
    )
    return iter(loader)


def _begin(environment: dict[str, str], worker: int) -> None:
    os.environ.update(environment)  # the server began with an older one, in which the S3 server was another


class _Photos(Dataset[dict[str, np.ndarray]]):
    """The photos of the store as single files, which is the usual input of a DataLoader."""

    def __init__(self, uri: str, photos: dict[str, list[str]], crop: int) -> None:
        self._uri, self._photos, self._crop = uri, photos, crop

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        cv2.setNumThreads(1)
        random = np.random.default_rng()
        natural = int(random.integers(len(self._photos["natural"])))
        pair, other = (
            [storage.read_bytes(self._photos[name][chosen]) for name in names]
            for names, chosen in ((("input", "intermediate"), index), (("natural",), natural))
        )
        samples = [*self._cut(pair, random), *self._cut(other, random)]
        return dict(zip(COLUMNS, samples, strict=True))

    def _cut(self, pictures: list[bytes], random: np.random.Generator) -> list[np.ndarray]:
        decoded = [decode_rgb(picture) for picture in pictures]
        crop = random_crop(decoded[0].shape[:2], self._crop, random)
        return [cut_pixels(pixels, crop) for pixels in decoded]


class _Forever(Sampler[int]):
    """Yields every index once in each epoch, for ever. A new loader for each epoch would pause between them."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __iter__(self) -> Iterator[int]:
        return itertools.chain.from_iterable(torch.randperm(self._size).tolist() for _ in itertools.count())


def _collate(samples: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in COLUMNS}


def _export(uri: str) -> None:
    """Write the photos of the store as single files for the DataLoader."""
    store = shards.open_store(storage.join(uri, "store"))
    for role in shards.ROLES:
        for number, row in enumerate(store.photos(role, "train")):
            storage.write_bytes(storage.join(uri, role, f"{number:06}.jpg"), row["image"])
            if role == "input":
                storage.write_bytes(storage.join(uri, "intermediate", f"{number:06}.jpg"), row["intermediate"])


def _names(uri: str, name: str) -> Iterable[str]:
    return (file.uri for file in list_files(storage.join(uri, name)))


def _time(open_batches: Any, batch: int, seconds: float) -> Timing:
    """Warm the contender up, open it again, and take batches as fast as possible for `seconds`."""
    warm = open_batches()
    for _ in itertools.islice(warm, _FIRST):
        pass
    if isinstance(warm, Iterator) and hasattr(warm, "close"):
        warm.close()
    # A DataLoader cannot be opened warm: its processes start with it, so its first batch includes their start.
    opened = time.perf_counter()
    batches = open_batches()
    next(batches)
    first = last = time.perf_counter()
    gaps = []
    while last - first < seconds:
        next(batches)
        now = time.perf_counter()
        gaps.append(now - last)
        last = now
    return Timing(images_per_second=batch * len(gaps) / (last - first), first_batch_seconds=first - opened, gaps=gaps)


def _summary(timings: list[Timing]) -> dict[str, float]:
    return {
        "images_per_second": statistics.mean(timing.images_per_second for timing in timings),
        "first_batch_seconds": max(timing.first_batch_seconds for timing in timings),
        "longest_gap_ratio": max(timing.longest_gap_ratio for timing in timings),
        "median_gap_seconds": statistics.median(itertools.chain.from_iterable(timing.gaps for timing in timings)),
    }


def _ratio(summaries: dict[str, Any]) -> float:
    return float(summaries["stream"]["images_per_second"] / summaries["loader"]["images_per_second"])
