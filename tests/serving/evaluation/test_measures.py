"""Every measure is computed, named and explained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from naturaltone.pipeline.photo.pixels import shrink
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation import evaluate
from naturaltone.serving.evaluation import report as evaluation_report
from naturaltone.serving.evaluation.measures import MEASURES
from naturaltone.serving.evaluation.photos import (
    EvaluationPhoto,
)
from naturaltone.training.checkpoint import Bundle
from naturaltone.training.measures import niqe
from tests.pages import page_of


def test_every_measure_is_named_and_explained(judge: Bundle, photos: list[EvaluationPhoto]) -> None:
    with_all = [replace(photo, reference=photo.input) for photo in photos]
    evaluation = evaluate.evaluate(Enhancer(judge, version=""), with_all, natural=photos, held_out=True)
    assert set(evaluation.table["result"]) == set(MEASURES), "all measures are computed, and no other"
    text, page = evaluation_report.format_table(evaluation), page_of(evaluation)
    for measure in MEASURES.values():
        assert measure.label in text and measure.meaning in text
        assert measure.label in page


def test_niqe_is_compared_at_the_size_of_the_natural_photos(judge: Bundle, astronaut: np.ndarray) -> None:
    evaluation = evaluate.evaluate(
        Enhancer(judge, version=""), [EvaluationPhoto(name="a", input=astronaut)], held_out=True
    )
    assert judge.natural_model and judge.working_resolution == 96
    small = shrink(astronaut, 96)
    assert evaluation.scores["a"]["input"]["niqe"] == niqe.score(small, judge.natural_model)
