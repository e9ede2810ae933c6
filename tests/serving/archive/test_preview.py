"""A dry run says what a run would do, and writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from naturaltone import cli
from naturaltone.infra import exit_codes
from naturaltone.serving.archive import preview
from naturaltone.serving.archive.report import ENHANCED, Entry, Report

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
        "kept in them: 1 HDR gain map",
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
    assert cli.main([*command, "--hdr", "skip", "--sheet", str(sheet)]) == exit_codes.OK
    page = sheet.read_text()
    assert page.count('class="photo"') == 3 and "3 of the photos, as they would come out" in page, "not the HDR photo"
    assert len(list((tmp_path / "sheets" / "dry_files").iterdir())) == 6 and not (tmp_path / "target").exists()
    assert len(page) < 50_000, "small enough to open fast on a phone"


def test_a_dry_run_leaves_out_the_graphics_that_the_run_would_leave_alone(
    mixed: Path, bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "dry.html"
    command = ["enhance", str(mixed), str(tmp_path / "target"), "--model", str(bundle_folder), "--dry-run"]
    assert cli.main([*command, "--photos-only", "--sheet", str(sheet)]) == exit_codes.OK
    assert "1 graphic" in capsys.readouterr().out
    page = sheet.read_text()
    assert "Screenshot" not in page and "3 of the photos, as they would come out" in page


def test_a_contact_sheet_says_how_many_photos_it_shows(photo: np.ndarray, to_file: ToFile, tmp_path: Path) -> None:
    source, target, page = tmp_path / "source", tmp_path / "target", tmp_path / "sheet.html"
    with Report(str(target)) as report:
        for name in ("a.jpg", "deleted.jpg"):
            report.add(Entry(source=name, fingerprint="1", model="m", settings="", output=name, status=ENHANCED))
        report.finish()
        for folder in (source, target):
            folder.mkdir(exist_ok=True)
            (folder / "a.jpg").write_bytes(to_file(photo))
        preview.write_contact_sheet(str(page), str(source), str(target), report)
    assert "1 of the 2 enhanced photos" in page.read_text()
