"""A photo that kills every worker is given up and reported, instead of being tried for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from naturaltone.serving.archive import attempts

_DEADLY = """
import os, sys
from naturaltone.serving.archive import attempts
from naturaltone.serving.archive.file import Job, process_file
from naturaltone.serving.archive.options import ArchiveOptions
from naturaltone.serving.archive.task import FileTask

class Deadly:
    def enhance_file(self, data, **options):
        os._exit(9)  # as when a decoder crashes, or the system kills the worker because memory runs out

source, target = sys.argv[1:]
job = Job(source=source, target=target, model="m", options=ArchiveOptions())
task = FileTask(source="a.jpg", fingerprint="1", name=b"a.jpg", kind="photo", size=1, modified=0.0)
for _ in range(attempts.MOST):
    child = os.fork()
    if not child:
        process_file(task, job, Deadly())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
print(process_file(task, job, Deadly()).reason)
"""


def test_a_photo_that_kills_its_workers_is_given_up(tmp_path: Path, photo: np.ndarray, to_file) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "a.jpg").write_bytes(to_file(photo))
    done = subprocess.run(
        [sys.executable, "-c", _DEADLY, str(tmp_path), str(tmp_path / "target")],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "crashes", done.stderr


def test_attempts_that_end_are_forgotten() -> None:
    for _ in range(2 * attempts.MOST):
        with attempts.attempt("test") as number:
            assert number == 1
