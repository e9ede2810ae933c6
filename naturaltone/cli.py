"""The command line of naturaltone: learns to enhance the tone of photos without a retouched example.

One short function a command; each imports its package when it runs, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from naturaltone import __version__

if TYPE_CHECKING:
    from naturaltone.serving.evaluation.ablation import Plan
    from naturaltone.serving.evaluation.evaluate import EvaluationPhoto

_MODEL_HELP = (
    "a bundle's folder, s3://…, models:/NAME@ALIAS or `pretrained`, the model that comes along "
    "(default: models:/naturaltone@champion if you have registered one, else pretrained)"
)
OK, SOME_FAILED, WRONG_USAGE, RUN_FAILED = 0, 1, 2, 3
_LISTED = 20  # photos in trouble that a command prints; a file or --json names all


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code (0 well, 1 some photos failed, 2 wrong usage, 3 the run failed)."""
    options = _parser().parse_args(arguments)
    if options.s3_endpoint:
        os.environ["AWS_ENDPOINT_URL"] = options.s3_endpoint
    # Absolute, since Ray's workers need not share this folder.
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd()}/mlflow.db")
    from naturaltone.infra.local import interruptible

    try:
        with interruptible():
            return int(options.command(options))
    except ValueError as error:
        print(f"naturaltone: {error}", file=sys.stderr)
        return WRONG_USAGE
    except (RuntimeError, OSError) as error:
        print(f"naturaltone: {error}", file=sys.stderr)
        return RUN_FAILED
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("ray", "mlflow"):  # a bug of ours: its traceback is wanted
            raise
        from naturaltone.pipeline.errors import cause

        print(f"naturaltone: {cause(error)}", file=sys.stderr)
        return RUN_FAILED
    except KeyboardInterrupt as interrupt:
        number = signal.SIGTERM if str(interrupt) == "SIGTERM" else signal.SIGINT
        print("naturaltone: interrupted", file=sys.stderr)
        return 128 + number


def demo(options: argparse.Namespace) -> int:
    from naturaltone.infra.demo import STEPS, format_summary, run_demo

    out = Path(options.out)
    steps = STEPS if options.steps is None else options.steps
    summary = run_demo(inputs=options.inputs, natural=options.natural, out=out, steps=steps)
    print(format_summary(summary, out))
    return SOME_FAILED if summary["photos"]["rejected"] or summary["archive"]["failed"] else OK


def ingest(options: argparse.Namespace) -> int:
    from naturaltone.infra.local import ray_session
    from naturaltone.pipeline.dataset import forget, shards
    from naturaltone.pipeline.dataset import ingest as ingesting
    from naturaltone.pipeline.photo.find import check_photos

    if options.forget:
        shards.open_store(options.to)
        with ray_session():
            gone = forget.forget(options.source, role=options.role, store=options.to)
        print(f"{gone} photos taken out of {options.to}")
        return OK
    how = {name: getattr(options, name) for name in ("role", "long_side", "algorithm", "intermediates")}
    # What can be refused is, before Ray starts.
    check_photos(options.source)
    ingesting.open_or_new(options.to, **how)
    with ray_session():
        report = ingesting.ingest(options.source, store=options.to, full=options.full, **how)
    for row in report.rejects.slice(0, _LISTED).to_pylist():
        print(f"rejected {row['source']}: {row['reason']}: {row['detail']}", file=sys.stderr)
    if report.rejects.num_rows > _LISTED:
        print(f"... and {report.rejects.num_rows - _LISTED} more, all in {options.to}/rejects.parquet", file=sys.stderr)
    print(
        f"{report.found} photos found: {report.added} added, {report.unchanged} unchanged, "
        f"{report.duplicates} duplicates, {report.rejects.num_rows} rejected; {report.other_files} other files left alone"
    )
    return SOME_FAILED if report.rejects.num_rows else OK


def store(options: argparse.Namespace) -> int:
    from naturaltone.pipeline import storage
    from naturaltone.pipeline.dataset import shards, summary

    opened = shards.open_store(options.store)
    if options.sheet:
        from naturaltone.serving.sheet import store as store_page

        page = store_page.page(opened, pairs=options.pairs, seed=options.seed)
        storage.write_bytes(options.sheet, page.encode())
    numbers = summary.summarize(opened)
    print(json.dumps(numbers) if options.json else summary.format_summary(numbers))
    return OK


