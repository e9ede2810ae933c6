"""Evaluation: a table of means over input, intermediate and result, and a page that shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import tone
from serving import evaluate, sheet
from serving.enhancer import Enhancer
from training.checkpoint import Bundle


def test_the_inputs_own_gain_is_1_and_means_are_over_all_photos(bundle: Bundle, photo: np.ndarray) -> None:
    photos = [
        evaluate.EvaluationPhoto(name=name, input=pixels, intermediate=tone.intermediate(pixels))
        for name, pixels in (("a", photo), ("b", photo[::-1].copy() // 2))
    ]
    both = evaluate.evaluate(Enhancer(bundle, version=""), photos, held_out=True)
    single = [evaluate.evaluate(Enhancer(bundle, version=""), [one], held_out=True) for one in photos]
    assert both.photos == 2 and both.table["input"]["local_contrast_gain"] == 1
    for stage in evaluate.STAGES:
        for measure in evaluate.MEASURES:
            mean = np.mean([one.table[stage][measure] for one in single])
            assert both.table[stage][measure] == pytest.approx(mean)
    assert "local contrast gain" in evaluate.format_table(both)
    page = sheet.page("t", evaluate.sheet_parts(both))
    assert page.count("<img") == 6 and "never saw" in page


def test_a_folder_of_photos_is_read_through_the_same_algorithm(photo_folder: Path) -> None:
    photos, held_out = evaluate.open_photos(str(photo_folder), [])
    first = next(photos)
    assert held_out and np.array_equal(first.intermediate, tone.intermediate(first.input))


def test_names_cannot_break_the_page() -> None:
    page = sheet.page(
        "<t>", [sheet.paragraph("a & b"), sheet.picture_row([("<script>", np.zeros((20, 20, 3), np.uint8))])]
    )
    assert "<script>" not in page and "&lt;script&gt;" in page and "a &amp; b" in page
