"""A whole archive: a Ray Data job from a tree of photos to a parallel tree of enhanced ones, with a report."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import functools
import hashlib
import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch

from pipeline import container, handover, images, lease, storage
from pipeline.progress import Progress
from pipeline.xmp import read_stamp
from serving.archive_report import (
    COPIED,
    ENHANCED,
    FAILED,
    FOLDER,
    LOCK,
    SCHEMA,
    SKIPPED,
    Entry,
    Report,
    to_table,
    to_text,
)
from serving.enhancer import Enhancer, check_strength
from serving.room import room_for
from training import allocator
from training.checkpoint import Bundle

SIDECAR_SUFFIX = ".xmp"
PHOTO, REFUSED, SIDECAR, OTHER, PROBLEM = "photo", "refused", "sidecar", "other", "problem"

_SHOWN_FAILURES = 20
_CHUNK_PHOTOS = 64  # that one Ray task does
_HAND_OVER_SECONDS = 1.0  # each time costs Ray 30 ms
_SEGMENT_PHOTOS = 8192  # that one Ray dataset plans
_CPU_SHARE = 0.65  # three workers on two cores: one works while another waits for Ray or for the disk
_GPU_SHARE = 1 / 8  # of a GPU for each worker: the network is the smaller part of a photo's work
_KEPT_BLOCK, _KEPT_TOTAL = (
    2**28,
    2**29,
)  # bytes: photos of up to 64 megapixels find their memory where the last one had it
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LEFTOVER = re.compile(rf"\.[0-9a-f]{{8}}{re.escape(storage.TEMPORARY_SUFFIX)}$")
_WANTED = pa.schema(
    [
        ("source", pa.string()),
        ("fingerprint", pa.string()),
        ("name", pa.binary()),  # as the disk has it, which need not be text
        ("kind", pa.string()),
        ("bytes", pa.int64()),
        ("modified", pa.float64()),
        ("problem", pa.string()),
    ]
)


class ArchiveStopped(RuntimeError):
    """The run stopped before its end; the same command goes on where it was."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How an archive is enhanced.

    strength: 0 to 1.5. quality: of JPEG, WebP and AVIF; None: at least the photo's own. drop_hdr: write photos that hold HDR
    gain maps or motion videos without these, instead of skipping them. photos_only: skip screenshots and graphics.
    copy_others: copy what is not enhanced, videos too. keep_mtime: outputs have their source's time of change. limit: at most
    so many files this time. include, exclude: globs for names below the source.
    """

    strength: float = 1.0
    quality: int | None = None
    drop_hdr: bool = False
    photos_only: bool = False
    copy_others: bool = False
    keep_mtime: bool = True
    limit: int | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_strength(self.strength)
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(
                f"--quality {self.quality}: must be between 1 and 100; leave it out to keep each photo's own"
            )
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit}: must be at least 1")

    @property
    def of_enhanced(self) -> str:
        """What decides how an enhanced photo looks, for its key."""
        return json.dumps({"strength": self.strength, "quality": self.quality})

    @property
    def of_skipped(self) -> str:
        """What decides whether a file is skipped, copied or refused, for its key: another version may read more formats."""
        chosen = {"hdr": self.drop_hdr, "photos_only": self.photos_only, "copy": self.copy_others}
        return json.dumps(chosen | {"version": version("naturaltone"), "heif": images.HAS_HEIF})

    def takes(self, name: str) -> bool:
        """Whether a file is asked for at all."""
        included = not self.include or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.include)
        return included and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.exclude)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run has to do. todo: schema `_WANTED` and `ours` (the target has an output of ours there).

    done: files that were done before. broken: entries of photos that were found broken before, and are the same today.
    """

    source: str
    target: str
    todo: pa.Table
    done: int
    broken: list[Entry]
    model: str
    options: Options

    @property
    def kinds(self) -> dict[str, tuple[int, int]]:
        """Files and bytes to do by kind."""
        counted = self.todo.group_by("kind").aggregate([("bytes", "count"), ("bytes", "sum")]).to_pylist()
        return {row["kind"]: (row["bytes_count"], row["bytes_sum"]) for row in counted}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What one run did. counts: by status; reasons: of skipped and failed files; unchanged: done before."""

    unchanged: int
    counts: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    megapixels: float = 0.0
    seconds: float = 0.0
    failures: list[Entry] = field(default_factory=list)

    @property
    def megapixels_per_second(self) -> float:
        return self.megapixels / self.seconds if self.seconds else 0.0


def describe(summary: Summary) -> str:
    """What a run did, in a line."""
    counts = summary.counts
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(summary.reasons.items()))
    return (
        f"{counts.get(ENHANCED, 0)} enhanced, {counts.get(COPIED, 0)} copied, {counts.get(SKIPPED, 0)} left alone, "
        f"{counts.get(FAILED, 0)} failed{f' ({reasons})' if reasons else ''}, {summary.unchanged} done before; "
        f"{summary.megapixels_per_second:.1f} MP/s"
    )


def describe_failures(summary: Summary) -> Iterator[str]:
    """A line each of the first failures, and how many more there are."""
    for entry in summary.failures[:_SHOWN_FAILURES]:
        yield f"failed {entry.source}: {entry.reason}: {entry.detail}"
    if len(summary.failures) > _SHOWN_FAILURES:
        yield f"and {len(summary.failures) - _SHOWN_FAILURES} more failures, all in the report"


def check(source: str, target: str) -> tuple[str, str]:
    """The two places as absolute URIs; refuses, before any work, what would touch originals or cannot be read or written."""
    source, target = storage.absolute(source), storage.absolute(target)
    refuse_nesting(source, target)
    storage.check_folder(source)
    storage.check_writable(target)
    return source, target


def make_plan(source: str, target: str, report: Report, *, model: str, options: Options) -> Plan:
    """List `source` and leave out what the report has as done and `target` still holds."""
    wanted = _list(source, options)
    there = _outputs(target)
    known = report.table.rename_columns([name if name == "source" else f"known_{name}" for name in SCHEMA.names])
    rows = wanted.join(known, "source", join_type="left outer").combine_chunks()
    is_there = pc.is_in(rows["source"], value_set=there)
    status = rows["known_status"]

    def was(wanted_status: str, settings: str) -> pa.ChunkedArray:
        same = pc.and_(pc.equal(status, wanted_status), pc.equal(rows["known_settings"], settings))
        return pc.fill_null(pc.and_(same, pc.equal(rows["fingerprint"], rows["known_fingerprint"])), False)

    was_enhanced = pc.and_(
        was(ENHANCED, options.of_enhanced), pc.fill_null(pc.equal(rows["known_model"], model), False)
    )
    done = pc.or_(
        pc.and_(pc.or_(was_enhanced, was(COPIED, options.of_skipped)), is_there), was(SKIPPED, options.of_skipped)
    )
    is_lasting = pc.is_in(rows["known_reason"], value_set=pa.array(sorted(_BROKEN)))
    is_broken = pc.and_(was(FAILED, options.of_skipped), is_lasting)
    ours = pc.and_(is_there, pc.is_in(status, value_set=pa.array([ENHANCED, COPIED])))
    todo = rows.select(_WANTED.names).append_column("ours", ours).filter(pc.invert(pc.or_(done, is_broken)))
    todo = _without_collisions(todo.take(pc.sort_indices(todo["source"])), target)
    broken = rows.filter(is_broken).select(["source", *(f"known_{name}" for name in SCHEMA.names[1:])])
    return Plan(
        source=source,
        target=target,
        todo=todo.slice(0, options.limit),
        done=pc.sum(done).as_py() or 0,
        broken=[Entry(**row) for row in broken.rename_columns(SCHEMA.names).to_pylist()],
        model=model,
        options=options,
    )


def enhance_archive(source: str, target: str, enhancer: Enhancer, options: Options | None = None) -> Summary:
    """Do everything below the folder `source` that is not done yet into the same places below `target`; see `Options`.

    `source` is only read. `ValueError` before any work for folders that lie in each other, cannot be used, or are in use;
    `ArchiveStopped` if `target` is full. Needs Ray.
    """
    options = options or Options()
    source, target = check(source, target)
    with lease.hold(storage.join(target, FOLDER, LOCK)):
        report = Report(target)
        plan = make_plan(source, target, report, model=enhancer.version, options=options)
        return run(plan, report, enhancer)


def run(plan: Plan, report: Report, enhancer: Enhancer) -> Summary:
    """Do what the plan says, and write the report."""
    started = time.perf_counter()
    failures = list(plan.broken)
    counts: Counter[str] = Counter({FAILED: len(failures)} if failures else {})
    reasons = Counter(entry.reason for entry in failures)
    megapixels = 0.0
    total, done_bytes = pc.sum(plan.todo["bytes"]).as_py() or 0, 0
    with Progress("enhance", total=plan.todo.num_rows, unit="file") as progress:
        try:
            for entry in _run(plan, enhancer) if plan.todo.num_rows else ():
                if entry.reason == "disk_full":
                    raise _stopped(plan.target, entry.source, OSError(errno.ENOSPC, ""))
                report.add(entry)
                counts[entry.status] += 1
                megapixels += entry.megapixels
                done_bytes += entry.bytes
                if entry.reason:
                    reasons[entry.reason] += 1
                if entry.status == FAILED:
                    failures.append(entry)
                rate = megapixels / (time.perf_counter() - started)
                progress.advance(note=f"{rate:.1f} MP/s, {done_bytes / 1e9:.1f} of {total / 1e9:.1f} GB")
            report.finish()
        except OSError as error:
            raise _stopped(plan.target, "the report", error) from None
        finally:  # also where it ends early; what cannot be written then is found again in the photos
            with contextlib.suppress(OSError):
                report.finish()
    return Summary(
        counts=dict(counts),
        reasons=dict(reasons),
        unchanged=plan.done,
        megapixels=megapixels,
        seconds=time.perf_counter() - started,
        failures=failures,
    )


def _stopped(target: str, what: str, error: OSError) -> ArchiveStopped:
    if error.errno in _FULL:
        return ArchiveStopped(f"'{target}': no space left for {what}; make room and give the same command again")
    return ArchiveStopped(f"'{target}': {what} cannot be written ({error}); mend that and give the same command again")


def _list(source: str, options: Options) -> pa.Table:
    """Every file of the source that is asked for, with its kind."""
    columns: dict[str, list[Any]] = {name: [] for name in _WANTED.names}
    for file in storage.list_files(source, stay=True):
        text = to_text(file.relative)
        if not options.takes(text):
            continue
        lowered, problem = file.relative.lower(), file.problem
        if file.relative.startswith(f"{FOLDER}/"):
            problem = "not_followed: the report of an archive that was enhanced before"
        if problem:
            kind = PROBLEM
        elif lowered.endswith(images.SUFFIXES):
            kind = PHOTO
        elif lowered.endswith(images.REFUSED_SUFFIXES):
            kind = REFUSED
        else:
            kind = SIDECAR if lowered.endswith(SIDECAR_SUFFIX) else OTHER
        values = (text, f"{file.size}-{file.version}", os.fsencode(file.relative), kind, file.size, file.modified)
        for name, value in zip(columns, (*values, problem), strict=True):
            columns[name].append(value)
    return pa.table(columns, schema=_WANTED)


def _outputs(target: str) -> pa.Array:
    """What the target holds, as text; half-written files of a killed run are removed, since it is locked for us."""
    names = []
    if storage.is_s3(target) or os.path.isdir(target):
        for file in storage.list_files(target):
            if _LEFTOVER.search(file.relative):
                storage.delete(file.uri)
            else:
                names.append(to_text(file.relative))
    return pa.array(names, pa.string())


def _without_collisions(todo: pa.Table, target: str) -> pa.Table:
    """The same, where files that a disk without upper and lower case takes for one are named as problems."""
    folded = pc.utf8_lower(todo["source"])
    numbers = pa.array(range(todo.num_rows), pa.int64())
    first = pa.table({"folded": folded, "number": numbers}).group_by("folded").aggregate([("number", "min")])
    if first.num_rows == todo.num_rows or storage.is_s3(target) or not _folds_case(target):
        return todo
    is_first = pc.is_in(numbers, value_set=first["number_min"].combine_chunks())
    text = "name_collision: the target's disk does not tell upper from lower case, and another file has this name there"
    problem = pc.if_else(is_first, todo["problem"], text)
    kind = pc.if_else(is_first, todo["kind"], PROBLEM)
    todo = todo.set_column(todo.schema.get_field_index("problem"), "problem", problem)
    return todo.set_column(todo.schema.get_field_index("kind"), "kind", kind)


def _folds_case(target: str) -> bool:
    lock = os.path.join(storage.resolve(target)[1], FOLDER)
    return os.path.exists(os.path.join(lock, LOCK.upper()))


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What every task of a run knows."""

    source: str
    target: str
    version: str
    options: Options


