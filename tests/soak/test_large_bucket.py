"""The plan of a large bucket: the work begins before the listing ends, and memory does not grow with the listing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.listing_server import KEYS, serving

_PLAN = """
import json, re, sys
from naturaltone.serving.archive.options import ArchiveOptions
from naturaltone.serving.archive.plan import plan_archive
from naturaltone.serving.archive.report import Report
with Report(sys.argv[1]) as report:
    options = ArchiveOptions()
    with plan_archive("s3://photos/albums", sys.argv[1], report, model="m", options=options, is_held=False) as plan:
        segments = plan.segments()
        first, was_complete = len(next(segments)), plan.is_complete
        others = sum(len(tasks) for tasks in segments)
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
print(json.dumps({"first": first, "was_complete": was_complete, "files": first + others, "mib": peak}))
"""


@pytest.mark.parametrize("count", [100_000])
def test_the_plan_of_a_large_bucket_begins_at_once_and_stays_small(count: int, tmp_path: Path) -> None:
    with serving(count) as server:
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        environment = {**os.environ, **KEYS, "AWS_ENDPOINT_URL": endpoint}
        command = [sys.executable, "-c", _PLAN, str(tmp_path / "target")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout)
    print(measured)
    assert measured["files"] == count and measured["first"] and not measured["was_complete"]
    assert measured["mib"] < 1024
