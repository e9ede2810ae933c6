"""A run's folder: the store is frozen when the run begins, and each checkpoint is whole or absent."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from naturaltone.infra import local
from naturaltone.pipeline import s3, storage
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.lease import LeaseLost
from naturaltone.pipeline.stream.plan import make_plan
from naturaltone.pipeline.stream.samples import Batch, read_samples
from naturaltone.training import checkpoint, runs
from naturaltone.training.checkpoint import Snapshot
from naturaltone.training.config import TrainConfig
from naturaltone.training.runs import CheckpointLost, CheckpointWriter
from tests.checkpoints import snapshots_of, write
from tests.fault_proxy import Proxy, fault_proxy
from tests.stores import add, make_store


@pytest.fixture(scope="module")
def snapshot(config: TrainConfig) -> Callable[[int], Snapshot]:
    return snapshots_of(config)


@pytest.fixture
def store(tmp_path: Path, astronaut: np.ndarray) -> str:
    return make_store(tmp_path, astronaut, 14)


def assert_whole(uri: str, step: int) -> None:
    snapshot = runs.read_checkpoint(uri, step)
    weights = [tensor for name, tensor in snapshot.tensors.items() if name.startswith("generator/weights/")]
    assert snapshot.step == step and weights and all((tensor == step).all() for tensor in weights)


def batches(of: shards.Store, config: TrainConfig) -> Batch:
    plan = make_plan(of, batch=config.batch, crop=config.crop, seed=config.seed)
    return read_samples(plan, np.arange(60))


def test_an_ingest_during_a_run_changes_none_of_its_batches(
    store: str, config: TrainConfig, astronaut: np.ndarray
) -> None:
    before = batches(runs.begin(store, "first", config).store, config)
    for role in shards.ROLES:
        add(shards.open_store(store), astronaut, role, 14, 9)
    assert shards.open_store(store).count("input", "train") == 21
    for run in (runs.begin(store, "first", config), runs.open_run(store, "first")):
        assert run.store.count("input", "train") == 12
        after = batches(run.store, config)
        assert all(np.array_equal(before[name], after[name]) for name in before)
    assert runs.begin(store, "second", config).store.count("input", "train") == 21, "a new run takes the new photos"


def test_a_run_that_was_killed_while_it_began_begins_again(
    store: str, config: TrainConfig, astronaut: np.ndarray
) -> None:
    uri = runs.begin(store, "first", config).uri
    Path(uri, runs.RUN_JSON).unlink()  # written last
    add(shards.open_store(store), astronaut, "input", 14, 9)
    other = dataclasses.replace(config, seed=9)
    assert runs.begin(store, "first", other).store.count("input", "train") == 21
    assert json.loads(Path(uri, runs.RUN_JSON).read_text())["config"]["seed"] == 9


def test_a_run_takes_a_change_of_the_store_while_its_manifest_is_copied(
    store: str, config: TrainConfig, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forget changes the manifest and then looks at the runs' copies. An old copy must not be written after that."""
    write_bytes = storage.write_bytes

    def change_first(uri: str, data: bytes, **options: float) -> None:
        if uri.endswith(f"first/{shards.MANIFEST}"):
            monkeypatch.setattr(storage, "write_bytes", write_bytes)
            add(shards.open_store(store), astronaut, "input", 14, 9)
        write_bytes(uri, data, **options)

    monkeypatch.setattr(storage, "write_bytes", change_first)
    assert runs.begin(store, "first", config).store.count("input", "train") == 21


def test_a_run_is_trained_by_one_process_at_a_time(store: str) -> None:
    with runs.hold(store, "first"), runs.hold(store, "second"):
        with pytest.raises(storage.StorageError, match=r"run 'first' of '.*': process \d+ on .*is writing there"):
            with runs.hold(store, "first"):
                pass


def test_a_run_resumes_with_other_steps_or_checkpoints_but_no_other_change(store: str, config: TrainConfig) -> None:
    runs.begin(store, "first", config)
    runs.begin(store, "first", dataclasses.replace(config, steps=99, checkpoint_every=7))
    for field, value, said in (
        ("seed", 3, "seed 0, now 3"),
        ("batch", 8, "batch 4, now 8"),
        ("ema_half_life", 0, "ema_half_life 4000, now 0"),
        ("lambda_identity", 0.5, "lambda_identity 0.0, now 0.5"),
    ):
        with pytest.raises(ValueError) as refused:
            runs.begin(store, "first", dataclasses.replace(config, **{field: value}))
        assert str(refused.value) == (
            f"run 'first' was started with {said}; use the old settings or choose another --run"
        )


