"""A store whose photos tell their number."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from naturaltone.pipeline import tone
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.photo.stored import encode_jpeg


@pytest.fixture(scope="session")
def numbered(tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray) -> shards.Store:
    """A store of flat pictures that carry their own number, so that a crop tells which photo it is of."""
    uri = str(tmp_path_factory.mktemp("store"))
    tables = []
    for role, count in (("input", 40), ("natural", 27)):
        rows = []
        for number in range(count):
            pixels = np.zeros((48, 64, 3), np.uint8)
            pixels[..., 0] = 5 * number
            pixels[:, :, 1] = 3 * np.arange(64)
            pixels[:, :, 2] = 4 * np.arange(48)[:, None]
            image = encode_jpeg(pixels, quality=100)
            rows.append(
                {
                    "photo_id": f"{number:064x}",
                    "source": "",
                    "width": 64,
                    "height": 48,
                    "split": "train",
                    "image": image,
                }
                | ({"intermediate": image} if role == "input" else {})
            )
        photos = pa.Table.from_pylist(rows, schema=shards.PHOTOS)
        tables.append(shards.write_shard(uri, photos, role=role, algorithm="test"))
    made = shards.empty_store(uri, algorithm=tone.algorithm_id(), long_side=64)
    return shards.update_manifest(made, lambda empty: dataclasses.replace(empty, row_groups=pa.concat_tables(tables)))
