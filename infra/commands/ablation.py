"""`naturaltone ablation`: what each of the three losses adds."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from naturaltone.infra.commands.shared import add_natural
from naturaltone.infra.exit_codes import OK, SOME_FAILED
from naturaltone.pipeline.errors import UserError

HELP = "show what each of the three losses adds to a model: the four panels of the patent's Fig. 6, and numbers"
EXAMPLE = """example: naturaltone ablation first --sheet fig6.html

λ1, λ2 and λ3 weigh the color, naturalness and artifact losses (the fields lambda_color, lambda_natural and
lambda_artifact). The command first trains RUN again with fewer losses: as RUN-color (λ1) and as RUN-natural (λ1+λ2).
It does not train a model that is in models/ already."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_natural(parser)
    parser.add_argument(
        "run", metavar="RUN", help="name of a finished run of `naturaltone train` that used all three losses"
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=int,
        help="DDP workers, which are parallel training processes (default: one for each GPU of this machine, else 1)",
    )
    parser.add_argument(
        "--photos",
        metavar="PHOTOS",
        help="photos to compare on: a folder, or a store for its held-out photos (default: the store of RUN)",
    )
    parser.add_argument(
        "--models",
        metavar=("M1", "M2", "M3"),
        nargs=3,
        help="train nothing; compare these models of λ1, λ1+λ2 and λ1+λ2+λ3; RUN is then only a title",
    )
    parser.add_argument("--sheet", metavar="FILE", help="also write an HTML page with the panels, sliders and numbers")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(options: argparse.Namespace) -> int:
    from naturaltone.pipeline import storage
    from naturaltone.serving.enhancer import Enhancer
    from naturaltone.serving.evaluation import ablation
    from naturaltone.serving.evaluation.photos import natural_photos, open_photos, photo_names
    from naturaltone.serving.evaluation.report import format_table, to_json

    storage.check_file_writable(options.sheet)
    plan = (
        ablation.given(options.models) if options.models else ablation.plan_ablation(options.run, models=Path("models"))
    )
    source = options.photos or plan.store
    if source is None:
        raise UserError(f"'{plan.models[-1]}' does not name the store it was trained on; give --photos")
    total = len(photo_names(source))
    if plan.missing:
        _train_missing(plan, options.workers)
    rejects: list[str] = []
    enhancers = [Enhancer.load(uri) for uri in plan.models]
    photos, held_out = open_photos(source, rejects)
    natural = natural_photos(options.natural, source, rejects)
    found = ablation.ablate(enhancers, photos, natural=natural, held_out=held_out, total=total)
    evaluation, expected = found.evaluation, ablation.expectations(found)
    if options.sheet:
        storage.write_bytes(options.sheet, ablation.ablation_page(options.run, found).encode())
    if options.json:
        versions = dict(zip(ablation.MODELS, (enhancer.version for enhancer in enhancers), strict=True))
        figures = {"models": versions, **to_json(evaluation), **ablation.to_json(found)}
        print(json.dumps({**figures, "rejected": rejects}))
    else:
        print(f"{options.run} on {evaluation.photos} photos\n{format_table(evaluation)}\n")
        print(ablation.format_expectations(expected))
    for reject in rejects:
        print(f"rejected {reject}", file=sys.stderr)
    return SOME_FAILED if rejects else OK


def _train_missing(plan, workers: int | None) -> None:  # type: ignore[no-untyped-def]
    """Train the missing models of an ablation. They are not registered: nobody should serve them."""
    from naturaltone.infra import launch

    runs = [
        launch.TrainingRun(name=wanted.run_name, config=wanted.config, bundle=wanted.bundle, beside=plan.run)
        for wanted in plan.missing
    ]
    for run in runs:
        print(f"training {run.name} into {run.bundle}", file=sys.stderr, flush=True)
    launch.train(plan.store, runs, workers=launch.default_workers() if workers is None else workers)
