"""Fills the plan of an archive while the run works: compares the listing of the source with the report and the target.

A thread takes the listing in waves. It adds to the table `todo` the files of each wave that are not done. So the first photo
does not wait for the end of the listing, and memory holds one segment of it. The target is listed once too, only as far as
the names of the wave reach: both listings are in the order of the names.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import duckdb
import pyarrow as pa

from naturaltone.pipeline import storage
from naturaltone.pipeline.errors import RunFailed, UserError
from naturaltone.pipeline.listing import File, list_files
from naturaltone.pipeline.reasons import Reason
from naturaltone.serving.archive.kinds import with_kinds
from naturaltone.serving.archive.names import to_text
from naturaltone.serving.archive.options import ArchiveOptions
from naturaltone.serving.archive.report import COPIED, ENHANCED, FAILED, FOLDER, LOCK, SKIPPED, Report
from naturaltone.serving.archive.task import TASKS, FileTask, Kind

SEGMENT = 8192  # files in memory at a time

_FIRST_WAVE_SECONDS = 2.0  # the first wave ends after this time, for the work to begin
_WAVE_FILES = 2**16
_STOP_SECONDS = 10.0  # a thread that waits longer for a server is left behind
_LEFTOVER = re.compile(rf"(^|/)\.[0-9a-f]{{8}}{re.escape(storage.TEMPORARY_SUFFIX)}$")
_BROKEN = [reason for reason in Reason if reason.lasts and not reason.left_alone]
_TYPES = {
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
}
_TASK = ", ".join(TASKS.names)
_COLUMNS = ", ".join(f"{field.name} {_TYPES[field.type]}" for field in TASKS)

Listed = tuple[File, Kind]


class Planner:
    """The thread that plans. Its tables in the report's database are `todo` (the files, numbered) and `broken`.

    num_files, num_worked, num_bytes: the files in `todo` so far; those that are read or copied; the bytes of all. done: the
    files so far that were done before. num_listed: all files so far. is_complete: the listing has ended.
    """

    def __init__(self, source: str, target: str, report: Report, *, model: str, options: ArchiveOptions, is_held: bool):
        self.num_files = self.num_worked = self.num_bytes = self.num_listed = self.done = 0
        self.is_complete = False
        self._source, self._model, self._options = source, model, options
        self.worked = {Kind.PHOTO, Kind.SIDECAR, *((Kind.OTHER, Kind.REFUSED) if options.copy_others else ())}
        self._folds_case = not storage.is_s3(target) and _folds_case(target)
        self._database = report.database.cursor()  # a connection of its own, since two threads must not share one
        self._outputs = Outputs(target, self._database, is_held=is_held)
        self._database.execute(
            f"CREATE OR REPLACE TABLE todo ({_COLUMNS}, number BIGINT);"
            "CREATE OR REPLACE TABLE broken (source VARCHAR, reason VARCHAR)"
        )
        self._changed = threading.Condition()
        self._may_go_on = threading.Event()
        self._error: BaseException | None = None
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="plan", daemon=True)
        self._thread.start()

    def wait(self, *, more_than: int | None = None, worked: bool = False) -> None:
        """Wait until `todo` has more files than this (worked: more files to read or copy), or the listing has ended.

        None: until the listing has ended. Raises the error that ended it early.
        """

        def is_known() -> bool:
            found = self.num_worked if worked else self.num_files
            return self.is_complete or (more_than is not None and found > more_than)

        with self._changed:
            if not is_known():
                self.go_on()
            self._changed.wait_for(is_known)
        if self._error:
            raise self._error

    def wait_for_listing(self) -> None:
        """Wait until the first files are listed, or the listing has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_complete or self.num_listed > 0)
        if self._error:
            raise self._error

    def go_on(self) -> None:
        """List what follows the first wave. Until then the thread rests: Ray and its workers need the cores to start."""
        self._may_go_on.set()

    def stop(self) -> None:
        self._is_stopped = self._outputs.is_stopped = True
        self.go_on()
        self._thread.join(_STOP_SECONDS)
        if not self._thread.is_alive():
            self._database.close()

    def _run(self) -> None:
        try:
            for wave in self._waves():
                self._plan(wave)
            if not self._is_stopped:
                self._outputs.take_all()  # for the half-written files of a killed run
        except UserError as error:
            self._error = error
        except OSError as error:
            self._error = RunFailed(f"the files cannot be listed: {error}; run the same command again")
        except BaseException as error:  # for the thread that waits
            self._error = error
        finally:
            with self._changed:
                self.is_complete = True
                self._changed.notify_all()

    def _waves(self) -> Iterator[Iterator[Listed]]:
        """The files of the source in waves. --limit chooses from all files, so it needs one wave.

        On a disk that ignores case, and if HEICs get other names, each name is compared with all others: one wave too.
        """
        files = self._files()
        if self._options.limit or self._folds_case or self._options.converts:
            yield files
            return
        until = time.monotonic() + _FIRST_WAVE_SECONDS
        for first in files:
            yield _one_wave(first, files, until)
            until = float("inf")
            self._may_go_on.wait()

    def _files(self) -> Iterator[Listed]:
        """The files of the source that the options let through, until the run ends."""
        # What a file is depends on its neighbours in the folder, not on the options.
        for file, kind in with_kinds(list_files(self._source, stay=True)):
            if self._is_stopped:
                return
            if self._options.takes(file.relative):
                yield file, kind

    def _plan(self, wave: Iterator[Listed]) -> None:
        self._list(wave)
        if self._is_stopped:
            return
        if self._folds_case or self._options.converts:
            _name_collisions(self._database, folds_case=self._folds_case)
        self._compare()
        # With --limit, photos that did not fail before come first.
        limit = "ORDER BY (kind <> 'photo')::INT + has_failed::INT, source LIMIT $limit" if self._options.limit else ""
        self._database.execute(
            f"""
            INSERT INTO todo
            WITH chosen AS (
                SELECT {_TASK}, kind IN $worked AS is_worked FROM compared WHERE NOT is_done AND NOT is_broken {limit}
            )
            SELECT {_TASK}, $first + row_number() OVER (ORDER BY is_worked, source) - 1 FROM chosen
            """,
            {"worked": list(self.worked), "first": self.num_files}
            | ({"limit": self._options.limit} if self._options.limit else {}),
        )
        self._database.execute("INSERT INTO broken SELECT source, known_reason FROM compared WHERE is_broken")
        [(files, worked, size)] = self._database.execute(
            "SELECT count(*), count(*) FILTER (kind IN $worked), coalesce(sum(size), 0) FROM todo WHERE number >= $first",
            {"worked": list(self.worked), "first": self.num_files},
        ).fetchall()
        [(listed, done)] = self._database.execute("SELECT count(*), count(*) FILTER (is_done) FROM compared").fetchall()
        with self._changed:
            self.num_files += files
            self.num_worked += worked
            self.num_bytes += int(size)
            self.num_listed += listed
            self.done += done
            self._changed.notify_all()

    def _list(self, wave: Iterator[Listed]) -> None:
        """Make the table `listed` of the wave, and list the target as far as the wave's names reach."""
        self._database.execute(f"CREATE OR REPLACE TABLE listed ({_COLUMNS})")
        while batch := list(islice(wave, SEGMENT)):
            insert(
                self._database, "listed", pa.Table.from_pylist([self._task_of(*each) for each in batch], schema=TASKS)
            )
            self._outputs.take(
                [name for file, _ in batch for name in (file.relative, self._options.output_of(file.relative))]
            )

    def _task_of(self, file: File, kind: Kind) -> dict[str, object]:
        problem = file.problem
        return vars(
            FileTask(
                source=to_text(file.relative),
                fingerprint=f"{file.size}-{file.version}",
                name=os.fsencode(file.relative),
                kind=kind,
                size=file.size,
                modified=file.modified,
                reason=problem.reason if problem else "",
                detail=problem.detail if problem else "",
                output=to_text(self._options.output_of(file.relative) if kind == Kind.PHOTO else file.relative),
            )
        )

    def _compare(self) -> None:
        """Make the table `compared`: whether each listed file is done, broken for good, failed before, or has our output.

        A sidecar that was skipped was none then: its photo came later.
        """
        self._database.execute(
            f"""
            CREATE OR REPLACE TABLE compared AS
            WITH known AS (
                SELECT * FROM rows SEMI JOIN listed USING (source)
                QUALIFY row_number() OVER (PARTITION BY source ORDER BY number DESC) = 1
            ), joined AS (
                SELECT listed.* EXCLUDE is_ours, known.status, known.settings, known.model, known.reason AS known_reason,
                    there.source IS NOT NULL AS is_there, known.output = listed.output AS is_named_so,
                    coalesce(listed.fingerprint = known.fingerprint, FALSE) AS is_same
                FROM listed LEFT JOIN known USING (source)
                    LEFT JOIN there ON there.source = coalesce(known.output, listed.output)
            )
            SELECT * EXCLUDE (status, settings, model, is_there, is_named_so, is_same),
                coalesce(is_there AND is_named_so AND status IN ('{ENHANCED}', '{COPIED}'), FALSE) AS is_ours,
                coalesce(status = '{FAILED}', FALSE) AS has_failed,
                coalesce(is_same AND CASE status
                    WHEN '{ENHANCED}' THEN is_there AND settings = $enhanced AND model = $model
                    WHEN '{COPIED}' THEN is_there AND settings = $skipped
                    WHEN '{SKIPPED}' THEN settings = $skipped AND kind <> '{Kind.SIDECAR}'
                END, FALSE) AS is_done,
                coalesce(is_same AND status = '{FAILED}' AND settings = $skipped AND known_reason IN $broken, FALSE)
                    AS is_broken
            FROM joined
            """,
            {
                "enhanced": self._options.of_enhanced,
                "skipped": self._options.of_skipped,
                "model": self._model,
                "broken": _BROKEN,
            },
        )


