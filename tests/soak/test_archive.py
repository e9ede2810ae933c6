"""An archive has the same bytes if processes are killed or the network fails during the run."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import ray

from naturaltone.infra import local
from naturaltone.pipeline import storage
from naturaltone.pipeline.listing import list_files
from naturaltone.pipeline.photo.formats import SUFFIXES
from naturaltone.serving.archive import job
from naturaltone.serving.archive.job import enhance_archive
from naturaltone.serving.enhancer import Enhancer
from tests.archives import outputs, statuses
from tests.fault_proxy import Faults, fault_proxy

# Alone it takes two minutes, beside the long tests of a cluster six. Only a hang is to end it.
pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(900)]
ToFile = Callable[..., bytes]
_DRIVER = """
import sys
import ray
from naturaltone.infra.local import cores, ray_session
from naturaltone.serving.archive.job import enhance_archive
from naturaltone.serving.enhancer import Enhancer
source, target, model = sys.argv[1:]
enhancer = Enhancer.load(model)
with ray_session():
    # The tests' Ray has three CPUs for each core. Without this limit, too many workers would import torch at once.
    ray.data.DataContext.get_current().execution_options.resource_limits = ray.data.ExecutionResources(cpu=cores())
    print(enhance_archive(source, target, enhancer).counts)
"""


@pytest.fixture(scope="module")
def large_photos(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray, to_file: ToFile) -> Path:
    """A folder of 96 different photos. Each takes 0.1 s to enhance, so that they outlast twenty kills."""
    folder = tmp_path_factory.mktemp("large")
    for number in range(96):
        start, is_mirrored = number % 48, number >= 48
        window = astronaut[start : start + 300, 2 * start : 2 * start + 400]
        window = window[:, ::-1] if is_mirrored else window
        (folder / f"{number:02}.jpg").write_bytes(to_file(cv2.resize(window, (2000, 1500)), quality=85))
    return folder


@pytest.fixture
def cluster_address() -> Iterator[None]:
    """Drivers in other processes use the tests' Ray."""
    with local.environment({"RAY_ADDRESS": ray.get_runtime_context().gcs_address}):
        yield


def test_twenty_kills_change_no_byte_and_no_photo_is_written_twice(
    large_photos: Path, enhancer: Enhancer, bundle_folder: Path, tmp_path: Path, cluster_address: None
) -> None:
    enhance_archive(str(large_photos), str(tmp_path / "calm"), enhancer)
    expected, target, chance = outputs(tmp_path / "calm"), tmp_path / "rough", random.Random(11)
    first_seen: dict[str, int] = {}
    kills = {"driver": 0, "worker": 0}

    def look() -> int:
        for path in target.glob("*.jpg") if target.exists() else ():
            first_seen.setdefault(path.name, path.stat().st_ino)
        return len(first_seen)

    for _ in range(100):  # it ends far earlier
        process = subprocess.Popen(
            [sys.executable, "-c", _DRIVER, str(large_photos), str(target), str(bundle_folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        while process.poll() is None and sum(kills.values()) < 20:
            wanted = look() + chance.randint(0, 3)
            while process.poll() is None and look() < wanted:
                threading.Event().wait(0.01)
            threading.Event().wait(chance.uniform(0, 0.2))
            workers = [p for p in psutil.Process().children(recursive=True) if job._process_chunk.__name__ in _name(p)]
            if workers and kills["worker"] < 16:
                chance.choice(workers).kill()
                kills["worker"] += 1
            if kills["worker"] >= 4 * (kills["driver"] + 1) or wanted >= len(expected) - 6:
                process.kill()
                kills["driver"] += 1
        output = process.communicate(timeout=300)[0]
        look()
        if process.returncode == 0:
            break
    assert process.returncode == 0, output
    assert sum(kills.values()) == 20 and min(kills.values()) >= 4, kills
    assert outputs(target) == expected
    assert {path.name: path.stat().st_ino for path in target.glob("*.jpg")} == first_seen, "each photo is written once"
    assert statuses(target) == {name: ("enhanced", "") for name in expected}
    assert not list(target.rglob("*.tmp"))


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_a_network_that_fails_changes_no_byte_of_an_archive(
    object_store: local.ObjectStore, photo_folder: Path, enhancer: Enhancer, bundle_folder: Path, cluster_address: None
) -> None:
    source = storage.join(object_store.uri, "faulty", "photos")
    for path in photo_folder.rglob("*.*"):
        storage.write_bytes(storage.join(source, path.name), path.read_bytes())
    calm, rough = (storage.join(object_store.uri, "faulty", name) for name in ("calm", "rough"))
    assert enhance_archive(source, calm, enhancer).counts == {"enhanced": 24}
    with fault_proxy(
        object_store.environment["AWS_ENDPOINT_URL"], Faults(share=0.05, seed=4, stall_seconds=2.0)
    ) as proxy:
        process = subprocess.run(
            [sys.executable, "-c", _DRIVER, source, rough, str(bundle_folder)],
            env={**os.environ, "AWS_ENDPOINT_URL": proxy.url},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert process.returncode == 0, process.stderr
    assert "{'enhanced': 24}" in process.stdout and sum(proxy.injected.values()) >= 3

    def photos(uri: str) -> dict[str, bytes]:
        found = list_files(uri, suffixes=SUFFIXES)
        return {file.relative: storage.read_bytes(file.uri) for file in found}

    assert photos(rough) == photos(calm)
    assert enhance_archive(source, rough, enhancer).unchanged == 24