def train(options: argparse.Namespace) -> int:
    from naturaltone.infra import local
    from naturaltone.infra.demo import register
    from naturaltone.pipeline import storage
    from naturaltone.training import train as training
    from naturaltone.training.config import make_config

    config = make_config(options.recipe, options.set)
    bundle = options.out or f"models/{options.run}"
    if "://" in bundle:
        raise ValueError(f"--out '{bundle}': a folder of this machine; the registry keeps the model for the others")
    storage.check_writable(bundle)
    workers = _workers(options.workers) if options.workers else max(1, local.num_gpus())
    if not os.environ.get("RAY_ADDRESS"):
        local.check_workers(workers)
    training.check(options.store, config, workers=workers, intermediates=options.intermediates)
    with local.ray_session():
        use_gpu = local.check_workers(workers)
        result = training.train(
            options.store,
            config,
            run_name=options.run,
            workers=workers,
            use_gpu=use_gpu,
            bundle=Path(bundle),
            intermediates=options.intermediates,
        )
    version = register(result)
    print(f"run {options.run}: {result.report.steps} steps, {result.images_per_second:.1f} photos/s")
    if result.losses_first and result.losses_last:
        changes = (f"{name} {result.losses_first[name]:.4f} -> {last:.4f}" for name, last in result.losses_last.items())
        print("\n".join(change for change in changes if change.startswith(("loss_", "activation_"))))
    print(f"model {version.uri}, also in {result.bundle}")
    print(f"try: naturaltone evaluate {result.bundle} {options.store} --sheet sheet.html")
    return OK


def _workers(text: str) -> int | tuple[int, int]:
    """`N` or `MIN-MAX` DDP workers."""
    fewest, separator, most = text.partition("-")
    if not fewest.isdecimal() or (separator and not most.isdecimal()):
        raise ValueError(f"--workers '{text}': give a number, or MIN-MAX as in 2-8")
    if not separator:
        return int(fewest)
    if not 1 <= int(fewest) <= int(most):
        raise ValueError(f"--workers '{text}': MIN must be at least 1 and at most MAX")
    return int(fewest), int(most)


def evaluate(options: argparse.Namespace) -> int:
    from naturaltone.pipeline import storage
    from naturaltone.serving.enhancer import Enhancer
    from naturaltone.serving.evaluation import evaluate as evaluating
    from naturaltone.serving.evaluation import report as evaluation_report
    from naturaltone.serving.sheet import sheet
    from naturaltone.training import tracking

    _check_file(options.sheet)
    rejects: list[str] = []
    missing: list[str] = []
    names = evaluating.photo_names(options.photos)
    photos, held_out = evaluating.open_photos(options.photos, rejects)
    if options.references:
        references = evaluating.find_references(options.references, names)
        photos = evaluating.with_references(photos, references, missing)
    natural = _natural(options.natural, options.photos, rejects)
    enhancer = Enhancer.load(options.model)
    against = Enhancer.load(options.against) if options.against else None
    evaluation = evaluating.evaluate(
        enhancer, photos, natural=natural, held_out=held_out, against=against, total=len(names)
    )
    page = sheet.page(f"naturaltone evaluation of {enhancer.version}", evaluation_report.sheet_parts(evaluation))
    if options.sheet:
        storage.write_bytes(options.sheet, page.encode())
    if options.json:
        problems = {"rejected": rejects, "missing_references": missing}
        print(json.dumps({"model": enhancer.version, **evaluation_report.to_json(evaluation), **problems}), flush=True)
    else:
        print(f"{enhancer.version} on {evaluation.photos} photos")
        print(evaluation_report.format_table(evaluation), flush=True)
    for reject in rejects:
        print(f"rejected {reject}", file=sys.stderr)
    for photo in missing[:_LISTED]:
        print(f"no reference for {photo}", file=sys.stderr)
    if len(missing) > _LISTED:
        print(f"... and {len(missing) - _LISTED} more, all with --json", file=sys.stderr)
    try:  # last, as a server that does not answer takes its time
        tracking.log_evaluation(evaluating.run_of(enhancer.bundle), evaluation_report.to_metrics(evaluation), page)
    except ValueError as error:
        print(f"not logged to MLflow: {error}", file=sys.stderr)
    return SOME_FAILED if rejects or missing else OK


