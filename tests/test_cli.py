"""The command line: a mistake of the user ends in exit code 2 and one line that names the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from naturaltone import cli
from naturaltone.infra import local


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


def test_a_missing_model_is_named(refused, photo_folder: Path, tracking_uri: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    photo = str(photo_folder / "01.jpg")
    assert "no model.json here" in refused("enhance", photo, str(tmp_path / "e.jpg"), "--model", str(tmp_path))
    assert "models:/naturaltone@nobody" in refused("serve", "--model", "models:/naturaltone@nobody")


@pytest.mark.parametrize("command", cli._COMMANDS)
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0 and f"example: naturaltone {command}" in capsys.readouterr().out
