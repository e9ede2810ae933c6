"""Photos are found by their names, also those that will be refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from naturaltone.pipeline import storage
from naturaltone.pipeline.photo.find import check_photos, find_photos, list_photos


def test_photos_are_found_whatever_the_case_and_others_are_not(tmp_path: Path) -> None:
    for name in ("b.JPG", "below/a.heic", "c.nef", "notes.txt", "film.mp4", "d.bmp"):
        storage.write_bytes(str(tmp_path / name), b"")
    assert [file.relative for file in list_photos(str(tmp_path))] == ["b.JPG", "below/a.heic", "c.nef", "d.bmp"]
    assert find_photos(str(tmp_path))[0] == f"{tmp_path}/b.JPG"


def test_a_folder_without_photos_is_refused_with_what_was_looked_for(no_photos: str) -> None:
    with pytest.raises(storage.StorageError, match=r"no photos here; looked for \.jpg"):
        check_photos(no_photos)
    with pytest.raises(storage.StorageError, match="no such folder"):
        find_photos(f"{no_photos}/elsewhere")
