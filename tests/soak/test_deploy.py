"""`serve deploy infra/serve/serve.yaml` on a cluster by `ray start`: it serves, scales, and changes models in place."""

from __future__ import annotations

import concurrent.futures
import json
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml

from naturaltone.infra import local
from naturaltone.serving.service import settings
from naturaltone.training.checkpoint import load_bundle, save_bundle
from naturaltone.training.config import TrainConfig
from tests.processes import kill_with_children, start_until_ready

pytestmark = pytest.mark.timeout(600)

CONFIGURATION = Path(__file__).parent.parent.parent / "infra" / "serve" / "serve.yaml"
_BIN = Path(sys.executable).parent
_SECONDS = 180.0


@dataclass
class Cluster:
    process: subprocess.Popen[bytes]
    dashboard: str
    address: str
    environment: dict[str, str]
    folder: Path

    def deploy(self, document: dict[str, Any]) -> None:
        path = self.folder / "serve.yaml"
        path.write_text(yaml.safe_dump(document))
        command = [str(_BIN / "serve"), "deploy", "--address", self.dashboard, str(path)]
        subprocess.run(command, env=self.environment, cwd=self.folder, check=True, capture_output=True, timeout=120)

    def replicas(self) -> set[int]:
        found = set()
        for each in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if (each.cmdline() or [""])[0].startswith("ray::ServeReplica"):
                    found.add(each.pid)
            except psutil.Error:
                pass
        return found

    def enhance(self, photo: bytes) -> tuple[int, str]:
        """The status, and the version or the error."""
        request = urllib.request.Request(f"{self.address}/v1/enhance", photo)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, str(answer.headers["x-model-version"])
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["error"]


@pytest.fixture
def cluster(tmp_path: Path, clean_environment: dict[str, str]) -> Iterator[Cluster]:
    gcs, dashboard, port = local.free_port(), local.free_port(), local.free_port()
    environment = {
        **clean_environment,
        **settings.RAY_SERVE,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "NATURALTONE_CACHE": str(tmp_path / "cache"),
    }
    command = [
        *(str(_BIN / "ray"), "start", "--head", "--block", "--num-cpus", "4"),
        *("--node-ip-address", "127.0.0.1", "--port", str(gcs), "--dashboard-port", str(dashboard)),
        *("--ray-client-server-port", str(local.free_port())),
    ]

    def start() -> subprocess.Popen[bytes]:
        with open(tmp_path / "printed", "wb") as printed:
            return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=printed, stderr=subprocess.STDOUT)

    process = start_until_ready(start, lambda: _listens(dashboard))
    try:
        yield Cluster(process, f"http://127.0.0.1:{dashboard}", f"http://127.0.0.1:{port}", environment, tmp_path)
    finally:
        kill_with_children(process)


def _listens(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5).close()
    except urllib.error.HTTPError:
        return True  # it asks for the token
    except OSError:
        return False
    return True


def wait_until(is_so: Callable[[], object], seconds: float = _SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def test_the_configuration_serves_scales_and_changes_its_model_in_place(
    cluster: Cluster,
    bundle_folder: Path,
    config: TrainConfig,
    tmp_path: Path,
    astronaut: np.ndarray,
    to_file: Callable[..., bytes],
) -> None:
    first = Path(shutil.copytree(bundle_folder, tmp_path / "first"))
    other = load_bundle(bundle_folder)
    with torch.no_grad():
        other.generator.decoder[-1].bias += 0.05
    second = tmp_path / "second"
    save_bundle(second, other.generator, config, working_resolution=other.working_resolution, lineage={"seed": 2})
    photo = to_file(astronaut, quality=90)

    document = yaml.safe_load(CONFIGURATION.read_text())
    port = int(cluster.address.rpartition(":")[2])
    document["http_options"] |= {"host": "127.0.0.1", "port": port}
    [application] = document["applications"]
    application["args"] |= {"replicas": 2, "min_replicas": 1}
    [deployment] = application["deployments"]
    deployment["user_config"] |= {"model": str(first), "look_seconds": 1}
    cluster.deploy(document)
    wait_until(lambda: _enhances(cluster, photo))
    version = cluster.enhance(photo)[1]
    [replica] = cluster.replicas()

    # Four clients are more than one replica's target: Serve starts the second after 30 s.
    answers = _under_load(cluster, photo, lambda: len(cluster.replicas()) == 2)
    assert {what for status, what in answers if status != 200} <= {"overloaded"}

    before = cluster.replicas()
    deployment["user_config"]["model"] = str(second)
    cluster.deploy(document)
    answers = []
    wait_until(lambda: answers.append(cluster.enhance(photo)) or answers[-1][1] not in (version, "overloaded"), 60)
    assert {status for status, _ in answers} == {200}, "no request fails during the change"
    assert replica in cluster.replicas() and cluster.replicas() == before, "no replica was restarted"

    # Another number of replicas starts them anew, one after the other.
    application["args"]["replicas"] = 1
    cluster.deploy(document)
    answers = _under_load(cluster, photo, lambda: len(cluster.replicas()) == 1 and not cluster.replicas() & before)
    refused = {what for status, what in answers if status != 200}
    assert refused <= {"overloaded"}, "a replica that is taken away ends the photos that it has"


def _under_load(cluster: Cluster, photo: bytes, is_so: Callable[[], bool]) -> list[tuple[int, str]]:
    """What four clients, which send a photo again and again, are answered until `is_so`."""
    answers: list[tuple[int, str]] = []
    deadline = time.monotonic() + _SECONDS

    def client() -> None:
        while not is_so():
            assert time.monotonic() < deadline
            answers.append(cluster.enhance(photo))

    with concurrent.futures.ThreadPoolExecutor(4) as clients:
        for each in [clients.submit(client) for _ in range(4)]:
            each.result()
    return answers


def _enhances(cluster: Cluster, photo: bytes) -> bool:
    try:
        return cluster.enhance(photo)[0] == 200
    except (OSError, ValueError):
        return False
