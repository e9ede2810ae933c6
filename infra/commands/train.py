"""`naturaltone train`: a store to a registered model."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path

from naturaltone.infra.exit_codes import OK
from naturaltone.pipeline.errors import UserError

HELP = "train a model on a store and register it"
EXAMPLE = "example: naturaltone train STORE --recipe small --set steps=2000 --run first"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="made by `naturaltone ingest`")
    parser.add_argument("--recipe", default="small", help="smoke, small or patent (default: small)")
    parser.add_argument("--set", metavar="FIELD=VALUE", action="append", default=[], help="change a field; repeatable")
    parser.add_argument(
        "--workers",
        metavar="N|MIN-MAX",
        help="DDP workers; with MIN-MAX as many as there is room for, now and when it changes (default: the GPUs, or 1)",
    )
    parser.add_argument(
        "--run",
        metavar="NAME",
        default=f"run-{datetime.now():%Y%m%d-%H%M%S}",
        help="the same name resumes (default: the time)",
    )
    parser.add_argument(
        "--intermediates",
        choices=["cached", "stream"],
        help="read them from the store, or compute the same pixels on the way (default: as the store was made)",
    )
    parser.add_argument("--out", metavar="DIR", help="the model bundle (default: models/NAME)")


def run(options: argparse.Namespace) -> int:
    from naturaltone.infra import launch
    from naturaltone.pipeline import storage
    from naturaltone.serving import registry
    from naturaltone.training.config import make_config

    config = make_config(options.recipe, options.set)
    bundle = options.out or f"models/{options.run}"
    if "://" in bundle:
        raise UserError(f"--out '{bundle}': a folder of this machine; the registry keeps the model for the others")
    storage.check_writable(bundle)
    workers = launch.parse_workers(options.workers) if options.workers else launch.default_workers()
    run = launch.TrainingRun(name=options.run, config=config, bundle=Path(bundle), intermediates=options.intermediates)
    [result] = launch.train(options.store, [run], workers=workers)
    version = registry.register(result.bundle, run_id=result.run_id)
    print(f"run {options.run}: {result.report.steps} steps, {result.images_per_second:.1f} photos/s")
    if result.losses_first and result.losses_last:
        changes = (f"{name} {result.losses_first[name]:.4f} -> {last:.4f}" for name, last in result.losses_last.items())
        print("\n".join(change for change in changes if change.startswith(("loss_", "activation_"))))
    print(f"model {version.uri}, also in {result.bundle}")
    print(f"try: naturaltone evaluate {result.bundle} {options.store} --sheet sheet.html")
    return OK
