"""Plans the run of an archive: every file of the source that the report and the target do not show as done."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import duckdb
import pyarrow as pa

from naturaltone.pipeline import storage
from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.listing import File, Problem, list_files
from naturaltone.pipeline.photo.formats import REFUSED_SUFFIXES, SUFFIXES
from naturaltone.pipeline.reasons import Reason
from naturaltone.serving.archive.names import to_text
from naturaltone.serving.archive.options import ArchiveOptions
from naturaltone.serving.archive.report import COPIED, ENHANCED, FAILED, FOLDER, LOCK, SKIPPED, Entry, Report
from naturaltone.serving.archive.task import TASKS, FileTask, Kind

SEGMENT = 8192  # files in memory at a time
SHOWN_BROKEN = 20

_SIDECAR_SUFFIX = ".xmp"
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


@dataclass(frozen=True, kw_only=True)
class ArchivePlan:
    """The files that a run has to process. The table `todo` of `database` numbers them in order.

    num_files, num_bytes: all files of the table. num_worked: its last files, which are read or copied; the others only
    get an entry in the report. done: the number of files that were done before. broken: photos that failed before and
    have not changed, counted by reason; they are not tried again. first_broken: some of their entries.
    """

    source: str
    target: str
    model: str
    options: ArchiveOptions
    database: duckdb.DuckDBPyConnection
    num_files: int
    num_worked: int
    num_bytes: int
    done: int
    broken: dict[str, int]
    first_broken: list[Entry]

    def segments(self, *, worked: bool) -> Iterator[list[FileTask]]:
        """Yield up to `SEGMENT` files at a time. worked: files to read or copy if True, else files that are only listed."""
        first = self.num_files - self.num_worked
        start, end = (first, self.num_files) if worked else (0, first)
        for begin in range(start, end, SEGMENT):
            yield self._tasks(f"number >= {begin} AND number < {min(begin + SEGMENT, end)} ORDER BY number")

    def spread_photos(self, count: int) -> list[FileTask]:
        """About `count` of the photos to enhance, spread evenly over all of them."""
        photos = self.kinds.get(Kind.PHOTO, (0, 0))[0]
        chosen = "QUALIFY (row_number() OVER (ORDER BY number) - 1) % $1 = 0 ORDER BY number LIMIT $2"
        return self._tasks(f"kind = '{Kind.PHOTO}' {chosen}", [max(1, photos // count), count])

    @property
    def kinds(self) -> dict[str, tuple[int, int]]:
        """The number of files to process and their bytes, by kind."""
        counted = self.database.execute("SELECT kind, count(*), sum(size) FROM todo GROUP BY kind").fetchall()
        return {kind: (count, int(size)) for kind, count, size in counted}

    def _tasks(self, condition: str, parameters: list[int] | None = None) -> list[FileTask]:
        found = self.database.execute(f"SELECT {_TASK} FROM todo WHERE {condition}", parameters).fetchall()
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
    """Plan all files of `source`, except those that the report shows as done and `target` still holds.

    is_held: this process has locked the target, so temporary files of a killed run are removed from it. `StorageError`
    if `source` has no files that `options` let through.
    """
    database = report.database
    _fill(database, "listed", TASKS, _list(source, options))
    if not _count(database, "listed"):
        chosen = " that --include and --exclude let through" if options.include or options.exclude else ""
        raise storage.StorageError(f"'{source}': no files{chosen}; check the path")
    _fill(database, "there", pa.schema([("source", pa.string())]), _outputs(target, is_held=is_held))
    if not storage.is_s3(target) and _folds_case(target):
        _name_collisions(database)
    _compare(database, model, options)
    worked = [Kind.PHOTO, Kind.SIDECAR, *((Kind.OTHER, Kind.REFUSED) if options.copy_others else ())]
    # With --limit, photos that did not fail before come first.
    chosen = "ORDER BY (kind <> 'photo')::INT + has_failed::INT, source LIMIT $limit" if options.limit else ""
    database.execute(
        f"""
        CREATE OR REPLACE TABLE todo AS
        WITH chosen AS (SELECT {_TASK}, kind IN $worked AS is_worked FROM compared WHERE NOT is_done AND NOT is_broken {chosen})
        SELECT * EXCLUDE is_worked, row_number() OVER (ORDER BY is_worked, source) - 1 AS number, is_worked FROM chosen
        """,
        {"worked": worked} | ({"limit": options.limit} if options.limit else {}),
    )
    [(files, worked_files, size)] = database.execute(
        "SELECT count(*), count(*) FILTER (is_worked), coalesce(sum(size), 0) FROM todo"
    ).fetchall()
    broken = database.execute(
        "SELECT known_reason, count(*) FROM compared WHERE is_broken GROUP BY known_reason"
    ).fetchall()
    return ArchivePlan(
        source=source,
        target=target,
        model=model,
        options=options,
        database=database,
        num_files=files,
        num_worked=worked_files,
        num_bytes=int(size),
        done=_count(database, "compared WHERE is_done"),
        broken=dict(broken),
        first_broken=report.spread_rows("source IN (SELECT source FROM compared WHERE is_broken)", SHOWN_BROKEN),
    )


def _compare(database: duckdb.DuckDBPyConnection, model: str, options: ArchiveOptions) -> None:
    """Make the table `compared`: whether each listed file is done, broken for good, failed before, or has our output."""
    database.execute(
        f"""
        CREATE OR REPLACE TABLE compared AS
        WITH joined AS (
            SELECT listed.* EXCLUDE is_ours, newest.status, newest.settings, newest.model, newest.reason AS known_reason,
                there.source IS NOT NULL AS is_there,
                coalesce(listed.fingerprint = newest.fingerprint, FALSE) AS is_same
            FROM listed LEFT JOIN newest USING (source) LEFT JOIN there USING (source)
        )
        SELECT * EXCLUDE (status, settings, model, is_there, is_same),
            coalesce(is_there AND status IN ('{ENHANCED}', '{COPIED}'), FALSE) AS is_ours,
            coalesce(status = '{FAILED}', FALSE) AS has_failed,
            coalesce(is_same AND CASE status
                WHEN '{ENHANCED}' THEN is_there AND settings = $enhanced AND model = $model
                WHEN '{COPIED}' THEN is_there AND settings = $skipped
                WHEN '{SKIPPED}' THEN settings = $skipped
            END, FALSE) AS is_done,
            coalesce(is_same AND status = '{FAILED}' AND settings = $skipped AND known_reason IN $broken, FALSE) AS is_broken
        FROM joined
        """,
        {"enhanced": options.of_enhanced, "skipped": options.of_skipped, "model": model, "broken": _BROKEN},
    )


def _list(source: str, options: ArchiveOptions) -> Iterator[dict[str, object]]:
    """Yield every file of the source that the options let through, as a row of `TASKS`."""
    for file in list_files(source, stay=True):
        if options.takes(file.relative):
            kind, problem = _kind_of(file)
            yield vars(
                FileTask(
                    source=to_text(file.relative),
                    fingerprint=f"{file.size}-{file.version}",
                    name=os.fsencode(file.relative),
                    kind=kind,
                    size=file.size,
                    modified=file.modified,
                    reason=problem.reason if problem else "",
                    detail=problem.detail if problem else "",
                )
            )


def _kind_of(file: File) -> tuple[Kind, Problem | None]:
    lowered, problem = file.relative.lower(), file.problem
    if file.relative.startswith(f"{FOLDER}/"):
        problem = Problem(Reason.NOT_FOLLOWED, "it belongs to the report of an archive that was enhanced before")
    elif not problem and {"", ".", ".."} & set(file.relative.split("/")):  # S3 allows any key
        problem = Problem(Reason.UNSAFE_NAME, "its key is no path below the source; rename the object")
    if problem:
        return Kind.PROBLEM, problem
    if os.path.basename(lowered).startswith("._"):  # a metadata file of macOS
        return Kind.OTHER, None
    if lowered.endswith(SUFFIXES):
        return Kind.PHOTO, None
    if lowered.endswith(REFUSED_SUFFIXES):
        return Kind.REFUSED, None
    return Kind.SIDECAR if lowered.endswith(_SIDECAR_SUFFIX) else Kind.OTHER, None


def _outputs(target: str, *, is_held: bool) -> Iterator[dict[str, object]]:
    """Yield the names of the files in the target. is_held: remove temporary files of a killed run."""
    if storage.is_s3(target) or os.path.isdir(target):
        for file in list_files(target, stay=True):
            if not _LEFTOVER.search(file.relative):
                yield {"source": to_text(file.relative)}
            elif is_held:
                storage.delete(file.uri)


def _name_collisions(database: duckdb.DuckDBPyConnection) -> None:
    """Mark files as problems if the target's disk cannot tell their name from the name of an earlier file.

    All listed files are compared, not only those of today's run, so the first of two files always keeps the name.
    """
    database.execute(
        """
        UPDATE listed SET kind = $kind, reason = $reason, detail = $detail WHERE source NOT IN (
            SELECT min(source) FROM listed GROUP BY lower(source)
        )
        """,
        {
            "kind": Kind.PROBLEM,
            "reason": Reason.NAME_COLLISION,
            "detail": "the target's disk ignores case, and another file has this name too; rename one of the two",
        },
    )


def _folds_case(target: str) -> bool:
    """Whether the disk of the target ignores case. The lock file must exist."""
    lock = os.path.join(storage.resolve(target)[1], FOLDER)
    return os.path.exists(os.path.join(lock, LOCK.upper()))


def _fill(
    database: duckdb.DuckDBPyConnection, table: str, schema: pa.Schema, rows: Iterator[dict[str, object]]
) -> None:
    """Make a table of the rows, with only one segment of them in memory at a time."""
    columns = ", ".join(f"{field.name} {_TYPES[field.type]}" for field in schema)
    database.execute(f"CREATE OR REPLACE TABLE {table} ({columns})")
    while batch := list(islice(rows, SEGMENT)):
        database.register("batch", pa.Table.from_pylist(batch, schema=schema))
        database.execute(f"INSERT INTO {table} SELECT * FROM batch")
        database.unregister("batch")


def _count(database: duckdb.DuckDBPyConnection, rows: str) -> int:
    return int(database.execute(f"SELECT count(*) FROM {rows}").fetchall()[0][0])


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
