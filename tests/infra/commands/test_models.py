"""`naturaltone models` shows every version and moves the champion with one command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from naturaltone import cli
from naturaltone.infra import exit_codes
from naturaltone.pipeline import tone
from naturaltone.pipeline.dataset import shards
from naturaltone.serving import registry
from naturaltone.training.checkpoint import load_bundle, save_bundle
from naturaltone.training.config import TrainConfig
from naturaltone.training.model_registry import MODEL_NAME
from tests.stores import LONG_SIDE, add


@pytest.fixture(autouse=True)
def second_version(registered: str, tmp_path: Path) -> str:
    """A version beside the registered one; its tags differ."""
    tags = {"lineage.algorithm": "other", "lineage.run": "nightly-2", "training.steps": "500"}
    return str(
        MlflowClient().create_model_version(MODEL_NAME, source=str(tmp_path), run_id=registered, tags=tags).version
    )


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        assert cli.main(["models", *arguments]) == exit_codes.OK
        return capsys.readouterr().out

    return run


def test_list_names_the_champion_and_the_newest_comes_first(said: Callable[..., str], second_version: str) -> None:
    header, newest, *_, oldest = said("list").splitlines()
    assert header.split()[:3] == ["VERSION", "ALIASES", "RUN"]
    assert newest.split()[:3] == [second_version, "-", "nightly-2"]
    assert oldest.split()[:3] == ["1", "challenger,", "champion"]
    assert json.loads(said("list", "--json"))[-1]["aliases"] == ["challenger", "champion"]


def test_show_tells_the_lineage_of_the_champion(said: Callable[..., str], registered: str) -> None:
    lines = dict(line.split(maxsplit=1) for line in said("show").splitlines())
    assert (lines["version"], lines["mlflow_run"], lines["lineage.algorithm"]) == ("1", registered, "test")
    assert json.loads(said("show", "1", "--json"))["aliases"] == ["challenger", "champion"]


def test_compare_shows_only_what_differs(said: Callable[..., str], second_version: str) -> None:
    different = json.loads(said("compare", "champion", second_version, "--json"))
    assert different["lineage.algorithm"] == ["test", "other"] and "mlflow_run" not in different
    *rows, advice = said("compare", "1", second_version).splitlines()
    assert any(row.split() == ["lineage.algorithm", "test", "other"] for row in rows)
    assert advice.endswith(f"models:/naturaltone/1 PHOTOS --against models:/naturaltone/{second_version}")


def test_promote_and_rollback_are_one_command_each_and_history_tells_of_them(
    said: Callable[..., str], second_version: str
) -> None:
    promoted = said("promote", second_version, "--why", "better at night", "--by", "Ada", "--force")
    assert promoted == (
        f"version {second_version} is the champion, instead of 1; services that follow it take it within seconds\n"
    )
    assert f"version 1 is the champion, instead of {second_version}" in said("rollback")
    _, first, second, third = said("history").splitlines()[:4]
    assert "the first model" in first and "Ada" in second and "better at night" in second
    assert "rollback: rolled back" in third
    assert [each["version"] for each in json.loads(said("history", "--json"))] == ["1", second_version, "1"]


def test_without_the_gate_promote_is_refused_with_the_way_to_ask_it(
    second_version: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["models", "promote", second_version, "--why", "I like it"]) == exit_codes.WRONG_USAGE
    [line] = capsys.readouterr().err.splitlines()
    assert f"`naturaltone models compare champion {second_version} --store STORE` asks it" in line


def test_compare_with_a_store_judges_both_on_its_gate_set(
    said: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    registered: str,
    bundle_folder: Path,
    tmp_path: Path,
    astronaut: np.ndarray,
) -> None:
    other = load_bundle(bundle_folder)
    config = TrainConfig(**other.description["training"])
    with torch.no_grad():
        other.generator.decoder[-1].bias += 0.3
    save_bundle(tmp_path / "other", other.generator, config, working_resolution=96, lineage={"algorithm": "other"})
    version = registry.register(tmp_path / "other", run_id=registered).version
    store = shards.empty_store(str(tmp_path / "store"), algorithm=tone.algorithm_id(), long_side=LONG_SIDE)
    add(store, astronaut, "input", 0, 4)
    arguments = ("compare", "champion", version, "--store", store.uri)
    told = json.loads(said(*arguments, "--json", "--sheet", str(tmp_path / "sheet.html")))
    assert (told["champion"], told["version"], told["outcome"]) == ("1", version, "too few photos")
    assert told["why"] in (tmp_path / "sheet.html").read_text()
    assert cli.main(["models", "compare", "1", "champion", "--store", store.uri]) == exit_codes.WRONG_USAGE
    assert cli.main(["models", "compare", "1", version, "--sheet", "sheet.html"]) == exit_codes.WRONG_USAGE
    assert "--sheet needs --store" in capsys.readouterr().err


def test_a_reason_that_is_too_long_is_one_clear_line(second_version: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "promote", second_version, "--force", "--why", "x" * 5000]) == exit_codes.WRONG_USAGE
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("naturaltone: --why and --by have 5,0") and line.endswith("write at most 4,000")