def ablation(options: argparse.Namespace) -> int:
    from naturaltone.pipeline import storage
    from naturaltone.serving.enhancer import Enhancer
    from naturaltone.serving.evaluation import ablation as ablating
    from naturaltone.serving.evaluation import evaluate as evaluating
    from naturaltone.serving.evaluation import report as evaluation_report

    _check_file(options.sheet)
    plan = ablating.given(options.models) if options.models else ablating.plan(options.run, models=Path("models"))
    source = options.photos or plan.store
    if source is None:
        raise ValueError(f"'{plan.models[-1]}' does not name the store it was trained on; give --photos")
    total = len(evaluating.photo_names(source))
    if plan.missing:
        _train_missing(plan, options.workers)
    rejects: list[str] = []
    enhancers = [Enhancer.load(uri) for uri in plan.models]
    photos, held_out = evaluating.open_photos(source, rejects)
    natural = _natural(options.natural, source, rejects)
    evaluation = ablating.ablate(enhancers, photos, natural=natural, held_out=held_out, total=total)
    expected = ablating.expectations(evaluation)
    if options.sheet:
        storage.write_bytes(options.sheet, ablating.page(options.run, evaluation).encode())
    if options.json:
        versions = dict(zip(ablating.MODELS, (enhancer.version for enhancer in enhancers), strict=True))
        figures = {
            "models": versions,
            **evaluation_report.to_json(evaluation),
            "expectations": ablating.to_json(expected),
        }
        print(json.dumps({**figures, "rejected": rejects}))
    else:
        print(f"{options.run} on {evaluation.photos} photos\n{evaluation_report.format_table(evaluation)}\n")
        print(ablating.format_expectations(expected))
    for reject in rejects:
        print(f"rejected {reject}", file=sys.stderr)
    return SOME_FAILED if rejects else OK


def _natural(folder: str | None, photos: str, rejects: list[str]) -> Iterable[EvaluationPhoto]:
    """The good photos to show to a model: those asked for, else those of the store that is evaluated on."""
    from naturaltone.pipeline import storage
    from naturaltone.pipeline.dataset import shards
    from naturaltone.serving.evaluation import evaluate as evaluating

    if folder is None and not storage.exists(storage.join(photos, shards.MANIFEST)):
        return ()
    return evaluating.natural_photos(folder or photos, rejects)


def _train_missing(plan: Plan, workers: int | None) -> None:
    """Train the models that an ablation lacks, without registering them: nobody is to serve these."""
    from naturaltone.infra import local
    from naturaltone.training.train import check
    from naturaltone.training.train import train as run_training

    assert plan.store is not None  # only a plan of a run on a store has any missing
    workers = max(1, local.num_gpus()) if workers is None else workers
    if not os.environ.get("RAY_ADDRESS"):
        local.check_workers(workers)
    for wanted in plan.missing:
        check(plan.store, wanted.config, workers=workers)
    with local.ray_session():
        use_gpu = local.check_workers(workers)
        for wanted in plan.missing:
            print(f"training {wanted.run_name} into {wanted.bundle}", file=sys.stderr, flush=True)
            run_training(
                plan.store,
                wanted.config,
                run_name=wanted.run_name,
                workers=workers,
                use_gpu=use_gpu,
                bundle=wanted.bundle,
                beside=plan.run,
            )


