"""Reading a report of ten million files, adding to it and writing it needs less than 1 GiB of memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from naturaltone.serving.archive.report import ENTRIES, FOLDER, JSON_LINES, PARQUET

_ROWS, _BATCH = 10_000_000, 100_000
_ADD = """
import re, sys
from naturaltone.serving.archive.report import Entry, Report
with Report(sys.argv[1]) as report:
    for number in range(1000):
        name = f"albums/{number:05}/new.jpg"
        report.add(Entry(source=name, fingerprint="1-2", model="m", settings="{}", output=name, status="failed", reason="raw"))
    report.finish()
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


def test_a_report_of_ten_million_files_needs_less_than_a_gigabyte(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    with pq.ParquetWriter(folder / PARQUET, ENTRIES) as writer:
        for start in range(0, _ROWS, _BATCH):
            names = [f"albums/{number // 1000:05}/IMG_{number}.jpg" for number in range(start, start + _BATCH)]
            fixed = {
                "model": "pretrained-d246ba5e", "settings": '{"strength": 1.0, "quality": null}',
                "status": "enhanced", "reason": "", "detail": "", "bytes": 3_145_728, "megapixels": 12.2, "seconds": 0.3,
            }  # fmt: skip
            columns = {name: pa.repeat(value, _BATCH) for name, value in fixed.items()}
            prints = [f"3145728-17640000{number:011}" for number in range(start, start + _BATCH)]
            columns |= {"source": pa.array(names), "output": pa.array(names), "fingerprint": pa.array(prints)}
            writer.write_table(pa.table({name: columns[name] for name in ENTRIES.names}, schema=ENTRIES))
    done = subprocess.run([sys.executable, "-c", _ADD, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) / 2**20 < 1, "GiB"
    assert pq.read_metadata(folder / PARQUET).num_rows == _ROWS + 1000
    with open(folder / JSON_LINES) as lines:
        first = [json.loads(next(lines)) for _ in range(1001)]
    assert first[1000]["source"] == "albums/00000/new.jpg"
