"""Enhances a whole archive: a Ray Data job from a folder of photos to a parallel folder, with a report."""

from __future__ import annotations

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import pyarrow as pa
import ray
import torch

from naturaltone.pipeline import handover, storage
from naturaltone.pipeline.cpus import num_cpus
from naturaltone.pipeline.errors import RunFailed
from naturaltone.pipeline.lease import Lease, hold
from naturaltone.pipeline.progress import Progress
from naturaltone.pipeline.reasons import Reason
from naturaltone.serving.archive.figures import ArchiveFigures
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
    on_scratch_disk,
    to_table,
)
from naturaltone.serving.archive.task import TASKS, FileTask
from naturaltone.serving.enhancer import Enhancer
from naturaltone.training import allocator
from naturaltone.training.checkpoint import Bundle

_SHOWN_FAILURES = 20
_CHUNK_PHOTOS = 64  # the most that one Ray task takes
_HAND_OVER_SECONDS = 1.0  # each hand-over costs Ray 30 ms
_CPU_SHARE = 0.65  # of a core for each worker: three run on two cores, since workers wait for Ray and for the disk
_GPU_SHARE = 1 / 8  # of a GPU for each worker, since the network is the smaller part of the work on a photo
# Bytes. A worker keeps freed blocks up to the first size, and up to the second size in total. So photos of up to 64
# megapixels reuse the memory of the photo before.
_KEPT_BLOCK, _KEPT_TOTAL = 2**28, 2**29


class ArchiveStopped(RunFailed):
    """The run stopped early. The same command continues it."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What one run did.

    unchanged: the number of files that were done before. counts: files by status. reasons: skipped and failed files by
    reason. seconds: wall-clock time. failures: only the first ones; the report holds all of them.
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
    """Say in one line what a run did."""
    counts = summary.counts
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(summary.reasons.items()))
    return (
        f"{counts.get(ENHANCED, 0)} enhanced, {counts.get(COPIED, 0)} copied, {counts.get(SKIPPED, 0)} left alone, "
        f"{counts.get(FAILED, 0)} failed{f' ({reasons})' if reasons else ''}, {summary.unchanged} done before; "
        f"{summary.megapixels_per_second:.1f} MP/s"
    )


def describe_failures(summary: Summary) -> Iterator[str]:
    """One line for each of the first failures, and a line with the number of the others."""
    for entry in summary.failures:
        yield f"failed {entry.source}: {entry.reason}: {entry.detail}"
    more = summary.counts.get(FAILED, 0) - len(summary.failures)
    if more:
        yield f"and {more} more failures; the report lists all of them"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that is ready to start. lease: the lock on the target; None for a dry run."""

    plan: ArchivePlan
    report: Report
    lease: Lease | None


@contextlib.contextmanager
def prepared(
    source: str, target: str, model: str, options: ArchiveOptions, *, dry_run: bool = False
) -> Iterator[Prepared]:
    """Plan a run from the folder `source` to the folder `target`, and lock the target while the context lasts.

    dry_run: do not lock the target, since nothing is written to it. Before any work, `UserError` if one folder lies in
    the other, if a folder cannot be read or written, or if another process has locked the target. `RunFailed` if TMPDIR
    is full, also while the context lasts.
    """
    source, target = check(source, target)
    lock = hold(storage.join(target, FOLDER, LOCK), what=f"'{target}'")
    with on_scratch_disk(), contextlib.nullcontext() if dry_run else lock as lease, Report(target) as report:
        with plan_archive(source, target, report, model=model, options=options, is_held=not dry_run) as plan:
            yield Prepared(plan=plan, report=report, lease=lease)


def enhance_archive(source: str, target: str, enhancer: Enhancer, options: ArchiveOptions | None = None) -> Summary:
    """Process all files below the folder `source` that are not done yet; outputs have the same names below `target`.

    `source` is only read. Needs a running Ray. `UserError` as in `prepared`. `ArchiveStopped` if `target` is full or
    the report cannot be written. `LeaseLost` if another process took over the lock.
    """
    with prepared(source, target, enhancer.version, options or ArchiveOptions()) as run:
        return run_archive(run, enhancer)


