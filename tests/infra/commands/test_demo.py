"""`naturaltone demo` deletes only what a demo wrote, and refuses wrong arguments before any work."""

from __future__ import annotations

import shutil
from pathlib import Path


def test_a_folder_without_photos_is_refused(refused, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no photos here" in refused(
        "demo", "--inputs", str(empty), "--natural", str(empty), "--out", str(tmp_path / "out")
    )
    assert not (tmp_path / "out").exists()


def test_demo_takes_both_folders_or_none(refused, photo_folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
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
    assert "overlap" in refused("demo", *folders)
    assert (mine / "01.jpg").exists()


def test_demo_deletes_no_folder_that_it_did_not_write(refused, photo_folder: Path) -> None:  # type: ignore[no-untyped-def]
    before = sorted(photo_folder.rglob("*"))
    assert "exists, and no demo wrote it; choose a new folder" in refused("demo", "--out", str(photo_folder))
    assert sorted(photo_folder.rglob("*")) == before


def test_numbers_out_of_range_are_refused(refused, photo_folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert "steps=0: must be at least 1" in refused("demo", "--steps", "0", "--out", str(tmp_path / "out"))
    to = ("--role", "input", "--to", str(tmp_path / "store"), "--long-side", "0")
    assert "--long-side 0" in refused("ingest", str(photo_folder), *to)
