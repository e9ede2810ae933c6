"""Arrow tables on their way: between the driver and Ray's tasks, and as Parquet bytes."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def blocks(rows: list[dict[str, Any]], size: int) -> list[pa.Table]:
    """The rows as tables of `size`: what `ray.data.from_arrow` makes a task of each."""
    table = pa.Table.from_pylist(rows)
    return [table.slice(start, size) for start in range(0, table.num_rows, size)]


def to_ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.unify_dictionaries())
    return sink.getvalue().to_pybytes()


def from_ipc(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()


def to_parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def from_parquet(data: bytes, *, dictionaries: tuple[str, ...] = ()) -> pa.Table:
    """The table, its named columns kept as dictionaries: a name for each of a million rows takes four bytes."""
    return pq.read_table(io.BytesIO(data), read_dictionary=list(dictionaries))
