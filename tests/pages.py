"""Makes the page of an evaluation as the commands do."""

from __future__ import annotations

from naturaltone.serving.evaluation.evaluate import Evaluation
from naturaltone.serving.evaluation.report import evaluation_page


def page_of(evaluation: Evaluation) -> str:
    return evaluation_page("t", evaluation)
