"""Scores what models make of photos: the measures of every photo in every stage, and the photos to look at."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from naturaltone.pipeline import storage, tone
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.dataset.shards import LONG_SIDE
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.find import find_photos
from naturaltone.pipeline.photo.pixels import shrink, training_pixels
from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.pipeline.photo.stored import decode_rgb
from naturaltone.pipeline.progress import track
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.sheet import sheet
from naturaltone.training.checkpoint import Bundle
from naturaltone.training.measures import metrics, niqe, tmqi

STAGES = ("input", "intermediate", "result")

Scores = dict[str, dict[str, float]]  # stage -> measure -> value; NaN where the photo has nothing to measure


class Measure(NamedTuple):
    """How a table names and explains a measure, and which of its values is best; None if neither end is."""

    label: str
    meaning: str
    best: Callable[[Iterable[float]], float] | None


MEASURES = {
    "niqe": Measure("NIQE", "distance from your natural photos; lower is better", min),
    "naturalness": Measure("naturalness N", "TMQI: how usual the tone is, 0 to 1; higher is better", max),
    "fidelity": Measure("fidelity S", "TMQI: structure kept of the input, 0 to 1; higher is better", max),
    "quality": Measure("quality Q", "TMQI: N and S in one, 0 to 1; higher is better", max),
    "local_contrast_gain": Measure("local contrast gain", "times the input's; above 1 is more contrast", None),
    "colourfulness": Measure("colourfulness", "15 slightly, 45 quite, 82 highly colourful", None),
    "clipped_fraction": Measure("clipped fraction", "pixels at pure black or white; lower is better", min),
    "banding": Measure("banding", "levels skipped in smooth areas, per 100 pixels; lower is better", min),
    "noise_gain": Measure("noise gain", "noise in flat areas, times the input's; lower is better", min),
    "halo_overshoot": Measure("halo overshoot", "beside strong edges, share of the edge; lower is better", min),
    "skin_hue_shift": Measure("skin hue shift", "degrees away from the input's; lower is better", min),
    "neutral_shift": Measure("neutral shift", "colour cast on the input's greys, in a*b*; lower is better", min),
    "identity_psnr": Measure("identity PSNR", "dB, natural photos against themselves; higher holds back more", max),
    "psnr": Measure("PSNR to reference", "dB; higher is closer", max),
    "ssim": Measure("SSIM to reference", "1 is the same structure; higher is closer", max),
    "delta_e2000": Measure("ΔE2000 to reference", "1 is just noticeable; lower is closer", min),
}
# What goes wrong in a photo: the page shows the photo in which each got worst.
_WORST_OF = (
    *("niqe", "naturalness", "clipped_fraction", "banding", "noise_gain"),
    *("halo_overshoot", "skin_hue_shift", "neutral_shift"),
)


@dataclass(frozen=True, kw_only=True)
class EvaluationPhoto:
    """A photo to score: H×W×3 uint8 sRGB pixels, and how it should look if somebody knows, as large."""

    name: str
    input: np.ndarray
    reference: np.ndarray | None = None


class Stage(NamedTuple):
    """A way to make a picture of an input photo, and what people call it."""

    label: str
    make: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A photo to show: its pictures by stage, as small as a page shows them, and the measures in which it is the worst."""

    name: str
    pictures: dict[str, np.ndarray]
    worst_in: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The measures of every photo by name.

    held_out: training never saw the photos. labels: of the stages, in order. judged: the stage whose worst are examples.
    identity: PSNR to itself of each natural photo, by stage.
    """

    held_out: bool
    labels: dict[str, str]
    judged: str
    scores: dict[str, Scores]
    examples: list[Example]
    identity: dict[str, list[float]]

    @property
    def photos(self) -> int:
        return len(self.scores)

    @property
    def table(self) -> Scores:
        """Means over the photos that have something to measure; NaN if none has."""
        columns: dict[str, dict[str, list[float]]] = {stage: defaultdict(list) for stage in self.labels}
        for scores in self.scores.values():
            for stage, values in scores.items():
                for name, value in values.items():
                    columns[stage][name].append(value)
        for stage, column in self.identity.items():
            columns[stage]["identity_psnr"] = column
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
    """Enhance every photo and score input, intermediate, result, and the references and another model's result if given.

    natural: good photos, of which only is scored how far they are left alone.
    """
    algorithm = _algorithm_of(enhancer.bundle)
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
) -> Evaluation:
    """Make and measure the picture of every stage for every photo; the first stage is the input itself.

    judged: the stage whose failures are shown. judge: has the natural photos that NIQE compares with, or has none.
    """
    scores: dict[str, Scores] = {}
    gallery = _Gallery(judged)
    labels = {name: stage.label for name, stage in stages.items()}
    for photo in track(photos, "evaluate", total=total):
        pictures = {name: stage.make(photo.input) for name, stage in stages.items()}
        if photo.reference is not None:
            pictures["reference"] = photo.reference
            labels.setdefault("reference", "reference")
        name = photo.name
        while name in scores:  # another folder's
            name += "'"
        scores[name] = {stage: _measure(picture, photo, judge) for stage, picture in pictures.items()}
        gallery.add(name, pictures, scores[name])
    if not scores:
        raise ValueError("none of the photos can be read; give others")
    _, *made = stages
    identity: dict[str, list[float]] = {}
    for photo in track(natural, "natural photos"):
        for name in made:
            psnr = metrics.psnr(stages[name].make(photo.input), photo.input)
            identity.setdefault(name, []).append(psnr)
    return Evaluation(
        held_out=held_out,
        labels=labels,
        judged=judged,
        scores=scores,
        examples=gallery.examples(),
        identity=identity,
    )


def _measure(picture: np.ndarray, photo: EvaluationPhoto, judge: Bundle) -> dict[str, float]:
    source, reference = photo.input, photo.reference
    natural, fidelity = tmqi.naturalness(picture), tmqi.structural_fidelity(picture, source)
    values = {
        "naturalness": natural,
        "fidelity": fidelity,
        "quality": tmqi.combine(fidelity, natural),
        "local_contrast_gain": metrics.local_contrast_gain(picture, source),
        "colourfulness": metrics.colourfulness(picture),
        "clipped_fraction": metrics.clipped_fraction(picture),
        "banding": metrics.banding(picture),
        "noise_gain": metrics.noise_gain(picture, source),
        "halo_overshoot": metrics.halo_overshoot(picture, source),
        "skin_hue_shift": metrics.skin_hue_shift(picture, source),
        "neutral_shift": metrics.neutral_shift(picture, source),
    }
    if judge.natural_model:
        # At the size that the natural photos had: local statistics depend on it.
        values["niqe"] = niqe.score(shrink(picture, judge.working_resolution), judge.natural_model)
    if reference is not None and picture is not reference:
        values |= {
            "psnr": metrics.psnr(picture, reference),
            "ssim": metrics.ssim(picture, reference),
            "delta_e2000": metrics.delta_e2000(picture, reference),
        }
    return values


class _Gallery:
    """The pictures of the first photos, and of those in which `judged` came out worst beside the input."""

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
            self._pictures[name] = {stage: sheet.shrink(picture) for stage, picture in pictures.items()}
        for gone in self._pictures.keys() - wanted:
            del self._pictures[gone]

    def examples(self) -> list[Example]:
        """The worst first."""
        worst_in: dict[str, tuple[str, ...]] = {}
        for measure, (_, name) in self._worst.items():
            worst_in[name] = (*worst_in.get(name, ()), measure)
        names = [*worst_in, *(name for name in self._shown if name not in worst_in)]
        return [Example(name=name, pictures=self._pictures[name], worst_in=worst_in.get(name, ())) for name in names]


def open_photos(uri: str, rejects: list[str]) -> tuple[Iterator[EvaluationPhoto], bool]:
    """The photos at `uri`, and whether training never saw them: a store's held-out inputs, or any folder of photos.

    A folder is taken as held out: only its owner knows.
    """
    store = _store_at(uri)
    if store is None:
        return folder_photos(find_photos(uri), rejects), True
    split = _split(store)
    return _store_photos(store, "input", split), split == "test"


def natural_photos(uri: str, rejects: list[str]) -> Iterator[EvaluationPhoto]:
    """Good photos: a store's held-out natural ones (none if it holds none out), or any folder of photos."""
    store = _store_at(uri)
    return folder_photos(find_photos(uri), rejects) if store is None else _store_photos(store, "natural", "test")


