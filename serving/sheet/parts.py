"""The parts of a page: tables, figures, and comparisons of several pictures of one photo."""

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
    """A table. The first column names the rows. is_of_numbers: align the other columns to the right."""

    columns: Sequence[str]
    rows: list[list[Cell]]
    is_of_numbers: bool


@dataclass(frozen=True)
class Figure:
    """A picture with a caption; `src` is its URL."""

    caption: str
    src: str


@dataclass(frozen=True, kw_only=True)
class ComparedPhoto:
    """A photo in several stages. sources: the URL of the picture of each stage. width, height: of all pictures."""

    caption: str
    note: str
    width: int
    height: int
    sources: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Photos in stages that the reader compares, two with a slider or all side by side.

    labels: of the stages. left, right: the stages that the page shows first. side_by_side: first show all stages.
    """

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
    """Make a table. bold: the cells to set in bold, as (row, column). numbers: align all but the first column right."""
    cells = [[Cell(text, (index, column) in bold) for column, text in enumerate(row)] for index, row in enumerate(rows)]
    return Table(columns=columns, rows=cells, is_of_numbers=numbers)


def compare(caption: str, note: str, stages: Mapping[str, np.ndarray], pictures: Pictures) -> ComparedPhoto:
    """Make a comparison of one photo. stages: H×W×3 uint8 sRGB pictures of the same size."""
    sources = {}
    for stage, pixels in stages.items():
        sources[stage], width, height = pictures.add(pixels)
    return ComparedPhoto(caption=caption, note=note, width=width, height=height, sources=sources)
