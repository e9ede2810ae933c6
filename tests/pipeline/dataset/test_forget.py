"""Forgetting removes a folder's photos, and no others."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from naturaltone.infra import local
from naturaltone.pipeline import lease, storage, tone
from naturaltone.pipeline.dataset import forget, ingest, ledger, shards
from tests.ingests import run
from tests.stores import LONG_SIDE, add, content, names

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
    assert forget.forget(str(folder), role="natural", store=str(store)).photos == 21
    assert names(store) == ["05.jpg", "also 01.jpg", "also 02.jpg"]
    opened = shards.open_store(str(store))
    assert opened.origins["natural"] == (str(second),)
    named = {*opened.row_groups["file"].to_pylist(), *opened.sources["natural"], shards.MANIFEST, shards.REJECTS}
    assert set(content(store)) == named, "neither shards nor lists of the forgotten photos are left"
    assert pq.read_table(store / shards.REJECTS).num_rows == 0
    assert run(folder, store).added == 21, "forgotten photos can come back"
    with pytest.raises(storage.StorageError, match="has no natural photos from this folder"):
        forget.forget("/never/ingested", role="natural", store=str(store))


def test_forgetting_one_of_two_copies_keeps_every_photo(folder: Path, tmp_path: Path, small_waves: None) -> None:
    store, copy = tmp_path / "store", Path(shutil.copytree(folder, tmp_path / "copy"))
    run(folder, store)
    run(copy, store)
    assert forget.forget(str(folder), role="natural", store=str(store)).photos == 0
    opened = shards.open_store(str(store))
    rows = [row for split in ("train", "test") for row in opened.photos("natural", split)]
    assert len(rows) == 24 and all(row["source"].startswith(str(copy)) for row in rows)


def freeze(store: Path, run_name: str) -> set[str]:
    """Start a run as training does, with a copy of the manifest. Returns the shards that the run needs."""
    copy = store / shards.RUNS / run_name / shards.MANIFEST
    copy.parent.mkdir(parents=True)
    shutil.copy(store / shards.MANIFEST, copy)
    return set(shards.open_store(str(store)).row_groups["file"].to_pylist())


def test_a_run_keeps_the_shards_that_it_started_with_until_it_is_deleted(
    folder: Path, tmp_path: Path, small_waves: None
) -> None:
    store, second = tmp_path / "store", tmp_path / "second"
    second.mkdir()
    shutil.move(folder / "05.jpg", second / "05.jpg")
    run(folder, store)
    run(second, store)
    frozen = freeze(store, "first")
    forgotten = forget.forget(str(folder), role="natural", store=str(store))
    assert forgotten.photos == 23 and names(store) == ["05.jpg"]
    assert set(forgotten.kept_for_runs) == {"first"} and forgotten.kept_for_runs["first"] > 0
    assert frozen <= set(content(store)), "the run can still read every batch"
    assert run(second, store).unchanged == 1 and frozen <= set(content(store)), "an ingest does not delete them either"
    shutil.rmtree(store / shards.RUNS)
    run(second, store)
    assert not (frozen - set(shards.open_store(str(store)).row_groups["file"].to_pylist())) & set(content(store))


def test_a_forget_committed_twice_leaves_each_photo_once(
    folder: Path, tmp_path: Path, small_waves: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This happens if the answer to the manifest's write is lost, and the other role is faster than the retry."""
    (folder / "some").mkdir()
    for name in ("01.jpg", "02.jpg"):
        shutil.move(folder / name, folder / "some" / name)
    run(folder, tmp_path / "store")
    update = shards.update_manifest
    monkeypatch.setattr(shards, "update_manifest", lambda store, change: update(store, lambda s: change(change(s))))
    assert forget.forget(str(folder / "some"), role="natural", store=str(tmp_path / "store")).photos == 2
    assert len(names(tmp_path / "store")) == len(set(names(tmp_path / "store"))) == 22
    assert len(shards.open_store(str(tmp_path / "store")).sources["natural"]) == 1


def test_a_forget_that_loses_its_lock_just_before_its_commit_changes_nothing(
    folder: Path, object_store: local.ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = storage.join(object_store.uri, tmp_path.name)
    ingest.ingest(str(folder), role="natural", store=store, long_side=LONG_SIDE)
    update = shards.update_manifest

    def update_late(*arguments: Any) -> shards.Store:
        storage.write_bytes(storage.join(store, "locks", "natural.json"), b'{"token": "other"}')
        monkeypatch.setattr(lease, "_SURE_SECONDS", 0.0)  # as if it took minutes: the next check asks the server
        return update(*arguments)

    monkeypatch.setattr(shards, "update_manifest", update_late)
    with pytest.raises(lease.LeaseLost):
        forget.forget(str(folder), role="natural", store=store)
    assert shards.open_store(store).count("natural") == 24


def test_an_ingest_and_a_forget_cannot_run_at_the_same_time(
    conditional_s3: str, photo_folder: Path, astronaut: np.ndarray
) -> None:
    """During a forget, an ingest would take new photos for duplicates of photos that are being deleted."""
    store = storage.join(conditional_s3, "store")
    add(shards.empty_store(store, algorithm=tone.algorithm_id(), long_side=LONG_SIDE), astronaut, "natural", 0, 4)
    with ledger.hold(store, "natural"):
        with pytest.raises(storage.StorageError, match="is writing there"):
            ingest.ingest(str(photo_folder), role="natural", store=store, long_side=LONG_SIDE)
        with pytest.raises(storage.StorageError, match="is writing there"):
            forget.forget(str(photo_folder), role="natural", store=store)
