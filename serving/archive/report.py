"""The report of an archive: one row for each file. The next run reads it to see what is done.

The target holds it as `naturaltone-report/report.parquet`, and the same rows as `report.jsonl`. During a run, the rows
of every few seconds go into a part file. The end of the run merges all parts into the two files. If a run was killed,
the end of the next run merges its parts.

An archive may have ten million files. That many rows do not fit into memory as Python objects, so DuckDB keeps them on
disk, sorts and joins them, and writes both files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from types import TracebackType

import duckdb
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from naturaltone.pipeline import storage
from naturaltone.pipeline.dataset.tables import schema_of
from naturaltone.pipeline.errors import RunFailed
from naturaltone.pipeline.listing import list_files
from naturaltone.pipeline.private_folder import scratch_folder

FOLDER = "naturaltone-report"
PARQUET, JSON_LINES, LOCK = "report.parquet", "report.jsonl", "running.json"
_PARTS = "parts"
_PART_SECONDS, _PART_ROWS = 5.0, 20_000  # rows that are not in a part yet are Python objects in memory
_MEMORY = "400MB"  # the most that DuckDB uses; larger queries spill to disk
_DOWNLOAD_BYTES = 2**24
_DISK_ERRORS = (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.TransactionException)

ENHANCED, COPIED, SKIPPED, FAILED = "enhanced", "copied", "skipped", "failed"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of the source, and what was done to it.

    source: its name below the source folder, as text (`names.to_text`). fingerprint: changes with its content. model:
    the version of the model. settings: the options that decide the outcome, as JSON. reason: why the file was left
    alone or failed (`Reason`). detail: the reason for people; of an
    enhanced photo, what it keeps beside the photo. bytes: the size of the source. seconds: the time of the
    work.
    """

    source: str
    fingerprint: str
    model: str
    settings: str
    output: str
    status: str
    reason: str = ""
    detail: str = ""
    bytes: int = 0
    megapixels: float = 0.0
    seconds: float = 0.0


ENTRIES = schema_of(Entry)
_COLUMNS = ", ".join(ENTRIES.names)
_TYPES = {pa.string(): "VARCHAR", pa.int64(): "BIGINT", pa.float64(): "DOUBLE"}


