"""Shared by the tests of the pipeline: photos to ingest, and stores of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

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
