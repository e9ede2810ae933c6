"""The command line: a user's mistake is one clear line with the remedy and exit code 2, before any work."""

from __future__ import annotations

import importlib.resources
import json
import shutil
import socket
from pathlib import Path

import pytest

from naturaltone import cli
from naturaltone.infra import exit_codes, local
from naturaltone.pipeline import storage
from naturaltone.training.checkpoint import Bundle, save_bundle
from naturaltone.training.config import TrainConfig


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def run(*arguments: str) -> str:
        assert cli.main(list(arguments)) == exit_codes.WRONG_USAGE
        captured = capsys.readouterr()
        assert captured.err.startswith("naturaltone: ") and captured.err.count("\n") == 1, captured.err
        return captured.err

    return run


@pytest.fixture
def no_photos(tmp_path: Path) -> str:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "letter.txt").write_text("Dear all")
    return str(folder)


@pytest.mark.parametrize("role", ["input", "natural"])
def test_ingest_refuses_a_missing_folder_and_one_without_photos(refused, role, no_photos, tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert "no such folder; check the path" in refused(
        "ingest", "/no/such", "--role", role, "--to", str(tmp_path / "s")
    )
    assert "no photos here; looked for .jpg" in refused(
        "ingest", no_photos, "--role", role, "--to", str(tmp_path / "s")
    )
    assert not (tmp_path / "s").exists()


def test_an_empty_folder_is_no_folder_of_photos(refused, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no photos here" in refused(
        "demo", "--inputs", str(empty), "--natural", str(empty), "--out", str(tmp_path / "out")
    )
    assert not (tmp_path / "out").exists()


def test_demo_wants_both_folders_or_none(refused, photo_folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "out"
    (out / "enhanced").mkdir(parents=True)
    (out / ".naturaltone-demo").touch()
    line = refused("demo", "--inputs", str(photo_folder), "--out", str(out))
    assert "--inputs and --natural go together" in line and (out / "enhanced").exists(), "refused before clearing"


def test_demo_deletes_no_photos_that_lie_in_its_folder(refused, photo_folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "demo"
    mine = Path(shutil.copytree(photo_folder, out / "mine"))
    (out / ".naturaltone-demo").touch()
    folders = ("--inputs", str(mine), "--natural", str(photo_folder), "--out", str(out))
    assert "lie in each other" in refused("demo", *folders)
    assert (mine / "01.jpg").exists()


def test_demo_deletes_no_folder_that_is_not_its_own(refused, photo_folder: Path) -> None:  # type: ignore[no-untyped-def]
    before = sorted(photo_folder.rglob("*"))
    assert "is not a demo's; choose a new folder" in refused("demo", "--out", str(photo_folder))
    assert sorted(photo_folder.rglob("*")) == before


def test_senseless_numbers_are_refused(refused, photo_folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert "steps=0: must be at least 1" in refused("demo", "--steps", "0", "--out", str(tmp_path / "out"))
    to = ("--role", "input", "--to", str(tmp_path / "store"), "--long-side", "0")
    assert "--long-side 0" in refused("ingest", str(photo_folder), *to)


def test_train_refuses_what_is_no_store(refused, no_photos: str) -> None:  # type: ignore[no-untyped-def]
    assert "no store here" in refused("train", no_photos, "--workers", "1")


def test_train_refuses_unknown_recipes_and_fields(refused, no_photos: str) -> None:  # type: ignore[no-untyped-def]
    assert "recipe 'huge' is unknown; use one of" in refused("train", no_photos, "--recipe", "huge")
    assert "there is no field 'speed'" in refused("train", no_photos, "--set", "speed=9")


def test_train_refuses_more_workers_than_fit(refused, no_photos: str) -> None:  # type: ignore[no-untyped-def]
    too_many = 1 + max(local.num_gpus(), local.cores())
    assert f"--workers {too_many}: this machine has" in refused("train", no_photos, "--workers", str(too_many))
    assert "use 1" in refused("train", no_photos, "--workers", "0")
    for wrong in ("-1", "3-", "two", "3-1", "0-2"):
        assert f"--workers '{wrong}': " in refused("train", no_photos, "--workers", wrong)


def test_a_store_that_cannot_be_reached_names_the_endpoint(
    refused, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "restored afterwards")
    endpoint = f"http://127.0.0.1:{local.free_port()}"
    for command in (
        ["ingest", str(photo_folder), "--role", "input", "--to", "s3://bucket/store"],
        ["train", "s3://bucket/store"],
        ["evaluate", "s3://bucket/model", "s3://bucket/store"],
        ["enhance", "s3://bucket/photos", "s3://bucket/enhanced", "--model", "s3://bucket/model"],
    ):
        line = refused(*command, "--s3-endpoint", endpoint)
        assert "cannot be reached" in line and endpoint in line


def test_wrong_keys_are_refused_at_once(refused, object_store: local.ObjectStore, photo_folder: Path) -> None:  # type: ignore[no-untyped-def]
    with local.environment({"AWS_SECRET_ACCESS_KEY": "wrong"}):
        line = refused("ingest", str(photo_folder), "--role", "input", "--to", storage.join(object_store.uri, "x"))
    assert "refuses access" in line and "AWS_SECRET_ACCESS_KEY" in line


def test_a_model_that_is_not_there_is_named(refused, photo_folder: Path, tracking_uri: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    photo = str(photo_folder / "01.jpg")
    assert "no model.json here" in refused("enhance", photo, str(tmp_path / "e.jpg"), "--model", str(tmp_path))
    assert "models:/naturaltone@nobody" in refused("serve", "--model", "models:/naturaltone@nobody")


def test_serve_refuses_a_port_in_use(refused, bundle_folder: Path) -> None:  # type: ignore[no-untyped-def]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused("serve", "--model", str(bundle_folder), "--port", str(port))
    assert f"--port {port}: cannot listen there" in line and "choose another port" in line


def test_enhance_refuses_to_write_where_it_reads(refused, photo_folder: Path, bundle_folder: Path) -> None:  # type: ignore[no-untyped-def]
    model = ("--model", str(bundle_folder))
    photo = str(photo_folder / "01.jpg")
    assert "is the photo itself" in refused("enhance", photo, photo, *model)
    assert "lie in each other" in refused("enhance", str(photo_folder), str(photo_folder / "enhanced"), *model)
    assert "lie in each other" in refused("enhance", str(photo_folder / "below"), str(photo_folder), *model)
    assert "strength 2.0: must be between 0" in refused("enhance", photo, "/elsewhere.jpg", "--strength", "2", *model)


def test_one_photo_is_enhanced_to_a_file(photo_folder: Path, bundle_folder: Path, tmp_path: Path) -> None:
    before = (photo_folder / "01.jpg").read_bytes()
    target = tmp_path / "e.jpg"
    assert cli.main(["enhance", str(photo_folder / "01.jpg"), str(target), "--model", str(bundle_folder)]) == 0
    assert target.read_bytes() != before == (photo_folder / "01.jpg").read_bytes()


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
    assert "no reference for 12.png: no photo of that name" in captured.err
    assert cli.main([*arguments, "--json"]) == exit_codes.SOME_FAILED
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["missing_references"]) == 1 and printed["table"]["input"]["psnr"] == 100


def test_evaluate_refuses_what_it_could_not_do_at_the_end(  # type: ignore[no-untyped-def]
    refused, photo_folder: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    arguments = ["evaluate", str(bundle_folder), str(photo_folder / "below")]
    assert "name the file" in refused(*arguments, "--sheet", str(tmp_path))
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


def test_a_place_that_cannot_be_written_is_refused_before_any_work(refused, photo_folder: Path) -> None:  # type: ignore[no-untyped-def]
    file = str(photo_folder / "01.jpg")
    assert "nothing can be written" in refused("ingest", str(photo_folder), "--role", "input", "--to", file)


@pytest.mark.parametrize("command", ["demo", "ingest", "train", "evaluate", "ablation", "enhance", "serve"])
def test_help_teaches_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0 and f"example: naturaltone {command}" in capsys.readouterr().out
