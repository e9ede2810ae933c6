"""`naturaltone ingest`: photos to shards in a store."""

from __future__ import annotations

import argparse
import sys

from naturaltone.infra.commands.shared import LISTED
from naturaltone.infra.exit_codes import OK, SOME_FAILED

HELP = "photos to shards in a store, intermediates included"
EXAMPLE = "example: naturaltone ingest ~/photos --role input --to s3://bucket/store"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="folder of photos: a path, file:// or s3://")
    parser.add_argument("--role", required=True, choices=["input", "natural"], help="what the photos are for")
    parser.add_argument("--to", required=True, metavar="STORE", help="the store: a folder or s3:// prefix")
    parser.add_argument("--long-side", metavar="PIXELS", type=int, default=1024, help="shrink to this (default: 1024)")
    parser.add_argument(
        "--algorithm",
        default="local_laplacian",
        help="makes the intermediates: local_laplacian, shift_scale or clahe (default: local_laplacian)",
    )
    parser.add_argument(
        "--intermediates",
        default="cached",
        help="cached: computed now and stored (default); stream: half the space, computed again whenever they are read",
    )
    parser.add_argument("--full", action="store_true", help="read known files too (default: only new and changed ones)")
    parser.add_argument("--forget", action="store_true", help="take the photos from below SRC out of the store instead")


def run(options: argparse.Namespace) -> int:
    from naturaltone.infra.local import ray_session
    from naturaltone.pipeline.dataset import forget, ingest, shards
    from naturaltone.pipeline.photo.find import check_photos

    if options.forget:
        shards.open_store(options.to)
        with ray_session():
            forgotten = forget.forget(options.source, role=options.role, store=options.to)
        print(f"{forgotten.photos} photos taken out of {options.to}")
        for run, count in forgotten.kept_for_runs.items():
            print(
                f"{count} shards with them stay for the run '{run}', which was begun with them; remove "
                f"{options.to}/runs/{run} and give this command or an ingest again to have them deleted",
                file=sys.stderr,
            )
        return OK
    how = {name: getattr(options, name) for name in ("role", "long_side", "algorithm", "intermediates")}
    # What can be refused is, before Ray starts.
    check_photos(options.source)
    ingest.open_or_new(options.to, **how)
    with ray_session():
        report = ingest.ingest(options.source, store=options.to, full=options.full, **how)
    for row in report.rejects.slice(0, LISTED).to_pylist():
        print(f"rejected {row['source']}: {row['reason']}: {row['detail']}", file=sys.stderr)
    if report.rejects.num_rows > LISTED:
        print(f"... and {report.rejects.num_rows - LISTED} more, all in {options.to}/rejects.parquet", file=sys.stderr)
    print(
        f"{report.found} photos found: {report.added} added, {report.unchanged} unchanged, "
        f"{report.duplicates} duplicates, {report.rejects.num_rows} rejected; {report.other_files} other files left alone"
    )
    return SOME_FAILED if report.rejects.num_rows else OK