def photo_names(uri: str) -> list[str]:
    """The names of the photos that `open_photos` reads."""
    store = _store_at(uri)
    if store is None:
        return [_name(photo) for photo in find_photos(uri)]
    return [_name(row["source"]) for row in _store_rows(store, "input", _split(store), ["source"])]


def folder_photos(uris: list[str], rejects: list[str]) -> Iterator[EvaluationPhoto]:
    """Photo files to score, shrunk to at most `ingest.LONG_SIDE`; what is none is added to `rejects` with its reason."""
    for uri in uris:
        try:
            pixels = _read(uri, LONG_SIDE)
        except (ImageError, OSError) as error:
            rejects.append(f"{uri}: {error}")
            continue
        yield EvaluationPhoto(name=_name(uri), input=pixels)


def find_references(folder: str, names: list[str]) -> dict[str, str]:
    """The URIs in `folder` of photos named as `names`, but for the suffix, by that stem.

    `ValueError` if there is none, or two for one name.
    """
    wanted = {PurePosixPath(name).stem for name in names}
    found: dict[str, str] = {}
    for uri in find_photos(folder):
        stem = PurePosixPath(_name(uri)).stem
        if stem in found:
            raise ValueError(f"--references: both '{found[stem]}' and '{uri}' are named '{stem}'; leave one of them")
        if stem in wanted:
            found[stem] = uri
    if not found:
        raise ValueError(
            f"--references '{folder}': no photo there is named as one of those to evaluate (such as "
            f"'{names[0]}'; the suffix may differ); give the folder of their references"
        )
    return found


