"""`naturaltone enhance`: enhance one photo or a whole folder."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING

from naturaltone.infra.commands.shared import MODEL_HELP
from naturaltone.infra.exit_codes import OK, SOME_FAILED
from naturaltone.pipeline.errors import UserError

if TYPE_CHECKING:
    from naturaltone.serving.archive.options import ArchiveOptions

HELP = "enhance one photo, or all photos below a folder into a second folder; originals stay untouched"
EXAMPLE = """example: naturaltone enhance photo.jpg better.jpg
         naturaltone enhance ~/photos ~/enhanced --dry-run
         naturaltone enhance ~/photos ~/enhanced --strength 0.8 --sheet before-after.html

Options marked "folder:" work only if SRC is a folder. Run the same command again to resume it, or to enhance only
what is new. DST/naturaltone-report says for each file what was done or why it was left alone.
Exit code 1: finished, but some photos failed."""

_FOLDER_ONLY = ("dry_run", "sheet", "photos_only", "copy_others", "no_mtime", "limit", "include", "exclude")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a photo or a folder: a path, file:// or s3:// URI")
    parser.add_argument(
        "target", metavar="DST", help="file or folder to write the enhanced photos to; never inside SRC"
    )
    parser.add_argument("--model", help=MODEL_HELP)
    parser.add_argument(
        "--strength",
        type=float,
        default=1.0,
        help="how much to change: 0 is nothing, 1 is what the model does, 1.5 is the most (default: 1)",
    )
    parser.add_argument(
        "--quality",
        metavar="N",
        type=int,
        help="quality of JPEG, WebP, AVIF and HEIC files, 1 to 100 (default: a JPEG and a HEIC keep their own, a lossless WebP "
        "stays lossless, others get 95)",
    )
    parser.add_argument(
        "--hdr",
        choices=["keep", "skip", "drop"],
        default="keep",
        help="photos with an HDR gain map, a motion video or a depth map: enhance the photo and keep them (an HDR photo stays "
        "HDR), skip the photo, or enhance it and drop them (default: keep)",
    )
    parser.add_argument(
        "--heic",
        choices=["heic", "jpeg", "avif", "skip"],
        default="heic",
        help="what HEICs become: HEICs with all that is in them; JPEGs or AVIFs with their EXIF, XMP and profile, but without "
        "video and depth, and HDR only in JPEGs, if it is known how; or nothing (default: heic)",
    )
    parser.add_argument(
        "--exact", action="store_true", help="one photo: run the network on every pixel, to compare the result; slow"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="folder: write no photo; say what would be done and how long it would take",
    )
    parser.add_argument(
        "--sheet",
        metavar="FILE",
        help="folder: also write an HTML page with before/after sliders for up to 200 photos (--dry-run: 20); never "
        "inside SRC",
    )
    parser.add_argument("--photos-only", action="store_true", help="folder: leave screenshots and graphics alone")
    parser.add_argument(
        "--copy-others",
        action="store_true",
        help="folder: copy all files that are not enhanced, videos too (default: only sidecars of photos: .xmp, .aae, JSON of "
        "Google Takeout, movies of Live Photos and others)",
    )
    parser.add_argument(
        "--no-mtime",
        action="store_true",
        help="folder: give outputs the current time (default: the modification time of the original)",
    )
    parser.add_argument(
        "--limit", metavar="N", type=int, help="folder: process at most N files in this run (default: all)"
    )
    parser.add_argument(
        "--include",
        metavar="GLOB",
        action="append",
        default=[],
        help="folder: only files that match, such as '2019/*'; repeatable",
    )
    parser.add_argument(
        "--exclude",
        metavar="GLOB",
        action="append",
        default=[],
        help="folder: no files that match, such as '*/thumbs/*'; repeatable",
    )


def run(options: argparse.Namespace) -> int:
    from naturaltone.pipeline import storage
    from naturaltone.serving.archive.options import ArchiveOptions
    from naturaltone.serving.enhancer import check_strength

    check_strength(options.strength)
    storage.check_reachable(options.source)
    chosen = ArchiveOptions(
        strength=options.strength,
        quality=options.quality,
        hdr=options.hdr,
        heic=options.heic,
        photos_only=options.photos_only,
        copy_others=options.copy_others,
        keep_mtime=not options.no_mtime,
        limit=options.limit,
        include=tuple(options.include),
        exclude=tuple(options.exclude),
    )
    return _photo(options, chosen) if storage.exists(options.source) else _archive(options, chosen)


def _photo(options: argparse.Namespace, chosen: ArchiveOptions) -> int:
    from naturaltone.serving.enhancer import Enhancer
    from naturaltone.serving.registry import default_model
    from naturaltone.serving.single import enhance_photo

    for name in _FOLDER_ONLY:
        if getattr(options, name):
            raise UserError(
                f"--{name.replace('_', '-')} is for a folder, and '{options.source}' is a photo; leave it out"
            )
    chosen.refuse_skipped(options.source)
    enhanced, version = enhance_photo(
        options.source,
        options.target,
        load=lambda: Enhancer.load(options.model or default_model()),
        strength=options.strength,
        quality=options.quality,
        extras=options.hdr,
        format=chosen.format_of(options.source),
        exact=options.exact,
    )
    print(f"{options.target}: {enhanced.megapixels:.1f} megapixels, enhanced by {version}")
    return OK


def _archive(options: argparse.Namespace, chosen) -> int:  # type: ignore[no-untyped-def]
    from naturaltone.infra.local import cores, ray_session
    from naturaltone.pipeline import storage
    from naturaltone.serving.archive import job, preview
    from naturaltone.serving.archive.plan import check
    from naturaltone.serving.archive.report import FOLDER
    from naturaltone.serving.enhancer import Enhancer
    from naturaltone.serving.registry import default_model

    if options.exact:
        raise UserError("--exact is for one photo, to compare; leave it out for a folder")
    source, target = check(options.source, options.target)
    storage.check_file_writable(options.sheet)
    if options.sheet:
        preview.refuse_sheet_in(source, options.sheet)
    enhancer = Enhancer.load(options.model or default_model())
    with job.prepared(source, target, enhancer.version, chosen, dry_run=options.dry_run) as run:
        if options.dry_run:
            run.plan.complete()
            guess = preview.estimate(run.plan, enhancer, cores=cores())
            print(preview.describe(run.plan, guess, cores=cores()))
            if options.sheet:
                preview.write_dry_sheet(options.sheet, run.plan, enhancer)
                print(f"preview of some of the photos: {options.sheet}")
            return OK
        # Starting Ray takes longer than finding nothing to do.
        with ray_session() if run.plan.has_work() else contextlib.nullcontext():
            summary = job.run_archive(run, enhancer)
        if options.sheet:
            preview.write_contact_sheet(options.sheet, source, target, run.report)
    for line in job.describe_failures(summary):
        print(line, file=sys.stderr)
    print(f"{job.describe(summary)} by {enhancer.version}")
    print(f"report on each file: {storage.join(target, FOLDER)}")
    return SOME_FAILED if summary.counts.get("failed") else OK
