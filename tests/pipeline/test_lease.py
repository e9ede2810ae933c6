"""One process at a time for a folder, and the second is told who the first is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from naturaltone.infra import local
from naturaltone.pipeline import lease, s3, storage

_HOLDER = """
import sys, time
from naturaltone.pipeline import lease
with lease.hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_is_refused_and_told_who_the_first_is_until_that_one_dies(tmp_path: Path) -> None:
    uri = str(tmp_path / "photos" / "report" / "running.json")
    process = subprocess.Popen([sys.executable, "-c", _HOLDER, uri], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(storage.StorageError, match=rf"'{tmp_path}/photos': process {process.pid} on .*, since 20"):
        with lease.hold(uri):
            pass
    process.kill()
    process.wait()
    process.stdout.close()
    with lease.hold(uri):
        assert json.loads(Path(uri).read_text())["process"] == os.getpid()
    with lease.hold(uri):
        pass


def test_an_objects_lease_is_refused_while_it_is_renewed_and_taken_over_when_it_is_not(
    object_store: local.ObjectStore,
) -> None:
    uri = storage.join(object_store.uri, "leased/report/running.json")
    with lease.hold(uri):
        with pytest.raises(storage.StorageError, match=rf"leased': process {os.getpid()} on .*, is writing there"):
            with lease.hold(uri):
                pass
    assert not storage.exists(uri)
    s3.write(
        uri, json.dumps({"process": 1, "host": "dead", "since": "long ago", "renewed": 0.0, "token": "t"}).encode()
    )
    with lease.hold(uri):
        assert json.loads(s3.read(uri))["process"] == os.getpid()
