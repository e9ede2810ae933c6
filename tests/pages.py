"""The page of an evaluation, as the commands make it."""

from __future__ import annotations

from naturaltone.serving.evaluation.evaluate import Evaluation
from naturaltone.serving.evaluation.report import sheet_parts
from naturaltone.serving.sheet import sheet


def page_of(evaluation: Evaluation) -> str:
    return sheet.page("t", sheet_parts(evaluation))
