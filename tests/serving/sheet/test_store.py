"""The page of a store shows inputs, intermediates and natural photos in rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from naturaltone.pipeline.dataset import shards
from naturaltone.serving.sheet.store import store_page
from tests.stores import make_store


def test_each_row_has_three_pictures_and_the_seed_chooses_the_photos(tmp_path: Path, astronaut: np.ndarray) -> None:
    store = shards.open_store(make_store(tmp_path, astronaut, 40))
    first, again, other = (store_page(store, pairs=3, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert first.count("<figcaption>intermediate") == 3 and first.count("<img") == 9
    assert "row groups" in first
