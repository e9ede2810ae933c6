"""The table of sources names every photo once, with its licence and its use, and refuses to leave one out."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import pytest

from naturaltone.infra.photo_sources import checked_sources, list_sources
from naturaltone.pipeline.errors import UserError


@pytest.fixture
def photos(tmp_path: Path, photo_folder: Path) -> Path:
    """Two photos of each role, with tables; the first of each role is held out."""
    [first, second, *_] = sorted(path for path in photo_folder.iterdir() if path.suffix == ".jpg")
    for role in ("inputs", "natural", "portraits"):
        for number, path in enumerate((first, second)):
            target = tmp_path / role / f"{number}.jpg"
            target.parent.mkdir(exist_ok=True)
            shutil.copy(path, target)
        (tmp_path / "held-out" / role).mkdir(parents=True)
        shutil.copy(first, tmp_path / "held-out" / role / "0.jpg")
    rows = "".join(f"{role}/{number}.jpg\tCC BY\tAnn\n" for role in ("inputs", "natural") for number in (0, 1))
    (tmp_path / "SOURCES.tsv").write_text(f"file\tlicence\tauthor or credit\n{rows}natural/gone.jpg\tCC0\t\n")
    rows = "".join(f"{number}.jpg\tpublic domain\t1,2,3,4\ta.org\n" for number in (0, 1))
    (tmp_path / "portraits" / "SOURCES.tsv").write_text(f"file\tlicence\tface_box\tpage\n{rows}")
    return tmp_path


def test_every_photo_is_listed_once_with_its_licence_author_and_use(photos: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(list_sources(photos, photos / "held-out")), delimiter="\t"))
    assert [row["file"] for row in rows] == [
        f"{role}/{number}.jpg" for role in ("inputs", "natural", "portraits") for number in (0, 1)
    ]
    assert [row["used for"] for row in rows] == ["measuring", "training"] * 3
    assert rows[0]["author or credit"] == "Ann" and rows[5]["page"] == "a.org" and rows[5]["author or credit"] == ""
    assert "face_box" not in rows[5]


def test_a_photo_without_a_source_is_refused(photos: Path) -> None:
    shutil.copy(photos / "inputs/0.jpg", photos / "inputs/nobody.jpg")
    with pytest.raises(UserError, match=r"'inputs/nobody.jpg' has no row in SOURCES.tsv; add its source and licence"):
        list_sources(photos, photos / "held-out")


@pytest.mark.parametrize("author", ["", "see the page", "Unknown author"])
def test_a_photo_under_cc_by_without_its_author_is_refused(photos: Path, author: str) -> None:
    table = photos / "SOURCES.tsv"
    table.write_text(table.read_text().replace("natural/1.jpg\tCC BY\tAnn", f"natural/1.jpg\tCC BY\t{author}"))
    with pytest.raises(UserError, match=r"names no author for 1 photos under CC BY, such as 'natural/1.jpg'; add"):
        checked_sources(photos)
    table.write_text(table.read_text().replace(f"CC BY\t{author}\n", f"CC BY 3.0, (c) Parliament\t{author}\n"))
    assert len(checked_sources(photos)) == 6, "the licence names the author"


def test_photos_without_tables_have_no_list(photos: Path) -> None:
    for table in photos.rglob("SOURCES.tsv"):
        table.unlink()
    assert list_sources(photos, photos / "held-out") == ""
