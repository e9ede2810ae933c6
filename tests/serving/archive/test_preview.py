"""A dry run says what a run would do, and writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from naturaltone import cli
from naturaltone.infra import exit_codes

ToFile = Callable[..., bytes]


def test_a_dry_run_says_what_a_run_would_do_and_writes_nothing(
    mixed: Path, bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "target"
    command = ["enhance", str(mixed), str(target), "--model", str(bundle_folder), "--dry-run"]
    assert cli.main(command) == exit_codes.OK
    said = capsys.readouterr().out
    for words in (
        "4  photos to enhance",
        "2  sidecars",
        "1 hdr_gain_map",
        "1  other files",
        "RAW",
        "nothing was written to the target",
    ):
        assert words in said, said
    assert not target.exists()
    target.mkdir()
    (target / ".01234567.naturaltone.tmp").write_bytes(b"of a run in progress")
    assert cli.main(command) == exit_codes.OK
    assert [path.name for path in target.iterdir()] == [".01234567.naturaltone.tmp"]


def test_a_dry_run_with_a_sheet_writes_only_the_sheet(mixed: Path, bundle_folder: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheets" / "dry.html"
    sheet.parent.mkdir()
    command = ["enhance", str(mixed), str(tmp_path / "target"), "--model", str(bundle_folder), "--dry-run"]
    assert cli.main([*command, "--sheet", str(sheet)]) == exit_codes.OK
    page = sheet.read_text()
    assert page.count('class="photo"') == 3 and "as they would come out" in page, "all photos except the HDR photo"
    assert len(list((tmp_path / "sheets" / "dry_files").iterdir())) == 6 and not (tmp_path / "target").exists()
    assert len(page) < 50_000, "small enough to open fast on a phone"
