"""`naturaltone demo`: the whole way on one machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from naturaltone.infra.exit_codes import OK, SOME_FAILED

HELP = "the whole way on one machine, in minutes"
EXAMPLE = "example: naturaltone demo --out demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--inputs", metavar="DIR", help="photos to learn to enhance (default: built-in ones)")
    parser.add_argument("--natural", metavar="DIR", help="photos whose tone you like; need not show the same things")
    parser.add_argument("--out", metavar="DIR", default="demo", help="where everything goes (default: demo)")
    parser.add_argument("--steps", metavar="N", type=int, help="training steps (default: 1300)")


def run(options: argparse.Namespace) -> int:
    from naturaltone.infra.demo import STEPS, run_demo
    from naturaltone.infra.demo_summary import format_summary

    out = Path(options.out)
    steps = STEPS if options.steps is None else options.steps
    summary = run_demo(inputs=options.inputs, natural=options.natural, out=out, steps=steps)
    print(format_summary(summary, out))
    return SOME_FAILED if summary["photos"]["rejected"] or summary["archive"]["failed"] else OK
