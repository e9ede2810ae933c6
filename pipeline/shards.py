"""The store: Parquet shards of photos in small row groups, and the manifest that names every row group."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage

SCHEMA_VERSION = 1
ROW_GROUP_PHOTOS = 16
SHARD_PHOTOS = 512
TEST_PERCENT = 10
ROLES = ("input", "natural")
MANIFEST = "manifest.parquet"
REJECTS = "rejects.parquet"

PHOTOS = pa.schema(
    [
        ("photo_id", pa.string()),
        ("source", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("split", pa.string()),
        ("image", pa.binary()),
        ("intermediate", pa.binary()),
    ]
)
ROW_GROUPS = pa.schema(
    [
        ("role", pa.string()),
        ("split", pa.string()),
        ("file", pa.string()),
        ("row_group", pa.int32()),
        ("num_photos", pa.int32()),
        ("num_bytes", pa.int64()),
    ]
)
REJECTED = pa.schema([("source", pa.string()), ("role", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


@dataclass(frozen=True, kw_only=True)
class Store:
    """An opened store: its place, its row groups (schema `ROW_GROUPS`), and what every photo in it was made with."""

    uri: str
    row_groups: pa.Table
    algorithm: str
    long_side: int

    def select(self, role: str, split: str | None = None) -> pa.Table:
        """The row groups of one role, in one split or in all."""
        chosen = pc.field("role") == role
        return self.row_groups.filter(chosen if split is None else chosen & (pc.field("split") == split))

    def count(self, role: str, split: str | None = None) -> int:
        return pc.sum(self.select(role, split)["num_photos"]).as_py() or 0

    def photos(self, role: str, split: str, *, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """The photos of one role and split as dicts of schema `PHOTOS`, a row group in memory at a time."""
        rows = (
            row
            for group in self.select(role, split).to_pylist()
            for row in read_row_group(self.uri, group["file"], group["row_group"], PHOTOS.names).to_pylist()
        )
        return islice(rows, limit)


def split_of(photo_id: str) -> str:
    """`test` for TEST_PERCENT % of all photos, else `train`; a function of the content only, stable for ever."""
    return "test" if int(photo_id[:8], 16) % 100 < TEST_PERCENT else "train"


def open_store(uri: str) -> Store:
    """Read the manifest of a store; `StorageError` if there is none that this version reads."""
    storage.check_reachable(uri)
    try:
        table = pq.read_table(io.BytesIO(storage.read_bytes(storage.join(uri, MANIFEST))))
    except OSError:
        raise storage.StorageError(
            f"'{uri}': no store here ({MANIFEST} is missing); make one with `naturaltone ingest SRC --role input --to {uri}`"
        ) from None
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if metadata.get("schema_version") != str(SCHEMA_VERSION):
        raise storage.StorageError(
            f"'{uri}': store schema {metadata.get('schema_version')}, this version reads {SCHEMA_VERSION}; "
            "ingest again into a new store"
        )
    return Store(uri=uri, row_groups=table, algorithm=metadata["algorithm"], long_side=int(metadata["long_side"]))


def save_manifest(store: Store) -> None:
    metadata = {
        "schema_version": str(SCHEMA_VERSION),
        "algorithm": store.algorithm,
        "long_side": str(store.long_side),
    }
    write_table(storage.join(store.uri, MANIFEST), store.row_groups.replace_schema_metadata(metadata))


def write_shard(store_uri: str, file: str, rows: list[dict], *, role: str, algorithm: str) -> pa.Table:
    """Write photos (dicts of schema `PHOTOS`, all of one split) as one shard; returns its rows of the manifest."""
    table = pa.Table.from_pylist(rows, schema=PHOTOS.with_metadata({"algorithm": algorithm}))
    buffer = io.BytesIO()
    # The pictures are JPEG already: compressing them again costs time and saves nothing.
    pq.write_table(table, buffer, row_group_size=ROW_GROUP_PHOTOS, compression="none", use_dictionary=False)
    storage.write_bytes(storage.join(store_uri, file), buffer.getvalue())
    buffer.seek(0)
    metadata = pq.read_metadata(buffer)
    return pa.Table.from_pylist(
        [
            {
                "role": role,
                "split": rows[0]["split"],
                "file": file,
                "row_group": index,
                "num_photos": metadata.row_group(index).num_rows,
                "num_bytes": metadata.row_group(index).total_byte_size,
            }
            for index in range(metadata.num_row_groups)
        ],
        schema=ROW_GROUPS,
    )


def read_row_group(store_uri: str, file: str, row_group: int, columns: Iterable[str]) -> pa.Table:
    """One row group of a shard, only the named columns."""
    filesystem, path = storage.resolve(storage.join(store_uri, file))
    with filesystem.open_input_file(path) as source:
        return pq.ParquetFile(source, pre_buffer=True).read_row_group(row_group, columns=list(columns))


def write_table(uri: str, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    storage.write_bytes(uri, buffer.getvalue())
