"""Presents an evaluation: as a text table, as JSON, as metrics for a tracking server, and as an HTML page."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from naturaltone.serving.evaluation.evaluate import Evaluation, Example
from naturaltone.serving.evaluation.measures import MEASURES, Measure, Scores
from naturaltone.serving.evaluation.people import group_faces
from naturaltone.serving.sheet.parts import Comparison, Table, compare, make_table
from naturaltone.serving.sheet.pictures import Inside
from naturaltone.serving.sheet.render import render

GIVEN = ("input", "reference")  # stages that neither a model nor an algorithm made

_SKIN_COLUMNS = ["skin of faces", "faces", "ΔL*", "|ΔL*|", "ΔC*", "Δhue", "farthest ΔL*", "in"]
_NO_NIQE = (
    "NIQE is missing: the bundle has no model of natural photos; train on a store with more or larger natural photos."
)


def format_table(evaluation: Evaluation) -> str:
    """Format the table as plain text; * marks the best stage, inputs and references aside."""
    labels = evaluation.labels.values()
    width = max(14, *(len(label) + 2 for label in labels))
    lines = [f"{'':22}" + "".join(f"{label:>{width}}" for label in labels)]
    for row in _rows(evaluation):
        cells = "".join(f"{cell + '*' * best:>{width}}" for cell, best in row.cells)
        lines.append(f"{row.measure.label:22}{cells}   {row.measure.meaning}")
    return "\n".join([*lines, *skin_lines(evaluation, evaluation.judged), *remarks(evaluation)])


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Convert the table and the scores of every photo to plain JSON; null if there is nothing to measure."""

    def plain(scores: Scores) -> dict[str, dict[str, float | None]]:
        return {
            stage: {name: None if math.isnan(value) else value for name, value in values.items()}
            for stage, values in scores.items()
        }

    return {
        "photos": evaluation.photos,
        "natural_photos": max(map(len, evaluation.identity.values()), default=0),
        "held_out": evaluation.held_out,
        "stages": evaluation.labels,
        "table": plain(evaluation.table),
        "scores": {name: plain(scores) for name, scores in evaluation.scores.items()},
        "skin": {
            stage: [dataclasses.asdict(group) for group in group_faces(evaluation.faces, stage)]
            for stage in dict.fromkeys(stage for face in evaluation.faces for stage in face.changes)
        },
    }


def to_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Convert the table to metrics `eval/STAGE/MEASURE` for a tracking server; NaN values are left out."""
    return {
        f"eval/{stage}/{name}": value
        for stage, values in evaluation.table.items()
        for name, value in values.items()
        if not math.isnan(value)
    }


@dataclass(frozen=True, kw_only=True)
class EvaluationView:
    """An evaluation as a page shows it.

    photos: their number. whose: end of a sentence that says whether training saw them. skin: of the faces; None if there are
    none. judged: the label of the judged stage.
    """

    photos: int
    whose: str
    table: Table
    skin: Table | None
    remarks: list[str]
    judged: str
    comparison: Comparison


def make_view(evaluation: Evaluation, *, side_by_side: bool = False) -> EvaluationView:
    """Prepare the table and the examples for a page; the pictures are stored inside the page."""
    rows, pictures = _rows(evaluation), Inside()
    return EvaluationView(
        photos=evaluation.photos,
        whose="that training never saw" if evaluation.held_out else "that training used too (too few to hold any out)",
        table=make_table(
            ["", *evaluation.labels.values(), ""],
            [[row.measure.label, *(cell for cell, _ in row.cells), row.measure.meaning] for row in rows],
            bold={
                (index, column)
                for index, row in enumerate(rows)
                for column, (_, best) in enumerate(row.cells, 1)
                if best
            },
        ),
        skin=make_table(_SKIN_COLUMNS, skin) if (skin := _skin_rows(evaluation, evaluation.judged)) else None,
        remarks=remarks(evaluation),
        judged=evaluation.labels[evaluation.judged],
        comparison=Comparison(
            labels=evaluation.labels,
            photos=[
                compare(example.name, _note(evaluation, example), _in_order(evaluation, example), pictures)
                for example in evaluation.examples
            ],
            left="input",
            right=evaluation.judged,
            side_by_side=side_by_side,
        ),
    )


def evaluation_page(title: str, evaluation: Evaluation) -> str:
    """Make an HTML page with the table and a slider for each example."""
    return render("evaluation.html", title=title, view=make_view(evaluation))


def remarks(evaluation: Evaluation) -> list[str]:
    """What a reader of the table must know, one sentence each."""
    lines = [] if "niqe" in evaluation.table["input"] else [_NO_NIQE]
    referenced = sum("reference" in scores for scores in evaluation.scores.values())
    if 0 < referenced < evaluation.photos:
        lines.append(f"{referenced} of the {evaluation.photos} photos have a reference.")
    return lines


class _Row(NamedTuple):
    measure: Measure
    # For each stage: the number as text, and whether it is the best (inputs and references aside).
    cells: list[tuple[str, bool]]


def _rows(evaluation: Evaluation) -> list[_Row]:
    table, rows = evaluation.table, []
    for name, measure in MEASURES.items():
        if not any(name in values for values in table.values()):
            continue
        values = {stage: table[stage].get(name, math.nan) for stage in evaluation.labels}
        made = {stage: value for stage, value in values.items() if stage not in GIVEN and not math.isnan(value)}
        # Compare the rounded numbers: if two look the same, neither is better.
        texts = {_number(value) for value in made.values()}
        best = _number(measure.best(made.values())) if measure.best and len(texts) > 1 else None
        cells = [(_number(value), stage in made and _number(value) == best) for stage, value in values.items()]
        rows.append(_Row(measure, cells))
    return rows


def _skin_rows(evaluation: Evaluation, stage: str) -> list[list[str]]:
    """A row for each group of faces: the mean change that the stage makes to their skin."""
    return [
        [
            group.label,
            str(group.faces),
            f"{group.mean.lightness:+.1f}",
            f"{group.mean_distance:.1f}",
            f"{group.mean.chroma:+.1f}",
            f"{group.mean.hue:+.1f}°",
            f"{group.farthest:+.1f}",
            group.farthest_name,
        ]
        for group in group_faces(evaluation.faces, stage)
    ]


def skin_lines(evaluation: Evaluation, stage: str) -> list[str]:
    """The lines of `format_table` about the skin of faces, for any stage; none if there are no faces."""
    if not (rows := _skin_rows(evaluation, stage)):
        return []
    return ["", *(f"{label:26}" + "".join(f"{cell:>14}" for cell in cells) for label, *cells in (_SKIN_COLUMNS, *rows))]


def _note(evaluation: Evaluation, example: Example) -> str:
    scores, notes = evaluation.scores[example.name], []
    for name in example.worst_in:
        before, after = (_number(scores[stage][name]) for stage in ("input", evaluation.judged))
        notes.append(f"{MEASURES[name].label} ({before} → {after})")
    lines = [f"got worse here than in any other photo: {', '.join(notes)}"] if notes else []
    if "reference" in evaluation.labels and "reference" not in example.pictures:
        lines.append("no reference")
    return "; ".join(lines)


def _in_order(evaluation: Evaluation, example: Example) -> dict[str, np.ndarray]:
    return {stage: example.pictures[stage] for stage in evaluation.labels if stage in example.pictures}


def _number(value: float) -> str:
    """Format a number with three decimals, or three digits if it is below 0.01; a dash for NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.01 else f"{value:.3g}"
