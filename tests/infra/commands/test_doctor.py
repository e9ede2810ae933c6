"""`naturaltone doctor` prints a line for each check, and exits with 3 if one failed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from naturaltone import cli
from naturaltone.infra import exit_codes, local


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cluster, and no tracking yet."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")


def test_each_check_is_a_line_and_a_machine_without_a_failure_exits_with_0(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = cli.main(["doctor", str(tmp_path)])
    statuses = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert len(statuses) >= 15 and set(statuses) <= {"ok", "warning", "failure"}
    # The disk of whoever runs the tests may be full.
    assert code == (exit_codes.RUN_FAILED if "failure" in statuses else exit_codes.OK)


def test_a_failure_exits_with_3_also_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--deployment", "--json"]) == exit_codes.RUN_FAILED
    said = json.loads(capsys.readouterr().out)
    assert said["status"] == "failure"
    assert "API keys of the service" in [each["check"] for each in said["findings"] if each["status"] == "failure"]


def test_a_cluster_that_is_away_is_one_of_the_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{local.free_port()}")
    assert cli.main(["doctor"]) == exit_codes.RUN_FAILED
    assert "failure  cluster: RAY_ADDRESS" in capsys.readouterr().out
