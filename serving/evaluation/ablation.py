"""Fig. 6 of the patent US 12277676 B2: what each of the three losses adds, as four panels a photo and as numbers.

Beside the panels stands the picture of the fixed algorithm: it is what λ1 aims at, and the artefacts are its own.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from naturaltone.pipeline import tone
from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.progress import track
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation.evaluate import Evaluation, Stage, algorithm_of, score
from naturaltone.serving.evaluation.measures import MEASURES
from naturaltone.serving.evaluation.photos import EvaluationPhoto
from naturaltone.serving.evaluation.report import make_view
from naturaltone.serving.evaluation.two_samples import LEAST, as_sample, told_apart
from naturaltone.serving.sheet.parts import make_table
from naturaltone.serving.sheet.render import render
from naturaltone.training import model_registry, tracking
from naturaltone.training.checkpoint import BUNDLE_JSON, BundleError, load_bundle
from naturaltone.training.config import TrainConfig

INPUT, *MODELS = ("input", "lambda1", "lambda12", "lambda123")
ALGORITHM = "intermediate"
LABELS = {
    INPUT: "1 input",
    ALGORITHM: "fixed algorithm",
    "lambda1": "2 λ1",
    "lambda12": "3 λ1+λ2",
    "lambda123": "4 λ1+λ2+λ3",
}
SEEDS = (0, 1, 2)  # of the discriminators that are trained afresh; how much they differ says what a difference is worth

_WELL_ABOVE = 1.1  # times the local contrast of the input
_ARTEFACTS = ("clipped_fraction", "banding", "noise_gain", "halo_overshoot")


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training run that must make the bundle for one of the panels."""

    run_name: str
    config: TrainConfig
    bundle: Path


