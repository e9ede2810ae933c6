"""`naturaltone bench`: a part of naturaltone side by side with its peer, in one run."""

from __future__ import annotations

import argparse
import json

from naturaltone.infra.exit_codes import OK

HELP = "measure a part side by side with its peer, in one run; the last line printed is one JSON object"
EXAMPLE = "example: naturaltone bench stream --photos ~/photos --seconds 60"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--photos", metavar="DIR", required=True, help="real photos to measure on")
    common.add_argument("--json", metavar="FILE", help="write the figures to a file too")
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", default="pretrained", help="the model (default: pretrained)")
    parts = parser.add_subparsers(title="parts", dest="part", required=True, metavar="PART")

    stream = parts.add_parser(
        "stream",
        help="the training stream beside a torch DataLoader, from this disk and from the embedded S3",
        parents=[common],
    )
    stream.add_argument(
        "--seconds", type=float, default=60.0, help="of each contender, on disk and on S3 (default: 60)"
    )
    stream.add_argument("--processes", metavar="N", type=int, help="that decode (default: the cores)")
    stream.add_argument("--batch", metavar="N", type=int, default=32, help="photos a batch (default: 32)")
    stream.add_argument("--crop", metavar="PIXELS", type=int, default=256, help="side of a crop (default: 256)")
    stream.set_defaults(measure=_stream)

    tone = parts.add_parser("tone", help="the fixed algorithms on one core, in megapixels a second", parents=[common])
    tone.set_defaults(measure=_tone)

    step = parts.add_parser(
        "step", help="a training step bare, beside the same under Ray Train with the stream", parents=[common]
    )
    step.add_argument("--recipe", default="small", help="smoke, small or patent (default: small)")
    step.add_argument("--set", metavar="FIELD=VALUE", action="append", default=[], help="change a field; repeatable")
    step.add_argument("--steps", metavar="N", type=int, default=60, help="of each contender and round (default: 60)")
    step.add_argument("--rounds", metavar="N", type=int, default=2, help="in turns (default: 2)")
    step.add_argument("--bare", action="store_true", help="only the bare step")
    step.add_argument(
        "--long-side",
        metavar="PIXELS",
        type=int,
        default=320,
        help="of the stored photos; 320 is what the recipe small is made for (default: 320)",
    )
    step.set_defaults(measure=_step)

    enhance = parts.add_parser(
        "enhance",
        help="a 24-megapixel JPEG from file to file, beside its decoding and encoding and beside ImageMagick",
        parents=[common, model],
    )
    enhance.set_defaults(measure=_enhance)

    archive = parts.add_parser(
        "archive",
        help="200 photos of mixed sizes, beside the bare enhancer in as many processes",
        parents=[common, model],
    )
    archive.set_defaults(measure=_archive)


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


Measured = tuple[str, dict[str, object]]  # a table for people, the figures for a script


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
