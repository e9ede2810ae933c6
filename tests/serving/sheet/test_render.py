"""Pages show photos and tables safely, and their sliders work by touch and by keys."""

from __future__ import annotations

import re

import jinja2
import numpy as np
import pytest

from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation import evaluate
from naturaltone.serving.evaluation.photos import EvaluationPhoto
from naturaltone.serving.sheet.parts import Figure
from naturaltone.serving.sheet.pictures import Inside
from naturaltone.serving.sheet.render import render
from naturaltone.training.checkpoint import Bundle
from tests.pages import page_of


def test_the_slider_works_by_touch_and_by_keys(bundle: Bundle, photo: np.ndarray) -> None:
    photos = [
        EvaluationPhoto(name=name, input=pixels) for name, pixels in (("a", photo), ("b", photo[::-1].copy() // 2))
    ]
    page = page_of(evaluate.evaluate(Enhancer(bundle, version=""), photos, held_out=False))
    assert "(too few to hold any out)" in page
    assert page.count('<input type="range"') == 2 and page.count('aria-label="a: how much') == 1
    for side, chosen in (("left", "input"), ("right", "result")):
        values = re.findall(rf'<input type="radio" name="{side}" value="(\w+)"( checked)?>', page)
        assert [value for value, _ in values] == list(evaluate.STAGES)
        assert [value for value, checked in values if checked] == [chosen]
    assert 'name="view" value="slider" checked' in page
    assert "touch-action: pan-y" in page and "clip-path" in page and "color-scheme: light dark" in page
    assert page.count('src="data:image/jpeg;base64,') == page.count("<img") == 6
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"base64,[^\"]*", "", page)), "no address on the network"


def test_names_cannot_break_a_page(bundle: Bundle, photo: np.ndarray) -> None:
    name = "<script>\"&'.jpg"
    photos = [EvaluationPhoto(name=name, input=photo)]
    page = page_of(evaluate.evaluate(Enhancer(bundle, version=""), photos, held_out=True))
    source, _, _ = Inside().add(np.zeros((20, 20, 3), np.uint8))
    page += render("store.html", title="<t>", summary="a & b", rows=[[Figure(name, source)]])
    assert page.count("<script>") == 1 and "<script>&" not in page, "the only script is ours"
    assert "&lt;script&gt;&#34;&amp;&#39;.jpg" in page and "a &amp; b" in page and "<t>" not in page


def test_a_missing_value_is_an_error_and_not_an_empty_text() -> None:
    with pytest.raises(jinja2.UndefinedError, match="rows"):
        render("store.html", title="t", summary="s")
