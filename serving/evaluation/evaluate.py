"""Scores what models make of photos: it measures every photo in every stage, and picks examples to look at."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from naturaltone.pipeline import tone
from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.photo.pixels import shrink
from naturaltone.pipeline.progress import track
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation.measures import MEASURES, Scores, measure_picture
from naturaltone.serving.evaluation.people import Face, find_face
from naturaltone.serving.evaluation.photos import EvaluationPhoto
from naturaltone.serving.sheet.pictures import COMPARED_LONG_SIDE
from naturaltone.training.checkpoint import Bundle
from naturaltone.training.measures import metrics

STAGES = ("input", "intermediate", "result")

# Measures of damage. For each of them, the page shows the photo that got worst.
_WORST_OF = (
    *("niqe", "naturalness", "clipped_fraction", "banding", "noise_gain"),
    *("halo_overshoot", "skin_hue_shift", "neutral_shift"),
)


class Stage(NamedTuple):
    """A way to turn an input photo into a picture. label: its name for people."""

    label: str
    make: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A photo to show.

    pictures: by stage, shrunk for a page. worst_in: the measures that got worst in this photo.
    """

    name: str
    pictures: dict[str, np.ndarray]
    worst_in: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores of all photos.

    held_out: training never saw the photos. labels: of the stages, in order. judged: the stage that is compared with
    the input to find the worst photos. scores: by name of the photo. identity: by stage, the PSNR in dB between each
    natural photo and its picture. faces: those of all photos, the natural ones too.
    """

    held_out: bool
    labels: dict[str, str]
    judged: str
    scores: dict[str, Scores]
    examples: list[Example]
    identity: dict[str, list[float]]
    faces: list[Face]

    @property
    def photos(self) -> int:
        return len(self.scores)

    @property
    def table(self) -> Scores:
        """The means by stage and measure, and of `identity` the median and the 10th percentile too, which a mean hides.

        A photo without a value is left out; NaN if no photo has a value.
        """
        columns: dict[str, dict[str, list[float]]] = {stage: defaultdict(list) for stage in self.labels}
        for scores in self.scores.values():
            for stage, values in scores.items():
                for name, value in values.items():
                    columns[stage][name].append(value)
        for stage, column in self.identity.items():
            columns[stage]["identity_psnr"] = column
            for percent in (50, 10):
                columns[stage][f"identity_psnr_p{percent}"] = [float(np.percentile(column, percent))]
        return {
            stage: {name: _mean(values[name]) for name in MEASURES if name in values}
            for stage, values in columns.items()
        }


def evaluate(
    enhancer: Enhancer,
    photos: Iterable[EvaluationPhoto],
    *,
    held_out: bool,
    natural: Iterable[EvaluationPhoto] = (),
    against: Enhancer | None = None,
    total: int | None = None,
) -> Evaluation:
    """Enhance every photo and score its input, intermediate and result, and its reference if it has one.

    held_out: training never saw the photos. natural: good photos; the only score is how little they change (PSNR).
    against: another model, scored too. total: the number of photos, for the progress line. `UserError` if there are no
    photos.
    """
    algorithm = algorithm_of(enhancer.bundle)
    stages = {
        "input": Stage("input", lambda pixels: pixels),
        "intermediate": Stage("intermediate", lambda pixels: tone.intermediate(pixels, algorithm)),
        "result": Stage("result", enhancer.enhance),
    }
    if against:
        stages["against"] = Stage(against.version, against.enhance)
    return score(
        photos, stages, natural=natural, held_out=held_out, judged="result", judge=enhancer.bundle, total=total
    )


def score(
    photos: Iterable[EvaluationPhoto],
    stages: dict[str, Stage],
    *,
    natural: Iterable[EvaluationPhoto] = (),
    held_out: bool,
    judged: str,
    judge: Bundle,
    total: int | None = None,
    see: Callable[[dict[str, np.ndarray]], None] = lambda pictures: None,
) -> Evaluation:
    """Make and measure the picture of every stage for every photo. The first stage must be the input itself.

    judged: the stage that is compared with the input to find the worst photos. judge: the bundle with the model of
    natural photos for NIQE; without such a model, NIQE is left out. see: gets the pictures of each photo, by stage. Other
    arguments and errors: see `evaluate`.
    """
    scores: dict[str, Scores] = {}
    faces: list[Face] = []
    gallery = _Gallery(judged)
    given, *made = stages
    labels = {name: stage.label for name, stage in stages.items()}
    for photo in track(photos, "evaluate", total=total):
        pictures = {name: stage.make(photo.input) for name, stage in stages.items()}
        if photo.reference is not None:
            pictures["reference"] = photo.reference
            labels.setdefault("reference", "reference")
        name = photo.name
        while name in scores:  # a photo of the same name from another folder
            name += "'"
        scores[name] = {stage: measure_picture(picture, photo, judge) for stage, picture in pictures.items()}
        gallery.add(name, pictures, scores[name])
        see(pictures)
        faces += _faces(name, photo, {stage: picture for stage, picture in pictures.items() if stage != given})
    if not scores:
        raise UserError("none of the photos can be read; give other photos")
    identity: dict[str, list[float]] = {name: [] for name in made}
    for photo in track(natural, "natural photos"):
        pictures = {name: stages[name].make(photo.input) for name in made}
        for name, picture in pictures.items():
            identity[name].append(metrics.psnr(picture, photo.input))
        faces += _faces(photo.name, photo, pictures)
    return Evaluation(
        held_out=held_out,
        labels=labels,
        judged=judged,
        scores=scores,
        examples=gallery.examples(),
        identity={name: values for name, values in identity.items() if values},
        faces=faces,
    )


def _faces(name: str, photo: EvaluationPhoto, pictures: dict[str, np.ndarray]) -> list[Face]:
    face = find_face(name, photo.input, pictures, photo.face)
    return [face] if face else []


class _Gallery:
    """Keeps the pictures of the first photos, and of the photos in which `judged` got worst against the input."""

    def __init__(self, judged: str, *, first: int = 12) -> None:
        self._judged, self._first = judged, first
        self._pictures: dict[str, dict[str, np.ndarray]] = {}
        self._shown: list[str] = []
        self._worst: dict[str, tuple[float, str]] = {}

    def add(self, name: str, pictures: dict[str, np.ndarray], scores: Scores) -> None:
        if len(self._shown) < self._first:
            self._shown.append(name)
        for measure in _WORST_OF:
            before, after = (scores[stage].get(measure, math.nan) for stage in ("input", self._judged))
            harm = before - after if MEASURES[measure].best is max else after - before
            if harm > self._worst.get(measure, (0.0, ""))[0]:
                self._worst[measure] = (harm, name)
        wanted = {*self._shown, *(worst for _, worst in self._worst.values())}
        if name in wanted:
            self._pictures[name] = {stage: shrink(picture, COMPARED_LONG_SIDE) for stage, picture in pictures.items()}
        for gone in self._pictures.keys() - wanted:
            del self._pictures[gone]

    def examples(self) -> list[Example]:
        """The examples; those that got worst come first."""
        worst_in: dict[str, tuple[str, ...]] = {}
        for measure, (_, name) in self._worst.items():
            worst_in[name] = (*worst_in.get(name, ()), measure)
        names = [*worst_in, *(name for name in self._shown if name not in worst_in)]
        return [Example(name=name, pictures=self._pictures[name], worst_in=worst_in.get(name, ())) for name in names]


def run_of(bundle: Bundle) -> str:
    """The id of the MLflow run that trained the model; `UserError` if the bundle does not name one."""
    run_id = bundle.description.get("lineage", {}).get("mlflow_run_id")
    if not run_id:
        raise UserError("the model does not name the run that trained it; give a model that was trained with tracking")
    return str(run_id)


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def algorithm_of(bundle: Bundle) -> tone.Algorithm:
    """The algorithm that made the intermediates for the training; `local_laplacian` if it is not known."""
    try:
        return tone.algorithm_of(bundle.description["lineage"]["algorithm"])
    except (KeyError, ValueError):
        return tone.LOCAL_LAPLACIAN