def test_a_run_is_not_resumed_on_other_intermediates(store: str, config: TrainConfig) -> None:
    runs.begin(store, "first", config)
    opened = shards.open_store(store)
    shards.update_manifest(opened, lambda old: dataclasses.replace(old, algorithm="clahe 9"))
    with pytest.raises(
        ValueError, match=rf"'first' was started with algorithm {opened.algorithm}, now clahe 9; .*--run"
    ):
        runs.begin(store, "first", config)


def test_a_run_is_not_resumed_to_fewer_steps_than_it_has_done(
    store: str, config: TrainConfig, snapshot: Callable[[int], Snapshot]
) -> None:
    uri = runs.begin(store, "first", config).uri
    write(uri, snapshot(6))
    runs.begin(store, "first", dataclasses.replace(config, steps=6))
    with pytest.raises(ValueError) as refused:
        runs.begin(store, "first", dataclasses.replace(config, steps=5))
    assert str(refused.value) == (
        "run 'first' has done 6 steps already; set steps to at least 6 or choose another --run"
    )


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "a b", "-a", "ü"])
def test_a_run_name_that_is_no_folder_name_is_refused(store: str, config: TrainConfig, name: str) -> None:
    with pytest.raises(ValueError, match=r"use letters, digits"):
        runs.begin(store, name, config)


def test_a_checkpoint_without_its_json_does_not_count(tmp_path: Path, snapshot: Callable[[int], Snapshot]) -> None:
    uri = str(tmp_path / "run")
    assert runs.list_checkpoints(uri) == []
    write(uri, snapshot(4), snapshot(8))
    (tmp_path / "run/checkpoints/step-00000008" / checkpoint.CHECKPOINT_JSON).unlink()
    (tmp_path / "run/checkpoints/notes.txt").write_text("mine")
    (tmp_path / "run/checkpoints/step-00000012").mkdir()
    assert runs.list_checkpoints(uri) == [4]
    write(uri, snapshot(8))
    assert runs.list_checkpoints(uri) == [4, 8]
    assert_whole(uri, 8)


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([0.1, 0.9, 0.2, 0.3, 0.4], [2, 4, 5]),
        ([0.1, 0.2, 0.3, 0.4, 0.9], [3, 4, 5]),
        ([0.9, 0.1, 0.1], [1, 2, 3]),
        ([0.5, 0.5, 0.5, 0.5], [2, 3, 4]),
        ([math.nan, 0.2, 0.1, 0.1, 0.1], [2, 4, 5]),  # nobody judged the first
    ],
)
@pytest.mark.parametrize("resumed", [False, True])
def test_the_newest_two_and_the_best_are_kept_also_after_a_resume(
    scores: list[float], kept: list[int], resumed: bool, tmp_path: Path, snapshot: Callable[[int], Snapshot]
) -> None:
    uri = str(tmp_path)

    def judge(snapshot: Snapshot) -> float:
        return scores[snapshot.step - 1]

    if resumed:
        write(uri, *(snapshot(step) for step in range(1, len(scores) + 1)), score=judge)
    else:
        writer = CheckpointWriter(uri, judge=judge)
        for step in range(1, len(scores) + 1):
            writer.put(snapshot(step))
            while step not in runs.list_checkpoints(uri):
                pass
        writer.close()
    assert runs.list_checkpoints(uri) == kept
    assert all(runs.read_checkpoint(uri, step).score == scores[step - 1] for step in kept)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    names = (checkpoint.CHECKPOINT_JSON, checkpoint.CHECKPOINT_TENSORS)
    assert files == {f"checkpoints/step-{step:08}/{name}" for step in kept for name in names}, "and no other files"


@pytest.fixture
def weather() -> SimpleNamespace:
    """Faults that a test changes while the proxy runs."""
    return SimpleNamespace(share=0.0, kinds=("slow_down", "reset"), seed=1, stall_seconds=0.0)