def enhance(options: argparse.Namespace) -> int:
    from naturaltone.pipeline import storage
    from naturaltone.serving.enhancer import Enhancer, check_strength, default_model

    check_strength(options.strength)
    storage.check_reachable(options.source)
    from naturaltone.infra.local import cores, ray_session
    from naturaltone.pipeline import lease
    from naturaltone.serving.archive import job as archive
    from naturaltone.serving.archive import plan as archive_plan
    from naturaltone.serving.archive import preview
    from naturaltone.serving.archive.report import FOLDER, LOCK, Report

    chosen = archive_plan.Options(
        strength=options.strength,
        quality=options.quality,
        drop_hdr=options.hdr == "drop",
        photos_only=options.photos_only,
        copy_others=options.copy_others,
        keep_mtime=not options.no_mtime,
        limit=options.limit,
        include=tuple(options.include),
        exclude=tuple(options.exclude),
    )
    if storage.exists(options.source):
        return _enhance_photo(options, lambda: Enhancer.load(options.model or default_model()))
    if options.exact:
        raise ValueError("--exact is for one photo, to compare; leave it out for a folder")
    source, target = archive_plan.check(options.source, options.target)
    _check_file(options.sheet)
    enhancer = Enhancer.load(options.model or default_model())
    with lease.hold(storage.join(target, FOLDER, LOCK)) if not options.dry_run else contextlib.nullcontext():
        report = Report(target)
        plan = archive_plan.make_plan(
            source, target, report, model=enhancer.version, options=chosen, is_held=not options.dry_run
        )
        if options.dry_run:
            print(preview.describe(plan, preview.estimate(plan, enhancer, cores=cores()), cores=cores()))
            return OK
        # Starting Ray takes longer than finding nothing to do.
        with ray_session() if plan.todo.num_rows else contextlib.nullcontext():
            summary = archive.run(plan, report, enhancer)
        if options.sheet:
            storage.write_bytes(options.sheet, preview.contact_sheet(source, target, report).encode())
    for line in archive.describe_failures(summary):
        print(line, file=sys.stderr)
    print(f"{archive.describe(summary)} by {enhancer.version}")
    print(f"what was done to each file, and why not: {storage.join(target, FOLDER)}")
    return SOME_FAILED if summary.counts.get("failed") else OK


def _enhance_photo(options: argparse.Namespace, load) -> int:  # type: ignore[no-untyped-def]
    from naturaltone.pipeline import storage
    from naturaltone.pipeline.photo.encode import check_rewritable
    from naturaltone.pipeline.photo.header import stamp_of

    for name in ("dry_run", "sheet", "photos_only", "copy_others", "no_mtime", "limit", "include", "exclude"):
        if getattr(options, name):
            raise ValueError(
                f"--{name.replace('_', '-')} is for a folder, and '{options.source}' is a photo; leave it out"
            )
    if storage.resolve(options.source) == storage.resolve(options.target):
        raise ValueError(f"'{options.target}' is the photo itself; originals stay untouched: choose another name")
    if os.path.isdir(options.target):
        raise ValueError(f"'{options.target}' is a folder; name the file that the enhanced photo is to be")
    if storage.exists(options.target) and stamp_of(storage.read_bytes(options.target)) is None:
        raise ValueError(
            f"'{options.target}' exists, and naturaltone did not make it; remove it, or choose another name"
        )
    data = storage.read_bytes(options.source)
    check_rewritable(data, drop_extras=options.hdr == "drop")
    enhancer = load()
    enhanced = enhancer.enhance_file(
        data,
        strength=options.strength,
        quality=options.quality,
        drop_extras=options.hdr == "drop",
        exact=options.exact,
    )
    storage.write_bytes(options.target, enhanced.data)
    print(f"{options.target}: {enhanced.megapixels:.1f} megapixels, enhanced by {enhancer.version}")
    return OK


