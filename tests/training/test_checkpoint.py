"""Checkpoints and bundles load as they were saved, run no code, and are refused clearly if damaged."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from naturaltone.training import checkpoint
from naturaltone.training.checkpoint import BUNDLE_JSON, BUNDLE_TENSORS, BundleError
from naturaltone.training.config import TrainConfig
from naturaltone.training.measures.niqe import NaturalModel
from naturaltone.training.networks import ToneEnhancer
from naturaltone.training.step import GanStep

CPU = torch.device("cpu")


def assert_same(first: object, second: object) -> None:
    if isinstance(first, torch.Tensor):
        assert isinstance(second, torch.Tensor) and torch.equal(first, second)
    elif isinstance(first, dict):
        assert isinstance(second, dict) and list(first) == list(second)
        for key in first:
            assert_same(first[key], second[key])
    else:
        assert json.dumps(first) == json.dumps(second)  # Adam's tuples come back as lists, which Adam accepts


@pytest.fixture
def gan(config: TrainConfig) -> GanStep:
    """A GanStep after one step, so that the optimisers have a state."""
    crops = np.random.default_rng(0).integers(0, 256, (3, config.batch, config.crop, config.crop, 3), np.uint8)
    gan = GanStep(config, device=CPU)
    gan.step(dict(zip(("input", "intermediate", "natural"), crops, strict=True)), number=0)
    return gan


def test_a_checkpoint_holds_all_networks_their_optimisers_and_the_average(gan: GanStep, config: TrainConfig) -> None:
    files = checkpoint.pack(checkpoint.take_snapshot(gan, step=1))
    snapshot = checkpoint.unpack(files, uri="here")
    assert snapshot.step == 1 and snapshot.config == config
    restored = GanStep(dataclasses.replace(config, seed=5), device=CPU)
    checkpoint.restore(snapshot, restored)
    assert_same(gan.state_dict(), restored.state_dict())
    assert_same(gan.ema.state_dict(), snapshot.generator().state_dict())


def test_a_snapshot_does_not_change_when_training_goes_on(gan: GanStep) -> None:
    snapshot = checkpoint.take_snapshot(gan, step=1)
    before = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
    with torch.no_grad():
        for network in gan.networks.values():
            for parameter in network.parameters():
                parameter.add_(1)
    assert_same(before, snapshot.tensors)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_byte_of_a_checkpoint_is_refused(gan: GanStep, data: st.DataObject) -> None:
    files = checkpoint.pack(checkpoint.take_snapshot(gan, step=1))
    name = data.draw(st.sampled_from(sorted(files)))
    offset = data.draw(st.integers(0, len(files[name]) - 1))
    changed = bytearray(files[name])
    changed[offset] ^= 1 << data.draw(st.integers(0, 7))
    try:
        same = name.endswith(".json") and json.loads(changed) == json.loads(files[name])
    except ValueError:
        same = False
    if same:  # for example a space in place of a line break
        return
    with pytest.raises(BundleError, match="here"):
        checkpoint.unpack({**files, name: bytes(changed)}, uri="here")


def test_a_bundle_gives_the_same_pictures_after_loading(tmp_path: Path, config: TrainConfig) -> None:
    generator = ToneEnhancer(**config.architecture)
    torch.nn.init.normal_(generator.decoder[-1].weight)
    checkpoint.save_bundle(tmp_path, generator, config, working_resolution=192, lineage={"run": "a"})
    loaded = checkpoint.load_bundle(tmp_path)
    x = torch.rand(1, 3, 40, 56)
    assert torch.equal(loaded.generator(x), generator(x))
    assert loaded.working_resolution == 192 and loaded.description["lineage"] == {"run": "a"}


def test_subnormal_weights_are_flushed(tmp_path: Path, config: TrainConfig) -> None:
    generator = ToneEnhancer(**config.architecture)
    with torch.no_grad():
        generator.encoder[0].weight.fill_(1e-40)
    checkpoint.save_bundle(tmp_path, generator, config, working_resolution=192, lineage={})
    assert (checkpoint.load_bundle(tmp_path).generator.encoder[0].weight == 0).all()


@pytest.fixture
def broken(tmp_path: Path, bundle_folder: Path) -> Path:
    return Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))


def test_a_folder_without_a_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no model\.json here"):
        checkpoint.load_bundle(tmp_path)


def test_another_format_version_is_refused_with_the_remedy(broken: Path) -> None:
    document = json.loads((broken / BUNDLE_JSON).read_text()) | {"format_version": 99}
    (broken / BUNDLE_JSON).write_text(json.dumps(document))
    expected = f"format version 99, this version reads {checkpoint.FORMAT_VERSION}; use the naturaltone that wrote it"
    with pytest.raises(BundleError, match=expected):
        checkpoint.load_bundle(broken)


def test_a_cut_file_is_refused(broken: Path) -> None:
    data = (broken / BUNDLE_TENSORS).read_bytes()
    (broken / BUNDLE_TENSORS).write_bytes(data[: len(data) // 2])
    with pytest.raises(BundleError, match=r"damaged, its checksum .*; download it again"):
        checkpoint.load_bundle(broken)


def test_a_bundle_keeps_niqes_model_of_natural_photos(tmp_path: Path, config: TrainConfig) -> None:
    generator = ToneEnhancer(**config.architecture)
    natural = NaturalModel(mean=np.arange(36.0), covariance=np.eye(36) * 1.1, num_patches=99)
    checkpoint.save_bundle(tmp_path, generator, config, working_resolution=192, lineage={}, natural_model=natural)
    loaded = checkpoint.load_bundle(tmp_path).natural_model
    assert loaded is not None and loaded.num_patches == 99
    assert np.array_equal(loaded.mean, natural.mean) and np.array_equal(loaded.covariance, natural.covariance)


def test_a_pickle_in_place_of_the_weights_is_not_run(broken: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (broken.joinpath("sprung").touch, ())

    (broken / BUNDLE_TENSORS).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(BundleError):
        checkpoint.load_bundle(broken)
    assert not (broken / "sprung").exists()