def with_references(
    photos: Iterable[EvaluationPhoto], references: dict[str, str], missing: list[str]
) -> Iterator[EvaluationPhoto]:
    """The photos with their references, as `find_references` found them; which has none that fits is added to `missing`."""
    for photo in photos:
        uri = references.get(PurePosixPath(photo.name).stem)
        try:
            pixels = None if uri is None else _read(uri, max(photo.input.shape))
        except (ImageError, OSError) as error:
            missing.append(f"{photo.name}: '{uri}' cannot be read ({error})")
        else:
            if pixels is None:
                missing.append(f"{photo.name}: no photo of that name among the references")
            elif pixels.shape != photo.input.shape:
                ours, theirs = (f"{shape[1]}×{shape[0]}" for shape in (photo.input.shape, pixels.shape))
                missing.append(f"{photo.name}: '{uri}' shows another part, {theirs} pixels where the photo has {ours}")
            else:
                photo = replace(photo, reference=pixels)
        yield photo


def run_of(bundle: Bundle) -> str:
    """The id of the tracked run that trained the model; `ValueError` if it names none."""
    run_id = bundle.description.get("lineage", {}).get("mlflow_run_id")
    if not run_id:
        raise ValueError("the model does not name the run that trained it")
    return str(run_id)


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _algorithm_of(bundle: Bundle) -> tone.Algorithm:
    """What made the intermediates that the model learned from; the default if this version does not know."""
    try:
        return tone.algorithm_of(bundle.description["lineage"]["algorithm"])
    except (KeyError, ValueError):
        return tone.LOCAL_LAPLACIAN


def _store_at(uri: str) -> shards.Store | None:
    storage.check_reachable(uri)
    return shards.open_store(uri) if storage.exists(storage.join(uri, shards.MANIFEST)) else None


def _split(store: shards.Store) -> str:
    return "test" if store.count("input", "test") else "train"


def _store_rows(store: shards.Store, role: str, split: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    for group in store.select(role, split).to_pylist():
        yield from shards.read_row_group(store.uri, group["file"], group["row_group"], columns).to_pylist()


def _store_photos(store: shards.Store, role: str, split: str) -> Iterator[EvaluationPhoto]:
    for row in _store_rows(store, role, split, ["source", "image"]):
        yield EvaluationPhoto(name=_name(row["source"]), input=decode_rgb(row["image"]))


def _read(uri: str, long_side: int) -> np.ndarray:
    return shrink(training_pixels(decode(storage.read_bytes(uri))), long_side)


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]
