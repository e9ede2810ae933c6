"""`naturaltone store`: show what a store holds."""

from __future__ import annotations

import argparse
import json

from naturaltone.infra.exit_codes import OK

HELP = "show what a store holds: counts, sizes, splits, rejected files, and random photos"
EXAMPLE = "example: naturaltone store s3://bucket/store --sheet store.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="a folder or s3:// prefix that `naturaltone ingest` filled")
    parser.add_argument(
        "--sheet", metavar="FILE", help="also write an HTML page of random inputs, intermediates and natural photos"
    )
    parser.add_argument("--pairs", metavar="N", type=int, default=12, help="rows of photos on the page (default: 12)")
    parser.add_argument(
        "--seed", type=int, default=0, help="choice of random photos; another number shows others (default: 0)"
    )
    parser.add_argument(
        "--grow-gate",
        action="store_true",
        help="add held-out photos to the gate set, on which new models are compared with the champion; without this command, "
        "it stays as it was when it was first used",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(options: argparse.Namespace) -> int:
    from naturaltone.pipeline import storage
    from naturaltone.pipeline.dataset import shards, summary

    store = shards.open_store(options.store)
    if options.sheet:
        from naturaltone.serving.sheet.store import store_page

        storage.write_bytes(options.sheet, store_page(store, pairs=options.pairs, seed=options.seed).encode())
    if options.grow_gate:
        from naturaltone.serving.evaluation import gate_set

        gate = gate_set.grow(store)
        print(f"gate set {gate.digest}: {', '.join(f'{len(ids)} {role}' for role, ids in gate.ids.items())} photos")
        return OK
    numbers = summary.summarize(store)
    print(json.dumps(numbers) if options.json else summary.format_summary(numbers))
    return OK
