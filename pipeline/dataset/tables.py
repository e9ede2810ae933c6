"""Converts Arrow tables: for Ray's tasks, to and from IPC bytes, and to and from Parquet bytes."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_ROW_GROUP = 2**18
_ARROW_TYPES = {"str": pa.string(), "bytes": pa.binary(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}


def to_tables(rows: list[dict[str, Any]], size: int) -> list[pa.Table]:
    """Cut the rows into tables of `size` rows. `ray.data.from_arrow` makes one task of each table."""
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
    """The table as Parquet. Dictionary columns are written as strings, so each row group has a dictionary of its own names."""
    plain = pa.schema(
        [
            field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
            for field in table.schema
        ],
        metadata=table.schema.metadata,
    )
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, plain, compression="zstd", dictionary_pagesize_limit=2**26) as writer:
        # One slice at a time, because names take ten times the memory of their indices.
        for start in range(0, max(table.num_rows, 1), _ROW_GROUP):
            writer.write_table(table.slice(start, _ROW_GROUP).cast(plain))
    return buffer.getvalue()


def from_parquet(data: bytes, schema: pa.Schema) -> pa.Table:
    """The table in `schema`. Dictionary columns are read as such, so a million names take only the bytes of their indices."""
    dictionaries = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    file = pq.ParquetFile(io.BytesIO(data), read_dictionary=dictionaries)
    schema = schema.with_metadata(file.schema_arrow.metadata)
    groups = [file.read_row_group(number, use_threads=False).cast(schema) for number in range(file.num_row_groups)]
    pa.default_memory_pool().release_unused()  # the memory that the row groups took before their cast
    return pa.concat_tables([schema.empty_table(), *groups])


def schema_of(row: type) -> pa.Schema:
    """The schema of tables with rows of this dataclass. Its fields may be str, bytes, int, float or bool."""
    return pa.schema([(field.name, _ARROW_TYPES[str(field.type)]) for field in dataclasses.fields(row)])