class Outputs:
    """The names of the target's files, listed once and only as far as they are needed, in the table `there`.

    is_held: this process has locked the target, so half-written files of a killed run are removed from it.
    """

    def __init__(self, target: str, database: duckdb.DuckDBPyConnection, *, is_held: bool) -> None:
        self.is_stopped = False
        self._database, self._is_held = database, is_held
        self._is_s3 = storage.is_s3(target)
        # The tasks of this run write files too. Those are younger than the lock, by the clock of the same disk.
        self._started = os.stat(_lock(target)).st_mtime if is_held and not self._is_s3 else 0.0
        is_there = self._is_s3 or os.path.isdir(storage.resolve(target)[1])
        self._files = list_files(target, stay=True) if is_there else iter(())
        self._next = next(self._files, None)
        database.execute("CREATE OR REPLACE TABLE there (source VARCHAR)")

    def take(self, names: list[str]) -> None:
        """List the target up to the last of these names, in the target's own order."""
        self._take(max(map(self._order, names)))

    def take_all(self) -> None:
        self._take(None)

    def _take(self, last: Any) -> None:
        names: list[dict[str, str]] = []
        while self._next and not self.is_stopped and (last is None or self._order(self._next.relative) <= last):
            file = self._next
            if not _LEFTOVER.search(file.relative):
                names.append({"source": to_text(file.relative)})
            elif self._is_held and file.modified < self._started:
                storage.delete(file.uri)
            if len(names) == SEGMENT:
                self._insert(names)
                names = []
            self._next = next(self._files, None)
        self._insert(names)

    def _insert(self, names: list[dict[str, str]]) -> None:
        if names:
            insert(self._database, "there", pa.Table.from_pylist(names, schema=pa.schema([("source", pa.string())])))

    def _order(self, name: str) -> Any:
        """S3 lists keys in the order of their characters; `list_files` lists disks folder by folder."""
        return name if self._is_s3 else name.split("/")