def serve(options: argparse.Namespace) -> int:
    from naturaltone.infra.local import check_port, ray_session
    from naturaltone.serving.enhancer import default_model, load_model
    from naturaltone.serving.service import app

    check_port(options.host, options.port)
    model = options.model or default_model()
    _, version = load_model(model)
    with ray_session(), app.running(model=model, host=options.host, port=options.port) as address:
        print(f"serving {version} at {address}, API at {address}/docs; Ctrl-C ends it", flush=True)
        print(f"try: curl --data-binary @photo.jpg {address}/v1/enhance -o enhanced.jpg", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # how a server is meant to end
            signal.pause()
    return OK


def bench(options: argparse.Namespace) -> int:
    from naturaltone.pipeline import storage
    from naturaltone.pipeline.photo.find import check_photos

    check_photos(options.photos)
    if options.what == "tone":
        from naturaltone.infra.bench import tone as bench_tone

        figures = bench_tone.bench_tone(options.photos)
        print(bench_tone.format_figures(figures))
    elif options.what == "step":
        from naturaltone.infra.bench import step as bench_step
        from naturaltone.training.config import make_config

        config = make_config(options.recipe, options.set)
        figures = bench_step.bench_step(
            options.photos,
            config,
            long_side=options.long_side,
            steps=options.steps,
            rounds=options.rounds,
            bare=options.bare,
        )
        print(bench_step.format_figures(figures))
    elif options.what == "enhance":
        from naturaltone.infra.bench import enhance as bench_enhance

        figures = bench_enhance.bench_enhance(options.photos, model=options.model)
        print(bench_enhance.format_figures(figures))
    elif options.what == "archive":
        from naturaltone.infra.bench import archive as bench_archive

        figures = bench_archive.bench_archive(options.photos, model=options.model)
        print(bench_archive.format_figures(figures))
    else:
        from naturaltone.infra import local
        from naturaltone.infra.bench import stream as bench_stream

        figures = bench_stream.bench_stream(
            options.photos,
            seconds=options.seconds,
            processes=options.processes or local.cores(),
            batch=options.batch,
            crop=options.crop,
        )
        print(bench_stream.format_figures(figures))
    if options.json:
        storage.write_bytes(options.json, json.dumps(figures).encode())
    print(json.dumps(figures))
    return OK


def _check_file(uri: str | None) -> None:
    """Refuse, before any work, a file that cannot be written at its end."""
    from naturaltone.pipeline import storage

    if uri is None:
        return
    if os.path.isdir(uri):
        raise ValueError(f"'{uri}' is a folder; name the file that is to be written")
    storage.check_writable(uri if storage.is_s3(uri) else os.path.dirname(os.path.abspath(uri)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="naturaltone", description="Learns to enhance the tone of photos.")
    parser.add_argument("--version", action="version", version=f"naturaltone {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--s3-endpoint", metavar="URL", help="S3 server (default: AWS_ENDPOINT_URL, else AWS)")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    natural = argparse.ArgumentParser(add_help=False)
    natural.add_argument(
        "--natural",
        metavar="DIR",
        help="good photos, to see how far they are left alone (default: a store's held-out ones)",
    )

    def add(command, help: str, epilog: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:  # type: ignore[no-untyped-def]
        added = commands.add_parser(
            command.__name__,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=epilog,
            parents=[common, *parents],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(command=command)
        return added

    sub = add(demo, "the whole way on one machine, in minutes", "example: naturaltone demo --out demo")
    sub.add_argument("--inputs", metavar="DIR", help="photos to learn to enhance (default: built-in ones)")
    sub.add_argument("--natural", metavar="DIR", help="photos whose tone you like; need not show the same things")
    sub.add_argument("--out", metavar="DIR", default="demo", help="where everything goes (default: demo)")
    sub.add_argument("--steps", metavar="N", type=int, help="training steps (default: 1300)")

    sub = add(
        ingest,
        "photos to shards in a store, intermediates included",
        "example: naturaltone ingest ~/photos --role input --to s3://bucket/store",
    )
    sub.add_argument("source", metavar="SRC", help="folder of photos: a path, file:// or s3://")
    sub.add_argument("--role", required=True, choices=["input", "natural"], help="what the photos are for")
    sub.add_argument("--to", required=True, metavar="STORE", help="the store: a folder or s3:// prefix")
    sub.add_argument("--long-side", metavar="PIXELS", type=int, default=1024, help="shrink to this (default: 1024)")
    sub.add_argument(
        "--algorithm",
        default="local_laplacian",
        help="makes the intermediates: local_laplacian, shift_scale or clahe (default: local_laplacian)",
    )
    sub.add_argument(
        "--intermediates",
        default="cached",
        help="cached: computed now and stored (default); stream: half the space, computed again whenever they are read",
    )
    sub.add_argument("--full", action="store_true", help="read known files too (default: only new and changed ones)")
    sub.add_argument("--forget", action="store_true", help="take the photos from below SRC out of the store instead")

    sub = add(
        store,
        "what a store holds: counts, sizes, splits, rejects, and random photos to look at",
        "example: naturaltone store s3://bucket/store --sheet store.html",
    )
    sub.add_argument("store", metavar="STORE", help="made by `naturaltone ingest`")
    sub.add_argument(
        "--sheet", metavar="FILE", help="write random inputs, intermediates and natural photos as an HTML page"
    )
    sub.add_argument("--pairs", metavar="N", type=int, default=12, help="rows of the sheet (default: 12)")
    sub.add_argument("--seed", type=int, default=0, help="other random photos (default: 0)")
    sub.add_argument("--json", action="store_true", help="print JSON instead of a table")

    sub = add(
        train,
        "train a model on a store and register it",
        "example: naturaltone train STORE --recipe small --set steps=2000 --run first",
    )
    sub.add_argument("store", metavar="STORE", help="made by `naturaltone ingest`")
    sub.add_argument("--recipe", default="small", help="smoke, small or patent (default: small)")
    sub.add_argument("--set", metavar="FIELD=VALUE", action="append", default=[], help="change a field; repeatable")
    sub.add_argument(
        "--workers",
        metavar="N|MIN-MAX",
        help="DDP workers; with MIN-MAX as many as there is room for, now and when it changes (default: the GPUs, or 1)",
    )
    sub.add_argument(
        "--run",
        metavar="NAME",
        default=f"run-{datetime.now():%Y%m%d-%H%M%S}",
        help="the same name resumes (default: the time)",
    )
    sub.add_argument(
        "--intermediates",
        choices=["cached", "stream"],
        help="read them from the store, or compute the same pixels on the way (default: as the store was made)",
    )
    sub.add_argument("--out", metavar="DIR", help="the model bundle (default: models/NAME)")

    sub = add(
        evaluate,
        "score a model beside the input and the fixed algorithm",
        "example: naturaltone evaluate models/first ~/other-photos --sheet sheet.html",
        natural,
    )
    sub.add_argument("model", metavar="MODEL", help="a bundle's folder, s3://…, models:/NAME@ALIAS or `pretrained`")
    sub.add_argument("photos", metavar="PHOTOS", help="a folder of photos, or a store (its held-out photos)")
    sub.add_argument(
        "--references", metavar="DIR", help="how the photos should look: files of the same names, but for the suffix"
    )
    sub.add_argument("--against", metavar="MODEL", help="another model to compare with")
    sub.add_argument(
        "--sheet", metavar="FILE", help="write the table and a slider a photo as an HTML page: the first and the worst"
    )
    sub.add_argument("--json", action="store_true", help="print JSON, each photo's measures too, instead of a table")

    sub = add(
        ablation,
        "what each of the three losses adds: the four panels of the document's Fig. 6, and the numbers",
        "example: naturaltone ablation first --sheet fig6.html\n\n"
        "trains RUN again as RUN-color (λ1) and RUN-natural (λ1+λ2), unless models/ has these already",
        natural,
    )
    sub.add_argument("run", metavar="RUN", help="a finished run of `naturaltone train`, with all three losses")
    sub.add_argument("--workers", metavar="N", type=int, help="DDP workers (default: the GPUs, or 1)")
    sub.add_argument("--photos", metavar="PHOTOS", help="a folder or a store (default: held-out photos of RUN's store)")
    sub.add_argument(
        "--models", metavar=("M1", "M2", "M3"), nargs=3, help="take these models as λ1, λ1+λ2 and λ1+λ2+λ3; train none"
    )
    sub.add_argument("--sheet", metavar="FILE", help="write panels, sliders and numbers as an HTML page")
    sub.add_argument("--json", action="store_true", help="print JSON instead of a table")

    sub = add(
        enhance,
        "enhance one photo, or a whole tree into a parallel one; originals stay untouched",
        "example: naturaltone enhance photo.jpg better.jpg\n"
        "         naturaltone enhance ~/photos ~/enhanced --dry-run\n"
        "         naturaltone enhance ~/photos ~/enhanced --strength 0.8 --sheet before-after.html\n\n"
        "The same command again goes on where it was, and does only what is new. What was done to each file, and why not,\n"
        "lies in DST/naturaltone-report. Exit code 1: finished, but some photos failed.",
    )
    sub.add_argument("source", metavar="SRC", help="a photo or a folder: a path, file:// or s3://")
    sub.add_argument("target", metavar="DST", help="where the enhanced ones go; never inside SRC")
    sub.add_argument("--model", help=_MODEL_HELP)
    sub.add_argument("--strength", type=float, default=1.0, help="0 unchanged, 1 the model's own, up to 1.5")
    sub.add_argument(
        "--quality", metavar="N", type=int, help="of JPEG, WebP and AVIF, 1 to 100 (default: a JPEG's own, else 95)"
    )
    sub.add_argument(
        "--hdr",
        choices=["skip", "drop"],
        default="skip",
        help="photos with an HDR gain map or a motion video: skip them, or drop what new pixels would not fit",
    )
    sub.add_argument("--exact", action="store_true", help="one photo: run the network on every pixel; slow, to compare")
    sub.add_argument(
        "--dry-run", action="store_true", help="a folder: only say what would be done, and how long it takes"
    )
    sub.add_argument("--sheet", metavar="FILE", help="a folder: write an HTML page with a slider before/after a photo")
    sub.add_argument("--photos-only", action="store_true", help="a folder: leave out screenshots and graphics")
    sub.add_argument("--copy-others", action="store_true", help="a folder: copy what is not enhanced, videos too")
    sub.add_argument(
        "--no-mtime", action="store_true", help="a folder: outputs are as new as they are, not as their source"
    )
    sub.add_argument("--limit", metavar="N", type=int, help="a folder: at most so many files this time")
    sub.add_argument(
        "--include", metavar="GLOB", action="append", default=[], help="a folder: only files like '2019/*'; repeatable"
    )
    sub.add_argument(
        "--exclude",
        metavar="GLOB",
        action="append",
        default=[],
        help="a folder: no files like '*/thumbs/*'; repeatable",
    )

    sub = add(
        bench,
        "measure a part side by side with its peer, in one run; the last line printed is one JSON object",
        "example: naturaltone bench stream --photos ~/photos --seconds 60\n\n"
        "stream  the training stream beside a torch DataLoader, from this disk and from the embedded S3\n"
        "tone    the fixed algorithms on one core, in megapixels a second\n"
        "step    a training step bare, beside the same under Ray Train with the stream\n"
        "enhance a 24-megapixel JPEG from file to file, beside its decoding and encoding and beside ImageMagick\n"
        "archive 200 photos of mixed sizes, beside the bare enhancer in as many processes",
    )
    sub.add_argument("what", choices=["stream", "tone", "step", "enhance", "archive"], help="what to measure")
    sub.add_argument("--photos", metavar="DIR", required=True, help="real photos to measure on")
    sub.add_argument("--seconds", type=float, default=60.0, help="stream: of each contender and place (default: 60)")
    sub.add_argument("--processes", metavar="N", type=int, help="stream: that decode (default: the cores)")
    sub.add_argument("--batch", metavar="N", type=int, default=32, help="stream: photos a batch (default: 32)")
    sub.add_argument("--crop", metavar="PIXELS", type=int, default=256, help="stream: side of a crop (default: 256)")
    sub.add_argument("--recipe", default="small", help="step: smoke, small or patent (default: small)")
    sub.add_argument("--set", metavar="FIELD=VALUE", action="append", default=[], help="step: change a field")
    sub.add_argument(
        "--steps", metavar="N", type=int, default=60, help="step: of each contender and round (default: 60)"
    )
    sub.add_argument("--rounds", metavar="N", type=int, default=2, help="step: in turns (default: 2)")
    sub.add_argument("--bare", action="store_true", help="step: only the bare step")
    sub.add_argument(
        "--long-side",
        metavar="PIXELS",
        type=int,
        default=320,
        help="step: of the stored photos; 320 is what small is made for (default: 320)",
    )
    sub.add_argument("--model", default="pretrained", help="enhance, archive: the model (default: pretrained)")
    sub.add_argument("--json", metavar="FILE", help="write the figures to a file too")

    sub = add(serve, "HTTP service", "example: naturaltone serve --model models/first --port 8000")
    sub.add_argument("--model", help=_MODEL_HELP)
    sub.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    sub.add_argument("--port", type=int, default=8000, help="default: 8000")
    return parser
