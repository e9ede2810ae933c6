"""Pictures of a page lie in it, or beside it where they are many."""

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


def test_pictures_beside_a_page_are_found_from_it_whatever_its_name(tmp_path: Path, photo: np.ndarray) -> None:
    page = tmp_path / "my sheet #1?.html"
    pictures = Beside(str(page))
    sources = [pictures.add(photo)[0] for _ in range(2)]
    assert len(set(sources)) == 2
    for source in sources:
        assert "#" not in source and "?" not in source
        assert decode_rgb((page.parent / unquote(source)).read_bytes()).shape == photo.shape


def test_a_page_in_the_working_folder_has_its_pictures_there(
    tmp_path: Path,
    photo: np.ndarray,
    monkeypatch,  # type: ignore[no-untyped-def]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Beside("sheet.html").add(photo)[0] == "sheet_files/00001.jpg"
    assert (tmp_path / "sheet_files" / "00001.jpg").exists()
