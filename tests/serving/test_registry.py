"""A model URI names one model, wherever it is stored, and a model is registered only once."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient

from naturaltone.pipeline import storage
from naturaltone.pipeline.errors import RunFailed
from naturaltone.serving import registry
from naturaltone.serving.enhancer import Enhancer
from naturaltone.training import checkpoint, model_registry, tracking
from naturaltone.training.checkpoint import BundleError
from naturaltone.training.config import TrainConfig
from naturaltone.training.networks import ToneEnhancer


def test_a_model_loads_from_a_folder_and_a_missing_one_is_an_error(bundle_folder: Path, tmp_path: Path) -> None:
    loaded = Enhancer.load(str(bundle_folder))
    assert loaded.version == f"{bundle_folder.name}-{loaded.bundle.digest}", "other weights have another version"
    with pytest.raises(BundleError, match=str(tmp_path)):
        Enhancer.load(str(tmp_path))


def test_a_model_loads_from_object_storage(bundle_folder: Path, object_store: object) -> None:
    uri = f"{object_store.uri}/models/one"  # type: ignore[attr-defined]
    for file in bundle_folder.iterdir():
        storage.write_bytes(storage.join(uri, file.name), file.read_bytes())
    assert Enhancer.load(uri).version == f"one-{Enhancer.load(str(bundle_folder)).bundle.digest}"
    with pytest.raises(storage.StorageError, match=r"has no model\.json"):
        Enhancer.load(f"{object_store.uri}/models/none")  # type: ignore[attr-defined]


def test_a_registered_model_contains_no_pickle(registered: str, tmp_path: Path) -> None:
    model_registry.download_model(registry.resolve(model_registry.CHAMPION_URI), tmp_path)
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert {checkpoint.BUNDLE_JSON, checkpoint.BUNDLE_TENSORS} <= files
    assert not any(name.endswith((".pkl", ".pickle", ".pt", ".pth")) for name in files)


def test_loading_a_registered_model_leaves_no_temporary_folder(
    registered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    Enhancer.load(model_registry.CHAMPION_URI)
    assert list(tmp_path.iterdir()) == []


def test_a_repeated_command_registers_nothing_new(registered: str, bundle_folder: Path) -> None:
    again = registry.register(bundle_folder, run_id=registered)
    assert again.uri == "models:/naturaltone/1" == registry.resolve(model_registry.CHAMPION_URI)
    assert model_registry.aliases() == {"champion": "1", "challenger": "1"}


def test_a_repeated_command_does_not_restore_a_removed_alias(registered: str, bundle_folder: Path) -> None:
    # A user does this after judging the model.
    MlflowClient().delete_registered_model_alias(model_registry.MODEL_NAME, model_registry.CHALLENGER)
    registry.register(bundle_folder, run_id=registered)
    assert model_registry.aliases() == {"champion": "1"}
    model_registry.set_alias(model_registry.CHALLENGER, "1")


def test_a_registration_that_was_killed_before_the_alias_moved_is_finished(
    registered: str, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    bundle = _other_weights(tmp_path, config)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(model_registry, "set_alias", killed)
        registry.register(bundle, run_id=registered)
    assert model_registry.aliases() == {"champion": "1", "challenger": "1"}
    finished = registry.register(bundle, run_id=registered)
    assert model_registry.aliases() == {"champion": "1", "challenger": finished.version}, (
        "registering moves no champion"
    )
    assert registry.register(bundle, run_id=registered).version == finished.version
    assert registry.resolve(model_registry.CHAMPION_URI) == "models:/naturaltone/1"


def test_a_registry_that_fails_after_the_training_is_a_failed_run_and_no_mistake_of_the_user(
    registered: str, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise tracking.TrackingError("the model registry cannot be used")

    monkeypatch.setattr(model_registry, "aliases", away)
    with pytest.raises(RunFailed, match="the same command again"):
        registry.register(_other_weights(tmp_path, config, seed=9), run_id=registered)


def test_an_alias_is_resolved_to_a_version_number(registered: str) -> None:
    pinned = registry.resolve(model_registry.CHAMPION_URI)
    assert pinned == "models:/naturaltone/1" == registry.resolve(pinned)
    assert Enhancer.load(pinned).version == Enhancer.load(model_registry.CHAMPION_URI).version
    assert registry.resolve("pretrained") == "pretrained"
    with pytest.raises(tracking.TrackingError, match="'models:/naturaltone@nobody' cannot be loaded"):
        registry.resolve("models:/naturaltone@nobody")


def test_latest_is_resolved_to_a_number_too(registered: str) -> None:
    newest = max(model_registry.aliases().values(), key=int)
    assert registry.resolve("models:/naturaltone/latest") == f"models:/naturaltone/{newest}"


def _other_weights(folder: Path, config: TrainConfig, seed: int = 8) -> Path:
    torch.manual_seed(seed)
    generator = ToneEnhancer(**config.architecture)
    checkpoint.save_bundle(folder, generator, config, working_resolution=96, lineage={"algorithm": "test"})
    return folder


def test_the_state_of_a_folder_changes_with_its_files_and_with_nothing_else(
    bundle_folder: Path, config: TrainConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bundle_folder, folder)
    before = registry.state(str(folder))
    (folder / "notes.txt").write_text("not of the model")
    assert registry.state(str(folder)) == before == registry.state(f"{folder}/")
    other = _other_weights(tmp_path / "other", config)
    os.replace(other / checkpoint.BUNDLE_TENSORS, folder / checkpoint.BUNDLE_TENSORS)
    assert registry.state(str(folder)) != before
    (folder / checkpoint.BUNDLE_JSON).unlink()
    with pytest.raises(OSError):
        registry.state(str(folder))


def test_the_state_of_a_prefix_changes_with_its_objects(bundle_folder: Path, object_store: object) -> None:
    uri = f"{object_store.uri}/models/state"  # type: ignore[attr-defined]
    with pytest.raises(storage.StorageError):
        registry.state(uri)
    storage.write_bytes(storage.join(uri, checkpoint.BUNDLE_JSON), b"one")
    with pytest.raises(storage.StorageError, match=f"has no {checkpoint.BUNDLE_TENSORS}"):
        registry.state(uri)
    storage.write_bytes(storage.join(uri, checkpoint.BUNDLE_TENSORS), b"weights")
    before = registry.state(uri)
    assert registry.state(uri) == before
    storage.write_bytes(storage.join(uri, checkpoint.BUNDLE_JSON), b"two")
    assert registry.state(uri) != before


def test_the_state_of_an_alias_is_its_version(registered: str) -> None:
    assert (
        registry.state(model_registry.CHAMPION_URI)
        == "models:/naturaltone/1"
        == registry.state("models:/naturaltone/1")
    )
    assert registry.state(registry.PRETRAINED) == registry.PRETRAINED
    with pytest.raises(tracking.TrackingError):
        registry.state("models:/naturaltone@nobody")


def test_fetched_gives_the_files_and_the_name_and_leaves_nothing(
    registered: str, object_store: object, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{object_store.uri}/models/fetched/"  # type: ignore[attr-defined]
    for file in bundle_folder.iterdir():
        storage.write_bytes(storage.join(uri, file.name), file.read_bytes())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    digest = checkpoint.load_bundle(bundle_folder).digest
    for each, name in (
        (uri, "fetched"),
        (model_registry.CHAMPION_URI, "naturaltone/1"),
        (str(bundle_folder), bundle_folder.name),
    ):
        with registry.fetched(each) as (folder, found):
            assert (checkpoint.load_bundle(folder).digest, found) == (digest, name)
    assert list(tmp_path.iterdir()) == []
    assert bundle_folder.is_dir(), "a folder of the user stays"
