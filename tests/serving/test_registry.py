"""A model URI names one model, wherever it lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from naturaltone.pipeline import storage
from naturaltone.serving import registry
from naturaltone.serving.enhancer import Enhancer
from naturaltone.training import checkpoint, tracking
from naturaltone.training.checkpoint import BundleError
from naturaltone.training.train import TrainResult


def test_a_model_loads_from_a_folder_and_a_missing_one_is_named(bundle_folder: Path, tmp_path: Path) -> None:
    loaded = Enhancer.load(str(bundle_folder))
    assert loaded.version == f"{bundle_folder.name}-{loaded.bundle.digest}", "other weights have another version"
    with pytest.raises(BundleError, match=str(tmp_path)):
        Enhancer.load(str(tmp_path))


def test_a_model_loads_from_object_storage(bundle_folder: Path, object_store: object) -> None:
    uri = f"{object_store.uri}/models/one"  # type: ignore[attr-defined]
    for file in bundle_folder.iterdir():
        storage.write_bytes(storage.join(uri, file.name), file.read_bytes())
    assert Enhancer.load(uri).version == f"one-{Enhancer.load(str(bundle_folder)).bundle.digest}"
    with pytest.raises(storage.StorageError, match=r"no model\.json there"):
        Enhancer.load(f"{object_store.uri}/models/none")  # type: ignore[attr-defined]


def test_nothing_in_the_registered_model_is_pickled(champion: str) -> None:
    folder, _ = tracking.download_model(champion)
    files = {path.name for path in folder.parent.parent.rglob("*") if path.is_file()}
    assert {checkpoint.BUNDLE_JSON, checkpoint.BUNDLE_TENSORS} <= files
    assert not any(name.endswith((".pkl", ".pickle", ".pt", ".pth")) for name in files)


def test_a_second_model_becomes_the_challenger_not_the_champion(champion: str, trained: TrainResult) -> None:
    second = registry.register(trained.bundle, run_id=trained.run_id)
    assert tracking.aliases() == {"champion": "1", "challenger": second.version}
