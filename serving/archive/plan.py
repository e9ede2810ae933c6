"""The plan of an archive: every file of the source that the report and the target do not show as done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

from naturaltone.pipeline import storage
from naturaltone.pipeline.errors import UserError
from naturaltone.serving.archive.options import ArchiveOptions
from naturaltone.serving.archive.planner import SEGMENT, Planner
from naturaltone.serving.archive.report import Entry, Report
from naturaltone.serving.archive.task import TASKS, FileTask, Kind

SHOWN_BROKEN = 20

_TASK = ", ".join(TASKS.names)


@dataclass(frozen=True, kw_only=True)
class ArchivePlan:
    """The files that a run has to process. It grows while the source is listed; a context manager that ends the listing."""

    source: str
    target: str
    model: str
    options: ArchiveOptions
    report: Report
    planner: Planner

    def __enter__(self) -> ArchivePlan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.planner.stop()

    def segments(self) -> Iterator[list[FileTask]]:
        """Yield up to `SEGMENT` files at a time, as soon as they are known."""
        taken = 0
        while True:
            self.planner.wait(more_than=taken)
            end = min(taken + SEGMENT, self.planner.num_files)
            if end == taken:
                return
            yield self._tasks(f"number >= {taken} AND number < {end} ORDER BY number")
            taken = end

    def is_worked(self, task: FileTask) -> bool:
        """Whether a file is read or copied. The others only get an entry in the report."""
        return task.kind in self.planner.worked

    def has_work(self) -> bool:
        """Whether any file is read or copied. Waits until this is known."""
        self.planner.wait(more_than=0, worked=True)
        return self.planner.num_worked > 0

    def complete(self) -> None:
        """Wait until all files are known."""
        self.planner.wait()

    @property
    def is_complete(self) -> bool:
        return self.planner.is_complete

    @property
    def num_files(self) -> int:
        """The number of files to process that are known so far."""
        return self.planner.num_files

    @property
    def num_bytes(self) -> int:
        return self.planner.num_bytes

    @property
    def done(self) -> int:
        """The number of files that were done before, of those that are listed so far."""
        return self.planner.done

    @property
    def broken(self) -> dict[str, int]:
        """Photos that failed before and have not changed, counted by reason. They are not tried again."""
        counted = "SELECT reason, count(*) FROM broken GROUP BY reason"
        return dict(self.report.database.execute(counted).fetchall())

    @property
    def first_broken(self) -> list[Entry]:
        """The entries of some of these photos."""
        return self.report.spread_rows("source IN (SELECT source FROM broken)", SHOWN_BROKEN)

    def spread_photos(self, count: int) -> list[FileTask]:
        """About `count` of the photos to enhance, spread evenly over all of them."""
        photos = self.kinds.get(Kind.PHOTO, (0, 0))[0]
        chosen = "QUALIFY (row_number() OVER (ORDER BY number) - 1) % $1 = 0 ORDER BY number LIMIT $2"
        return self._tasks(f"kind = '{Kind.PHOTO}' {chosen}", [max(1, photos // count), count])

    @property
    def kinds(self) -> dict[str, tuple[int, int]]:
        """The number of files to process and their bytes, by kind."""
        counted = "SELECT kind, count(*), sum(size) FROM todo GROUP BY kind"
        return {kind: (count, int(size)) for kind, count, size in self.report.database.execute(counted).fetchall()}

    def _tasks(self, condition: str, parameters: list[int] | None = None) -> list[FileTask]:
        found = self.report.database.execute(f"SELECT {_TASK} FROM todo WHERE {condition}", parameters).fetchall()
        return [FileTask(**dict(zip(TASKS.names, row, strict=True))) for row in found]


def check(source: str, target: str) -> tuple[str, str]:
    """Check the two folders before any work; returns their absolute URIs.

    `UserError` if one folder lies in the other, since outputs could then overwrite originals. `StorageError` if
    `source` cannot be read or `target` cannot be written.
    """
    source, target = storage.absolute(source), storage.absolute(target)
    refuse_nesting(source, target)
    storage.check_folder(source)
    storage.check_writable(target)
    return source, target


def plan_archive(
    source: str, target: str, report: Report, *, model: str, options: ArchiveOptions, is_held: bool = True
) -> ArchivePlan:
    """Begin to plan all files of `source`, except those that the report shows as done and `target` still holds.

    is_held: this process has locked the target, so temporary files of a killed run are removed from it. `StorageError`
    if `source` has no files that `options` let through.
    """
    planner = Planner(source, target, report, model=model, options=options, is_held=is_held)
    try:
        planner.wait_for_listing()
        if not planner.num_listed:
            chosen = " that --include and --exclude let through" if options.include or options.exclude else ""
            raise storage.StorageError(f"'{source}': no files{chosen}; check the path")
    except BaseException:
        planner.stop()
        raise
    return ArchivePlan(source=source, target=target, model=model, options=options, report=report, planner=planner)


def refuse_nesting(source: str, target: str) -> None:
    """Raise `UserError` if writing to one of two folders could change the other."""
    if lies_in(source, target) or lies_in(target, source):
        raise UserError(
            f"'{target}' and '{source}' overlap, and originals stay untouched; choose a target outside the source"
        )


def lies_in(folder: str, other: str) -> bool:
    """Whether a folder is `other` or lies below it. Links are followed."""
    if storage.is_s3(folder) != storage.is_s3(other):
        return False
    path, above = (storage.resolve(uri)[1] for uri in (folder, other))
    if storage.is_s3(folder):
        return above in (path, *_above(path))
    # Compare device and inode, not names: a folder may have several names.
    return _identity(os.path.realpath(above)) in _identities(os.path.realpath(path))


def _above(path: str) -> list[str]:
    """The folders above a path."""
    parts = path.split("/")
    return ["/".join(parts[:count]) or "/" for count in range(1, len(parts))]


def _identity(path: str) -> tuple[int, int] | str:
    try:
        stat = os.stat(path)
    except OSError:  # it does not exist yet
        return path
    return stat.st_dev, stat.st_ino


def _identities(path: str) -> set[tuple[int, int] | str]:
    return {_identity(folder) for folder in (path, *_above(path))}
