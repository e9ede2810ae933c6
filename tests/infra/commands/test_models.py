"""`naturaltone models` shows every version and moves the champion with one command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from naturaltone import cli
from naturaltone.infra import exit_codes
from naturaltone.training.model_registry import MODEL_NAME


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
    promoted = said("promote", second_version, "--why", "better at night", "--by", "Ada")
    assert promoted == (
        f"version {second_version} is the champion, instead of 1; services that follow it take it within seconds\n"
    )
    assert f"version 1 is the champion, instead of {second_version}" in said("rollback")
    _, first, second, third = said("history").splitlines()[:4]
    assert "the first model" in first and "Ada" in second and "better at night" in second
    assert "rollback: rolled back" in third
    assert [each["version"] for each in json.loads(said("history", "--json"))] == ["1", second_version, "1"]


def test_a_reason_that_is_too_long_is_one_clear_line(second_version: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "promote", second_version, "--why", "x" * 5000]) == exit_codes.WRONG_USAGE
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("naturaltone: --why and --by have 5,0") and line.endswith("write at most 4,000")
