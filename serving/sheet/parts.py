"""What pages consist of: tables, figures, and comparisons of pictures of the same photo."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from naturaltone.serving.sheet.pictures import Pictures


@dataclass(frozen=True)
class Cell:
    text: str
    is_bold: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose first column names the rows. is_of_numbers: the other columns are set flush right."""

    columns: Sequence[str]
    rows: list[list[Cell]]
    is_of_numbers: bool


@dataclass(frozen=True)
class Figure:
    """A captioned picture; `src` is its address."""

    caption: str
    src: str


@dataclass(frozen=True, kw_only=True)
class ComparedPhoto:
    """A photo in several stages: the addresses of its pictures by stage, which have one size."""

    caption: str
    note: str
    width: int
    height: int
    sources: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Photos to compare two stages of, or all. labels: of the stages. left, right, side_by_side: what is shown first."""

    labels: Mapping[str, str]
    photos: list[ComparedPhoto]
    left: str
    right: str
    side_by_side: bool = False


def make_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: bool = True,
    bold: Collection[tuple[int, int]] = (),
) -> Table:
    """A table of texts. bold: cells by row and column."""
    cells = [[Cell(text, (index, column) in bold) for column, text in enumerate(row)] for index, row in enumerate(rows)]
    return Table(columns=columns, rows=cells, is_of_numbers=numbers)


def compare(caption: str, note: str, stages: Mapping[str, np.ndarray], pictures: Pictures) -> ComparedPhoto:
    """A photo whose stages are H×W×3 uint8 sRGB pictures of one size."""
    sources = {}
    for stage, pixels in stages.items():
        sources[stage], width, height = pictures.add(pixels)
    return ComparedPhoto(caption=caption, note=note, width=width, height=height, sources=sources)
