"""A run is judged on a few photos that it does not train on, whatever their shape."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.photo.stored import encode_jpeg
from naturaltone.training.config import TrainConfig
from naturaltone.training.networks import ToneEnhancer
from naturaltone.training.validation import ValidationPhotos
from tests.stores import make_store


@pytest.fixture
def generator(config: TrainConfig) -> ToneEnhancer:
    torch.manual_seed(0)
    return ToneEnhancer(**config.architecture).eval()


def test_held_out_photos_are_used_if_the_store_has_any(
    tmp_path: Path, astronaut: np.ndarray, generator: ToneEnhancer
) -> None:
    validation = ValidationPhotos.of(shards.open_store(make_store(tmp_path, astronaut, 9)))
    assert len(validation.pairs) == 2, "the two that are held out"
    judgement = validation.judge(generator)
    assert 0 <= judgement.naturalness <= 1 and judgement.sheet.shape == (480, 3 * 320, 3)


def test_a_strip_in_an_older_store_does_not_stop_a_run_at_its_checkpoint(
    tmp_path: Path, astronaut: np.ndarray, generator: ToneEnhancer
) -> None:
    store = shards.open_store(make_store(tmp_path, astronaut, 5))
    strip = encode_jpeg(np.ascontiguousarray(astronaut[:8, :320]))
    row = {"photo_id": "f" * 64, "source": "strip.jpg", "width": 320, "height": 8, "split": "test"}
    photos = pa.Table.from_pylist([row | {"image": strip, "intermediate": strip}], schema=shards.PHOTOS)
    rows = shards.write_shard(store.uri, photos, role="input", algorithm=store.algorithm)
    store = dataclasses.replace(store, row_groups=pa.concat_tables([store.row_groups, rows]))
    validation = ValidationPhotos.of(store)
    assert (16, 320, 3) in [pair[0].shape for pair in validation.pairs]
    assert 0 <= validation.judge(generator).naturalness <= 1
