"""The pictures of a page are inside it, or in a folder beside it."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from naturaltone.pipeline.photo.stored import decode_rgb
from naturaltone.serving.sheet.pictures import Beside, Inside


def test_a_picture_inside_is_a_data_url(photo: np.ndarray) -> None:
    source, width, height = Inside(long_side=100).add(photo)
    head, data = source.split(",")
    assert head == "data:image/jpeg;base64" and decode_rgb(base64.b64decode(data)).shape == (height, width, 3)


def test_a_page_of_any_name_finds_the_pictures_beside_it(tmp_path: Path, photo: np.ndarray) -> None:
    page = tmp_path / "my sheet #1?.html"
    pictures = Beside(str(page))
    sources = [pictures.add(photo)[0] for _ in range(2)]
    assert len(set(sources)) == 2
    for source in sources:
        assert "#" not in source and "?" not in source
        assert decode_rgb((page.parent / unquote(source)).read_bytes()).shape == photo.shape


def test_a_page_in_the_working_folder_has_pictures_beside_it(tmp_path: Path, photo: np.ndarray, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    assert Beside("sheet.html").add(photo)[0] == "sheet_files/00001.jpg"
    assert (tmp_path / "sheet_files" / "00001.jpg").exists()


def test_a_page_at_the_top_of_a_disk_has_pictures_beside_it() -> None:
    assert Beside("/sheet.html").folder == "/sheet_files"
