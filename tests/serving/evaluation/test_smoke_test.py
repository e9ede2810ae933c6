"""A bundle that cannot serve is found out in a fresh process, before it is compared."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from naturaltone.pipeline.photo.decode import decode
from naturaltone.serving.evaluation import smoke_test as module
from naturaltone.serving.evaluation.smoke_test import FORMATS, SmokeTestFailed, smoke_test
from naturaltone.training.checkpoint import BUNDLE_TENSORS, load_bundle, save_bundle
from naturaltone.training.config import TrainConfig


@pytest.fixture
def jpegs(photo: np.ndarray, to_file: Callable[..., bytes]) -> list[bytes]:
    return [to_file(np.roll(photo, 10 * number, axis=1)) for number in range(5)]


def test_twenty_files_of_all_formats_are_enhanced(bundle_folder: Path, jpegs: list[bytes]) -> None:
    assert smoke_test(bundle_folder, jpegs) == 20


@pytest.mark.parametrize("format", FORMATS)
def test_the_formats_are_real(jpegs: list[bytes], format: str) -> None:
    photo = decode(module._as_format(jpegs[0], format))
    assert photo.format == format and photo.packed.dtype == (np.uint16 if format in ("PNG", "TIFF") else np.uint8)


def test_a_flipped_byte_is_found(bundle_folder: Path, tmp_path: Path, jpegs: list[bytes]) -> None:
    broken = shutil.copytree(bundle_folder, tmp_path / "broken")
    weights = bytearray((broken / BUNDLE_TENSORS).read_bytes())
    weights[-5] ^= 1
    (broken / BUNDLE_TENSORS).write_bytes(weights)
    with pytest.raises(SmokeTestFailed, match=r"it cannot be loaded: BundleError.*checksum"):
        smoke_test(broken, jpegs)


def test_a_model_that_makes_nan_is_found(
    bundle_folder: Path, config: TrainConfig, tmp_path: Path, jpegs: list[bytes]
) -> None:
    bundle = load_bundle(bundle_folder)
    with torch.no_grad():
        bundle.generator.decoder[-1].bias.fill_(float("nan"))
    save_bundle(tmp_path / "nan", bundle.generator, config, working_resolution=96, lineage={"algorithm": "test"})
    with pytest.raises(SmokeTestFailed, match=r"the reference photo.*NaN"):
        smoke_test(tmp_path / "nan", jpegs)


def _die(*_: object) -> None:
    os._exit(9)


def _hang(*_: object) -> None:
    time.sleep(600)


@pytest.mark.parametrize(("end", "what"), [(_die, "the process died"), (_hang, "no end after 3 s")])
def test_a_process_that_dies_or_hangs_is_found(
    bundle_folder: Path, jpegs: list[bytes], monkeypatch: pytest.MonkeyPatch, end: Callable[..., None], what: str
) -> None:
    monkeypatch.setattr(module, "_report", end)
    monkeypatch.setattr(module, "_SECONDS", 3.0 if end is _hang else 100.0)
    with pytest.raises(SmokeTestFailed, match=what):
        smoke_test(bundle_folder, jpegs)
