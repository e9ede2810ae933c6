"""Forgetting takes out a folder's photos, and no other's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from naturaltone.pipeline import storage
from naturaltone.pipeline.dataset import forget, shards
from tests.ingests import run
from tests.stores import content, names

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_several_ingests_add_up_and_a_forgotten_source_is_gone(folder: Path, tmp_path: Path, small_waves: None) -> None:
    store, second = tmp_path / "store", tmp_path / "second"
    second.mkdir()
    for name in ("01.jpg", "02.jpg"):
        shutil.copy(folder / name, second / f"also {name}")
    shutil.move(folder / "05.jpg", second / "05.jpg")
    run(folder, store)
    run(second, store)
    (folder / "text.jpg").write_text("no photo")
    run(folder, store)
    assert len(names(store)) == 24
    assert forget.forget(str(folder), role="natural", store=str(store)) == 21
    assert names(store) == ["05.jpg", "also 01.jpg", "also 02.jpg"]
    opened = shards.open_store(str(store))
    assert opened.origins["natural"] == (str(second),)
    named = {*opened.row_groups["file"].to_pylist(), *opened.sources["natural"], shards.MANIFEST, shards.REJECTS}
    assert set(content(store)) == named, "neither shards nor lists of the forgotten photos stay behind"
    assert pq.read_table(store / shards.REJECTS).num_rows == 0
    assert run(folder, store).added == 21, "forgotten photos can come back"
    with pytest.raises(storage.StorageError, match="knows no natural photos from there"):
        forget.forget("/never/ingested", role="natural", store=str(store))


def test_forgetting_one_of_two_copies_keeps_every_photo(folder: Path, tmp_path: Path, small_waves: None) -> None:
    store, copy = tmp_path / "store", Path(shutil.copytree(folder, tmp_path / "copy"))
    run(folder, store)
    run(copy, store)
    assert forget.forget(str(folder), role="natural", store=str(store)) == 0
    opened = shards.open_store(str(store))
    rows = [row for split in ("train", "test") for row in opened.photos("natural", split)]
    assert len(rows) == 24 and all(row["source"].startswith(str(copy)) for row in rows)
