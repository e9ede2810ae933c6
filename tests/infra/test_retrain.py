"""Two years of slots: whatever happens in a slot, the champion is the old one or a better one, and the next try goes on.

Training is not the point here: a slot's run "trains" one of two bundles at once. The store, the registry, the lease and the
promotions are real; the gate says what the test wants, because tests/serving/evaluation judges real pictures.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from naturaltone.infra import launch, local, retrain
from naturaltone.infra.retrain import KEPT, NOTHING_NEW, PROMOTED, AtWork, SlotState, describe, run_slot
from naturaltone.infra.retrain_config import Limits, RetrainConfig, Train
from naturaltone.infra.time_limit import TookTooLong
from naturaltone.pipeline import storage, tone
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.errors import RunFailed, UserError
from naturaltone.pipeline.lease import Lease, LeaseHeld, LeaseLost
from naturaltone.serving import promotions, registry
from naturaltone.serving.evaluation.smoke_test import SmokeTestFailed
from naturaltone.training import model_registry, tracking
from naturaltone.training.alone import train_alone
from naturaltone.training.checkpoint import Bundle, Snapshot
from naturaltone.training.config import TrainConfig
from naturaltone.training.model_registry import CHALLENGER, CHAMPION, MODEL_NAME
from naturaltone.training.tracking import TrackingError
from tests import slots
from tests.stores import LONG_SIDE, add

STAGES = ("ingest", "plan", "train", "gate", "promote", "report")


@dataclasses.dataclass
class World:
    """A store, a registry, and what the test decides. trained: the runs that were trained. says: the gate's outcomes.

    starts: of the runs, the steps in which D warms up, and the state that they start from.
    """

    config: RetrainConfig
    store: shards.Store
    photo: np.ndarray
    trained: list[str]
    says: list[str]
    starts: list[tuple[int, Snapshot | None]] = dataclasses.field(default_factory=list)
    photos: int = 0

    def more_photos(self, count: int = 4) -> None:
        for role in shards.ROLES:
            add(self.store, self.photo, role, 2 + self.photos, count)  # the first two would be held out
        self.photos += count

    def slot(self, name: str) -> SlotState:
        return run_slot(self.config, name)

    def saved(self, name: str) -> dict[str, Any]:
        return dict(json.loads(storage.read_bytes(retrain.state_uri(self.config, name))))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowClient]:
    """One MLflow for all worlds: to make its database takes seconds."""
    folder = tmp_path_factory.mktemp("retrain")
    with local.environment({"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}):
        tracking.create_experiment(artifacts=folder / "artifacts")
        yield MlflowClient()


@pytest.fixture
def world(
    database: MlflowClient,
    tmp_path: Path,
    astronaut: np.ndarray,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    """A world of the first day: photos, no model."""
    store = shards.empty_store(str(tmp_path / "store"), algorithm=tone.algorithm_id(), long_side=LONG_SIDE)
    chosen = RetrainConfig(store=store.uri, train=Train(recipe="smoke", workers=1))
    here = World(config=chosen, store=store, photo=astronaut, trained=[], says=[])
    here.more_photos()

    def seen(run: launch.TrainingRun) -> None:
        here.trained.append(run.name)
        here.starts.append((run.config.discriminator_warmup, run.start and run.start()))

    monkeypatch.setattr(launch, "train", slots.training(bundle, seen))
    # The list may be replaced by the test.
    monkeypatch.setattr(retrain, "challenge", lambda *given, **named: slots.gate(here.says)(*given, **named))
    yield here
    if database.search_registered_models():
        database.delete_registered_model(MODEL_NAME)
    experiment = database.get_experiment_by_name(tracking.EXPERIMENT)
    for run in database.search_runs([experiment.experiment_id]):
        database.delete_run(run.info.run_id)


def champion() -> str | None:
    return model_registry.aliases().get(CHAMPION)


def test_slots_of_a_week(world: World) -> None:
    first = world.slot("1")
    assert (first.outcome, first.version, first.why) == (PROMOTED, "1", "the first model")
    assert tuple(first.seconds) == STAGES and champion() == "1"

    assert world.slot("2").outcome == NOTHING_NEW and world.trained == ["nightly-1"]

    world.more_photos()
    world.says = ["better"]
    better = world.slot("3")
    assert (better.outcome, better.champion, better.version, better.changed) == (PROMOTED, "1", "2", 8)
    assert champion() == "2"
    last = promotions.history()[-1]
    assert (last.by, last.why, last.numbers) == (
        "slot nightly-3",
        "against 1: what the test wants",
        {"naturalness": 0.02},
    )

    world.more_photos()
    world.says = ["not better"]
    kept = world.slot("4")
    assert (kept.outcome, kept.verdict, champion()) == (KEPT, "not better", "2")
    assert model_registry.aliases()[CHALLENGER] == "3"
    assert world.slot("5").outcome == NOTHING_NEW, "the same photos would only give the same model"

    assert world.starts[0] == (0, None)
    warmup, snapshot = world.starts[1]
    assert warmup == 2 and snapshot is not None, "a quarter of the steps at most, for G must learn too"
    first_bundle = registry.load_model("models:/naturaltone/1")[0].generator.state_dict()
    for name, weight in snapshot.generator().state_dict().items():
        assert torch.equal(weight, first_bundle[name])

    tags = model_registry.find_version("2").tags
    assert json.loads(tags["lineage.went_on_from"]) == {"champion": "1", "start": "bundle"}
    assert json.loads(tags["slot"]) == {"name": "nightly-3", "outcome": PROMOTED}
    assert "training.seed" in tags and tags["training.seed"] != model_registry.find_version("1").tags["training.seed"]


def test_a_slot_goes_on_from_the_champions_checkpoint_while_it_is_there(world: World, config: TrainConfig) -> None:
    world.slot("1")
    assert retrain.start_of(world.config, "1") == "bundle", "the test's training leaves no checkpoint"
    train_alone(world.store.uri, config, run_name="nightly-1", device=torch.device("cpu"))
    assert retrain.start_of(world.config, "1") == "checkpoint" and retrain.start_of(world.config, None) == "nothing"
    world.more_photos()
    world.says = ["not better"]
    world.slot("2")
    warmup, snapshot = world.starts[-1]
    assert warmup == 0 and snapshot is not None and any(name.startswith("inverse/") for name in snapshot.tensors)


def test_a_finished_slot_does_nothing_when_it_is_given_again(world: World) -> None:
    once = world.slot("1")
    world.more_photos()
    assert world.slot("1") == once and world.trained == ["nightly-1"] and len(promotions.history()) == 1
    assert world.slot("1").line == once.line
    assert once.line.startswith("slot nightly-1: promoted version 1: the first model (ingest 0 s, plan 0 s, train ")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("when", ["before its work is kept", "after"])
def test_a_slot_that_is_killed_at_a_stage_goes_on_there(
    world: World, monkeypatch: pytest.MonkeyPatch, stage: str, when: str
) -> None:
    world.slot("1")
    world.more_photos()
    world.says = ["better", "better"]
    write = storage.write_bytes

    def killed(uri: str, data: bytes, **how: Any) -> None:
        is_here = uri.endswith("/2.json") and list(json.loads(data)["seconds"])[-1] == stage
        if is_here and when != "after":
            raise KeyboardInterrupt
        write(uri, data, **how)
        if is_here:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(storage, "write_bytes", killed)
        world.slot("2")
    assert champion() == ("2" if STAGES.index(stage) > 3 else "1"), (
        "the old champion or the new one, never half of each"
    )
    done = world.slot("2")
    assert (done.outcome, done.version, champion()) == (PROMOTED, "2", "2")
    assert tuple(done.seconds) == STAGES and len(model_registry.versions()) == 2
    assert [each.version for each in promotions.history() if each.is_done] == ["1", "2"]
    again = stage == "train" and when != "after"
    assert world.trained == ["nightly-1", "nightly-2", *(["nightly-2"] if again else [])]


def test_of_two_at_once_the_second_finds_the_lease_and_names_its_holder(world: World) -> None:
    with retrain._only_one(world.config.store), pytest.raises(AtWork, match=r"process \d+ on .* \(since "):
        world.slot("1")
    assert world.trained == []


def test_who_lost_the_lease_does_not_promote(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.slot("1")
    world.more_photos()
    world.says = ["better"]
    promote = retrain._promote

    def lost(*arguments: Any) -> dict[str, Any]:
        monkeypatch.setattr(Lease, "check", lose)
        return promote(*arguments)

    def lose(self: Lease) -> None:
        raise LeaseLost("another process has the lease")

    monkeypatch.setattr(retrain, "_promote", lost)
    with pytest.raises(LeaseLost):
        world.slot("2")
    assert champion() == "1" and [each.version for each in promotions.history()] == ["1"]


def test_an_alias_that_somebody_moves_after_the_gate_stays_where_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.slot("1")
    world.more_photos()
    world.says = ["better"]
    promote = retrain._promote

    def moved(*arguments: Any) -> dict[str, Any]:
        MlflowClient().set_registered_model_alias(MODEL_NAME, CHAMPION, model_registry.versions()[0].version)
        MlflowClient().create_model_version(MODEL_NAME, source="elsewhere")
        MlflowClient().set_registered_model_alias(MODEL_NAME, CHAMPION, "3")
        return promote(*arguments)

    monkeypatch.setattr(retrain, "_promote", moved)
    state = world.slot("2")
    assert (state.outcome, state.verdict, champion()) == (KEPT, "champion changed", "3")
    assert "the gate has not found it better than champion 3" in state.why


def test_a_challenger_that_fails_its_smoke_test_is_kept_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.slot("1")
    world.more_photos()

    def broken(*_: object, **__: object) -> None:
        raise SmokeTestFailed("its checksum does not match its content")

    monkeypatch.setattr(retrain, "challenge", broken)
    state = world.slot("2")
    assert (state.outcome, state.verdict, champion()) == (KEPT, "broken", "1") and "checksum" in state.why


def test_a_store_that_lost_a_shard_stops_the_slot_and_when_it_is_back_the_slot_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = launch.train

    def reads_all(store_uri: str, planned: list[launch.TrainingRun], *, workers: int) -> object:
        for row in shards.open_store(store_uri).photos("input", "train"):
            assert row["image"]
        return train(store_uri, planned, workers=workers)

    monkeypatch.setattr(launch, "train", reads_all)
    [shard, *_] = sorted(Path(world.store.uri, "input").glob("train-*.parquet"))
    shutil.move(shard, shard.with_suffix(".lost"))
    with pytest.raises(FileNotFoundError, match=shard.name):
        world.slot("1")
    assert tuple(world.saved("1")["seconds"]) == ("ingest", "plan") and champion() is None
    shutil.move(shard.with_suffix(".lost"), shard)
    assert world.slot("1").outcome == PROMOTED


def test_a_stage_that_takes_too_long_ends_and_the_next_try_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.config = world.config.model_copy(update={"limits": Limits.model_validate({"train": "1 s"})})
    with monkeypatch.context() as patch:
        patch.setattr(launch, "train", lambda *_, **__: time.sleep(60))
        with pytest.raises(TookTooLong, match="slot nightly-1: train took longer than 1 s"):
            world.slot("1")
    world.config = world.config.model_copy(update={"limits": Limits()})
    assert world.slot("1").outcome == PROMOTED and world.trained == ["nightly-1"]


def test_a_registry_that_is_away_is_one_line_within_30_s_and_nothing_is_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{local.free_port()}"}
    begun = time.monotonic()
    with local.environment(away), pytest.raises(TrackingError, match="cannot be used"):
        world.slot("1")
    assert time.monotonic() - begun < 30 and world.trained == []
    assert world.slot("1").outcome == PROMOTED


@pytest.mark.parametrize("call", ["find_version", "set_note", "set_alias", "set_tag"])
def test_a_registry_that_goes_away_around_the_promotion_leaves_one_champion(
    world: World, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    world.slot("1")
    world.more_photos()
    world.says = ["better"]

    def gone(*_: object) -> None:
        raise TrackingError("the model registry cannot be used")

    def without(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            with monkeypatch.context() as patch:
                patch.setattr(model_registry, call, gone)
                return function(*arguments)

        return run

    with monkeypatch.context() as patch, pytest.raises(TrackingError):
        for stage in ("_promote", "_report"):
            patch.setattr(retrain, stage, without(getattr(retrain, stage)))
        world.slot("2")
    assert champion() == ("2" if call == "set_tag" else "1")
    assert world.slot("2").outcome == PROMOTED and champion() == "2"
    assert [each.version for each in promotions.history() if each.is_done] == ["1", "2"]


def test_clocks_that_jump_change_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.slot("1")
    world.more_photos()
    world.says = ["better"]
    now = time.time()
    for jump in (-(10**8), 10**8):
        monkeypatch.setattr(time, "time", lambda jump=jump: now + jump)
        state = world.slot("2")
        assert state.outcome == PROMOTED and all(0 <= seconds < 60 for seconds in state.seconds.values())
    assert [each.version for each in promotions.history()] == ["1", "2"] and len(world.trained) == 2


def test_a_server_without_conditional_writes_allows_one_machine_only(
    world: World, object_store: local.ObjectStore
) -> None:
    uri = storage.join(object_store.uri, "retrain")
    with retrain._only_one(uri), pytest.raises(AtWork):
        world.config = world.config.model_copy(update={"store": uri})
        world.slot("1")
    with local.environment({"RAY_ADDRESS": "somewhere:6379"}), pytest.raises(UserError, match=r"unset RAY_ADDRESS"):
        world.slot("1")


def test_somebody_elses_ingest_stops_the_slot_for_now(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def held(*_: object) -> dict[str, Any]:
        raise LeaseHeld("ingest: process 7 on host is writing there")

    with monkeypatch.context() as patch, pytest.raises(RunFailed, match="slot nightly-1: ingest: process 7"):
        patch.setattr(retrain, "_ingest", held)
        world.slot("1")
    assert world.slot("1").outcome == PROMOTED


def test_a_dry_run_changes_nothing_and_says_what_would_be_done(world: World, photo_folder: Path) -> None:
    world.slot("1")
    world.more_photos()
    source = {"ingest": world.config.ingest.model_copy(update={"inputs": [str(photo_folder)]})}
    before = {path: path.stat().st_mtime_ns for path in Path(world.store.uri).rglob("*")}
    lines = describe(world.config.model_copy(update=source), "2")
    assert lines[0] == "slot nightly-2 is new" and lines[1].startswith("ingest: 24 files of ")
    assert "8 more or fewer than at the last training" in lines[2] and "from champion 1's bundle" in lines[3]
    assert {path: path.stat().st_mtime_ns for path in Path(world.store.uri).rglob("*")} == before
    assert describe(world.config, "1")[0].endswith("it would do nothing more")


def test_the_first_slot_makes_the_database_and_a_dry_run_does_not(world: World, tmp_path: Path) -> None:
    file = tmp_path / "new.db"
    with local.environment({"MLFLOW_TRACKING_URI": f"sqlite:///{file}"}):
        assert any(line.startswith(f"registry: 'sqlite:///{file}' is new") for line in describe(world.config, "1"))
        assert not file.exists()
        tracking.create_database()
        tracking.create_experiment(artifacts=tmp_path / "artifacts")  # else they would go into the working folder
        assert world.slot("1").outcome == PROMOTED


def test_a_damaged_state_is_one_line(world: World) -> None:
    world.slot("1")
    Path(retrain.state_uri(world.config, "1")).write_text("{")
    with pytest.raises(storage.StorageError, match="delete it to begin this slot anew"):
        world.slot("1")
