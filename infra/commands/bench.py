"""`naturaltone bench`: measure one part of naturaltone and a comparable program in the same run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from naturaltone.infra.exit_codes import OK

HELP = "measure the speed of one part of naturaltone beside a comparable program"
EXAMPLE = """example: naturaltone bench stream --photos ~/photos --seconds 60

`naturaltone bench PART --help` lists the options of a part. The last line that a benchmark prints is one JSON object."""


Measured = tuple[str, dict[str, object]]  # a table for people, and the figures for scripts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--photos", metavar="DIR", required=True, help="folder of real photos to measure on")
    common.add_argument("--json", metavar="FILE", help="also write the figures to this file, as JSON")
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", default="pretrained", help="model to measure (default: pretrained)")
    parts = parser.add_subparsers(title="parts", dest="part", required=True, metavar="PART")

    def add(
        name: str, measure: Callable[[argparse.Namespace], Measured], *parents: argparse.ArgumentParser, what: str
    ) -> argparse.ArgumentParser:
        part: argparse.ArgumentParser = parts.add_parser(
            name, help=what, description=f"Measure {what}.", parents=[common, *parents]
        )
        part.set_defaults(measure=measure)
        return part

    stream = add(
        "stream",
        _stream,
        what="the training stream beside a torch DataLoader, from local disk and from the embedded S3 server",
    )
    stream.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        help="time to measure the stream and the DataLoader, each on local disk and on S3 (default: 60 s each)",
    )
    stream.add_argument(
        "--processes", metavar="N", type=int, help="processes that decode photos (default: one for each CPU core)"
    )
    stream.add_argument("--batch", metavar="N", type=int, default=32, help="photos in a batch (default: 32)")
    stream.add_argument(
        "--crop", metavar="PIXELS", type=int, default=256, help="side of the square crops (default: 256)"
    )

    add("tone", _tone, what="the fixed tone algorithms on one core, in megapixels a second")

    step = add("step", _step, what="a training step under Ray Train, fed by the stream, beside the same step alone")
    step.add_argument(
        "--recipe", default="small", help="settings to train with: smoke, small or patent (default: small)"
    )
    step.add_argument(
        "--set", metavar="FIELD=VALUE", action="append", default=[], help="change a field of the recipe; repeatable"
    )
    step.add_argument(
        "--steps", metavar="N", type=int, default=60, help="steps to time per variant and round (default: 60)"
    )
    step.add_argument(
        "--rounds", metavar="N", type=int, default=2, help="rounds; the two variants take turns in each (default: 2)"
    )
    step.add_argument("--bare", action="store_true", help="time only the step alone, without Ray Train")
    step.add_argument(
        "--long-side",
        metavar="PIXELS",
        type=int,
        default=320,
        help="long side of the stored photos (default: 320, which suits the recipe small)",
    )

    add(
        "enhance",
        _enhance,
        model,
        what="enhancing a 24-megapixel JPEG file, beside only decoding and encoding it and beside ImageMagick",
    )
    add(
        "archive",
        _archive,
        model,
        what="enhancing 200 photos of mixed sizes, beside the enhancer alone in as many processes",
    )

    serve = add(
        "serve",
        _serve,
        model,
        what="the HTTP service with 2-megapixel photos, beside the enhancer alone in as many processes",
    )
    serve.add_argument("--seconds", type=float, default=15.0, help="time of each load (default: 15)")


def run(options: argparse.Namespace) -> int:
    from naturaltone.pipeline import storage
    from naturaltone.pipeline.photo.find import check_photos

    check_photos(options.photos)
    text, figures = options.measure(options)
    print(text)
    if options.json:
        storage.write_bytes(options.json, json.dumps(figures).encode())
    print(json.dumps(figures))
    return OK


def _serve(options: argparse.Namespace) -> Measured:
    from naturaltone.infra.bench.serve import bench_serve, format_figures

    figures = bench_serve(options.photos, model=options.model, seconds=options.seconds)
    return format_figures(figures), figures


def _stream(options: argparse.Namespace) -> Measured:
    from naturaltone.infra import local
    from naturaltone.infra.bench.stream import bench_stream, format_figures

    figures = bench_stream(
        options.photos,
        seconds=options.seconds,
        processes=options.processes or local.cores(),
        batch=options.batch,
        crop=options.crop,
    )
    return format_figures(figures), figures


def _tone(options: argparse.Namespace) -> Measured:
    from naturaltone.infra.bench.tone import bench_tone, format_figures

    figures = bench_tone(options.photos)
    return format_figures(figures), figures


def _step(options: argparse.Namespace) -> Measured:
    from naturaltone.infra.bench.step import bench_step, format_figures
    from naturaltone.training.config import make_config

    figures = bench_step(
        options.photos,
        make_config(options.recipe, options.set),
        long_side=options.long_side,
        steps=options.steps,
        rounds=options.rounds,
        bare=options.bare,
    )
    return format_figures(figures), figures


def _enhance(options: argparse.Namespace) -> Measured:
    from naturaltone.infra.bench.enhance import bench_enhance, format_figures

    figures = bench_enhance(options.photos, model=options.model)
    return format_figures(figures), figures


def _archive(options: argparse.Namespace) -> Measured:
    from naturaltone.infra.bench.archive import bench_archive, format_figures

    figures = bench_archive(options.photos, model=options.model)
    return format_figures(figures), figures
