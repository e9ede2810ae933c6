"""`naturaltone enhance` takes one photo or a folder, and refuses to write into its source."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from naturaltone import cli
from naturaltone.infra import exit_codes, local


def test_enhance_refuses_to_write_into_its_source(refused, photo_folder: Path, bundle_folder: Path) -> None:  # type: ignore[no-untyped-def]
    model = ("--model", str(bundle_folder))
    photo = str(photo_folder / "01.jpg")
    assert "is the photo itself" in refused("enhance", photo, photo, *model)
    assert "overlap" in refused("enhance", str(photo_folder), str(photo_folder / "enhanced"), *model)
    assert "overlap" in refused("enhance", str(photo_folder / "below"), str(photo_folder), *model)
    assert "strength 2.0: must be between 0" in refused("enhance", photo, "/elsewhere.jpg", "--strength", "2", *model)


def test_enhance_refuses_a_sheet_inside_its_source(  # type: ignore[no-untyped-def]
    refused, photo_folder: Path, bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "photos"
    shutil.copytree(photo_folder, source)
    before = sorted(source.rglob("*"))
    (tmp_path / "link").symlink_to(source / "below")
    (tmp_path / "linked_files").symlink_to(source)
    monkeypatch.chdir(source)
    # The pictures of linked.html would go to linked_files, which is the source.
    for sheet in ("sheet.html", "below/sheet.html", tmp_path / "link" / "sheet.html", tmp_path / "linked.html"):
        command = ("enhance", ".", "../out", "--model", str(bundle_folder), "--dry-run", "--sheet", str(sheet))
        assert f"--sheet '{sheet}' would write into '{source}'" in refused(*command)
    assert sorted(source.rglob("*")) == before
    assert cli.main([*command[:-1], "../sheet.html"]) == exit_codes.OK and sorted(source.rglob("*")) == before


def test_one_photo_is_enhanced_to_a_file(photo_folder: Path, bundle_folder: Path, tmp_path: Path) -> None:
    before = (photo_folder / "01.jpg").read_bytes()
    target = tmp_path / "e.jpg"
    assert cli.main(["enhance", str(photo_folder / "01.jpg"), str(target), "--model", str(bundle_folder)]) == 0
    assert target.read_bytes() != before == (photo_folder / "01.jpg").read_bytes()


def test_the_command_ends_with_a_summary_a_sheet_and_the_right_code(
    ray_cluster: None,
    photo_folder: Path,
    bundle_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "ray_session", contextlib.nullcontext)  # the tests' Ray
    source, target, sheet = tmp_path / "source", tmp_path / "target", tmp_path / "sheet.html"
    shutil.copytree(photo_folder, source)
    (source / "cut.jpg").write_bytes((source / "01.jpg").read_bytes()[:700])
    command = ["enhance", str(source), str(target), "--model", str(bundle_folder)]
    assert cli.main([*command, "--sheet", str(sheet)]) == exit_codes.SOME_FAILED
    done = capsys.readouterr()
    assert "24 enhanced, 0 copied, 0 left alone, 1 failed (1 truncated), 0 done before" in done.out
    assert "failed cut.jpg: truncated:" in done.err and "Traceback" not in done.err
    assert sheet.read_text().count('class="photo"') == 24
    assert cli.main([*command, "--exclude", "cut.jpg"]) == exit_codes.OK
    assert "24 done before" in capsys.readouterr().out
