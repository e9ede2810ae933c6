"""Shows people what a run would do or did: the estimate of a dry run, and the contact sheets."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from naturaltone.pipeline import storage
from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.encode import check_rewritable
from naturaltone.pipeline.photo.pixels import shrink, training_pixels
from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.pipeline.progress import track
from naturaltone.pipeline.reasons import Reason
from naturaltone.pipeline.spread import spread
from naturaltone.serving.archive.names import from_text, to_text
from naturaltone.serving.archive.plan import ArchivePlan, lies_in
from naturaltone.serving.archive.report import ENHANCED, Report
from naturaltone.serving.archive.task import Kind
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.sheet.parts import ComparedPhoto, Comparison, compare
from naturaltone.serving.sheet.pictures import COMPARED_LONG_SIDE, Beside
from naturaltone.serving.sheet.render import render

_LOOKED_AT, _TRIED = 200, 6
_SHEET_PHOTOS, _DRY_SHEET_PHOTOS = 200, 20
_KINDS = {
    Kind.PHOTO: "photos to enhance",
    Kind.SIDECAR: "sidecars of photos (XMP, JSON, AAE, movies of Live Photos and others)",
    Kind.REFUSED: "photos in a format that is not enhanced (RAW and others)",
    Kind.OTHER: "other files, including other videos",
    Kind.PROBLEM: "problems: links out of the source, folders that cannot be read, and others",
}
_LABELS = {"before": "before", "after": "after"}

Pair = tuple[str, str, np.ndarray, np.ndarray]  # caption, note, before, after


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An estimate of a run.

    looked_at: the number of photos that were examined. reasons: why some of them would not be enhanced. kept: what the others
    keep beside the photo, such as "HDR gain map". seconds: the time of the whole run on all cores.
    """

    looked_at: int
    reasons: dict[str, int]
    kept: dict[str, int]
    seconds: float


def estimate(plan: ArchivePlan, enhancer: Enhancer, *, cores: int) -> Estimate:
    """Estimate a run: read the headers of up to 200 photos, and time the enhancing of six without writing them."""
    reasons: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    good = []
    looked_at = [task.uri(plan.source) for task in plan.spread_photos(_LOOKED_AT)]
    for uri in looked_at:
        try:
            plan.options.refuse_skipped(uri)
            format = plan.options.format_of(uri)
            kept.update(check_rewritable(storage.read_bytes(uri), extras=plan.options.hdr, format=format))
            good.append(uri)
        except ImageError as error:
            reasons[error.reason] += 1
        except OSError:
            reasons[Reason.UNREADABLE] += 1
    tried = spread(good, _TRIED)
    enhance_seconds, tried_bytes = 0.0, 0
    # The first photo is enhanced twice. Its first run compiles and warms up, and is not counted.
    for number, uri in enumerate([*tried[:1], *tried]):
        data = storage.read_bytes(uri)
        started = time.perf_counter()
        try:
            enhancer.enhance_file(
                data,
                strength=plan.options.strength,
                format=plan.options.format_of(uri),
                extras=plan.options.hdr,
                photos_only=plan.options.photos_only,
            )
        except ImageError as error:  # its header looked good; only decoding shows the problem
            reasons[error.reason] += bool(number)
        if number:
            enhance_seconds += time.perf_counter() - started
            tried_bytes += len(data)
    _, total = plan.kinds.get(Kind.PHOTO, (0, 0))
    share = len(good) / len(looked_at) if looked_at else 0
    seconds = enhance_seconds / tried_bytes * total * share / cores if tried_bytes else 0.0
    return Estimate(looked_at=len(looked_at), reasons=dict(reasons), kept=dict(kept), seconds=seconds)


