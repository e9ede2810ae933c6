"""Arguments and limits that several commands share."""

from __future__ import annotations

import argparse

LISTED = 20  # rejected photos that a command prints; a file or --json lists all

MODEL_FORMS = (
    "the folder or s3:// prefix of a model bundle, models:/NAME@ALIAS for a registered model, or `pretrained` for the "
    "model that comes with naturaltone"
)
MODEL_HELP = (
    f"model to use: {MODEL_FORMS} "
    "(default: models:/naturaltone@champion if you have registered a model, else pretrained)"
)


def add_natural(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--natural",
        metavar="DIR",
        help="folder or store of good photos, to measure how little the model changes them (default: the held-out natural "
        "photos of the store if the photos to score come from a store, else none)",
    )
