"""`naturaltone bench` has different options for each part, and prints a table and one JSON object."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from naturaltone import cli
from naturaltone.infra.bench import tone


def test_the_last_line_is_one_json_object_and_equals_the_file(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tone, "bench_tone", lambda photos: {"clahe_mp_per_s": 1.5, "photos": photos})
    monkeypatch.setattr(tone, "format_figures", lambda figures: "a table")
    assert cli.main(["bench", "tone", "--photos", str(photo_folder), "--json", str(tmp_path / "f.json")]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    assert table == ["a table"]
    assert json.loads(last) == json.loads((tmp_path / "f.json").read_text())
    assert json.loads(last) == {"clahe_mp_per_s": 1.5, "photos": str(photo_folder)}


def test_a_part_refuses_the_options_of_another_part(photo_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "tone", "--photos", str(photo_folder), "--recipe", "small"])
    assert ended.value.code == 2 and "--recipe" in capsys.readouterr().err


def test_a_folder_without_photos_is_refused(refused, no_photos: str) -> None:  # type: ignore[no-untyped-def]
    assert "no photos here" in refused("bench", "stream", "--photos", no_photos)
