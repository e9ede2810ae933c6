"""`naturaltone train` refuses wrong arguments in one line, before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from naturaltone.infra import local
from naturaltone.pipeline import tone
from naturaltone.pipeline.dataset import shards
from naturaltone.training import runs
from naturaltone.training.checkpoint import Snapshot
from naturaltone.training.config import TrainConfig
from tests.checkpoints import snapshots_of, write
from tests.stores import LONG_SIDE, add, make_store


@pytest.fixture(scope="module")
def snapshot(config: TrainConfig) -> Callable[[int], Snapshot]:
    return snapshots_of(config)


@pytest.fixture
def store(tmp_path: Path, astronaut: np.ndarray) -> str:
    return make_store(tmp_path, astronaut, 14)


def train_command(store: str, *more: str) -> list[str]:
    return ["train", store, "--recipe", "smoke", "--run", "first", *more]


def test_train_refuses_stores_with_nothing_to_train_on(
    refused: Callable[..., str], tmp_path: Path, astronaut: np.ndarray
) -> None:
    store = shards.empty_store(str(tmp_path / "store"), algorithm=tone.algorithm_id(), long_side=LONG_SIDE)
    shards.update_manifest(store, lambda empty: empty)
    remedy = f"add some with `naturaltone ingest SRC --role {{}} --to {store.uri}`"
    assert f"no input photos to train on; {remedy.format('input')}" in refused(*train_command(store.uri))
    add(store, astronaut, "input", 2, 4)
    assert f"no natural photos to train on; {remedy.format('natural')}" in refused(*train_command(store.uri))
    add(store, astronaut, "natural", 0, 2)
    assert "no natural photos to train on" in refused(*train_command(store.uri)), "held-out ones are not for training"


def test_train_refuses_a_foreign_folder_even_with_a_manifest(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert "no store here (manifest.parquet is missing); make one with" in refused(
        *train_command(str(tmp_path / "mine"))
    )
    (tmp_path / "mine" / shards.MANIFEST).write_bytes(b"PAR1, no more")
    assert "manifest.parquet cannot be read" in refused(*train_command(str(tmp_path / "mine")))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "mine" / shards.MANIFEST)
    assert "manifest.parquet cannot be read" in refused(*train_command(str(tmp_path / "mine")))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [shards.MANIFEST], (
        "nothing is written into the folder"
    )


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (("--set", "crop=112"), "crop=112: the photos of '{store}' have at most 96 pixels a side; set a smaller crop"),
        (("--set", "batch=1", "--workers", "2"), "batch=1 cannot be shared by 2 workers; set batch to at least 2"),
        (("--set", "batch=1", "--workers", "1-2"), "batch=1 cannot be shared by 2 workers; set batch to at least 2"),
        (("--workers", "0"), "--workers 0: this machine has"),
        (("--workers", "3-1"), "--workers '3-1': MIN must be at least 1 and at most MAX"),
        (("--workers", "0-1"), "--workers '0-1': MIN must be at least 1 and at most MAX"),
        (("--workers", "two"), "--workers 'two': give a number, or MIN-MAX as in 2-8"),
        (("--workers", "1-"), "--workers '1-': give a number, or MIN-MAX as in 2-8"),
        (("--workers", "4096"), "--workers 4096: this machine has"),
        (("--workers", "1-4096"), "--workers 4096: this machine has"),
        (("--set", "widht=8"), "--set 'widht=8': there is no field 'widht'; use one of width, "),
        (("--set", "inverse_layers=40"), "inverse"),
        (("--run", "a/b"), "run name 'a/b': use letters, digits"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_train_refuses_in_one_line(
    more: tuple[str, ...], line: str, refused: Callable[..., str], store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "batch=1" in more:
        monkeypatch.setattr(local, "cores", lambda: 2)
    before = {path for path in Path(store).rglob("*")}
    assert line.format(store=store) in refused(*train_command(store, *more))
    assert {path for path in Path(store).rglob("*")} == before, "before any work"


def test_train_refuses_to_resume_a_run_with_other_settings(
    refused: Callable[..., str], store: str, config: TrainConfig, snapshot: Callable[[int], Snapshot]
) -> None:
    run = runs.begin(store, "first", config)
    assert "was started with lambda_natural 0.02, now 0.5" in refused(
        *train_command(store, "--set", "lambda_natural=0.5")
    )
    write(run.uri, snapshot(6))
    assert "has done 6 steps already" in refused(*train_command(store, "--set", "steps=5"))
    opened = shards.open_store(store)
    shards.update_manifest(opened, lambda old: dataclasses.replace(old, algorithm="clahe 9"))
    assert f"algorithm {opened.algorithm}, now clahe 9" in refused(*train_command(store))


def test_train_refuses_a_folder_that_is_not_a_store(refused, no_photos: str) -> None:  # type: ignore[no-untyped-def]
    assert "no store here" in refused("train", no_photos, "--workers", "1")


def test_train_refuses_unknown_recipes_and_fields(refused, no_photos: str) -> None:  # type: ignore[no-untyped-def]
    assert "recipe 'huge' is unknown; use one of" in refused("train", no_photos, "--recipe", "huge")
    assert "there is no field 'speed'" in refused("train", no_photos, "--set", "speed=9")


def test_train_refuses_a_wrong_number_of_workers(refused, no_photos: str) -> None:  # type: ignore[no-untyped-def]
    too_many = 1 + max(local.num_gpus(), local.cores())
    assert f"--workers {too_many}: this machine has" in refused("train", no_photos, "--workers", str(too_many))
    assert "use 1" in refused("train", no_photos, "--workers", "0")
    for wrong in ("-1", "3-", "two", "3-1", "0-2"):
        assert f"--workers '{wrong}': " in refused("train", no_photos, "--workers", wrong)
