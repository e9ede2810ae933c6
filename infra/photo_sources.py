"""The sources of the photos of a model: where each photo comes from, under which licence, and what it was used for."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.photo.find import find_photos

TABLE = "SOURCES.tsv"
_MEASURED = ("face_box", "ita", "class", "poor tone by rule")  # columns that say nothing of the source


def read_table(folder: Path) -> list[dict[str, Any]]:
    """The rows of `folder`/SOURCES.tsv; none if there is no such file. `file` is relative to the folder."""
    if not (folder / TABLE).exists():
        return []
    with open(folder / TABLE, newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table, delimiter="\t"))


def sources_of(photos: Path) -> list[dict[str, Any]]:
    """The rows of `photos`/SOURCES.tsv and `photos`/portraits/SOURCES.tsv. `file` is relative to `photos`."""
    portraits = [{**row, "file": f"portraits/{row['file']}"} for row in read_table(photos / "portraits")]
    return read_table(photos) + portraits


def checked_sources(photos: Path) -> list[dict[str, Any]]:
    """The rows of `sources_of` for the photos that are in `photos`; none if it has no SOURCES.tsv.

    `UserError` if a photo has no row, or is under CC BY, which asks for the author's name, and its row names nobody.
    """
    if not (rows := sources_of(photos)):
        return []
    roles = [role for role in ("inputs", "natural", "portraits") if (photos / role).exists()]
    ours = {f"{role}/{Path(uri).name}" for role in roles for uri in find_photos(str(photos / role))}
    if unknown := sorted(ours - {row["file"] for row in rows}):
        raise UserError(f"'{unknown[0]}' has no row in {TABLE}; add its source and licence, or remove the photo")
    rows = [row for row in rows if row["file"] in ours]
    if nameless := [row["file"] for row in rows if not names_its_author(row)]:
        raise UserError(
            f"{TABLE} names no author for {len(nameless)} photos under CC BY, such as '{nameless[0]}'; "
            "add the names, or remove the photos"
        )
    return rows


def names_its_author(row: dict[str, Any]) -> bool:
    """Whether a row names the author, if its licence asks for that. The licence may: `CC BY 3.0, (c) UK Parliament`."""
    author = (row.get("author or credit") or "").casefold()
    named = author != "" and not author.startswith(("see ", "unknown"))
    return named or "(c)" in row["licence"] or not row["licence"].startswith("CC BY")


def list_sources(photos: Path, held_out: Path) -> str:
    """A table of all photos in `photos`, as TSV: the columns of their SOURCES.tsv, and what each photo was used for.

    held_out: the photos that training did not see, by role; see `default_model.split`. Empty if `photos` has no SOURCES.tsv.
    """
    if not (rows := checked_sources(photos)):
        return ""
    columns = list(
        dict.fromkeys(["file", "used for", *(name for row in rows for name in row if name not in _MEASURED)])
    )
    text = io.StringIO()
    table = csv.DictWriter(text, columns, delimiter="\t", extrasaction="ignore", lineterminator="\n", restval="")
    table.writeheader()
    for row in rows:
        role, name = row["file"].split("/")
        measuring = (held_out / role / f"{Path(name).stem}.jpg").exists()
        table.writerow({**row, "used for": "measuring" if measuring else "training"})
    return text.getvalue()
