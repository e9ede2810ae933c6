"""Shards have small row groups, which the manifest names, and a photo never changes its split."""

from __future__ import annotations

import io
from collections.abc import Callable

import pyarrow.parquet as pq
import pytest

from naturaltone.pipeline import storage, tone
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.stream.plan import make_plan
from tests.stores import photos_of


def test_a_photo_stays_in_its_split_and_a_tenth_is_held_out(to_file: Callable[..., bytes]) -> None:
    assert [shards.split_of(start + "0" * 56) for start in ("00000000", "00000009", "0000000a", "ffffffff")] == [
        "test", "test", "train", "train",
    ]  # fmt: skip
    ids = [f"{number * 2654435761 % 2**32:08x}" + "0" * 56 for number in range(5000)]
    splits = [shards.split_of(photo_id) for photo_id in ids]
    assert 0.08 < splits.count("test") / len(splits) < 0.12


def test_shards_hold_every_photo_at_reduced_size_and_only_inputs_have_intermediates(store: str) -> None:
    inputs, natural = photos_of(store, "input"), photos_of(store, "natural")
    assert len({row["photo_id"] for row in inputs}) == len(inputs) == len(natural) == 24
    for row in inputs:
        assert max(row["width"], row["height"]) == 128 and row["split"] == shards.split_of(row["photo_id"])
    assert all(row["intermediate"] is None for row in natural)


def test_row_groups_are_small_and_the_shard_names_its_algorithm(store: str) -> None:
    opened = shards.open_store(store)
    assert opened.algorithm == tone.algorithm_id(tone.KEYED_LAPLACIAN)
    for file in set(opened.row_groups["file"].to_pylist()):
        metadata = pq.read_metadata(io.BytesIO(storage.read_bytes(storage.join(store, file))))
        assert metadata.metadata[b"algorithm"].decode() == opened.algorithm
        assert all(metadata.row_group(i).num_rows <= shards.ROW_GROUP_PHOTOS for i in range(metadata.num_row_groups))


def test_manifest_rows_match_their_files(store: str) -> None:
    for row in shards.open_store(store).row_groups.to_pylist():
        group = shards.read_row_group(store, row["file"], row["row_group"], ["photo_id", "split"])
        assert row["num_photos"] == group.num_rows and set(group["split"].to_pylist()) == {row["split"]}
        assert row["file"].startswith(f"{row['role']}/{row['split']}-")


def test_a_store_without_intermediates_cannot_be_read_as_cached(stores: dict[str, shards.Store]) -> None:
    with pytest.raises(ValueError, match="holds no intermediates; use --intermediates stream"):
        make_plan(stores["stream"], batch=4, crop=32, seed=1, intermediates="cached")
