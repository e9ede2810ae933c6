"""`naturaltone evaluate`: score a model on photos."""

from __future__ import annotations

import argparse
import json
import sys

from naturaltone.infra.commands.shared import LISTED, MODEL_FORMS, add_natural
from naturaltone.infra.exit_codes import OK, SOME_FAILED
from naturaltone.pipeline.errors import UserError

HELP = "score a model on photos, beside the unchanged photos and the fixed algorithm"
EXAMPLE = "example: naturaltone evaluate models/first ~/other-photos --sheet sheet.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_natural(parser)
    parser.add_argument("model", metavar="MODEL", help=f"model to score: {MODEL_FORMS}")
    parser.add_argument("photos", metavar="PHOTOS", help="a folder of photos, or a store for its held-out photos")
    parser.add_argument(
        "--references",
        metavar="DIR",
        help="folder with a version of each photo as it should look: the same file name; the suffix may differ",
    )
    parser.add_argument("--against", metavar="MODEL", help="a second model to compare with")
    parser.add_argument(
        "--sheet",
        metavar="FILE",
        help="also write an HTML page with the table, and with sliders for the first and the worst photos",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON instead of a table; it includes the measures of each photo"
    )


def run(options: argparse.Namespace) -> int:
    from naturaltone.pipeline import storage
    from naturaltone.serving.enhancer import Enhancer
    from naturaltone.serving.evaluation import photos as evaluation_photos
    from naturaltone.serving.evaluation.evaluate import evaluate, run_of
    from naturaltone.serving.evaluation.report import evaluation_page, format_table, to_json, to_metrics
    from naturaltone.training import tracking

    storage.check_file_writable(options.sheet)
    rejects: list[str] = []
    missing: list[str] = []
    names = evaluation_photos.photo_names(options.photos)
    photos, held_out = evaluation_photos.open_photos(options.photos, rejects)
    if options.references:
        references = evaluation_photos.find_references(options.references, names)
        photos = evaluation_photos.with_references(photos, references, missing)
    natural = evaluation_photos.natural_photos(options.natural, options.photos, rejects)
    enhancer = Enhancer.load(options.model)
    against = Enhancer.load(options.against) if options.against else None
    evaluation = evaluate(enhancer, photos, natural=natural, held_out=held_out, against=against, total=len(names))
    page = evaluation_page(f"naturaltone evaluation of {enhancer.version}", evaluation)
    if options.sheet:
        storage.write_bytes(options.sheet, page.encode())
    if options.json:
        problems = {"rejected": rejects, "missing_references": missing}
        print(json.dumps({"model": enhancer.version, **to_json(evaluation), **problems}), flush=True)
    else:
        print(f"{enhancer.version} on {evaluation.photos} photos")
        print(format_table(evaluation), flush=True)
    for reject in rejects:
        print(f"rejected {reject}", file=sys.stderr)
    for photo in missing[:LISTED]:
        print(f"no reference for {photo}", file=sys.stderr)
    if len(missing) > LISTED:
        print(f"... and {len(missing) - LISTED} more; --json lists all", file=sys.stderr)
    # Last, because a tracking server that does not answer takes long to give up.
    try:
        tracking.log_evaluation(run_of(enhancer.bundle), to_metrics(evaluation), {"evaluation.html": page})
    except UserError as error:
        print(f"not logged to MLflow: {error}", file=sys.stderr)
    return SOME_FAILED if rejects or missing else OK
