"""Pages show photos and tables safely, and their sliders can be touched and driven by keys."""

from __future__ import annotations

import re

import numpy as np
import pytest

from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation import evaluate
from naturaltone.serving.evaluation import report as evaluation_report
from naturaltone.serving.evaluation.photos import (
    EvaluationPhoto,
)
from naturaltone.serving.sheet import sheet
from naturaltone.training.checkpoint import Bundle
from tests.pages import page_of


@pytest.fixture(scope="module")
def photos(photo: np.ndarray) -> list[EvaluationPhoto]:
    return [EvaluationPhoto(name=name, input=pixels) for name, pixels in (("a", photo), ("b", photo[::-1].copy() // 2))]


def test_the_slider_can_be_touched_and_driven_by_keys(bundle: Bundle, photos: list[EvaluationPhoto]) -> None:
    evaluation = evaluate.evaluate(Enhancer(bundle, version=""), photos, held_out=False)
    page = page_of(evaluation)
    assert "(too few to hold any out)" in page
    assert page.count('<input type="range"') == 2 and page.count('aria-label="a: how much') == 1
    for side, chosen in (("left", "input"), ("right", "result")):
        values = re.findall(rf'<input type="radio" name="{side}" value="(\w+)"( checked)?>', page)
        assert [value for value, _ in values] == list(evaluate.STAGES)
        assert [value for value, checked in values if checked] == [chosen]
    assert 'name="view" value="slider" checked' in page
    assert "touch-action: pan-y" in page and "clip-path" in page and "color-scheme: light dark" in page
    assert page.count('src="data:image/jpeg;base64,') == page.count("<img") == 6
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"base64,[^\"]*", "", page)), "nothing from the network"


def test_names_cannot_break_the_page(bundle: Bundle, photo: np.ndarray) -> None:
    name = "<script>\"&'.jpg"
    evaluation = evaluate.evaluate(
        Enhancer(bundle, version=""), [EvaluationPhoto(name=name, input=photo)], held_out=True
    )
    pixels = np.zeros((20, 20, 3), np.uint8)
    page = sheet.page(
        "<t>",
        [sheet.paragraph("a & b"), sheet.picture_row([(name, pixels)]), *evaluation_report.sheet_parts(evaluation)],
    )
    assert page.count("<script>") == 1 and "<script>&quot;" not in page, "ours"
    assert "&lt;script&gt;&quot;&amp;&#x27;.jpg" in page and "a &amp; b" in page and "<t>" not in page


def test_a_table_marks_the_cells_that_it_is_told(photo: np.ndarray) -> None:
    table = sheet.table(["", "x"], [["one", "1"], ["<two>", "2"]], bold={(1, 1)})
    assert "<td>1</td>" in table and "<td><b>2</b></td>" in table and "&lt;two&gt;" in table
