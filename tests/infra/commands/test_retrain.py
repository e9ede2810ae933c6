"""`naturaltone retrain` refuses a wrong file before any work, and its exit code says what a scheduler should do."""

from __future__ import annotations

from pathlib import Path

import pytest

from naturaltone import cli
from naturaltone.infra import exit_codes, retrain
from naturaltone.infra.retrain import AtWork, SlotState
from naturaltone.infra.retrain_config import read_config
from naturaltone.pipeline.lease import LeaseLost
from naturaltone.pipeline.storage import StorageError
from naturaltone.training.tracking import TrackingError


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "retrain.toml").write_text('store = "store"')
    return str(tmp_path / "retrain.toml")


def test_all_mistakes_of_the_file_are_printed_one_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wrong.toml").write_text('[train]\nrecipe = "huge"\nsteps = 5')
    assert cli.main(["retrain", str(tmp_path / "wrong.toml")]) == exit_codes.WRONG_USAGE
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith(f"naturaltone: '{tmp_path}/wrong.toml': ") for line in lines)


def test_the_example_can_be_printed_changed_and_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["retrain", "--example"]) == exit_codes.OK
    (tmp_path / "retrain.toml").write_text(capsys.readouterr().out)
    assert read_config(str(tmp_path / "retrain.toml")).store == "s3://photos/store"
    assert cli.main(["retrain"]) == exit_codes.WRONG_USAGE
    assert "CONFIG.toml is missing; `naturaltone retrain --example" in capsys.readouterr().err


def test_a_slot_that_is_no_file_name_is_refused(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["retrain", file, "--slot", "../x"]) == exit_codes.WRONG_USAGE
    assert "--slot '../x': use letters" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        (
            SlotState(name="n-1", outcome="nothing new", why="0 photos"),
            exit_codes.OK,
            "slot n-1: nothing new: 0 photos",
        ),
        (AtWork("retraining on 's': process 7 on host"), exit_codes.OK, "slot nightly-1: not run: retraining on 's'"),
        (LeaseLost("this run lost its lock"), exit_codes.RUN_FAILED, "naturaltone: this run lost its lock"),
        (TrackingError("the registry is away"), exit_codes.RUN_FAILED, "naturaltone: slot nightly-1: the registry is"),
        (StorageError("the server is away"), exit_codes.RUN_FAILED, "naturaltone: slot nightly-1: the server is away"),
    ],
)
def test_the_exit_code_says_whether_to_try_again(
    file: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    end: SlotState | Exception,
    code: int,
    told: str,
) -> None:
    def run_slot(config: object, slot: str) -> SlotState:
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr(retrain, "run_slot", run_slot)
    assert cli.main(["retrain", file, "--slot", "1"]) == code
    captured = capsys.readouterr()
    [line] = (captured.out + captured.err).splitlines()
    assert line.startswith(told)


def test_a_slot_without_a_name_is_today_in_utc(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        retrain, "run_slot", lambda _, slot: asked.append(slot) or SlotState(name=slot, outcome="promoted")
    )
    assert cli.main(["retrain", file]) == exit_codes.OK
    assert len(asked[0]) == len("2026-11-24") and asked[0].count("-") == 2
