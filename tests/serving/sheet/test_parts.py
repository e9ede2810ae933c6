"""Tables and comparisons show the values that they are given."""

from __future__ import annotations

import numpy as np

from naturaltone.serving.sheet.parts import Comparison, compare, make_table
from naturaltone.serving.sheet.pictures import Inside
from naturaltone.serving.sheet.render import render


def test_a_table_sets_the_chosen_cells_in_bold() -> None:
    table = make_table(["", "x"], [["one", "1"], ["<two>", "2"]], bold={(1, 1)})
    assert [[cell.is_bold for cell in row] for row in table.rows] == [[False, False], [False, True]]


def test_a_page_knows_the_size_of_a_picture_before_it_loads(photo: np.ndarray) -> None:
    compared = compare("a.jpg", "2 MP", {"before": photo, "after": photo}, Inside(long_side=70))
    assert (compared.width, compared.height) == (70, 50)
    comparison = Comparison(labels={"before": "b", "after": "a"}, photos=[compared], left="before", right="after")
    page = render("archive.html", title="t", shown="1 photos", comparison=comparison)
    assert page.count('width="70" height="50"') == 2 and "--ratio:1.4000" in page and page.count('loading="lazy"') == 2
