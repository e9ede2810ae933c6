"""`naturaltone demo`: every step of naturaltone on one machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from naturaltone.infra.exit_codes import OK, SOME_FAILED

HELP = "run every step on one machine in a few minutes: ingest, train, evaluate, enhance and serve"
EXAMPLE = """example: naturaltone demo --out demo

Give both --inputs and --natural, or neither."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--inputs", metavar="DIR", help="folder of photos to learn to enhance (default: built-in ones)")
    parser.add_argument(
        "--natural",
        metavar="DIR",
        help="folder of photos whose tone you like; they may show other scenes (default: built-in ones)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        default="demo",
        help="folder for the results; a folder of an earlier demo is emptied first (default: demo)",
    )
    parser.add_argument("--steps", metavar="N", type=int, help="training steps (default: 1300)")


def run(options: argparse.Namespace) -> int:
    from naturaltone.infra.demo import STEPS, run_demo
    from naturaltone.infra.demo_summary import format_summary

    out = Path(options.out)
    steps = STEPS if options.steps is None else options.steps
    summary = run_demo(inputs=options.inputs, natural=options.natural, out=out, steps=steps)
    print(format_summary(summary, out))
    return SOME_FAILED if summary["photos"]["rejected"] or summary["archive"]["failed"] else OK
