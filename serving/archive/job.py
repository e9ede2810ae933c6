"""A whole archive: a Ray Data job from a tree of photos to a parallel tree of enhanced ones, with a report."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import pyarrow as pa
import ray
import torch

from naturaltone.pipeline import handover, storage
from naturaltone.pipeline.errors import RunFailed
from naturaltone.pipeline.lease import Lease, hold
from naturaltone.pipeline.progress import Progress
from naturaltone.pipeline.reasons import Reason
from naturaltone.serving.archive.file import FULL, Job, process_file, unread_entry
from naturaltone.serving.archive.options import ArchiveOptions
from naturaltone.serving.archive.plan import ArchivePlan, check, plan_archive
from naturaltone.serving.archive.report import (
    COPIED,
    ENHANCED,
    FAILED,
    FOLDER,
    LOCK,
    SKIPPED,
    Entry,
    Report,
    to_table,
)
from naturaltone.serving.archive.task import TASKS, FileTask
from naturaltone.serving.enhancer import Enhancer
from naturaltone.training import allocator
from naturaltone.training.checkpoint import Bundle

_SHOWN_FAILURES = 20
_CHUNK_PHOTOS = 64  # that one Ray task does
_HAND_OVER_SECONDS = 1.0  # each time costs Ray 30 ms
_CPU_SHARE = 0.65  # three workers on two cores: one works while another waits for Ray or for the disk
_GPU_SHARE = 1 / 8  # of a GPU for each worker: the network is the smaller part of a photo's work
# Bytes that a worker keeps: photos of up to 64 megapixels find their memory where the last one had it.
_KEPT_BLOCK, _KEPT_TOTAL = 2**28, 2**29


class ArchiveStopped(RunFailed):
    """The run stopped before its end; the same command goes on where it was."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What one run did. counts: by status; reasons: of skipped and failed files; unchanged: done before.

    failures: the first ones; the report has them all.
    """

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
    for entry in summary.failures:
        yield f"failed {entry.source}: {entry.reason}: {entry.detail}"
    more = summary.counts.get(FAILED, 0) - len(summary.failures)
    if more:
        yield f"and {more} more failures, all in the report"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that can begin: its plan, the report to write, and the lock on the target (None for a dry run)."""

    plan: ArchivePlan
    report: Report
    lease: Lease | None


@contextlib.contextmanager
def prepared(
    source: str, target: str, model: str, options: ArchiveOptions, *, dry_run: bool = False
) -> Iterator[Prepared]:
    """Plan a run from `source` to `target`, while this process has the target for itself.

    `UserError` before any work for folders that lie in each other, cannot be used, or are in use. dry_run: nothing is to be
    written, so another process may be at the target.
    """
    source, target = check(source, target)
    lock = hold(storage.join(target, FOLDER, LOCK), what=f"'{target}'")
    with contextlib.nullcontext() if dry_run else lock as lease, Report(target) as report:
        plan = plan_archive(source, target, report, model=model, options=options, is_held=not dry_run)
        yield Prepared(plan=plan, report=report, lease=lease)


def enhance_archive(source: str, target: str, enhancer: Enhancer, options: ArchiveOptions | None = None) -> Summary:
    """Do everything below the folder `source` that is not done yet, into the same names below `target`.

    `source` is only read. `UserError` as `prepared`; `ArchiveStopped` if `target` is full. Needs Ray.
    """
    with prepared(source, target, enhancer.version, options or ArchiveOptions()) as run:
        return run_archive(run, enhancer)


def run_archive(run: Prepared, enhancer: Enhancer) -> Summary:
    """Do what the plan says, and write the report."""
    plan, report = run.plan, run.report
    started = time.perf_counter()
    failures = list(plan.first_broken)
    reasons = Counter(plan.broken)
    counts: Counter[str] = Counter({FAILED: reasons.total()} if reasons else {})
    megapixels, done_bytes = 0.0, 0
    with Progress("enhance", total=plan.num_files, unit="file") as progress:
        try:
            for entry in _entries(plan, enhancer):
                if run.lease:
                    run.lease.check()
                if entry.reason == Reason.DISK_FULL:
                    raise _stopped(plan.target, entry.source, OSError(FULL[0], ""))
                report.add(entry)
                counts[entry.status] += 1
                megapixels += entry.megapixels
                done_bytes += entry.bytes
                if entry.reason:
                    reasons[entry.reason] += 1
                if entry.status == FAILED and len(failures) < _SHOWN_FAILURES:
                    failures.append(entry)
                rate = megapixels / (time.perf_counter() - started)
                note = f"{rate:.1f} MP/s, {done_bytes / 1e6:.1f} of {plan.num_bytes / 1e6:.1f} MB"
                progress.advance(note=note)
            report.finish()
        except OSError as error:
            raise _stopped(plan.target, "the report", error) from None
        finally:  # also where it ends early; what cannot be written then is found again in the photos
            with contextlib.suppress(OSError, RunFailed):
                if run.lease:
                    run.lease.check()
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
    if error.errno in FULL:
        return ArchiveStopped(f"'{target}': no space left for {what}; make room and give the same command again")
    return ArchiveStopped(f"'{target}': {what} cannot be written ({error}); mend that and give the same command again")


def _entries(plan: ArchivePlan, enhancer: Enhancer) -> Iterator[Entry]:
    """An entry for each file of the plan, as it is done."""
    job = Job(source=plan.source, target=plan.target, model=plan.model, options=plan.options)
    for tasks in plan.segments(worked=False):  # what needs no work needs no Ray task
        for task in tasks:
            yield unread_entry(task, job)
    bundle = ray.put(enhancer.bundle) if plan.num_worked else None
    for tasks in plan.segments(worked=True):
        yield from _run_segment(tasks, job, bundle)


def _run_segment(tasks: list[FileTask], job: Job, bundle: ray.ObjectRef) -> Iterator[Entry]:
    resources = ray.cluster_resources()
    limit = ray.data.DataContext.get_current().execution_options.resource_limits.cpu
    workers = max(1, int(min(resources.get("CPU", 1), limit or math.inf) / _CPU_SHARE))
    table = pa.Table.from_pylist([vars(task) for task in tasks], schema=TASKS)
    blocks, start = [], 0
    while start < table.num_rows:
        # Guided self-scheduling (Polychronopoulos & Kuck 1987). Ray needs a third of a second between two tasks of a worker,
        # so tasks are long. They shrink towards the end, so that all workers finish together.
        size = max(2, min(_CHUNK_PHOTOS, -(-(table.num_rows - start) // (2 * workers))))
        blocks.append(table.slice(start, size))
        start += size
    # Tasks, not actors: what is lost with a worker is run again by itself, and the model stays loaded in its process.
    dataset = ray.data.from_arrow(blocks).map_batches(
        _process_chunk,
        fn_kwargs={"job": job, "bundle": bundle},
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=_CPU_SHARE,
        num_gpus=_GPU_SHARE if resources.get("GPU") else 0,
    )
    for block in handover.hand_over(dataset, waiting=_CHUNK_PHOTOS):
        for row in pa.table(block).to_pylist():
            yield Entry(**row)


def _process_chunk(chunk: pa.Table, *, job: Job, bundle: ray.ObjectRef) -> Iterator[pa.Table]:
    cv2.setNumThreads(1)  # Ray runs one task a core
    torch.set_num_threads(1)
    enhancer = _enhancer(bundle, job.model)
    done: list[Entry] = []
    handed_over = time.monotonic()
    for row in chunk.to_pylist():
        done.append(process_file(FileTask(**row), job, enhancer))
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
