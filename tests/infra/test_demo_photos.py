"""The demo does not evaluate on the photos that it trains on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from naturaltone.infra.demo_photos import write_demo_photos
from naturaltone.infra.dull import FAULTS
from naturaltone.pipeline.photo.decode import decode


def test_unseen_photos_are_neither_inputs_nor_natural(tmp_path: Path) -> None:
    written = write_demo_photos(tmp_path)
    scenes = {
        folder.name: {path.stem.partition("-")[0] for path in folder.iterdir()}
        for folder in (written.inputs, written.natural, written.unseen)
    }
    assert scenes["inputs"] == scenes["natural"] and scenes["inputs"]
    assert scenes["unseen"] and not scenes["unseen"] & scenes["inputs"]


def test_each_natural_photo_has_a_dulled_copy_of_every_fault(tmp_path: Path) -> None:
    written = write_demo_photos(tmp_path)
    for natural in written.natural.iterdir():
        good = decode(natural.read_bytes()).pixels
        for fault in FAULTS:
            dulled = decode((written.inputs / f"{natural.stem}-{fault}.jpg").read_bytes()).pixels
            assert dulled.shape == good.shape and np.abs(dulled.astype(int) - good).mean() > 5


def test_the_demos_photos_are_the_same_each_time(tmp_path: Path) -> None:
    first, second = (write_demo_photos(tmp_path / name) for name in ("first", "second"))
    for path in first.inputs.iterdir():
        assert path.read_bytes() == (second.inputs / path.name).read_bytes()
