"""The report of an archive: nothing in it is lost or doubled, whatever the names and whenever a run is killed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from naturaltone.serving.archive import report
from naturaltone.serving.archive.report import FOLDER, Entry, Report


def entry(source: str, status: str = report.ENHANCED, **other: object) -> Entry:
    return Entry(source=source, fingerprint="1-2", model="m", settings="{}", output=source, status=status, **other)  # type: ignore[arg-type]


@given(name=st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name and not name.startswith(b"/")))
def test_any_name_on_a_disk_is_text_and_back(name: bytes) -> None:
    text = report.to_text(os.fsdecode(name))
    text.encode()
    assert os.fsencode(report.from_text(text)) == name


@given(names=st.sets(st.binary(min_size=1, max_size=4).filter(lambda n: b"/" not in n and b"\0" not in n), max_size=20))
def test_no_two_names_have_one_text(names: set[bytes]) -> None:
    assert len({report.to_text(os.fsdecode(name)) for name in names}) == len(names)


def test_what_a_killed_run_saved_is_known_to_the_next(tmp_path: Path) -> None:
    first = Report(str(tmp_path))
    first.add(entry("b"))
    first.save()
    first.add(entry("a", detail='line\nbreak "quoted" ☀'))
    first.save()  # and is killed
    again = Report(str(tmp_path))
    assert again.table["source"].to_pylist() == ["a", "b"]
    assert again.table["detail"].to_pylist()[0] == 'line\nbreak "quoted" ☀'
    again.add(entry("b", report.FAILED, reason="truncated"))
    again.finish()
    folder = tmp_path / FOLDER
    assert sorted(os.listdir(folder)) == [report.JSON_LINES, report.PARQUET]
    rows = pq.read_table(folder / report.PARQUET).to_pylist()
    assert [(row["source"], row["status"]) for row in rows] == [("a", "enhanced"), ("b", "failed")]
    assert [json.loads(line) for line in (folder / report.JSON_LINES).read_text().splitlines()] == rows


def test_a_run_with_nothing_new_writes_nothing(tmp_path: Path) -> None:
    first = Report(str(tmp_path))
    first.add(entry("a"))
    first.finish()
    file = tmp_path / FOLDER / report.PARQUET
    os.utime(file, (1, 1))
    Report(str(tmp_path)).finish()
    assert file.stat().st_mtime == 1


def test_an_empty_run_leaves_a_report_too(tmp_path: Path) -> None:
    Report(str(tmp_path)).finish()
    assert pq.read_table(tmp_path / FOLDER / report.PARQUET).num_rows == 0


@pytest.mark.parametrize("count", [1, 3])
def test_the_last_word_on_a_file_counts(tmp_path: Path, count: int) -> None:
    for number in range(count):
        one = Report(str(tmp_path))
        one.add(entry("a", report.FAILED, reason=f"r{number}"))
        one.add(entry("a", report.ENHANCED, megapixels=float(number)))
        one.finish()
    assert Report(str(tmp_path)).table.select(["status", "megapixels"]).to_pylist() == [
        {"status": "enhanced", "megapixels": count - 1.0}
    ]
