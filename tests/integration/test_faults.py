"""Networks, servers, disks and files that fail: the result is the same, or there is none and one clear line says why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from naturaltone import cli
from naturaltone.infra import exit_codes, local
from naturaltone.pipeline import storage
from naturaltone.pipeline.dataset import ingest, shards
from tests.fault_proxy import Faults, fault_proxy
from tests.mutations import mutations, samples

ROOT = Path(__file__).parents[2]

_WAY = """
import hashlib, json, sys
from naturaltone.infra.local import ray_session
from naturaltone.pipeline import stream
from naturaltone.pipeline.dataset import ingest, shards
ingest.WAVE_PHOTOS, shards.SHARD_PHOTOS, stream._CACHE_BYTES = 10, 4, 1
source, store = sys.argv[1:]
with ray_session():
    reports = [ingest.ingest(source, role=role, store=store, long_side=96) for role in shards.ROLES]
    plan = stream.make_plan(shards.open_store(store), batch=4, crop=64, seed=1)
    digest = hashlib.sha256()
    for batch in stream.batches(plan, rank=0, world_size=1, first_step=0, last_step=40):
        for name in stream.COLUMNS:
            digest.update(batch[name].tobytes())
print(json.dumps({"added": [report.added for report in reports], "batches": digest.hexdigest()}))
"""


def way(endpoint: str, source: str, store: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _WAY, source, store],
        env={**os.environ, "AWS_ENDPOINT_URL": endpoint},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def content(uri: str) -> dict[str, bytes]:
    return {file.relative: storage.read_bytes(file.uri) for file in storage.list_files(uri)}


@pytest.fixture
def bucket(object_store: local.ObjectStore, photo_folder: Path, request: pytest.FixtureRequest) -> str:
    """A prefix of its own with the 24 photos below `photos`."""
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
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert finished.returncode == exit_codes.RUN_FAILED, finished.stderr
    assert "the server refuses it (AccessDenied)" in finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr
    assert proxy.injected["refuse_write"] < 20, "not tried again and again"
    assert content(store) == {}


def test_wrong_keys_and_a_missing_bucket_end_the_command_at_once(
    object_store: local.ObjectStore, photo_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["ingest", str(photo_folder), "--role", "input", "--to"]
    assert cli.main([*arguments, "s3://elsewhere/store"]) == exit_codes.WRONG_USAGE
    assert "there is no bucket 'elsewhere'" in capsys.readouterr().err
    with local.environment({"AWS_SECRET_ACCESS_KEY": "wrong"}):
        assert cli.main([*arguments, f"{object_store.uri}/store"]) == exit_codes.WRONG_USAGE
    assert "AWS_SECRET_ACCESS_KEY" in capsys.readouterr().err


def test_a_busy_server_does_not_look_like_a_wrong_place(object_store: local.ObjectStore) -> None:
    endpoint = object_store.environment["AWS_ENDPOINT_URL"]
    uri = storage.join(object_store.uri, "busy", "object")
    storage.write_bytes(uri, b"content")
    with fault_proxy(endpoint, Faults(share=0.25, kinds=("slow_down", "reset"), seed=5)) as proxy:
        with local.environment({"AWS_ENDPOINT_URL": proxy.url}):
            for _ in range(8):
                storage.check_reachable(uri)
                assert [file.relative for file in storage.list_files(uri.rpartition("/")[0])] == ["object"]
                assert storage.exists(uri) and not storage.exists(uri + "s")
                assert storage.read_bytes(uri) == b"content"
    assert sum(proxy.injected.values()) > 3


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
        [sys.executable, "-c", _FULL_DISK, str(target)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == "OSError"
    assert [path.name for path in tmp_path.iterdir()] == ["shard"] and target.stat().st_size == 50_000


@pytest.mark.usefixtures("ray_cluster")
def test_a_thousand_damaged_photos_are_each_in_the_store_or_rejected_with_a_reason(
    photo: np.ndarray, tmp_path: Path
) -> None:
    folder, store = tmp_path / "damaged", tmp_path / "store"
    folder.mkdir()
    for name, data in mutations(samples(photo), 1000, seed=7):
        (folder / name).write_bytes(data)
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    report = ingest.ingest(str(folder), role="input", store=str(store), long_side=96)
    assert report.found == 1000 == report.added + report.duplicates + report.rejects.num_rows
    assert report.added > 100 and report.rejects.num_rows > 300
    assert all(row["reason"] and row["detail"] for row in report.rejects.to_pylist())
    reasons = Counter(report.rejects["reason"].to_pylist())
    assert {"not_an_image", "truncated"} <= set(reasons) and "unreadable" not in reasons
    assert pq.read_table(store / shards.REJECTS).num_rows == report.rejects.num_rows
    workers = [p for p in psutil.Process().children(recursive=True) if p.pid in before and p.is_running()]
    assert max(process.memory_info().rss for process in workers) < 2**30
    opened = shards.open_store(str(store))
    assert sum(1 for split in ("train", "test") for _ in opened.photos("input", split)) == report.added
