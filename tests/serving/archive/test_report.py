"""The report loses and repeats no row, whenever a run is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from naturaltone.infra import local
from naturaltone.pipeline import storage
from naturaltone.pipeline.private_folder import private_folder
from naturaltone.serving.archive import report
from naturaltone.serving.archive.report import FOLDER, Entry, Report


def entry(source: str, status: str = report.ENHANCED, **other: object) -> Entry:
    return Entry(source=source, fingerprint="1-2", model="m", settings="{}", output=source, status=status, **other)  # type: ignore[arg-type]


def test_the_next_run_knows_the_rows_that_a_killed_run_saved(tmp_path: Path) -> None:
    with Report(str(tmp_path)) as first:
        first.add(entry("b"))
        first.save()
        first.add(entry("a", detail='line\nbreak "quoted" ☀'))
        first.save()  # the run is killed here
    with Report(str(tmp_path)) as again:
        assert [(row.source, row.detail) for row in again.rows()] == [("a", 'line\nbreak "quoted" ☀'), ("b", "")]
        again.add(entry("b", report.FAILED, reason="truncated"))
        again.finish()
    folder = tmp_path / FOLDER
    assert sorted(os.listdir(folder)) == [report.JSON_LINES, report.PARQUET]
    rows = pq.read_table(folder / report.PARQUET).to_pylist()
    assert [(row["source"], row["status"]) for row in rows] == [("a", "enhanced"), ("b", "failed")]
    assert [json.loads(line) for line in (folder / report.JSON_LINES).read_text().splitlines()] == rows


def test_both_files_are_sorted_by_name(tmp_path: Path) -> None:
    names = [f"{number * 7919 % 10007:05}/ü{number}.jpg" for number in range(3000)]
    with Report(str(tmp_path)) as written:
        for name in names:
            written.add(entry(name))
        written.finish()
    rows = pq.read_table(tmp_path / FOLDER / report.PARQUET)["source"].to_pylist()
    lines = (tmp_path / FOLDER / report.JSON_LINES).read_text().splitlines()
    assert rows == sorted(names) == [json.loads(line)["source"] for line in lines]


def test_a_run_with_nothing_new_writes_nothing(tmp_path: Path) -> None:
    with Report(str(tmp_path)) as first:
        first.add(entry("a"))
        first.finish()
    file = tmp_path / FOLDER / report.PARQUET
    os.utime(file, (1, 1))
    with Report(str(tmp_path)) as again:
        again.finish()
    assert file.stat().st_mtime == 1


def test_an_empty_run_leaves_a_report_too(tmp_path: Path) -> None:
    with Report(str(tmp_path)) as empty:
        empty.finish()
    assert pq.read_table(tmp_path / FOLDER / report.PARQUET).num_rows == 0


@pytest.mark.parametrize("count", [1, 3])
def test_the_last_row_of_a_file_counts(tmp_path: Path, count: int) -> None:
    for number in range(count):
        with Report(str(tmp_path)) as one:
            one.add(entry("a", report.FAILED, reason=f"r{number}"))
            one.add(entry("a", report.ENHANCED, megapixels=float(number)))
            one.finish()
    with Report(str(tmp_path)) as last:
        assert [(row.status, row.megapixels) for row in last.rows()] == [("enhanced", count - 1.0)]


@pytest.mark.parametrize("content", [b"", b"PAR1 no more of it", None])
def test_the_error_names_a_damaged_report_and_the_remedy(tmp_path: Path, content: bytes | None) -> None:
    with Report(str(tmp_path)) as good:
        good.add(entry("a"))
        good.finish()
    file = tmp_path / FOLDER / report.PARQUET
    file.write_bytes(file.read_bytes()[:-20] if content is None else content)
    with pytest.raises(storage.StorageError, match=r"report\.parquet': the report is damaged.*remove it"):
        Report(str(tmp_path))


def test_chosen_rows_are_spread_evenly(tmp_path: Path) -> None:
    with Report(str(tmp_path)) as many:
        for number in range(1000):
            many.add(entry(f"{number:04}", report.FAILED if number % 2 else report.ENHANCED))
        found = [row.source for row in many.spread_rows("TRUE", 1)]
        many.save()
        assert found == [] and len(many.spread_rows("status = 'failed'", 10)) == 10
        assert [row.source for row in many.spread_rows("status = 'enhanced'", 5)] == [
            f"{n:04}" for n in range(0, 1000, 200)
        ]


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Report(str(tmp_path / "target")) as one:
        one.add(entry("a"))
        one.finish()
    assert list(private_folder("reports").iterdir()) == []


_KILLED = """
import os, signal, sys
from naturaltone.serving.archive.report import Report
report = Report(sys.argv[1])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_run_removes_the_database_of_a_killed_run_but_not_of_a_living_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = private_folder("reports")
    with Report(str(tmp_path / "living")):
        living = set(folder.iterdir())
        command = [sys.executable, "-c", _KILLED, str(tmp_path / "killed")]
        subprocess.run(command, env={**os.environ, "TMPDIR": str(tmp_path)})
        [killed] = set(folder.iterdir()) - living
        with Report(str(tmp_path / "next")):
            assert living < set(folder.iterdir()) and not killed.exists()


def test_many_rows_are_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_PART_SECONDS", 3600)
    monkeypatch.setattr(report, "_PART_ROWS", 10)
    with Report(str(tmp_path)) as many:
        for number in range(25):
            many.add(entry(f"{number:02}"))
        assert len(list((tmp_path / FOLDER / "parts").iterdir())) == 2


def test_a_report_on_s3_is_never_wholly_in_memory(
    object_store: local.ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = storage.join(object_store.uri, "reported")
    with Report(target) as first:
        first.add(entry("a"))
        first.finish()

    def whole(uri: str) -> bytes:
        raise AssertionError(f"{uri} is read into memory")

    monkeypatch.setattr(storage, "read_bytes", whole)
    monkeypatch.setattr(report, "_DOWNLOAD_BYTES", 100)
    with Report(target) as again:
        assert [row.source for row in again.spread_rows("TRUE", 9)] == ["a"]
