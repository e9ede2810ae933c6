"""What several commands share: arguments, and how many photos in trouble they print."""

from __future__ import annotations

import argparse

LISTED = 20  # photos in trouble that a command prints; a file or --json names all

MODEL_HELP = (
    "a bundle's folder, s3://…, models:/NAME@ALIAS or `pretrained`, the model that comes along "
    "(default: models:/naturaltone@champion if you have registered one, else pretrained)"
)


def add_natural(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--natural",
        metavar="DIR",
        help="good photos, to see how far they are left alone (default: a store's held-out ones)",
    )
