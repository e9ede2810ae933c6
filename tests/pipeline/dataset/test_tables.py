"""Tables keep their content and dictionaries between processes and through Parquet."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pytest

from naturaltone.pipeline.dataset.tables import from_ipc, from_parquet, schema_of, to_ipc, to_parquet, to_tables

_SCHEMA = pa.schema([("name", pa.dictionary(pa.int32(), pa.string())), ("count", pa.int16())])
_TABLE = pa.table({"name": pa.array(["a", "b", "a"]).dictionary_encode(), "count": [1, 2, 3]}, schema=_SCHEMA)


def test_a_table_comes_back_with_its_dictionaries_and_metadata() -> None:
    assert from_ipc(to_ipc(_TABLE)).equals(_TABLE)
    back = from_parquet(to_parquet(_TABLE.replace_schema_metadata({"a": "b"})), _SCHEMA)
    assert back.to_pylist() == _TABLE.to_pylist() and pa.types.is_dictionary(back.schema.field("name").type)
    assert back.schema.metadata[b"a"] == b"b"


def test_an_empty_table_is_a_table_too() -> None:
    assert from_parquet(to_parquet(_SCHEMA.empty_table()), _SCHEMA).num_rows == 0


def test_bytes_that_are_not_parquet_are_a_value_error() -> None:
    with pytest.raises(ValueError):
        from_parquet(b"no Parquet", _SCHEMA)


@pytest.mark.parametrize(("rows", "sizes"), [(5, [2, 2, 1]), (4, [2, 2]), (1, [1])])
def test_rows_are_cut_into_tables(rows: int, sizes: list[int]) -> None:
    assert [table.num_rows for table in to_tables([{"n": n} for n in range(rows)], 2)] == sizes


def test_a_dataclass_is_a_schema() -> None:
    @dataclass
    class Row:
        text: str
        raw: bytes
        number: int
        share: float
        flag: bool

    types = [pa.string(), pa.binary(), pa.int64(), pa.float64(), pa.bool_()]
    assert schema_of(Row).types == types and schema_of(Row).names == ["text", "raw", "number", "share", "flag"]