def describe(plan: ArchivePlan, guess: Estimate, *, cores: int) -> str:
    """Describe the plan and its estimate for people, in a few lines."""
    kinds = plan.kinds
    lines = [f"{'files':>9}"]
    for kind, words in _KINDS.items():
        if kind in kinds:
            count, size = kinds[kind]
            copied = kind in (Kind.SIDECAR, *((Kind.OTHER, Kind.REFUSED) if plan.options.copy_others else ()))
            lines.append(f"{count:>9}  {words}{', to be copied' if copied else ''}: {size / 1e6:.1f} MB")
    reasons, kept = (
        ", ".join(f"{count} {what}" for what, count in sorted(counts.items())) for counts in (guess.reasons, guess.kept)
    )
    return "\n".join(
        [
            *lines,
            f"{plan.done:>9}  done before",
            f"of {guess.looked_at} photos examined, these would not be enhanced: {reasons or 'none'}",
            *([f"these are kept in them: {kept}"] if kept else []),
            f"about {_duration(guess.seconds)} on {cores} cores; nothing was written to the target",
        ]
    )


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def refuse_sheet_in(source: str, page: str) -> None:
    """Raise `UserError` if a page or its pictures would lie in the source. The next run would enhance the pictures."""
    if lies_in(os.path.dirname(page), source) or lies_in(Beside(page).folder, source):
        raise UserError(
            f"--sheet '{page}' would write into '{source}', and originals stay untouched; choose a file outside the source"
        )


def write_contact_sheet(page: str, source: str, target: str, report: Report) -> None:
    """Write the HTML page `page`: a before/after slider for each enhanced photo, or for 200 spread over the archive.

    The pictures go into a folder beside the page, so that even a phone opens a page of many pictures fast.
    """
    [(total,)] = report.database.execute(f"SELECT count(*) FROM newest WHERE status = '{ENHANCED}'").fetchall()
    shown = report.spread_rows(f"status = '{ENHANCED}'", _SHEET_PHOTOS)

    def pairs() -> Iterator[Pair]:
        for entry in track(shown, "sheet", total=len(shown)):
            try:
                before, after = (
                    _look(storage.read_bytes(storage.join(folder, from_text(name))))
                    for folder, name in ((source, entry.source), (target, entry.output))
                )
            except (OSError, ImageError):  # deleted since the run
                continue
            yield entry.source, f"{entry.megapixels:.1f} MP", before, after

    photos = _compared(page, pairs())
    which = f"{len(photos)} of the {total} enhanced photos" if len(photos) < total else f"{total} photos"
    _write(page, f"Enhanced: {to_text(source)}", which, photos)


def write_dry_sheet(page: str, plan: ArchivePlan, enhancer: Enhancer) -> None:
    """Write the HTML page `page` with twenty photos as they would come out. Nothing else is written."""
    tasks = plan.spread_photos(_DRY_SHEET_PHOTOS)

    def pairs() -> Iterator[Pair]:
        for task in track(tasks, "sheet", total=len(tasks)):
            try:
                data = storage.read_bytes(task.uri(plan.source))
                enhanced = enhancer.enhance_file(
                    data,
                    strength=plan.options.strength,
                    quality=plan.options.quality,
                    format=plan.options.format_of(task.source),
                    extras=plan.options.hdr,
                    photos_only=plan.options.photos_only,
                )
                yield task.source, f"{enhanced.megapixels:.1f} MP", _look(data), _look(enhanced.data)
            except (OSError, ImageError):  # the estimate counts such photos by reason
                continue

    photos = _compared(page, pairs())
    which = f"{len(photos)} of the photos, as they would come out"
    _write(page, f"Would be enhanced: {to_text(plan.source)}", which, photos)


def _compared(page: str, pairs: Iterator[Pair]) -> list[ComparedPhoto]:
    pictures = Beside(page)
    photos: list[ComparedPhoto] = []
    for caption, note, before, after in pairs:
        after = cv2.resize(after, before.shape[1::-1], interpolation=cv2.INTER_AREA)
        photos.append(compare(caption, note, {"before": before, "after": after}, pictures))
    return photos


def _write(page: str, title: str, which: str, photos: list[ComparedPhoto]) -> None:
    comparison = Comparison(labels=_LABELS, photos=photos, left="before", right="after")
    storage.write_bytes(page, render("archive.html", title=title, shown=which, comparison=comparison).encode())


def _look(data: bytes) -> np.ndarray:
    return shrink(training_pixels(decode(data)), COMPARED_LONG_SIDE)