def run_archive(run: Prepared, enhancer: Enhancer) -> Summary:
    """Process the files of the plan and write the report; raises as `enhance_archive`."""
    plan, report = run.plan, run.report
    started = time.perf_counter()
    failures: list[Entry] = []
    reasons: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    megapixels, done_bytes = 0.0, 0
    figures = ArchiveFigures(plan)
    is_expected = False  # whether `progress` knows the total
    first: tuple[float, float] | None = None  # the rate leaves out the first file, which waits for Ray to start
    with Progress("enhance", unit="file") as progress:
        try:
            for entry in _entries(plan, enhancer):
                plan.planner.go_on()
                if run.lease:
                    run.lease.check()
                if entry.reason == Reason.DISK_FULL:
                    raise _stopped(plan.target, entry.source, OSError(FULL[0], ""))
                report.add(entry)
                figures.add(entry)
                counts[entry.status] += 1
                megapixels += entry.megapixels
                done_bytes += entry.bytes
                if entry.reason:
                    reasons[entry.reason] += 1
                if entry.status == FAILED and len(failures) < _SHOWN_FAILURES:
                    failures.append(entry)
                first = first or (time.perf_counter(), megapixels)
                rated, seconds = megapixels - first[1], time.perf_counter() - first[0]
                rate = f"{rated / seconds:.1f} MP/s, " if rated else ""
                all_bytes = f" of {plan.num_bytes / 1e6:.1f} MB" if plan.is_complete else " MB, the listing goes on"
                if plan.is_complete and not is_expected:
                    progress.expect(plan.num_files)
                    is_expected = True
                progress.advance(note=f"{rate}{done_bytes / 1e6:.1f}{all_bytes}")
            failures = [*plan.first_broken, *failures][:_SHOWN_FAILURES]
            broken = Counter(plan.broken)
            reasons += broken
            counts += Counter({FAILED: broken.total()})
            report.finish()
            figures.show()
        except OSError as error:
            raise _stopped(plan.target, "the report", error) from None
        finally:  # also after an error; the next run reads from the photos what the report does not say
            with contextlib.suppress(OSError, RunFailed), on_scratch_disk():
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
        return ArchiveStopped(f"'{target}': no space left for {what}; free some space and run the same command again")
    return ArchiveStopped(f"'{target}': {what} cannot be written ({error}); fix this and run the same command again")


def _entries(plan: ArchivePlan, enhancer: Enhancer) -> Iterator[Entry]:
    """Yield an entry for each file of the plan as soon as it is done."""
    job = Job(source=plan.source, target=plan.target, model=plan.model, options=plan.options)
    bundle = None
    for tasks in plan.segments():
        worked = [task for task in tasks if plan.is_worked(task)]
        for task in tasks:
            if not plan.is_worked(task):  # it is only listed, so it needs no Ray task
                yield unread_entry(task, job)
        if worked:
            bundle = bundle or ray.put(enhancer.bundle)
            yield from _run_segment(worked, job, bundle)


def _run_segment(tasks: list[FileTask], job: Job, bundle: ray.ObjectRef) -> Iterator[Entry]:
    workers = int(num_cpus() / _CPU_SHARE)
    table = pa.Table.from_pylist([vars(task) for task in tasks], schema=TASKS)
    blocks, start = [], 0
    while start < table.num_rows:
        # Guided self-scheduling (Polychronopoulos & Kuck 1987). Ray needs 0.3 s between two tasks of a worker, so tasks
        # are long. They shrink towards the end so that all workers finish together.
        size = max(2, min(_CHUNK_PHOTOS, -(-(table.num_rows - start) // (2 * workers))))
        blocks.append(table.slice(start, size))
        start += size
    # Tasks, not actors: Ray runs the tasks of a dead worker again, and the model stays loaded in each worker process.
    dataset = ray.data.from_arrow(blocks).map_batches(
        _process_chunk,
        fn_kwargs={"job": job, "bundle": bundle},
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=_CPU_SHARE,
        num_gpus=_GPU_SHARE if ray.cluster_resources().get("GPU") else 0,
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
