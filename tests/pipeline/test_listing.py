"""Files are listed in a fixed order. Links are followed, or are listed with their problem."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from naturaltone.pipeline import s3, storage
from naturaltone.pipeline.listing import Problem, list_files
from naturaltone.pipeline.reasons import Reason


def test_listing_is_sorted_recursive_and_by_suffix_in_any_case(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/c.jpg", "a/d.txt", "e.png"):
        storage.write_bytes(str(tmp_path / name), b"12")
    found = list(list_files(str(tmp_path), suffixes=(".jpg",)))
    assert [file.relative for file in found] == ["a/c.jpg", "b.JPG"]
    assert found[0].size == 2 and storage.read_bytes(found[0].uri) == b"12"


def test_keys_with_double_slashes_are_objects_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import datetime

    found = [
        {"Key": key, "Size": 1, "ETag": '"e"', "LastModified": datetime(2026, 1, 1)} for key in ("p/a.jpg", "p//a.jpg")
    ]
    monkeypatch.setattr(s3, "list_objects", lambda uri: iter(found))
    assert [file.uri for file in list_files("s3://b/p")] == ["s3://b/p/a.jpg", "s3://b/p//a.jpg"]


def test_links_are_followed_unless_the_listing_must_stay_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.jpg").touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "out").symlink_to(tmp_path / "outside")
    (folder / "loop").symlink_to(folder)
    assert [file.relative for file in list_files(str(folder))] == ["out/a.jpg"]
    found = {file.relative: file.problem for file in list_files(str(folder), stay=True)}
    assert found["out"] == Problem(Reason.NOT_FOLLOWED, "a link that leads out of the folder")
    assert found["loop"] == Problem(Reason.NOT_FOLLOWED, "a link to a folder that contains it")
    assert set(found) == {"out", "loop"}


def test_a_changed_file_has_another_version(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    [before] = list_files(str(tmp_path))
    os.utime(tmp_path / "a", ns=(1, 1))
    [after] = list_files(str(tmp_path))
    assert before.version != after.version == "1" and before.uri == f"{tmp_path}/a"