@pytest.fixture
def proxy(
    object_store: local.ObjectStore, weather: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Proxy]:
    """The object store behind a proxy with the faults of `weather`. Retries come soon."""
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    monkeypatch.setattr(runs, "_RETRY_SECONDS", 0.05)
    with fault_proxy(object_store.environment["AWS_ENDPOINT_URL"], weather) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


def wait_for(happened: Callable[[], object]) -> None:
    """Wait for `happened`; fail the test after a minute, so that it cannot hang."""
    asleep = threading.Event()
    for _ in range(6000):
        if happened():
            return
        asleep.wait(0.01)
    raise AssertionError("did not happen within a minute")


def test_while_the_server_is_away_training_goes_on_and_the_newest_checkpoint_counts(
    proxy: Proxy,
    weather: SimpleNamespace,
    object_store: local.ObjectStore,
    request: pytest.FixtureRequest,
    snapshot: Callable[[int], Snapshot],
) -> None:
    uri = storage.join(object_store.uri, request.node.name)
    writer = CheckpointWriter(uri, judge=lambda _: 0.5)
    weather.share = 1.0
    writer.put(snapshot(1))
    wait_for(lambda: sum(proxy.injected.values()) > 2)
    for step in (2, 3, 4):
        writer.put(snapshot(step))  # returns although the server answers nobody; it comes back only below
    weather.share = 0.0
    writer.close()
    assert runs.list_checkpoints(uri) == [1, 4]
    for step in (1, 4):
        assert_whole(uri, step)


def test_a_server_that_stays_away_costs_a_checkpoint_in_the_end(
    proxy: Proxy,
    weather: SimpleNamespace,
    object_store: local.ObjectStore,
    request: pytest.FixtureRequest,
    snapshot: Callable[[int], Snapshot],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "PATIENCE_SECONDS", 0.5)
    uri = storage.join(object_store.uri, request.node.name)
    writer = CheckpointWriter(uri, judge=lambda _: 0.5)
    weather.share = 1.0
    writer.put(snapshot(1))
    with pytest.raises(CheckpointLost, match=r"checkpoint not written: 's3://.*step-00000001/.*the server failed"):
        writer.close()


def test_a_server_that_refuses_costs_a_checkpoint_at_once_and_the_one_before_is_whole(
    proxy: Proxy,
    weather: SimpleNamespace,
    object_store: local.ObjectStore,
    request: pytest.FixtureRequest,
    snapshot: Callable[[int], Snapshot],
) -> None:
    uri = storage.join(object_store.uri, request.node.name)
    writer = CheckpointWriter(uri, judge=lambda _: 0.5)
    writer.put(snapshot(1))
    wait_for(lambda: runs.list_checkpoints(uri) == [1])
    weather.share, weather.kinds = 1.0, ("refuse_write",)
    writer.put(snapshot(2))
    wait_for(lambda: writer._error)
    for ending in (lambda: writer.put(snapshot(3)), writer.close, writer.close):
        with pytest.raises(CheckpointLost, match=r"checkpoint not written: 's3://.*AccessDenied"):
            ending()
    assert proxy.injected["refuse_write"] == 1, "a refusal is not tried again"
    weather.share = 0.0
    assert runs.list_checkpoints(uri) == [1]
    assert_whole(uri, 1)


def test_a_writer_waits_for_a_server_that_does_not_confirm_the_lock(
    object_store: local.ObjectStore,
    request: pytest.FixtureRequest,
    snapshot: Callable[[int], Snapshot],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "_RETRY_SECONDS", 0.05)
    uri, asked = storage.join(object_store.uri, request.node.name), iter(range(9))

    def check_lock() -> None:
        if next(asked) < 2:
            raise OSError("the server does not answer")

    writer = CheckpointWriter(uri, judge=lambda _: 0.5, check_lock=check_lock)
    writer.put(snapshot(1))
    writer.close()
    assert_whole(uri, 1)


