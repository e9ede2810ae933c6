"""Fig. 6 of the patent US 12277676 B2: what each of the three losses adds, as four panels a photo and as numbers."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from naturaltone.pipeline.errors import UserError
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation.evaluate import Evaluation, Stage, score
from naturaltone.serving.evaluation.measures import MEASURES
from naturaltone.serving.evaluation.photos import EvaluationPhoto
from naturaltone.serving.evaluation.report import make_view
from naturaltone.serving.sheet.parts import make_table
from naturaltone.serving.sheet.render import render
from naturaltone.training import model_registry, tracking
from naturaltone.training.checkpoint import BUNDLE_JSON, BundleError, load_bundle
from naturaltone.training.config import TrainConfig

INPUT, *MODELS = ("input", "lambda1", "lambda12", "lambda123")
LABELS = {INPUT: "1 input", "lambda1": "2 λ1", "lambda12": "3 λ1+λ2", "lambda123": "4 λ1+λ2+λ3"}

_WELL_ABOVE = 1.1  # times the local contrast of the input


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
) -> Evaluation:
    """Score the input and the three models, which come in the order of `MODELS`.

    NIQE compares with the natural photos of the last model. held_out: training never saw the photos. natural: see
    `evaluate.evaluate`. total: the number of photos, for the progress line.
    """
    enhancers = dict(zip(MODELS, models, strict=True))
    stages = {INPUT: Stage(LABELS[INPUT], lambda pixels: pixels)}
    stages |= {name: Stage(LABELS[name], enhancer.enhance) for name, enhancer in enhancers.items()}
    judge = enhancers[MODELS[-1]].bundle
    return score(photos, stages, natural=natural, held_out=held_out, judged=MODELS[-1], judge=judge, total=total)


def expectations(evaluation: Evaluation) -> list[Expectation]:
    """Check the claims of Fig. 6 on an evaluation of `ablate`."""
    table = evaluation.table
    gain = table[MODELS[-1]]["local_contrast_gain"]
    return [
        _course(evaluation, "niqe", MODELS, falls=True),
        _course(evaluation, "naturalness", MODELS, falls=False),
        *(
            _course(evaluation, name, MODELS[1:], falls=True)
            for name in ("clipped_fraction", "banding", "noise_gain", "halo_overshoot")
        ),
        Expectation(
            text=f"local contrast of panel 4 is at least {_WELL_ABOVE} times that of the input",
            numbers=f"{gain:.3f}",
            holds=gain >= _WELL_ABOVE,
        ),
    ]


def format_expectations(expected: list[Expectation]) -> str:
    """Format the expectations as plain text, one a line."""
    return "\n".join(f"{_verdict(one):8} {one.text}: {one.numbers}" for one in expected)


def ablation_page(run: str, evaluation: Evaluation) -> str:
    """Make an HTML page with the expectations, the table and the four panels of each example."""
    expected = expectations(evaluation)
    return render(
        "ablation.html",
        title=f"naturaltone ablation of {run}",
        num_met=sum(one.holds is True for one in expected),
        expected=make_table(
            ["", "expected", "measured (means over the photos)"],
            [[_verdict(one), one.text, one.numbers] for one in expected],
            numbers=False,
        ),
        view=make_view(evaluation, side_by_side=True),
    )


def to_json(expected: list[Expectation]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(one) for one in expected]


def _course(evaluation: Evaluation, measure: str, stages: list[str], *, falls: bool) -> Expectation:
    """Check that the mean falls (or rises) from each stage to the next, and count the photos that do so."""
    means = [evaluation.table[stage].get(measure, math.nan) for stage in stages]
    panels = " → ".join(LABELS[stage].split()[0] for stage in stages)
    text = f"{MEASURES[measure].label} {'falls' if falls else 'rises'} {panels}"
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