def _run(plan: Plan, enhancer: Enhancer) -> Iterator[Entry]:
    """An entry for each row of the plan, as it is done."""
    # What needs no work needs no task.
    todo, job = plan.todo, _Job(source=plan.source, target=plan.target, version=plan.model, options=plan.options)
    needs_work = pc.is_in(
        todo["kind"], value_set=pa.array([PHOTO, SIDECAR, *([OTHER, REFUSED] if job.options.copy_others else [])])
    )
    for row in todo.filter(pc.invert(needs_work)).to_pylist():
        yield _not_read(row, job)
    todo = todo.filter(needs_work)
    if not todo.num_rows:
        return
    bundle = ray.put(enhancer.bundle)
    for start in range(0, todo.num_rows, _SEGMENT_PHOTOS):
        yield from _run_segment(todo.slice(start, _SEGMENT_PHOTOS), job, bundle)


def _run_segment(todo: pa.Table, job: _Job, bundle: ray.ObjectRef) -> Iterator[Entry]:
    resources = ray.cluster_resources()
    limit = ray.data.DataContext.get_current().execution_options.resource_limits.cpu
    workers = max(1, int(min(resources.get("CPU", 1), limit or math.inf) / _CPU_SHARE))
    todo = todo.combine_chunks()
    blocks, start = [], 0
    while start < todo.num_rows:
        # Guided self-scheduling (Polychronopoulos & Kuck 1987): Ray needs a third of a second from one task to the next, so
        # they are long, and short towards the end, for all workers to end together.
        size = max(2, min(_CHUNK_PHOTOS, -(-(todo.num_rows - start) // (2 * workers))))
        blocks.append(todo.slice(start, size))
        start += size
    # Tasks, not actors: what is lost with a worker is run again by itself, and the model stays loaded in its process.
    dataset = ray.data.from_arrow(blocks).map_batches(
        _do_chunk,
        fn_kwargs={"job": job, "bundle": bundle},
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=_CPU_SHARE,
        num_gpus=_GPU_SHARE if resources.get("GPU") else 0,
    )
    for block in handover.blocks(dataset, waiting=_CHUNK_PHOTOS):
        for row in pa.table(block).to_pylist():
            yield Entry(**row)


def _do_chunk(chunk: pa.Table, *, job: _Job, bundle: ray.ObjectRef) -> Iterator[pa.Table]:
    cv2.setNumThreads(1)  # Ray runs one task a core
    torch.set_num_threads(1)
    enhancer = _enhancer(bundle, job.version)
    done: list[Entry] = []
    handed_over = time.monotonic()
    for row in chunk.to_pylist():
        done.append(_do(row, job, enhancer))
        if time.monotonic() - handed_over > _HAND_OVER_SECONDS:
            yield to_table(done)
            done, handed_over = [], time.monotonic()
    if done:
        yield to_table(done)


@functools.lru_cache(maxsize=1)
def _enhancer(bundle: ray.ObjectRef, version: str) -> Enhancer:
    allocator.keep_freed_memory(block=_KEPT_BLOCK, total=_KEPT_TOTAL)
    loaded: Bundle = ray.get(bundle)
    return Enhancer(loaded, version=version)


def _do(row: dict[str, Any], job: _Job, enhancer: Enhancer) -> Entry:
    """Do one file, whatever becomes of it."""
    started = time.perf_counter()
    entry = _entry(row, job)
    try:
        done = _enhance(row, job, enhancer, entry) if row["kind"] == PHOTO else _copy(row, job, entry)
    except images.ImageError as error:
        done = _refused(row, job, entry, error)
    except OSError as error:
        full = error.errno in _FULL
        done = replace(entry, status=FAILED, reason="disk_full" if full else "unreadable", detail=str(error))
    except Exception as error:  # one photo's trouble must not end the archive's night
        done = replace(entry, status=FAILED, reason="internal", detail=f"{type(error).__name__}: {error}; report this")
    return replace(done, seconds=time.perf_counter() - started)


def _enhance(row: dict[str, Any], job: _Job, enhancer: Enhancer, entry: Entry) -> Entry:
    options, target = job.options, _place(job.target, row)
    key = _key(entry)
    output = _read_if_there(target)
    stamp = None if output is None else read_stamp(container.read(output).xmp)
    if output is not None and stamp is not None and stamp.source == key:
        # Done by a run, or a worker, that was killed before it could say so.
        width, height = images.size(output)
        return replace(entry, megapixels=width * height / 1e6)
    data = storage.read_bytes(_place(job.source, row))
    if output is not None and output != data and stamp is None and not row["ours"]:
        raise images.ImageError("output_exists", f"'{target}' is not ours; move it, or choose another target")
    width, height = images.size(data)
    with room_for(width * height / 1e6):
        enhanced = enhancer.enhance_file(
            data,
            strength=options.strength,
            quality=options.quality,
            drop_extras=options.drop_hdr,
            photos_only=options.photos_only,
            source=key,
        )
    storage.write_bytes(target, enhanced.data, modified=row["modified"] if options.keep_mtime else None)
    return replace(entry, megapixels=enhanced.megapixels)


def _copy(row: dict[str, Any], job: _Job, entry: Entry) -> Entry:
    """Copy a file as it is. What lies there already and is the same counts as copied."""
    target = _place(job.target, row)
    data = storage.read_bytes(_place(job.source, row))
    there = _read_if_there(target)
    if there is not None and there != data and not row["ours"]:
        raise images.ImageError("output_exists", f"'{target}' is not ours; move it, or choose another target")
    if there != data:
        storage.write_bytes(target, data, modified=row["modified"] if job.options.keep_mtime else None)
    return replace(entry, status=COPIED, settings=job.options.of_skipped)


# Reasons of failures that only another file, or another version of this program, can mend.
_BROKEN = {"bad_profile", "not_an_image", "too_large", "truncated", "unwritable"}
# Reasons for which a photo is left as it is, and nothing is wrong with it.
_LEFT_ALONE = {
    "already_enhanced",
    "animated",
    "graphic",
    "hdr_gain_map",
    "motion_video",
    "other_pictures",
    "raw",
    "unsupported_depth",
    "unsupported_format",
    "unsupported_mode",
    "too_small",
}


def _refused(row: dict[str, Any], job: _Job, entry: Entry, error: images.ImageError) -> Entry:
    """A photo that is not enhanced: left alone, or copied if asked for, or failed."""
    refused = replace(entry, status=FAILED, settings=job.options.of_skipped, reason=error.reason, detail=error.detail)
    if error.reason not in _LEFT_ALONE:
        return refused
    skipped = replace(refused, status=SKIPPED)
    if not job.options.copy_others:
        return skipped
    try:
        return replace(skipped, status=_copy(row, job, entry).status)
    except (images.ImageError, OSError) as problem:
        return replace(refused, reason="uncopied", detail=str(problem))


def _not_read(row: dict[str, Any], job: _Job) -> Entry:
    """The entry of a file that is only listed."""
    entry = replace(_entry(row, job), status=SKIPPED, settings=job.options.of_skipped)
    if row["kind"] == PROBLEM:
        reason, _, detail = row["problem"].partition(": ")
        return replace(entry, status=SKIPPED if reason == "not_followed" else FAILED, reason=reason, detail=detail)
    if row["kind"] == REFUSED:
        try:
            images.refuse_raw(row["source"])
        except images.ImageError as error:
            return replace(entry, reason=error.reason, detail=error.detail)
        return replace(
            entry, reason="unsupported_format", detail="a format that is not enhanced; --copy-others copies it"
        )
    return replace(entry, reason="not_a_photo", detail="--copy-others copies it")


def _entry(row: dict[str, Any], job: _Job) -> Entry:
    return Entry(
        source=row["source"],
        fingerprint=row["fingerprint"],
        model=job.version,
        settings=job.options.of_enhanced,
        output=row["source"],
        status=ENHANCED,
        bytes=row["bytes"],
    )


def _key(entry: Entry) -> str:
    """The digest that an output carries: the same file, enhanced alike."""
    parts = (entry.source, entry.fingerprint, entry.model, entry.settings)
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def _place(folder: str, row: dict[str, Any]) -> str:
    return storage.join(folder, os.fsdecode(row["name"]))


def _read_if_there(uri: str) -> bytes | None:
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError:
        return None


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
