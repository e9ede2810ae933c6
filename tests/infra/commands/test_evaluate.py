"""`naturaltone evaluate` prints tables and JSON, and names the photos that it could not use."""

from __future__ import annotations

import importlib.resources
import json
import shutil
from pathlib import Path

import pytest

from naturaltone import cli
from naturaltone.infra import exit_codes
from naturaltone.training.checkpoint import Bundle, save_bundle
from naturaltone.training.config import TrainConfig


def test_evaluate_prints_json_for_scripts(
    photo_folder: Path, bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.html"
    arguments = ["evaluate", str(bundle_folder), str(photo_folder / "below"), "--json", "--sheet", str(sheet)]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    printed = json.loads(captured.out)
    assert printed["photos"] == 2 and printed["held_out"] and printed["model"].startswith(bundle_folder.name)
    assert set(printed["scores"]) == {"00.png", "12.png"}
    assert printed["scores"]["12.png"]["input"]["local_contrast_gain"] == 1
    assert set(printed["table"]) == {"input", "intermediate", "result"}
    assert sheet.read_text().startswith("<!doctype html>")
    assert "not logged to MLflow: the model does not name the run" in captured.err


def test_evaluate_compares_with_references_and_another_model(
    photo_folder: Path, bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    references = tmp_path / "references"
    references.mkdir()
    shutil.copy(photo_folder / "below" / "00.png", references)
    arguments = ["evaluate", str(bundle_folder), str(photo_folder / "below"), "--references", str(references)]
    assert cli.main([*arguments, "--against", str(bundle_folder)]) == exit_codes.SOME_FAILED
    captured = capsys.readouterr()
    assert "ΔE2000 to reference" in captured.out and captured.out.count(f"{bundle_folder.name}-") == 2
    assert "no reference for 12.png: no reference has this name" in captured.err
    assert cli.main([*arguments, "--json"]) == exit_codes.SOME_FAILED
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["missing_references"]) == 1 and printed["table"]["input"]["psnr"] == 100


def test_evaluate_refuses_wrong_arguments_before_any_work(  # type: ignore[no-untyped-def]
    refused, photo_folder: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    arguments = ["evaluate", str(bundle_folder), str(photo_folder / "below")]
    assert "is a folder; name a file to write" in refused(*arguments, "--sheet", str(tmp_path))
    assert "no photo there is named as one" in refused(*arguments, "--references", str(_one_photo(tmp_path)))
    assert "no model.json here" in refused(*arguments, "--against", str(tmp_path))


def _one_photo(folder: Path) -> Path:
    with importlib.resources.as_file(importlib.resources.files("skimage.data") / "rocket.jpg") as rocket:
        shutil.copy(rocket, folder / "rocket.jpg")
    return folder


def test_evaluate_logs_to_the_run_that_trained_the_model(
    photo_folder: Path, bundle: Bundle, tracking_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("naturaltone")
    run_id = client.create_run(experiment.experiment_id).info.run_id
    for lineage, logged in (({"mlflow_run_id": run_id}, True), ({"mlflow_run_id": "0" * 32}, False)):
        config = TrainConfig(**bundle.description["training"])
        save_bundle(tmp_path / "model", bundle.generator, config, working_resolution=96, lineage=lineage)
        assert cli.main(["evaluate", str(tmp_path / "model"), str(photo_folder / "below")]) == 0
        captured = capsys.readouterr()
        assert "naturalness N" in captured.out
        assert ("not logged to MLflow: tracking at" in captured.err) != logged
    run = client.get_run(run_id)
    assert 0 < run.data.metrics["eval/result/naturalness"] < 1 and run.info.status == "RUNNING", "as it was"
    assert [artifact.path for artifact in client.list_artifacts(run_id)] == ["evaluation.html"]


def test_evaluate_names_bad_photos_and_goes_on(
    photo_folder: Path, bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(photo_folder / "01.jpg", tmp_path / "good.jpg")
    (tmp_path / "text.jpg").write_text("no photo")
    assert cli.main(["evaluate", str(bundle_folder), str(tmp_path)]) == exit_codes.SOME_FAILED
    captured = capsys.readouterr()
    assert "local contrast gain" in captured.out and "text.jpg: not_an_image" in captured.err