def insert(database: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> None:
    database.register("batch", rows)
    database.execute(f"INSERT INTO {table} SELECT * FROM batch")
    database.unregister("batch")


def _one_wave(first: Listed, files: Iterator[Listed], until: float) -> Iterator[Listed]:
    """The first file and those after it. The wave ends with the first file after the time `until`."""
    yield first
    for file in islice(files, _WAVE_FILES - 1):
        yield file
        if time.monotonic() > until:
            return


def _name_collisions(database: duckdb.DuckDBPyConnection, *, folds_case: bool) -> None:
    """Mark files as problems if their output has the name of an earlier file's, or the target's disk cannot tell the two.

    All listed files are compared, not only those of today's run. A file that keeps its name comes before a HEIC that gets it,
    else the first keeps the name.
    """
    name = "lower(output)" if folds_case else "output"
    why = "the target's disk ignores case, and another file" if folds_case else "another file"
    database.execute(
        f"""
        UPDATE listed SET kind = $kind, reason = $reason, detail = $detail WHERE source NOT IN (
            SELECT arg_min(source, (source <> output, source)) FROM listed GROUP BY {name}
        )
        """,
        {
            "kind": Kind.PROBLEM,
            "reason": Reason.NAME_COLLISION,
            "detail": f"{why} has this name too; rename one of the two",
        },
    )


def _folds_case(target: str) -> bool:
    """Whether the disk of the target ignores case. The lock file must exist."""
    return os.path.exists(os.path.join(os.path.dirname(_lock(target)), LOCK.upper()))


def _lock(target: str) -> str:
    return os.path.join(storage.resolve(target)[1], FOLDER, LOCK)
