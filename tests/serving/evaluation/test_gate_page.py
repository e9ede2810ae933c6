"""The page of a verdict shows the photos that tell most, and why each was chosen."""

from __future__ import annotations

import dataclasses

from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation.gate import judge
from naturaltone.serving.evaluation.gate_page import format_verdict, gate_page
from tests.gates import gate_photos
from tests.serving.evaluation.test_gate import scores


def test_the_page_shows_gains_losses_and_the_worst_photo_of_each_measure(enhancer: Enhancer) -> None:
    photos = gate_photos(30)
    found = [
        dataclasses.replace(each, photo_id=photo.photo_id, name=photo.name)
        for each, photo in zip(scores(inputs=30, natural=30, naturalness=0.02), photos, strict=True)
    ]
    found[7].challenger["noise_gain"] = 9.0
    verdict = judge(found)
    page = gate_page("A title", verdict, found, photos, [enhancer, enhancer])
    assert "lost most in noise gain +7.2" in page and "7.jpg" in page
    assert 8 <= page.count('class="photo"') <= 8 + 8
    assert verdict.why.replace("'", "&#39;") in page


def test_the_table_has_a_row_for_each_check_and_names_who_was_not_judged() -> None:
    verdict = judge(scores())
    lines = format_verdict(verdict).splitlines()
    assert len(lines) == len(verdict.checks) + 2
    assert "people (0)" in lines[-1] and "night" not in lines[-1]
