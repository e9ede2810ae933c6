"""Fixtures that the tests of evaluations share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from naturaltone.pipeline import tone
from naturaltone.pipeline.dataset import shards
from naturaltone.serving.evaluation.photos import EvaluationPhoto
from naturaltone.training.checkpoint import Bundle
from naturaltone.training.measures import niqe
from tests.stores import LONG_SIDE, windows

Add = Callable[..., shards.Store]


@pytest.fixture(scope="session")
def photos(photo: np.ndarray) -> list[EvaluationPhoto]:
    return [EvaluationPhoto(name=name, input=pixels) for name, pixels in (("a", photo), ("b", photo[::-1].copy() // 2))]


@pytest.fixture(scope="session")
def judge(bundle: Bundle, astronaut: np.ndarray) -> Bundle:
    """The bundle with a model of natural photos, as training saves it."""
    windows = [astronaut[top : top + 288, left : left + 288] for top in (0, 100, 200) for left in range(0, 224, 20)]
    return replace(bundle, natural_model=niqe.fit(windows))


@pytest.fixture
def add(tmp_path: Path, astronaut: np.ndarray) -> Add:
    """`add("input", 0, 5)`: adds five held-out photos to the store, from number 0 on; returns the store."""
    empty = shards.empty_store(str(tmp_path / "store"), algorithm=tone.algorithm_id(), long_side=LONG_SIDE)

    def run(role: str, first: int, count: int) -> shards.Store:
        photos = windows(astronaut, role, first, count).to_pandas().assign(split="test")
        rows = shards.write_shard(
            empty.uri, pa.Table.from_pandas(photos, schema=shards.PHOTOS), role=role, algorithm=empty.algorithm
        )
        return shards.update_manifest(
            empty, lambda old: dataclasses.replace(old, row_groups=pa.concat_tables([old.row_groups, rows]))
        )

    return run
