"""What the tests share: real photos, a tiny model, one object store and one Ray for the whole session."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from naturaltone.infra import local
from naturaltone.training.checkpoint import Bundle, load_bundle, save_bundle
from naturaltone.training.config import TrainConfig, smoke
from naturaltone.training.networks import ToneEnhancer

settings.register_profile("naturaltone", deadline=None)  # times are measured by the benchmarks
settings.load_profile("naturaltone")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast ones first."""
    items.sort(key=lambda item: "integration" in item.nodeid)


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """A real photo, 512×512×3 uint8."""
    return np.asarray(
        Image.open(io.BytesIO(files("skimage.data").joinpath("astronaut.png").read_bytes())).convert("RGB")
    )


@pytest.fixture(scope="session")
def photo(astronaut: np.ndarray) -> np.ndarray:
    """A small real photo of odd sides, 101×141×3 uint8."""
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
    """24 different real photos (windows of one), two of them in a folder below."""
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
    """`disk(size)`: a folder on a disk of that many bytes; again, to change its size."""
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
    """A tiny model that changes a photo visibly: random weights, not trained ones."""
    torch.manual_seed(7)
    generator = ToneEnhancer(width=config.width, residual_blocks=config.residual_blocks)
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
    """The embedded S3 server, and its keys in the environment."""
    with local.object_store(tmp_path_factory.mktemp("s3")) as store, local.environment(store.environment):
        yield store


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A fresh MLflow on SQLite with its artifacts beside it."""
    from naturaltone.training import tracking

    folder = tmp_path_factory.mktemp("mlflow")
    with local.environment({"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}):
        tracking.create_experiment(artifacts=folder / "artifacts")
        yield f"sqlite:///{folder}/mlflow.db"


@pytest.fixture(scope="session")
def ray_cluster(object_store: local.ObjectStore, tracking_uri: str) -> Iterator[None]:
    """One local Ray for all tests; it inherits the keys of the store and the tracking server."""
    with local.ray_session():
        yield