class Report:
    """The rows of earlier runs and of this run; a context manager.

    `StorageError` if the files of an earlier report are damaged. database: its view `newest` holds the last row of each
    source. The plan adds its own tables.
    """

    def __init__(self, target: str) -> None:
        self._folder = storage.join(target, FOLDER)
        self._held = contextlib.ExitStack()
        self._scratch = self._held.enter_context(scratch_folder("reports"))
        self.database = duckdb.connect(
            os.path.join(self._scratch, "report.duckdb"),
            config={"memory_limit": _MEMORY, "temp_directory": os.path.join(self._scratch, "spilled")},
        )
        self.database.execute("SET enable_progress_bar = false")
        columns = ", ".join(f"{field.name} {_TYPES[field.type]}" for field in ENTRIES)
        # The row with the larger number is newer.
        self.database.execute(f"CREATE TABLE rows ({columns}, number BIGINT)")
        self.database.execute(
            f"CREATE VIEW newest AS SELECT {_COLUMNS} FROM rows "
            "QUALIFY row_number() OVER (PARTITION BY source ORDER BY number DESC) = 1"
        )
        self._number = 0
        self._has_file = self._load()
        parts = storage.join(self._folder, _PARTS)
        self._parts = [file.uri for file in list_files(parts)] if _is_folder(parts) else []
        for part in self._parts:
            self._insert(_from_json_lines(storage.read_bytes(part)))
        self._unsaved: list[Entry] = []
        self._saved = time.monotonic()

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.database.close()
        self._held.close()

    def rows(self, condition: str = "TRUE") -> Iterator[Entry]:
        """Yield the newest row of each source, sorted by source. condition: only rows that meet this SQL condition."""
        found = self.database.cursor().execute(f"SELECT * FROM newest WHERE {condition} ORDER BY source")
        while batch := found.fetchmany(4096):
            for row in batch:
                yield Entry(**dict(zip(ENTRIES.names, row, strict=True)))

    def spread_rows(self, condition: str, count: int) -> list[Entry]:
        """About `count` of the newest rows that meet an SQL condition, spread evenly over the sorted names."""
        found = self.database.execute(
            f"""
            WITH numbered AS (SELECT *, row_number() OVER (ORDER BY source) - 1 AS number FROM newest WHERE {condition})
            SELECT {_COLUMNS} FROM numbered WHERE number % greatest(1, (SELECT count(*) FROM numbered) // $1) = 0
            ORDER BY source LIMIT $1
            """,
            [count],
        )
        return [Entry(**dict(zip(ENTRIES.names, row, strict=True))) for row in found.fetchall()]

    def add(self, entry: Entry) -> None:
        """Add one row. Rows are written to the target every few seconds, or as soon as they are many."""
        self._unsaved.append(entry)
        if len(self._unsaved) >= _PART_ROWS or time.monotonic() - self._saved > _PART_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the rows that are not in the target yet, as a part file."""
        self._saved = time.monotonic()
        if not self._unsaved:
            return
        table = to_table(self._unsaved)
        # The name holds the time too, so that no part of a killed run is overwritten.
        part = storage.join(self._folder, _PARTS, f"{time.time_ns():020}-{len(self._parts):06}.jsonl")
        path = os.path.join(self._scratch, "part.jsonl")
        self.database.register("batch", table)
        self._write("SELECT * FROM batch", path, "FORMAT json")
        self.database.unregister("batch")
        storage.write_file(part, path)
        self._insert(table)
        self._parts.append(part)
        self._unsaved = []

    def finish(self) -> None:
        """Write all rows into the two files of the report, and remove the parts."""
        self.save()
        if not self._parts and self._has_file:
            return
        parquet, json_lines = (os.path.join(self._scratch, name) for name in (PARQUET, JSON_LINES))
        self._write("SELECT * FROM newest ORDER BY source", parquet, "FORMAT parquet, COMPRESSION zstd")
        self._write(f"SELECT * FROM read_parquet('{_quoted(parquet)}')", json_lines, "FORMAT json")
        for name, path in ((PARQUET, parquet), (JSON_LINES, json_lines)):
            storage.write_file(storage.join(self._folder, name), path)
        for part in self._parts:
            storage.delete(part)
        storage.delete_empty_folder(storage.join(self._folder, _PARTS))
        self._parts, self._has_file = [], True

    def _load(self) -> bool:
        """Read the report of earlier runs; returns whether it exists."""
        uri = storage.join(self._folder, PARQUET)
        if not storage.exists(uri):
            return False
        path = storage.resolve(uri)[1]
        if storage.is_s3(uri):
            path = os.path.join(self._scratch, "earlier.parquet")
            storage.read_with(uri, lambda file: _download(file, path))
        try:
            if missing := set(ENTRIES.names) - set(pq.read_schema(path).names):
                raise KeyError(f"it lacks {', '.join(sorted(missing))}")
            self.database.execute(f"INSERT INTO rows SELECT {_COLUMNS}, 0 FROM read_parquet('{_quoted(path)}')")
        except _DISK_ERRORS:  # the report is not damaged
            raise
        except (pa.ArrowException, duckdb.Error, ValueError, KeyError) as error:
            raise storage.StorageError(
                f"'{uri}': the report is damaged or of another version ({str(error).splitlines()[0]}); remove it, and "
                "the next run reads from the photos what was done"
            ) from None
        return True

    def _insert(self, table: pa.Table) -> None:
        # A part may hold two rows of the same source; the later row is newer.
        numbers = pa.array(range(self._number + 1, self._number + 1 + table.num_rows), pa.int64())
        self._number += table.num_rows
        self.database.register("batch", table.append_column("number", numbers))
        self.database.execute(f"INSERT INTO rows SELECT {_COLUMNS}, number FROM batch")
        self.database.unregister("batch")

    def _write(self, query: str, path: str, format: str) -> None:
        self.database.execute(f"COPY ({query}) TO '{_quoted(path)}' ({format})")


@contextlib.contextmanager
def on_scratch_disk() -> Iterator[None]:
    """Turn the errors of DuckDB that a full or broken disk in TMPDIR causes into `RunFailed`."""
    try:
        yield
    except _DISK_ERRORS as error:
        raise RunFailed(
            f"'{tempfile.gettempdir()}': the list of files cannot be kept there ({str(error).splitlines()[0]}); free some "
            "space, or set TMPDIR to a folder on another disk, and run the same command again"
        ) from error


def to_table(entries: Iterable[Entry]) -> pa.Table:
    r"""Convert entries to a table of the schema `ENTRIES`. Bytes in details that are not text become \xff."""
    rows = [asdict(entry) for entry in entries]
    for row in rows:
        row["detail"] = row["detail"].encode("utf-8", "backslashreplace").decode()
    return pa.Table.from_pylist(rows, schema=ENTRIES)


def _from_json_lines(data: bytes) -> pa.Table:
    if not data:
        return ENTRIES.empty_table()
    options = pyarrow.json.ParseOptions(explicit_schema=ENTRIES, newlines_in_values=False)
    return pyarrow.json.read_json(pa.BufferReader(data), parse_options=options).select(ENTRIES.names).cast(ENTRIES)


def _download(file: pa.NativeFile, path: str) -> None:
    with open(path, "wb") as local:
        shutil.copyfileobj(file, local, _DOWNLOAD_BYTES)


def _quoted(text: str) -> str:
    """Escape text for an SQL string."""
    return text.replace("'", "''")


def _is_folder(uri: str) -> bool:
    return storage.is_s3(uri) or os.path.isdir(storage.resolve(uri)[1])
