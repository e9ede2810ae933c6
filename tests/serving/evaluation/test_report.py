"""An evaluation becomes a table, JSON and a page."""

from __future__ import annotations

import json
import math
import re

import numpy as np

from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation import evaluate
from naturaltone.serving.evaluation import report as evaluation_report
from naturaltone.serving.evaluation.photos import (
    EvaluationPhoto,
)
from naturaltone.training.checkpoint import Bundle
from tests.pages import page_of


def test_a_bundle_without_natural_photos_says_why_there_is_no_niqe(
    bundle: Bundle, judge: Bundle, photos: list[EvaluationPhoto]
) -> None:
    without = evaluate.evaluate(Enhancer(bundle, version=""), photos, held_out=True)
    assert "niqe" not in without.table["result"]
    assert "NIQE is missing" in evaluation_report.format_table(without) and "NIQE is missing" in page_of(without)
    with_it = evaluate.evaluate(Enhancer(judge, version=""), photos, held_out=True)
    assert "NIQE is missing" not in evaluation_report.format_table(with_it)


def test_a_measure_without_values_is_a_dash_and_null(bundle: Bundle, photo: np.ndarray) -> None:
    blue = photo.copy()
    blue[..., :2] //= 4  # neither skin nor greys
    evaluation = evaluate.evaluate(
        Enhancer(bundle, version=""), [EvaluationPhoto(name="sea", input=blue)], held_out=True
    )
    assert math.isnan(evaluation.table["result"]["skin_hue_shift"])
    row = next(line for line in evaluation_report.format_table(evaluation).splitlines() if line.startswith("skin"))
    assert row.split()[3:6] == ["-", "-", "-"]
    plain = json.loads(json.dumps(evaluation_report.to_json(evaluation), allow_nan=False))
    assert plain["table"]["result"]["skin_hue_shift"] is None and plain["scores"]["sea"]["input"]["noise_gain"] == 1
    assert "eval/result/skin_hue_shift" not in evaluation_report.to_metrics(evaluation)
    assert evaluation_report.to_metrics(evaluation)["eval/input/noise_gain"] == 1


def test_the_best_stage_is_marked(bundle: Bundle, photos: list[EvaluationPhoto]) -> None:
    evaluation = evaluate.evaluate(Enhancer(bundle, version=""), photos, held_out=True)
    table = evaluation.table
    best = max(("intermediate", "result"), key=lambda stage: table[stage]["naturalness"])
    number = f"{table[best]['naturalness']:.3f}"
    row = next(line for line in evaluation_report.format_table(evaluation).splitlines() if line.startswith("natural"))
    assert row.count("*") == 1 and f"{number}*" in row
    assert f"<td><b>{number}</b></td>" in page_of(evaluation)
    gain = next(line for line in evaluation_report.format_table(evaluation).splitlines() if "contrast gain" in line)
    assert "*" not in gain, "more contrast is not always better"
    stages = {name: evaluate.Stage(name, lambda pixels: pixels) for name in ("input", "one", "two")}
    twins = evaluate.score(photos, stages, held_out=True, judged="two", judge=bundle)
    assert not re.search(r"\d\*", evaluation_report.format_table(twins)), "equal stages are not better than each other"


def test_the_page_shows_the_first_photos_and_the_worst_ones(
    bundle: Bundle, photo: np.ndarray, photos: list[EvaluationPhoto]
) -> None:
    same = [EvaluationPhoto(name=f"{number:02}", input=photo) for number in range(14)]
    last = photo // 12 + 100  # flat and grey: its noise and colours change most
    evaluation = evaluate.evaluate(
        Enhancer(bundle, version=""), [*same, EvaluationPhoto(name="last", input=last)], held_out=True
    )
    names = [example.name for example in evaluation.examples]
    assert "last" in names and "13" not in names and len(names) == 13
    worst = next(example for example in evaluation.examples if example.name == "last")
    assert worst.worst_in
    page = page_of(evaluation)
    assert "got worse here than in any other" in page and page.count("<img") == 13 * 3 and "13 of the 15 photos" in page
