"""A whole archive: a Ray Data job from a folder of photos to a parallel tree of enhanced ones, with a report."""

from __future__ import annotations

import functools
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import cv2
import pyarrow as pa
import ray
import torch

from pipeline import images, storage
from pipeline.progress import track
from serving.enhancer import Enhancer, check_strength
from training.checkpoint import Bundle

REPORT = "naturaltone-report.jsonl"
_PHOTOS_PER_TASK = 4
_REPORT_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One photo in the report: what was asked (the key), and what came of it."""

    source: str
    size: int
    modified: float
    model: str
    strength: float
    status: str
    reason: str = ""
    megapixels: float = 0.0
    seconds: float = 0.0

    def asks_the_same(self, other: Entry) -> bool:
        """Whether both want the same photo, as large and as old, enhanced alike."""
        mine, theirs = ((e.source, e.size, e.modified, e.model, e.strength) for e in (self, other))
        return mine == theirs


@dataclass(frozen=True, kw_only=True)
class ArchiveReport:
    """The counts of one run over an archive; `other_files` are files that are no photos by name."""

    enhanced: int
    failed: int
    unchanged: int
    other_files: int
    megapixels: float
    seconds: float
    failures: list[Entry]

    @property
    def megapixels_per_second(self) -> float:
        return self.megapixels / self.seconds if self.seconds else 0.0


def enhance_archive(source: str, target: str, enhancer: Enhancer, *, strength: float = 1.0) -> ArchiveReport:
    """Enhance every photo below the folder `source` into the same place below `target` (URIs); `source` is only read.

    Photos that `target`'s report has as done with this model and strength are not done again. `ValueError` before any
    work if one folder lies in the other or `source` has no photos.
    """
    check_strength(strength)
    source, target = storage.absolute(source), storage.absolute(target)
    refuse_nesting(source, target)
    storage.check_folder(source)
    storage.check_writable(target)
    files = [file for file in storage.list_files(source)]
    photos = [file for file in files if file.relative.lower().endswith(images.SUFFIXES)]
    if not photos:
        raise storage.StorageError(
            f"'{source}': no photos here; looked for {', '.join(images.SUFFIXES)} in it and below"
        )

    report = _Report(storage.join(target, REPORT))
    wanted = [
        Entry(
            source=file.relative,
            size=file.size,
            modified=file.modified,
            model=enhancer.version,
            strength=strength,
            status="waiting",
        )
        for file in photos
    ]
    todo = [entry for entry in wanted if not report.is_done(entry, target)]
    started = time.perf_counter()
    results: list[Entry] = []
    try:
        enhanced = _enhance_all(todo, source, target, enhancer.bundle, enhancer.version)
        for entry in track(enhanced, "enhance", total=len(todo)):
            results.append(entry)
            report.add(entry)
    finally:
        report.save()
    status = Counter(entry.status for entry in results)
    return ArchiveReport(
        enhanced=status["enhanced"],
        failed=status["failed"],
        unchanged=len(wanted) - len(todo),
        other_files=len(files) - len(photos),
        megapixels=sum(entry.megapixels for entry in results),
        seconds=time.perf_counter() - started,
        failures=[entry for entry in results if entry.status == "failed"],
    )


def _enhance_all(todo: list[Entry], source: str, target: str, bundle: Bundle, version: str) -> Iterator[Entry]:
    if not todo:
        return
    table = pa.Table.from_pylist([asdict(entry) for entry in todo])
    blocks = [table.slice(start, _PHOTOS_PER_TASK) for start in range(0, table.num_rows, _PHOTOS_PER_TASK)]
    # Tasks, not actors: what is lost with a worker is run again by itself, and the model stays loaded in its process.
    enhanced = ray.data.from_arrow(blocks).map_batches(
        _enhance_batch,
        fn_kwargs={"source": source, "target": target, "bundle": ray.put(bundle), "version": version},
        batch_size=None,
        batch_format="pyarrow",
        num_gpus=1 if ray.cluster_resources().get("GPU") else 0,
    )
    for row in enhanced.iter_rows():
        yield Entry(**row)


def _enhance_batch(batch: pa.Table, *, source: str, target: str, bundle: ray.ObjectRef, version: str) -> pa.Table:
    cv2.setNumThreads(1)  # Ray runs one task a core
    torch.set_num_threads(1)
    enhancer = _enhancer(bundle, version)
    entries = [_enhance(Entry(**row), source, target, enhancer) for row in batch.to_pylist()]
    return pa.Table.from_pylist([asdict(entry) for entry in entries])


@functools.lru_cache(maxsize=1)
def _enhancer(bundle: ray.ObjectRef, version: str) -> Enhancer:
    return Enhancer(ray.get(bundle), version=version)


def _enhance(entry: Entry, source: str, target: str, enhancer: Enhancer) -> Entry:
    started = time.perf_counter()
    outcome: dict[str, Any]
    try:
        data = storage.read_bytes(storage.join(source, entry.source))
        enhanced = enhancer.enhance_file(data, strength=entry.strength)
        storage.write_bytes(storage.join(target, entry.source), enhanced.data)
        outcome = {"status": "enhanced", "megapixels": enhanced.megapixels}
    except images.ImageError as error:
        outcome = {"status": "failed", "reason": str(error)}
    except OSError as error:
        outcome = {"status": "failed", "reason": f"unreadable or unwritable: {error}"}
    return replace(entry, **outcome, seconds=time.perf_counter() - started)


class _Report:
    """The report file: the memory of what was done, written whole every so often and at the end."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._entries: dict[str, Entry] = {}  # by source: the newest alone says what lies in the target
        self._saved = time.monotonic()
        if storage.exists(uri):
            for line in storage.read_bytes(uri).decode().splitlines():
                entry = Entry(**json.loads(line))
                self._entries[entry.source] = entry

    def is_done(self, entry: Entry, target: str) -> bool:
        done = self._entries.get(entry.source)
        if done is None or done.status != "enhanced" or not done.asks_the_same(entry):
            return False
        return storage.exists(storage.join(target, entry.source))

    def add(self, entry: Entry) -> None:
        self._entries[entry.source] = entry
        if time.monotonic() - self._saved > _REPORT_SECONDS:
            self.save()

    def save(self) -> None:
        lines = [json.dumps(asdict(entry)) + "\n" for entry in self._entries.values()]
        storage.write_bytes(self._uri, "".join(lines).encode())
        self._saved = time.monotonic()


def refuse_nesting(source: str, target: str) -> None:
    """`ValueError` where writing to one of two folders could touch the other."""
    kinds = storage.is_s3(source), storage.is_s3(target)
    if kinds[0] != kinds[1]:
        return
    places = [
        os.path.realpath(path) if not kinds[0] else path
        for path in (storage.resolve(uri)[1] for uri in (source, target))
    ]
    if places[0] == places[1] or places[0].startswith(places[1] + "/") or places[1].startswith(places[0] + "/"):
        raise ValueError(
            f"'{target}' and '{source}' lie in each other; originals stay untouched: choose a folder elsewhere"
        )
