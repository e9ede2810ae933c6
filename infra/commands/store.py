"""`naturaltone store`: what a store holds."""

from __future__ import annotations

import argparse
import json

from naturaltone.infra.exit_codes import OK

HELP = "what a store holds: counts, sizes, splits, rejects, and random photos to look at"
EXAMPLE = "example: naturaltone store s3://bucket/store --sheet store.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="made by `naturaltone ingest`")
    parser.add_argument(
        "--sheet", metavar="FILE", help="write random inputs, intermediates and natural photos as an HTML page"
    )
    parser.add_argument("--pairs", metavar="N", type=int, default=12, help="rows of the sheet (default: 12)")
    parser.add_argument("--seed", type=int, default=0, help="other random photos (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(options: argparse.Namespace) -> int:
    from naturaltone.pipeline import storage
    from naturaltone.pipeline.dataset import shards, summary

    store = shards.open_store(options.store)
    if options.sheet:
        from naturaltone.serving.sheet.store import store_page

        storage.write_bytes(options.sheet, store_page(store, pairs=options.pairs, seed=options.seed).encode())
    numbers = summary.summarize(store)
    print(json.dumps(numbers) if options.json else summary.format_summary(numbers))
    return OK
