"""One photo is enhanced into another file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from naturaltone import cli
from naturaltone.infra import exit_codes


def test_a_single_photo_is_not_written_over_another_and_takes_no_options_of_a_folder(
    photo_folder: Path, bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, other = tmp_path / "a.jpg", tmp_path / "b.jpg"
    for file in (photo, other):
        shutil.copy(photo_folder / "01.jpg", file)
    command = ["enhance", str(photo), str(other), "--model", str(bundle_folder)]
    for more, words in (([], "exists, and naturaltone did not make it"), (["--dry-run"], "--dry-run is for a folder"),
                        (["--quality", "500"], "--quality 500: must be between 1 and 100")):  # fmt: skip
        assert cli.main([*command, *more]) == exit_codes.WRONG_USAGE
        assert words in capsys.readouterr().err
    assert other.read_bytes() == photo.read_bytes()
    new = ["enhance", str(photo), str(tmp_path / "new.jpg"), "--model", str(bundle_folder)]
    assert cli.main(new) == cli.main(new) == exit_codes.OK, "naturaltone may overwrite its own earlier result"
