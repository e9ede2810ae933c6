"""`naturaltone train`: train a model on a store and register it."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path

from naturaltone.infra.exit_codes import OK
from naturaltone.pipeline.errors import UserError

HELP = "train a model on a store and register it"
EXAMPLE = "example: naturaltone train STORE --recipe small --set steps=2000 --run first"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="a folder or s3:// prefix that `naturaltone ingest` filled")
    parser.add_argument(
        "--recipe",
        default="small",
        help="settings to start from. smoke: seconds, only checks that everything runs; small: 40 to 90 minutes on two CPU "
        "cores, for a store with --long-side 320; patent: the size that the patent's authors released, for GPUs "
        "(default: small)",
    )
    parser.add_argument(
        "--set",
        metavar="FIELD=VALUE",
        action="append",
        default=[],
        help="change a field of the recipe, such as steps=2000; repeatable; an unknown FIELD prints the list",
    )
    parser.add_argument(
        "--workers",
        metavar="N|MIN-MAX",
        help="DDP workers, which are parallel training processes; with a range such as 2-8, as many as the machines "
        "have room for, also when that changes (default: one for each GPU of this machine, else 1)",
    )
    parser.add_argument(
        "--run",
        metavar="NAME",
        default=f"run-{datetime.now():%Y%m%d-%H%M%S}",
        help="name of the run; the name of a stopped run resumes it (default: run- and the current time)",
    )
    parser.add_argument(
        "--intermediates",
        choices=["cached", "stream"],
        help="cached: read the intermediates from the store; stream: compute the same pixels while reading (default: what "
        "the store was made for)",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="folder for the trained model (default: models/NAME, NAME as in --run)"
    )


def run(options: argparse.Namespace) -> int:
    from naturaltone.infra import launch
    from naturaltone.pipeline import storage
    from naturaltone.serving import registry
    from naturaltone.training.config import make_config

    config = make_config(options.recipe, options.set)
    bundle = options.out or f"models/{options.run}"
    if "://" in bundle:
        raise UserError(
            f"--out '{bundle}': must be a folder on this machine; other machines load the model from the registry"
        )
    storage.check_writable(bundle)
    workers = launch.parse_workers(options.workers) if options.workers else launch.default_workers()
    run = launch.TrainingRun(
        name=options.run,
        config=config,
        bundle=Path(bundle),
        intermediates=options.intermediates,
        lineage={"recipe": options.recipe},
    )
    [result] = launch.train(options.store, [run], workers=workers)
    version = registry.register(result.bundle, run_id=result.run_id)
    print(f"run {options.run}: {result.report.steps} steps, {result.images_per_second:.1f} photos/s")
    if result.losses_first and result.losses_last:
        changes = (f"{name} {result.losses_first[name]:.4f} -> {last:.4f}" for name, last in result.losses_last.items())
        print("\n".join(change for change in changes if change.startswith(("loss_", "activation_"))))
    print(f"model {version.uri}, also in {result.bundle}")
    print(f"try: naturaltone evaluate {result.bundle} {options.store} --sheet sheet.html")
    return OK