@dataclass(frozen=True, kw_only=True)
class AblationPlan:
    """The three models of the figure.

    models: their URIs, in the order of `MODELS`. store: the store that they were trained on; None if the last model
    does not name it. run: the run that trained the last model; the other two must train on the same photos. missing:
    the models that must be trained first.
    """

    models: tuple[str, ...]
    store: str | None
    run: str | None = None
    missing: tuple[Training, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """The measures of all stages.

    told_apart: by stage, how often each of the new discriminators of `SEEDS` tells its pictures from natural photos; NaN if
    there are too few of either.
    """

    evaluation: Evaluation
    told_apart: dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """A claim of Fig. 6. numbers: the measured means. holds: whether they confirm the claim; None if not measured."""

    text: str
    numbers: str
    holds: bool | None


def given(models: Iterable[str]) -> AblationPlan:
    """Plan with three finished models, given by their URIs in the order of `MODELS`."""
    *parts, whole = models
    return AblationPlan(models=(*parts, whole), store=_store_of(Enhancer.load(whole).bundle.description))


def plan_ablation(run: str, *, models: Path) -> AblationPlan:
    """Plan the three models of Fig. 6 for the run `run`, which was trained with all three losses.

    Its bundle is the folder `models`/`run`, or else registered. The other two models have the same configuration, seed
    and store, but the losses that they lack have weight 0. A finished bundle with exactly that configuration is not
    trained again. `UserError` if the run is unknown, lacks a loss, or does not say how it was trained.
    """
    if (models / run / BUNDLE_JSON).exists():
        whole = str(models / run)
    else:
        try:
            whole = model_registry.model_of_run(run)
        except tracking.TrackingError as error:
            raise UserError(
                f"'{models / run}' is not a model, and {error}; give --models M1 M2 M3, or train it with "
                f"`naturaltone train STORE --run {run}`"
            ) from None
    description = Enhancer.load(whole).bundle.description
    config, store = _config_of(description), _store_of(description)
    if config is None or store is None:
        raise UserError(f"'{whole}' does not say how it was trained; give --models M1 M2 M3")
    parts = {
        name: Training(run_name=f"{run}-{suffix}", config=part, bundle=models / f"{run}-{suffix}")
        for (name, suffix), part in zip(
            {"lambda1": "color", "lambda12": "natural"}.items(), without_losses(config), strict=True
        )
    }
    return AblationPlan(
        store=store,
        run=description["lineage"].get("run"),
        models=(str(parts["lambda1"].bundle), str(parts["lambda12"].bundle), whole),
        missing=tuple(part for part in parts.values() if not _is_trained(part, store)),
    )


def without_losses(config: TrainConfig) -> tuple[TrainConfig, TrainConfig]:
    """Derive one configuration with λ1 only, and one with λ1 and λ2; `UserError` if `config` lacks one of the three."""
    for name in ("lambda_color", "lambda_natural", "lambda_artifact"):
        if getattr(config, name) == 0:
            raise UserError(f"{name}=0: Fig. 6 needs a run with all three losses; give another RUN, or --models")
    natural = dataclasses.replace(config, lambda_artifact=0.0)
    return dataclasses.replace(natural, lambda_natural=0.0), natural


def ablate(
    models: Iterable[Enhancer],
    photos: Iterable[EvaluationPhoto],
    *,
    held_out: bool,
    natural: Iterable[EvaluationPhoto] = (),
    total: int | None = None,
) -> Ablation:
    """Score the input, the fixed algorithm and the three models, which come in the order of `MODELS`.

    NIQE compares with the natural photos of the last model. held_out: training never saw the photos. natural: good photos
    that training never saw; new discriminators learn from them what is natural, and see `evaluate.evaluate`. total: the
    number of photos, for the progress line.
    """
    enhancers = dict(zip(MODELS, models, strict=True))
    judge = enhancers[MODELS[-1]].bundle
    algorithm = algorithm_of(judge)
    stages = {
        INPUT: Stage(LABELS[INPUT], lambda pixels: pixels),
        ALGORITHM: Stage(LABELS[ALGORITHM], lambda pixels: tone.intermediate(pixels, algorithm)),
    }
    stages |= {name: Stage(LABELS[name], enhancer.enhance) for name, enhancer in enhancers.items()}
    samples: dict[str, list[np.ndarray]] = defaultdict(list)
    natural_samples: list[np.ndarray] = []

    def keep_samples(pictures: dict[str, np.ndarray]) -> None:
        for name in stages:
            samples[name].append(as_sample(pictures[name]))

    def kept() -> Iterator[EvaluationPhoto]:
        for photo in natural:
            natural_samples.append(as_sample(photo.input))
            yield photo

    evaluation = score(
        photos,
        stages,
        natural=kept(),
        held_out=held_out,
        judged=MODELS[-1],
        judge=judge,
        total=total,
        see=keep_samples,
    )
    trials = track(itertools.product(stages, SEEDS), "naturalness", total=len(stages) * len(SEEDS), unit="test")
    apart: dict[str, list[float]] = {name: [] for name in stages}
    for name, seed in trials:
        apart[name].append(told_apart(samples[name], natural_samples, seed=seed))
    return Ablation(evaluation=evaluation, told_apart=apart)


def expectations(ablation: Ablation) -> list[Expectation]:
    """Check the claims of Fig. 6 on an ablation."""
    evaluation, last = ablation.evaluation, MODELS[-1]
    gain = evaluation.table[last]["local_contrast_gain"]
    return [
        _told_apart(ablation.told_apart),
        _course(evaluation, "niqe", MODELS, falls=True),
        _course(evaluation, "naturalness", MODELS, falls=False),
        *(_course(evaluation, name, MODELS[1:], falls=True) for name in _ARTEFACTS),
        *(_course(evaluation, name, [ALGORITHM, last], falls=True) for name in _ARTEFACTS),
        Expectation(
            text=f"local contrast of panel 4 is at least {_WELL_ABOVE} times that of the input",
            numbers=f"{gain:.3f}",
            holds=gain >= _WELL_ABOVE,
        ),
    ]


def format_expectations(expected: list[Expectation]) -> str:
    """Format the expectations as plain text, one a line."""
    return "\n".join(f"{_verdict(one):8} {one.text}: {one.numbers}" for one in expected)


def ablation_page(run: str, ablation: Ablation) -> str:
    """Make an HTML page with the expectations, the table and the panels of each example."""
    expected = expectations(ablation)
    return render(
        "ablation.html",
        title=f"naturaltone ablation of {run}",
        num_met=sum(one.holds is True for one in expected),
        expected=make_table(
            ["", "expected", "measured (means over the photos)"],
            [[_verdict(one), one.text, one.numbers] for one in expected],
            numbers=False,
        ),
        view=make_view(ablation.evaluation, side_by_side=True),
    )


def to_json(ablation: Ablation) -> dict[str, Any]:
    """Convert the expectations, and what the new discriminators say, to plain JSON; null if there are too few photos."""
    return {
        "told_apart": {
            name: [None if math.isnan(value) else value for value in values]
            for name, values in ablation.told_apart.items()
        },
        "expectations": [dataclasses.asdict(one) for one in expectations(ablation)],
    }


def _told_apart(told_apart: dict[str, list[float]]) -> Expectation:
    """Check that new discriminators are right less often from each model to the next, in the mean over the seeds."""
    means = {name: float(np.mean(told_apart[name])) for name in LABELS}
    text = f"a new discriminator tells pictures from natural photos less often {_panels(MODELS)}; 0.5 is chance"
    if any(math.isnan(mean) for mean in means.values()):
        return Expectation(text=text, numbers=f"needs {LEAST} photos and {LEAST} natural photos", holds=None)
    numbers = ", ".join(f"{LABELS[name]} {means[name]:.3f} ± {np.std(told_apart[name], ddof=1):.3f}" for name in LABELS)
    falls = all(means[after] < means[before] for before, after in itertools.pairwise(MODELS))
    return Expectation(text=text, numbers=numbers, holds=falls)


def _panels(stages: list[str]) -> str:
    return " → ".join(LABELS[stage] if stage == ALGORITHM else LABELS[stage].split()[0] for stage in stages)


def _course(evaluation: Evaluation, measure: str, stages: list[str], *, falls: bool) -> Expectation:
    """Check that the mean falls (or rises) from each stage to the next, and count the photos that do so."""
    means = [evaluation.table[stage].get(measure, math.nan) for stage in stages]
    text = f"{MEASURES[measure].label} {'falls' if falls else 'rises'} {_panels(stages)}"
    if any(math.isnan(mean) for mean in means):
        return Expectation(text=text, numbers="-", holds=None)
    sign = -1 if falls else 1
    better = []
    for before, after in itertools.pairwise(stages):
        changes = [
            sign * (scores[after][measure] - scores[before][measure])
            for scores in evaluation.scores.values()
            if not math.isnan(scores[after][measure])
        ]
        better.append(f"{sum(change > 0 for change in changes)} of {len(changes)}")
    return Expectation(
        text=text,
        numbers=f"{' → '.join(f'{mean:.4g}' for mean in means)} (in {', then '.join(better)} photos)",
        holds=all(sign * (after - before) > 0 for before, after in itertools.pairwise(means)),
    )


def _verdict(expectation: Expectation) -> str:
    return {True: "holds", False: "fails", None: "unknown"}[expectation.holds]


def _config_of(description: dict[str, Any]) -> TrainConfig | None:
    """The configuration of a bundle, with defaults for newer fields; None if this version cannot read it."""
    try:
        return TrainConfig(**description["training"])
    except (KeyError, TypeError, ValueError):
        return None


def _is_trained(wanted: Training, store: str) -> bool:
    try:
        description = load_bundle(wanted.bundle).description
    except BundleError:
        return False
    return _config_of(description) == wanted.config and _store_of(description) == store


def _store_of(description: dict[str, Any]) -> str | None:
    store = description.get("lineage", {}).get("store")
    return None if store is None else str(store)
