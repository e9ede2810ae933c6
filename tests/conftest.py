"""Fixtures that the tests share: real photos, a tiny model, and one object store, Ray and training run for the session."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from naturaltone import cli
from naturaltone.infra import exit_codes, local
from naturaltone.pipeline import lease, s3, storage
from naturaltone.serving.enhancer import Enhancer
from naturaltone.training.checkpoint import Bundle, load_bundle, save_bundle
from naturaltone.training.config import TrainConfig, smoke
from naturaltone.training.networks import ToneEnhancer

if TYPE_CHECKING:
    from naturaltone.training.train import TrainResult

settings.register_profile("naturaltone", deadline=None)  # the benchmarks measure times
settings.load_profile("naturaltone")


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker of pytest-xdist one core, and a TMPDIR of its own: it holds slots of memory, logs and attempts."""
    if hasattr(config, "workerinput"):
        # Threads of several workers on the same cores wait for each other in busy loops.
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
        folder = tempfile.TemporaryDirectory(prefix="nt-tests-")  # short: a socket's path may have 107 bytes
        os.chmod(folder.name, 0o711)  # PostgreSQL runs as another user
        config.add_cleanup(folder.cleanup)
        os.environ["TMPDIR"] = tempfile.tempdir = folder.name


# pytest reads `-m` in a hook of the same name; the marks must be set before.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need Ray, and run the others first."""
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ray)
    items.sort(key=lambda item: item.get_closest_marker("ray") is not None)


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """A real photo, 512×512×3 uint8."""
    return np.asarray(
        Image.open(io.BytesIO(files("skimage.data").joinpath("astronaut.png").read_bytes())).convert("RGB")
    )


@pytest.fixture(scope="session")
def photo(astronaut: np.ndarray) -> np.ndarray:
    """A small real photo with sides of odd length, 101×141×3 uint8."""
    return np.ascontiguousarray(astronaut[20:121, 150:291])


@pytest.fixture(scope="session")
def to_file() -> Callable[..., bytes]:
    """Encode pixels with Pillow: `to_file(pixels, "JPEG", **save_options)`."""

    def encode(pixels: np.ndarray, format: str = "JPEG", **options: object) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format=format, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def photo_folder(
    tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray, to_file: Callable[..., bytes]
) -> Path:
    """A folder of 24 different crops of one real photo; two of them are in a subfolder."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "below").mkdir()
    for number in range(24):
        top, left = 13 * number, 11 * (number % 7)
        pixels = np.ascontiguousarray(astronaut[top : top + 120, left : left + 150])
        name = f"below/{number:02}.png" if number % 12 == 0 else f"{number:02}.jpg"
        (folder / name).write_bytes(to_file(pixels, "PNG" if name.endswith("png") else "JPEG", quality=92))
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """`disk(size)`: a folder on a disk of `size` bytes. Another call changes the size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def resize(size: int) -> Path:
        nonlocal mounted
        options = f"size={size},{'remount' if mounted else 'mode=777'}"
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("mounting a small disk takes root")
        mounted = True
        return folder

    yield resize
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def config() -> TrainConfig:
    return smoke()


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory, config: TrainConfig) -> Path:
    """The bundle of a tiny model with random weights, which changes a photo visibly."""
    torch.manual_seed(7)
    generator = ToneEnhancer(**config.architecture)
    torch.nn.init.normal_(generator.decoder[-1].weight, std=0.03)
    torch.nn.init.constant_(generator.decoder[-1].bias, 0.1)
    folder = tmp_path_factory.mktemp("bundle")
    save_bundle(folder, generator, config, working_resolution=96, lineage={"algorithm": "test"})
    return folder


@pytest.fixture(scope="session")
def bundle(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder)


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[local.ObjectStore]:
    """The embedded S3 server. Its keys are in the environment."""
    with local.object_store(tmp_path_factory.mktemp("s3")) as store, local.environment(store.environment):
        yield store


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


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A new MLflow database on SQLite, with its artifacts in the same folder."""
    from naturaltone.training import tracking

    folder = tmp_path_factory.mktemp("mlflow")
    with local.environment({"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}):
        tracking.create_experiment(artifacts=folder / "artifacts")
        yield f"sqlite:///{folder}/mlflow.db"


@pytest.fixture(scope="session")
def ray_cluster(object_store: local.ObjectStore, tracking_uri: str) -> Iterator[None]:
    """One local Ray for all tests. It inherits the keys of the object store and the URI of the tracking server."""
    with local.environment({"RAY_metrics_report_interval_ms": "1000"}), local.ray_session():  # 10,000 otherwise
        yield


@pytest.fixture(scope="session")
def store(ray_cluster: None, object_store: local.ObjectStore, photo_folder: Path) -> str:
    """A store on S3 with 24 photos of each role; their long side is 128 pixels."""
    from naturaltone.pipeline.dataset import ingest, shards

    uri = storage.join(object_store.uri, "store")
    for role in shards.ROLES:
        report = ingest.ingest(str(photo_folder), role=role, store=uri, long_side=128)
        assert (report.found, report.added, report.unchanged, report.rejects.num_rows) == (24, 24, 0, 0)
    return uri


@pytest.fixture(scope="session")
def trained(store: str, config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A run of two workers that stopped after half of its steps and was resumed."""
    from naturaltone.training.train import train

    folder = tmp_path_factory.mktemp("trained")
    half = dataclasses.replace(config, steps=config.steps // 2)
    first = train(store, half, run_name="resumed", workers=2, use_gpu=False, bundle=folder / "half")
    assert first.report.steps == half.steps
    return train(store, config, run_name="resumed", workers=2, use_gpu=False, bundle=folder / "whole")


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, bundle_folder: Path) -> Iterator[str]:
    """The id of a run in a new registry. Its model is the first one in it; no test of another module writes there."""
    from naturaltone.serving import registry
    from naturaltone.training import tracking

    folder = tmp_path_factory.mktemp("registry")
    with local.environment({"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}):
        tracking.create_experiment(artifacts=folder / "artifacts")
        run_id = tracking.start_run(run_name="first", params={}, tags={"store": "store"}, dataset=str(folder))
        assert registry.register(bundle_folder, run_id=run_id).version == "1"
        yield run_id


@pytest.fixture
def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tracking_uri: str
) -> Callable[..., str]:
    """`refused("train", …)`: runs a command that must end with exit code 2 and one line; returns the line.

    Ray does not start.
    """

    @contextlib.contextmanager
    def no_ray() -> Iterator[None]:
        yield

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "ray_session", no_ray)

    def run(*arguments: str) -> str:
        assert cli.main([*arguments]) == exit_codes.WRONG_USAGE
        captured = capsys.readouterr()
        assert captured.err.startswith("naturaltone: ") and captured.err.count("\n") == 1, captured.err
        return captured.err

    return run


@pytest.fixture
def no_photos(tmp_path: Path) -> str:
    """A folder without a photo."""
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "letter.txt").write_text("Dear all")
    return str(folder)


@pytest.fixture(scope="session")
def clean_environment() -> dict[str, str]:
    """The environment for a command that starts its own servers: without the variables of the tests' servers."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_", "RAY_"))}


@pytest.fixture(scope="session")
def enhancer(bundle_folder: Path) -> Enhancer:
    return Enhancer.load(str(bundle_folder))
