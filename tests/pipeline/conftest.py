"""Shared by the tests of the pipeline: photos to ingest, and an S3 server with conditional writes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from naturaltone.infra import local
from naturaltone.pipeline import lease, s3
from naturaltone.pipeline.dataset import ingest, shards
from tests.ingests import run


@pytest.fixture
def folder(photo_folder: Path, tmp_path: Path) -> Path:
    """A copy of the 24 photos for one test."""
    return Path(shutil.copytree(photo_folder, tmp_path / "photos"))


@pytest.fixture
def small_waves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "WAVE_PHOTOS", 10)
    monkeypatch.setattr(shards, "SHARD_PHOTOS", 4)


@pytest.fixture(scope="session")
def stores(ray_cluster: None, photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, shards.Store]:
    """Two stores of the same photos, with cached and with streamed intermediates."""
    opened = {}
    for kind in shards.INTERMEDIATES:
        store = tmp_path_factory.mktemp(kind) / "store"
        for role in shards.ROLES:
            run(photo_folder, store, role, intermediates=kind)
        opened[kind] = shards.open_store(str(store))
    return opened


@pytest.fixture(scope="session")
def conditional_server() -> Iterator[dict[str, str | None]]:
    """An S3 server with conditional writes, like AWS and unlike the embedded server. Yields its clients' environment."""
    port = local.free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    environment: dict[str, str | None] = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
        lease.PRIVATE_SERVER_VARIABLE: None,
    }
    try:
        local.wait_for_port(port, process)
        with local.environment(environment):
            s3.client().create_bucket(Bucket="bucket")
        yield environment
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def conditional_s3(conditional_server: dict[str, str | None], tmp_path: Path) -> Iterator[str]:
    """A prefix for one test on the `conditional_server`; the environment points to the server."""
    with local.environment(conditional_server):
        yield f"s3://bucket/{tmp_path.name}"
