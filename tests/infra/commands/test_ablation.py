"""`naturaltone ablation` compares three models, and refuses what it cannot compare."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from naturaltone import cli
from naturaltone.infra import exit_codes
from naturaltone.serving.evaluation import ablation


def test_three_given_models_are_compared_on_given_photos(
    bundle_folder: Path, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "fig6.html"
    command = ["ablation", "any title", "--models", *[str(bundle_folder)] * 3, "--sheet", str(sheet)]
    assert cli.main(command) == exit_codes.WRONG_USAGE
    assert "does not name the store it was trained on; give --photos" in capsys.readouterr().err
    command += ["--photos", str(photo_folder / "below")]
    assert cli.main(command) == 0
    assert "4 λ1+λ2+λ3" in capsys.readouterr().out and "any title" in sheet.read_text()
    assert cli.main([*command, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["photos"] == 2 and set(figures["models"]) == set(ablation.MODELS)
    assert all(isinstance(one["holds"], bool | None) for one in figures["expectations"])
    assert not math.isnan(figures["table"]["lambda1"]["naturalness"])


def test_an_unknown_run_is_one_line_and_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["ablation", "typo"]) == exit_codes.WRONG_USAGE
    captured = capsys.readouterr()
    assert "no run 'typo' in tracking at" in captured.err and captured.err.count("\n") == 1
