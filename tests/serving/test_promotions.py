"""The champion is moved as a whole or not at all, everybody can read why, and the way back is known."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient

from naturaltone.infra import local
from naturaltone.pipeline.lease import LeaseLost
from naturaltone.serving import promotions, registry
from naturaltone.serving.promotions import PromotionRefused
from naturaltone.training import model_registry
from naturaltone.training.model_registry import CHAMPION, MODEL_NAME
from naturaltone.training.tracking import TrackingError


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowClient]:
    folder = tmp_path_factory.mktemp("promotions")
    with local.environment({"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}):
        client = MlflowClient()
        client.search_experiments()  # makes the database
        yield client


@pytest.fixture
def client(database: MlflowClient, tmp_path: Path) -> Iterator[MlflowClient]:
    """A registry with versions 1 to 4 and no champion."""
    database.create_registered_model(MODEL_NAME)
    for _ in range(4):
        database.create_model_version(MODEL_NAME, source=str(tmp_path))
    yield database
    database.delete_registered_model(MODEL_NAME)


force = functools.partial(promotions.promote, force=True)


def gate_says(version: str, outcome: str, *, champion: str) -> None:
    said = {"outcome": outcome, "champion": champion, "why": "less noise", "numbers": {"naturalness": 0.02}}
    model_registry.set_tag(version, promotions.GATE_TAG, json.dumps(said))


def told() -> list[tuple[str | None, str]]:
    """The promotions that were done: from, to."""
    return [(each.previous, each.version) for each in promotions.history() if each.is_done]


def now() -> str | None:
    return model_registry.aliases().get(CHAMPION)


def test_history_says_what_was_champion_when_by_whom_why_and_with_what_numbers(client: MlflowClient) -> None:
    assert promotions.champion() is None and promotions.history() == []
    force("1", why="the first")
    gate_says("3", "better", champion="1")
    promotions.promote("3", why="better", by="slot 2026-11-24")
    first, second = promotions.history()
    assert (first.version, first.previous, first.why, first.is_done) == ("1", None, "the first", True)
    assert "@" in first.by and second.at >= first.at
    assert (second.previous, second.by, second.numbers) == ("1", "slot 2026-11-24", {"naturalness": 0.02})
    assert second.why == "better"
    assert promotions.champion() == "3"


def test_promoting_the_champion_changes_nothing(client: MlflowClient) -> None:
    done = force("1", why="the first")
    assert force("1", why="again") == done and len(promotions.history()) == 1


def test_two_rollbacks_go_back_by_two_promotions(client: MlflowClient) -> None:
    for version in ("1", "2", "3"):
        force(version, why="better")
    assert promotions.rollback(why="worse").version == "2"
    assert promotions.rollback(why="worse too").version == "1"
    with pytest.raises(PromotionRefused, match="no champion to roll back to"):
        promotions.rollback(why="and this")
    force("4", why="better")
    assert promotions.rollback(why="worse").version == "1" == now()


def test_rollback_knows_a_champion_that_was_made_by_other_means(client: MlflowClient) -> None:
    force("1", why="the first")
    client.set_registered_model_alias(MODEL_NAME, CHAMPION, "2")  # in MLflow's own page
    force("3", why="better")
    assert promotions.rollback(why="worse").version == "2"
    assert promotions.rollback(why="worse too").version == "1"


def test_rollback_does_not_name_a_deleted_version(client: MlflowClient) -> None:
    force("1", why="the first")
    force("2", why="better")
    client.delete_model_version(MODEL_NAME, "1")
    with pytest.raises(PromotionRefused, match="version 1, the champion before, was deleted"):
        promotions.rollback(why="worse")
    assert now() == "2"


def test_a_deleted_champion_is_missed_and_the_pretrained_model_does_not_take_its_place(client: MlflowClient) -> None:
    assert registry.default_model() == registry.PRETRAINED
    force("2", why="the first")
    assert registry.default_model() == model_registry.CHAMPION_URI
    client.delete_model_version(MODEL_NAME, "2")
    with pytest.raises(TrackingError, match=r"no champion any more: version 2 was it.*models promote"):
        registry.default_model()
    promotions.promote_first("3")
    assert now() is None, "only the very first model becomes the champion by itself"
    force("3", why="instead")
    assert registry.default_model() == model_registry.CHAMPION_URI


def test_a_version_that_does_not_exist_is_one_clear_line(client: MlflowClient) -> None:
    for version in ("9", "nobody", ""):
        with pytest.raises(TrackingError, match="no such version or alias"):
            force(version, why="better")
    assert promotions.history() == []


def test_a_verdict_about_another_champion_promotes_nothing(client: MlflowClient) -> None:
    force("1", why="the first")
    client.set_registered_model_alias(MODEL_NAME, CHAMPION, "2")  # between the gate and the promotion
    gate_says("3", "better", champion="1")
    with pytest.raises(PromotionRefused, match=r"better than champion 2 \(it said 'less noise', against 1\).*--force"):
        promotions.promote("3", why="better")
    assert now() == "2" and told() == [(None, "1")]


def test_an_alias_that_moves_after_the_gates_consent_was_read_promotes_nothing(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    force("1", why="the first")
    gate_says("3", "better", champion="1")
    read = model_registry.aliases

    def race() -> dict[str, str]:
        found = read()
        client.set_registered_model_alias(MODEL_NAME, CHAMPION, "2")
        return found

    monkeypatch.setattr(model_registry, "aliases", race)
    with pytest.raises(PromotionRefused, match="was compared with champion 1, but by now 2 is the champion"):
        promotions.promote("3", why="better")


def test_without_the_gate_a_promotion_takes_force_and_the_history_says_so(client: MlflowClient) -> None:
    force("1", why="the first")
    with pytest.raises(PromotionRefused, match=r"it said nothing yet.*models compare champion 2 --store STORE"):
        promotions.promote("2", why="I like it")
    gate_says("2", "worse", champion="1")
    with pytest.raises(PromotionRefused, match="less noise"):
        promotions.promote("2", why="I like it")
    assert now() == "1"
    forced = force("2", why="I like it", by="Ada")
    assert (forced.why, forced.by, forced.numbers) == ("forced: I like it", "Ada", {})


@pytest.mark.parametrize("check", [1, 2])
def test_who_has_lost_the_lease_promotes_nothing(client: MlflowClient, check: int) -> None:
    force("1", why="the first")
    checks = 0

    def lost() -> None:
        nonlocal checks
        checks += 1
        if checks == check:
            raise LeaseLost("another process has the lease")

    with pytest.raises(LeaseLost):
        force("2", why="better", check=lost)
    assert now() == "1" and told() == [(None, "1")]


def test_who_loses_a_race_is_told(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    force("1", why="the first")
    move = model_registry.set_alias

    def race(alias: str, version: str) -> None:
        move(alias, version)
        client.set_registered_model_alias(MODEL_NAME, alias, "4")

    monkeypatch.setattr(model_registry, "set_alias", race)
    with pytest.raises(PromotionRefused, match="somebody else made it 4 at the same moment"):
        force("3", why="better")


@pytest.mark.parametrize(("function", "moved"), [("set_note", False), ("set_alias", False), ("aliases", True)])
def test_a_kill_leaves_the_old_champion_or_the_new_one_and_the_next_try_finishes(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, function: str, moved: bool
) -> None:
    force("1", why="the first")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(model_registry, function, killed_at(getattr(model_registry, function), 3 if moved else 1))
        force("2", why="better")
    assert now() == ("2" if moved else "1")
    assert told() == ([(None, "1"), ("1", "2")] if moved else [(None, "1")])
    force("2", why="better")
    assert now() == "2" and told() == [(None, "1"), ("1", "2")]


def killed_at(function: Callable[..., object], call: int) -> Callable[..., object]:
    calls = 0

    def run(*arguments: str) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return function(*arguments)

    return run


class Memory:
    """A registry in memory, for many short histories. It dies before its `dies_at`th write."""

    def __init__(self) -> None:
        self.alias: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.dies_at: int | None = None

    def _write(self) -> None:
        if self.dies_at is not None:
            self.dies_at -= 1
            if self.dies_at < 0:
                raise KeyboardInterrupt

    def set_alias(self, alias: str, version: str) -> None:
        self._write()
        self.alias[alias] = version

    def set_note(self, key: str, value: str) -> None:
        self._write()
        self.tags[key] = value


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["1", "2", "3", "4", "back"]), st.sampled_from([None, None, None, 0, 1, 2])), max_size=12
)


@given(ACTIONS)
def test_after_any_promotions_rollbacks_and_kills_the_history_leads_to_the_champion(
    actions: list[tuple[str, int | None]],
) -> None:
    memory = Memory()
    line: list[str] = []  # of champions, as a person would keep it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_registry, "aliases", lambda: dict(memory.alias))
        patch.setattr(model_registry, "notes", lambda: dict(memory.tags))
        patch.setattr(model_registry, "set_alias", memory.set_alias)
        patch.setattr(model_registry, "set_note", memory.set_note)
        versions = [
            model_registry.ModelVersion(version=each, run_id="", created=None, tags={})  # type: ignore[arg-type]
            for each in "1234"
        ]
        patch.setattr(model_registry, "versions", lambda: versions)
        for version, dies_at in actions:
            before = memory.alias.get(CHAMPION)
            memory.dies_at = dies_at
            with contextlib.suppress(KeyboardInterrupt, PromotionRefused):
                if version == "back":
                    promotions.rollback(why="worse")
                else:
                    force(version, why="better")
            memory.dies_at = None
            after = memory.alias.get(CHAMPION)
            if after != before and version == "back":
                line.pop()
            elif after != before:
                line.append(version)
            assert after == (line[-1] if line else None)
            done = [each for each in promotions.history() if each.is_done]
            assert (done[-1].version if done else None) == after
        for expected in reversed(line[:-1]):
            assert promotions.rollback(why="worse").version == expected
