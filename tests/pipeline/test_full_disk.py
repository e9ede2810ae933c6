"""A full disk keeps the old file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_FULL_DISK = """
import resource, sys
from naturaltone.pipeline import storage
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # what a quota does to a write
storage.write_bytes(sys.argv[1], bytes(50_000))
try:
    storage.write_bytes(sys.argv[1], bytes(200_000))
except OSError as error:
    print(type(error).__name__)
"""


def test_a_disk_that_takes_no_more_keeps_the_old_file_and_no_half_one(tmp_path: Path) -> None:
    target = tmp_path / "shard"
    finished = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(target)], capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == "OSError"
    assert [path.name for path in tmp_path.iterdir()] == ["shard"] and target.stat().st_size == 50_000
