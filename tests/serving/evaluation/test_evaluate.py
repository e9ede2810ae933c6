"""Every photo is scored in every stage, and in the stage of another model if one is given."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from naturaltone.pipeline import tone
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation import evaluate
from naturaltone.serving.evaluation import report as evaluation_report
from naturaltone.serving.evaluation.photos import (
    EvaluationPhoto,
)
from naturaltone.training.checkpoint import Bundle
from naturaltone.training.measures import metrics
from tests.pages import page_of


def test_the_inputs_own_gain_is_1_and_means_are_over_all_photos(bundle: Bundle, photos: list[EvaluationPhoto]) -> None:
    enhancer = Enhancer(bundle, version="")
    both = evaluate.evaluate(enhancer, photos, held_out=True)
    single = [evaluate.evaluate(enhancer, [one], held_out=True) for one in photos]
    assert both.photos == 2 and both.table["input"]["local_contrast_gain"] == 1
    assert both.table["input"]["fidelity"] == pytest.approx(1)
    assert tuple(both.table) == evaluate.STAGES
    for stage in evaluate.STAGES:
        for name, mean in both.table[stage].items():
            values = [one.table[stage][name] for one in single if not math.isnan(one.table[stage][name])]
            assert mean == pytest.approx(np.mean(values), nan_ok=True) if values else math.isnan(mean)
    assert both.scores["a"]["result"] == pytest.approx(single[0].scores["a"]["result"], nan_ok=True)


def test_a_mean_leaves_out_photos_without_the_measure(bundle: Bundle, photo: np.ndarray) -> None:
    blue = photo.copy()
    blue[..., :2] //= 4
    pair = [EvaluationPhoto(name=name, input=pixels) for name, pixels in (("skin", photo), ("sea", blue))]
    evaluation = evaluate.evaluate(Enhancer(bundle, version=""), pair, held_out=True)
    skin = evaluation.scores["skin"]["result"]["skin_hue_shift"]
    assert skin > 0 and evaluation.table["result"]["skin_hue_shift"] == skin


def test_the_algorithm_of_the_training_makes_the_intermediate(bundle: Bundle, photo: np.ndarray) -> None:
    clahe = tone.ALGORITHMS["clahe"]
    own = replace(bundle, description={**bundle.description, "lineage": {"algorithm": tone.algorithm_id(clahe)}})
    nothing_said = replace(bundle, description={"working_resolution": 96})
    for model, algorithm in ((own, clahe), (bundle, tone.LOCAL_LAPLACIAN), (nothing_said, tone.LOCAL_LAPLACIAN)):
        photos = [EvaluationPhoto(name="a", input=photo)]
        evaluation = evaluate.evaluate(Enhancer(model, version=""), photos, held_out=True)
        shown = evaluation.examples[0].pictures["intermediate"]
        assert np.array_equal(shown, tone.intermediate(photo, algorithm))


def test_another_model_gets_its_own_stage(bundle: Bundle, judge: Bundle, photos: list[EvaluationPhoto]) -> None:
    enhancer, other = Enhancer(judge, version="first-1"), Enhancer(bundle, version="<second>-2")
    evaluation = evaluate.evaluate(enhancer, photos, held_out=True, against=other)
    assert list(evaluation.labels) == ["input", "intermediate", "result", "against"]
    assert evaluation.table["against"] == pytest.approx(evaluation.table["result"], nan_ok=True), "the same weights"
    assert "<second>-2" in evaluation_report.format_table(evaluation)
    page = page_of(evaluation)
    assert "<second>" not in page and "&lt;second&gt;-2" in page


def test_natural_photos_are_scored_by_how_little_they_change(bundle: Bundle, photo: np.ndarray) -> None:
    natural = [EvaluationPhoto(name="n", input=photo), EvaluationPhoto(name="m", input=photo // 2)]
    enhancer = Enhancer(bundle, version="v")
    result = evaluate.evaluate(enhancer, natural[:1], natural=natural, held_out=True)
    expected = np.mean([metrics.psnr(enhancer.enhance(one.input), one.input) for one in natural])
    assert result.table["result"]["identity_psnr"] == pytest.approx(expected)
    for percent in (50, 10):
        percentile = np.percentile(result.identity["result"], percent)
        assert result.table["result"][f"identity_psnr_p{percent}"] == pytest.approx(percentile)
    assert "identity_psnr" not in result.table["input"] and "identity PSNR" in evaluation_report.format_table(result)
    assert evaluation_report.to_json(result)["natural_photos"] == 2
