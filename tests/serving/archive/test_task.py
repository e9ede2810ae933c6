"""A task names its file, even if the name is not text."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa

from naturaltone.serving.archive.names import to_text
from naturaltone.serving.archive.task import TASKS, FileTask, Kind


def test_a_task_goes_through_a_table_and_finds_its_file(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg"
    with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
        file.write(b"1")
    task = FileTask(
        source=to_text(os.fsdecode(name)), fingerprint="1-2", name=name, kind=Kind.PHOTO, size=1, modified=2.0
    )
    [row] = pa.Table.from_pylist([vars(task)], schema=TASKS).to_pylist()
    assert FileTask(**row) == task and os.path.exists(FileTask(**row).uri(str(tmp_path)))