def test_a_writer_that_lost_the_lock_writes_and_deletes_nothing(
    tmp_path: Path, snapshot: Callable[[int], Snapshot]
) -> None:
    def check_lock() -> None:
        raise LeaseLost("another process has the lock")

    write(str(tmp_path), snapshot(1), snapshot(2), snapshot(3))
    before = sorted(tmp_path.rglob("*"))
    writer = CheckpointWriter(str(tmp_path), judge=lambda _: 0.5, check_lock=check_lock)
    writer.put(snapshot(4))
    with pytest.raises(CheckpointLost, match="another process has the lock"):
        writer.close()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_costs_a_checkpoint_and_the_one_before_is_whole(
    disk: Callable[[int], Path], snapshot: Callable[[int], Snapshot]
) -> None:
    size = sum(map(len, checkpoint.pack(snapshot(1)).values()))
    folder = disk(size * 3 // 2)
    writer = CheckpointWriter(str(folder), judge=lambda _: 0.5)
    writer.put(snapshot(1))
    wait_for(lambda: runs.list_checkpoints(str(folder)) == [1])
    writer.put(snapshot(2))
    wait_for(lambda: writer._error)
    for ending in (lambda: writer.put(snapshot(3)), writer.close):
        with pytest.raises(CheckpointLost, match=r"checkpoint not written: .*No space left on device"):
            ending()
    assert runs.list_checkpoints(str(folder)) == [1]
    assert_whole(str(folder), 1)
    assert not list(folder.rglob(f"*{storage.TEMPORARY_SUFFIX}")), "no half-written file stays and takes up space"
    disk(size * 10)
    write(str(folder), snapshot(2))
    assert runs.list_checkpoints(str(folder)) == [1, 2]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_judge_that_fails_is_reported(tmp_path: Path, snapshot: Callable[[int], Snapshot]) -> None:
    """Otherwise the writer's thread would end unseen: every later checkpoint would be lost, and the run would seem well."""

    def judge(snapshot: Snapshot) -> float:
        raise RuntimeError("out of memory")

    writer = CheckpointWriter(str(tmp_path), judge=judge)
    writer.put(snapshot(1))
    with pytest.raises((CheckpointLost, RuntimeError), match="out of memory"):
        writer.close()


def test_a_run_of_that_name_on_another_store_is_not_overwritten(
    refused: Callable[..., str], store: str, tmp_path: Path, config: TrainConfig
) -> None:
    from naturaltone.training import tracking

    tracking.start_run(run_name="taken", params={}, tags={"store": "/another"}, dataset="/another/manifest.parquet")
    line = refused("train", store, "--recipe", "smoke", "--run", "taken")
    assert "run 'taken' already exists on '/another'; choose another --run" in line


def test_a_model_of_another_format_version_is_refused(
    refused: Callable[..., str], bundle_folder: Path, photo_folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / checkpoint.BUNDLE_TENSORS).write_bytes((bundle_folder / checkpoint.BUNDLE_TENSORS).read_bytes())
    document = json.loads((bundle_folder / checkpoint.BUNDLE_JSON).read_text()) | {"format_version": 99}
    (model / checkpoint.BUNDLE_JSON).write_text(json.dumps(document))
    for command in (
        ("enhance", str(photo_folder / "01.jpg"), str(tmp_path / "e.jpg"), "--model", str(model)),
        ("evaluate", str(model), str(photo_folder)),
        ("serve", "--model", str(model), "--port", str(local.free_port())),
    ):
        line = refused(*command)
        assert f"'{model}': format version 99, this version reads {checkpoint.FORMAT_VERSION}" in line
        assert "use the naturaltone that wrote it, or export the model again" in line


@pytest.mark.parametrize("name", [checkpoint.CHECKPOINT_JSON, checkpoint.CHECKPOINT_TENSORS])
def test_a_checkpoint_with_a_flipped_byte_in_object_storage_is_named(
    name: str, object_store: local.ObjectStore, request: pytest.FixtureRequest, snapshot: Callable[[int], Snapshot]
) -> None:
    uri = storage.join(object_store.uri, request.node.name)
    write(uri, snapshot(4), snapshot(8))
    file = storage.join(uri, "checkpoints/step-00000008", name)
    content = bytearray(storage.read_bytes(file))
    content[len(content) // 2] ^= 4
    storage.write_bytes(file, bytes(content))
    with pytest.raises(
        checkpoint.BundleError, match=r"step-00000008': (damaged, .* go on from the one before|cannot be read)"
    ):
        runs.read_checkpoint(uri, 8)
    assert_whole(uri, 4)
