"""`naturaltone ingest`: add photos to a store, or take them out."""

from __future__ import annotations

import argparse
import sys

from naturaltone.infra.commands.shared import LISTED
from naturaltone.infra.exit_codes import OK, SOME_FAILED

HELP = "add photos to a store for training, and the intermediate images that a fixed algorithm makes of them"
EXAMPLE = """example: naturaltone ingest ~/photos --role input --to s3://bucket/store

Give every ingest into a store the same --long-side and --intermediates; it keeps its --algorithm."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="folder of photos: a path, file:// or s3:// URI")
    parser.add_argument(
        "--role",
        required=True,
        choices=["input", "natural"],
        help="input: photos to learn to enhance; natural: photos whose tone you like",
    )
    parser.add_argument(
        "--to", required=True, metavar="STORE", help="the store: a folder or an s3:// prefix; made if it is new"
    )
    parser.add_argument(
        "--long-side",
        metavar="PIXELS",
        type=int,
        default=1024,
        help="shrink photos to at most this long side (default: 1024)",
    )
    parser.add_argument(
        "--algorithm",
        metavar="NAME",
        help="fixed algorithm for the intermediates: keyed_laplacian (leaves dark scenes dark), local_laplacian (brings every "
        "photo to middle grey), shift_scale or clahe (default: that of the store; keyed_laplacian for a new one)",
    )
    parser.add_argument(
        "--intermediates",
        default="cached",
        help="cached: compute the intermediates now and store them; stream: compute them in each training, which takes "
        "half the space (default: cached)",
    )
    parser.add_argument(
        "--full", action="store_true", help="read all files (default: only files that are new or have changed)"
    )
    parser.add_argument(
        "--forget", action="store_true", help="add nothing; take the photos of SRC with this --role out of the store"
    )


def run(options: argparse.Namespace) -> int:
    from naturaltone.infra.local import ray_session, ray_when_needed
    from naturaltone.pipeline.dataset import forget, ingest, shards
    from naturaltone.pipeline.photo.find import check_photos

    if options.forget:
        shards.open_store(options.to)
        with ray_session():
            forgotten = forget.forget(options.source, role=options.role, store=options.to)
        print(f"{forgotten.photos} photos taken out of {options.to}")
        for run, count in forgotten.kept_for_runs.items():
            print(
                f"{count} shards with these photos stay, because the run '{run}' needs them to resume; to delete them, remove "
                f"{options.to}/runs/{run} and run this command or an ingest again",
                file=sys.stderr,
            )
        return OK
    how = {name: getattr(options, name) for name in ("role", "long_side", "algorithm", "intermediates")}
    # Refuse wrong options before Ray starts.
    check_photos(options.source)
    ingest.open_or_new(options.to, **how)
    with ray_when_needed() as start_ray:
        report = ingest.ingest(options.source, store=options.to, full=options.full, before_work=start_ray, **how)
    for row in report.rejects.slice(0, LISTED).to_pylist():
        print(f"rejected {row['source']}: {row['reason']}: {row['detail']}", file=sys.stderr)
    if report.rejects.num_rows > LISTED:
        print(
            f"... and {report.rejects.num_rows - LISTED} more; {options.to}/rejects.parquet lists all", file=sys.stderr
        )
    print(
        f"{report.found} photos found: {report.added} added, {report.unchanged} unchanged, "
        f"{report.duplicates} duplicates, {report.rejects.num_rows} rejected; {report.other_files} other files left alone"
    )
    return SOME_FAILED if report.rejects.num_rows else OK
