"""An ingest that is killed, or that uses a failing server, makes the same store as an undisturbed ingest."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from naturaltone.infra import exit_codes, local
from naturaltone.pipeline import storage
from naturaltone.pipeline.dataset import shards
from tests.fault_proxy import Faults, fault_proxy
from tests.stores import content

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def folder(photo_folder: Path, tmp_path: Path) -> Path:
    """A copy of the 24 photos for each test."""
    return Path(shutil.copytree(photo_folder, tmp_path / "photos"))


_INGEST = """
import sys
from naturaltone.infra.local import ray_session
from naturaltone.pipeline.dataset import ingest, shards
ingest.WAVE_PHOTOS, shards.SHARD_PHOTOS = 6, 3
with ray_session():
    ingest.ingest(sys.argv[1], role="natural", store=sys.argv[2], long_side=96)
"""


def test_a_killed_ingest_that_is_run_again_makes_the_store_of_an_undisturbed_one(folder: Path, tmp_path: Path) -> None:
    def start(store: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", _INGEST, str(folder), str(tmp_path / store)],
            stderr=subprocess.DEVNULL,
        )

    assert start("undisturbed").wait() == 0
    killed = start("store")
    while not (tmp_path / "store" / shards.MANIFEST).exists():
        assert killed.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)  # somewhere in the second wave
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert content(tmp_path / "store") != content(tmp_path / "undisturbed")
    assert start("store").wait() == 0
    assert content(tmp_path / "store") == content(tmp_path / "undisturbed")


_WAY = """
import hashlib, json, sys
from naturaltone.infra.local import ray_session
from naturaltone.pipeline.dataset import ingest, shards
from naturaltone.pipeline.stream.batches import read_batches
from naturaltone.pipeline.stream.plan import make_plan
from naturaltone.pipeline.stream.samples import COLUMNS
ingest.WAVE_PHOTOS, shards.SHARD_PHOTOS = 10, 4
source, store = sys.argv[1:]
with ray_session():
    reports = [ingest.ingest(source, role=role, store=store, long_side=96) for role in shards.ROLES]
    plan = make_plan(shards.open_store(store), batch=4, crop=64, seed=1)
    digest = hashlib.sha256()
    for batch in read_batches(plan, rank=0, world_size=1, first_step=0, last_step=40):
        for name in COLUMNS:
            digest.update(batch[name].tobytes())
print(json.dumps({"added": [report.added for report in reports], "batches": digest.hexdigest()}))
"""


def way(endpoint: str, source: str, store: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _WAY, source, store],
        env={**os.environ, "AWS_ENDPOINT_URL": endpoint},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def bucket(object_store: local.ObjectStore, photo_folder: Path, request: pytest.FixtureRequest) -> str:
    """A prefix for each test, with the 24 photos below `photos`."""
    uri = storage.join(object_store.uri, request.node.name[:40])
    for path in photo_folder.rglob("*.*"):
        storage.write_bytes(storage.join(uri, "photos", path.name), path.read_bytes())
    return uri


def test_a_network_that_fails_changes_no_byte_of_store_or_stream(bucket: str, object_store: local.ObjectStore) -> None:
    endpoint = object_store.environment["AWS_ENDPOINT_URL"]
    source, calm, rough = (storage.join(bucket, name) for name in ("photos", "calm", "rough"))
    undisturbed = way(endpoint, source, calm)
    assert undisturbed.returncode == 0, undisturbed.stderr
    with fault_proxy(endpoint, Faults(share=0.05, seed=3, stall_seconds=2.0)) as proxy:
        disturbed = way(proxy.url, source, rough)
    assert disturbed.returncode == 0, disturbed.stderr
    assert sum(proxy.injected.values()) >= 5 and len(proxy.injected) >= 3, proxy.injected
    assert json.loads(disturbed.stdout) == json.loads(undisturbed.stdout)
    assert json.loads(disturbed.stdout)["added"] == [24, 24]
    assert content(rough) == content(calm)


def test_a_server_that_refuses_writes_ends_the_ingest_without_a_partial_object(
    bucket: str, object_store: local.ObjectStore
) -> None:
    endpoint = object_store.environment["AWS_ENDPOINT_URL"]
    source, store = storage.join(bucket, "photos"), storage.join(bucket, "store")
    with fault_proxy(endpoint, Faults(share=1.0, kinds=("refuse_write",))) as proxy:
        finished = subprocess.run(
            [sys.executable, "-m", "naturaltone", "ingest", source, "--role", "natural", "--to", store],
            env={**os.environ, "AWS_ENDPOINT_URL": proxy.url},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert finished.returncode == exit_codes.RUN_FAILED, finished.stderr
    assert "the server refuses it (AccessDenied)" in finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr
    assert proxy.injected["refuse_write"] < 20, "the client gives up"
    assert content(store) == {}
