"""The report of an archive: a row a file, which is the memory of what was done and need not be done again.

It lies in the target as `naturaltone-report/report.parquet` and the same as `report.jsonl`. While a run goes on, each few
seconds' rows go into a part of their own; a run that ends well, and the next one after one that did not, put them together.
"""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from naturaltone.pipeline import storage
from naturaltone.pipeline.dataset.tables import from_parquet, to_parquet
from naturaltone.pipeline.listing import list_files

FOLDER = "naturaltone-report"
PARQUET, JSON_LINES, LOCK = "report.parquet", "report.jsonl", "running.json"
_PARTS = "parts"
_PART_SECONDS = 5.0

ENHANCED, COPIED, SKIPPED, FAILED = "enhanced", "copied", "skipped", "failed"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of the source: what was asked (the key), and what came of it.

    source: its name below the source, as text (`to_text`). fingerprint: changes with its content. settings: what else decides
    the outcome, as JSON. reason: a stable word for why it was skipped or failed; detail: the same for people.
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


_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
SCHEMA = pa.schema([(field.name, _TYPES[str(field.type)]) for field in fields(Entry)])
KEY = ("source", "fingerprint", "model", "settings")


class Report:
    """The rows of earlier runs, and those of this one as they come."""

    def __init__(self, target: str) -> None:
        self._folder = storage.join(target, FOLDER)
        self._parts = (
            [file.uri for file in list_files(storage.join(self._folder, _PARTS)) if file.uri.endswith(".jsonl")]
            if _is_there(storage.join(self._folder, _PARTS))
            else []
        )
        self.table = _newest([self._load(), *(_from_json_lines(storage.read_bytes(part)) for part in self._parts)])
        self._new: list[Entry] = []
        self._unsaved: list[Entry] = []
        self._number = len(self._parts)
        self._saved = time.monotonic()

    def add(self, entry: Entry) -> None:
        """Take one more row; it is in the target a few seconds later."""
        self._new.append(entry)
        self._unsaved.append(entry)
        if time.monotonic() - self._saved > _PART_SECONDS:
            self.save()

    def save(self) -> None:
        """Write what is not in the target yet, as a part."""
        self._saved = time.monotonic()
        if not self._unsaved:
            return
        # Named by the time too: what a killed run left must not be overwritten.
        name = f"{time.time_ns():020}-{self._number:06}.jsonl"
        part = storage.join(self._folder, _PARTS, name)
        storage.write_bytes(part, _to_json_lines(to_table(self._unsaved)))
        self._parts.append(part)
        self._number += 1
        self._unsaved = []

    def finish(self) -> None:
        """Put all rows together into the two files, and remove the parts."""
        self.save()
        if not self._parts and self.table.num_rows and not self._new:
            return
        self.table = _newest([self.table, to_table(self._new)])
        storage.write_bytes(storage.join(self._folder, PARQUET), to_parquet(self.table))
        storage.write_bytes(storage.join(self._folder, JSON_LINES), _to_json_lines(self.table))
        for part in self._parts:
            storage.delete(part)
        storage.delete_empty_folder(storage.join(self._folder, _PARTS))
        self._parts, self._new = [], []

    def _load(self) -> pa.Table:
        uri = storage.join(self._folder, PARQUET)
        if not storage.exists(uri):
            return SCHEMA.empty_table()
        try:
            return from_parquet(storage.read_bytes(uri), SCHEMA)
        except (pa.ArrowException, ValueError, KeyError):
            raise storage.StorageError(
                f"'{uri}': the report is damaged, or of another version; remove it: what was done is found again in the photos"
            ) from None


def to_text(name: str) -> str:
    """A file's name as text that every format holds: bytes that are no UTF-8 as \\xff, marked by // before the name.

    No file's relative name begins with //, so that no two names have one text.
    """
    try:
        name.encode()
        return name
    except UnicodeEncodeError:
        return "//" + name.replace("\\", "\\\\").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def from_text(text: str) -> str:
    """The name that `to_text` made the text of."""
    if not text.startswith("//"):
        return text
    parts = re.sub(rb"\\(\\|x[0-9a-f]{2})", _unescaped, text[2:].encode())
    return parts.decode("utf-8", "surrogateescape")


def _unescaped(match: re.Match[bytes]) -> bytes:
    return b"\\" if match[1] == b"\\" else bytes([int(match[1][1:], 16)])


def _newest(tables: list[pa.Table]) -> pa.Table:
    """The last row of each source, in the order of their names."""
    table = pa.concat_tables(tables)
    if not table.num_rows:
        return table
    numbered = table.append_column("row", pa.array(range(table.num_rows), pa.int64()))
    last = numbered.group_by("source").aggregate([("row", "max")])["row_max"]
    kept = table.take(last)
    return kept.take(pc.sort_indices(kept["source"])).combine_chunks()


def to_table(entries: Iterable[Entry]) -> pa.Table:
    """The entries in `SCHEMA`; what is no text in their details (names of files that are not) becomes \\xff."""
    rows = [asdict(entry) for entry in entries]
    for row in rows:
        row["detail"] = row["detail"].encode("utf-8", "backslashreplace").decode()
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _to_json_lines(table: pa.Table) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist()).encode()


def _from_json_lines(data: bytes) -> pa.Table:
    if not data:
        return SCHEMA.empty_table()
    options = pyarrow.json.ParseOptions(explicit_schema=SCHEMA, newlines_in_values=False)
    return pyarrow.json.read_json(io.BytesIO(data), parse_options=options).select(SCHEMA.names).cast(SCHEMA)


def _is_there(uri: str) -> bool:
    try:
        storage.check_folder(uri)
    except storage.StorageError:
        return False
    return True
