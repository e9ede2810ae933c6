"""Presents a verdict of the gate: as a text table, and as an HTML page with the photos that tell most."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from naturaltone.pipeline.photo.pixels import shrink
from naturaltone.pipeline.photo.stored import decode_rgb
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation.gate import GUARDS, PRIMARY, Verdict, label
from naturaltone.serving.evaluation.gate_scores import PhotoScores
from naturaltone.serving.evaluation.gate_set import GatePhoto
from naturaltone.serving.evaluation.verdict import MIN_PHOTOS, Check
from naturaltone.serving.sheet.parts import Comparison, compare, make_table
from naturaltone.serving.sheet.pictures import COMPARED_LONG_SIDE, Inside
from naturaltone.serving.sheet.render import render

_MOST = 4  # photos with the largest gains, and with the largest losses
_COLUMNS = ("measure", "photos of", "number", "gain", "at least", "limit", "")


def format_verdict(verdict: Verdict) -> str:
    """Format the checks as plain text, one a line."""
    rows = [_COLUMNS, *map(_row, verdict.checks)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *_remarks(verdict)])


def gate_page(
    title: str, verdict: Verdict, scores: Sequence[PhotoScores], photos: Iterable[GatePhoto], models: Sequence[Enhancer]
) -> str:
    """Make the page. photos: of the gate, to show some. models: the champion and the challenger."""
    notes, pictures, shown = _telling(scores), Inside(), {}
    for photo in photos:
        if photo.photo_id in notes:
            pixels = decode_rgb(photo.image)
            made = {name: model.enhance(pixels) for name, model in zip(("champion", "challenger"), models, strict=True)}
            stages = {name: shrink(picture, COMPARED_LONG_SIDE) for name, picture in {"input": pixels, **made}.items()}
            shown[photo.photo_id] = compare(photo.name, notes[photo.photo_id], stages, pictures)
    return render(
        "gate.html",
        title=title,
        verdict=verdict.why,
        checks=make_table(_COLUMNS, map(_row, verdict.checks)),
        remarks=_remarks(verdict),
        photos=len(scores),
        comparison=Comparison(
            labels={
                "input": "input",
                "champion": f"champion {models[0].version}",
                "challenger": f"challenger {models[1].version}",
            },
            photos=[shown[each] for each in notes if each in shown],
            left="champion",
            right="challenger",
        ),
    )


def _telling(scores: Sequence[PhotoScores]) -> dict[str, str]:
    """The photos that tell most, by their ids, and why each was chosen."""
    inputs = [each for each in scores if each.role == "input"]
    by_gain = sorted(inputs, key=lambda each: each.gain(PRIMARY))
    chosen: dict[str, list[str]] = {}
    for each in [*by_gain[::-1][:_MOST], *by_gain[:_MOST]]:
        chosen.setdefault(each.photo_id, [])
    for measure, guard in GUARDS.items():
        losses = {each.photo_id: -guard.sign * each.gain(measure) for each in inputs}
        worst = max(losses, key=lambda name: -math.inf if math.isnan(losses[name]) else losses[name], default=None)
        if worst is not None and losses[worst] > 0:
            chosen.setdefault(worst, []).append(f"{label(measure)} {-guard.sign * losses[worst]:+.3g}")
    gains = {each.photo_id: each.gain(PRIMARY) for each in inputs}
    return {
        name: "; ".join([f"naturalness {gains[name]:+.3f}", *(f"lost most in {note}" for note in notes)])
        for name, notes in chosen.items()
    }


def _row(check: Check) -> tuple[str, ...]:
    needed = f", about {check.needed} needed" if check.needed else ""
    numbers = (_number(value) for value in (check.mean, check.bound, check.limit))
    return label(check.measure), check.slice, str(check.photos), *numbers, f"{check.finding.value}{needed}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.3g}"


def _remarks(verdict: Verdict) -> list[str]:
    few = ", ".join(f"{name} ({photos})" for name, photos in verdict.not_judged.items())
    return [f"Not judged, because they have under {MIN_PHOTOS} photos: {few}."] if few else []
