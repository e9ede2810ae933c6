"""What an archive's run would do, and what it did, for people to look at: the estimate and the contact sheet."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np

from naturaltone.pipeline import storage
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.encode import check_rewritable
from naturaltone.pipeline.photo.pixels import training_pixels
from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.pipeline.progress import track
from naturaltone.pipeline.reasons import Reason
from naturaltone.serving.archive.plan import OTHER, PHOTO, PROBLEM, REFUSED, SIDECAR, Plan
from naturaltone.serving.archive.report import ENHANCED, Report, from_text, to_text
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.sheet import sheet

_LOOKED_AT, _TRIED = 200, 6
_SHEET_PHOTOS, _SHEET_LONG_SIDE = 200, 640  # in one file that a phone can open
T = TypeVar("T")
_KINDS = {
    PHOTO: "photos to enhance",
    SIDECAR: "sidecars (.xmp)",
    REFUSED: "photos of a kind that is not enhanced (RAW and others)",
    OTHER: "other files, videos among them",
    PROBLEM: "links that lead out of the source, or folders that cannot be read",
}
_LABELS = {"before": "before", "after": "after"}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """looked_at: photos whose headers were read; reasons: why some of them would not be enhanced. seconds: on all cores."""

    looked_at: int
    reasons: dict[str, int]
    seconds: float


def estimate(plan: Plan, enhancer: Enhancer, *, cores: int) -> Estimate:
    """Read the headers of some of the photos, enhance a few without writing them, and reckon from these."""
    rows = plan.todo.filter(plan.todo.column("kind").to_numpy() == PHOTO) if plan.todo.num_rows else plan.todo
    uris = [storage.join(plan.source, os.fsdecode(name)) for name in rows["name"].to_pylist()]
    reasons: Counter[str] = Counter()
    good = []
    looked_at = _spread(uris, _LOOKED_AT)
    for uri in looked_at:
        try:
            check_rewritable(storage.read_bytes(uri), drop_extras=plan.options.drop_hdr)
            good.append(uri)
        except ImageError as error:
            reasons[error.reason] += 1
        except OSError:
            reasons[Reason.UNREADABLE] += 1
    tried = _spread(good, _TRIED)
    enhance_seconds, tried_bytes = 0.0, 0
    for number, uri in enumerate([*tried[:1], *tried]):  # the first one compiles and warms up
        data = storage.read_bytes(uri)
        started = time.perf_counter()
        try:
            enhancer.enhance_file(data, strength=plan.options.strength, drop_extras=plan.options.drop_hdr)
        except ImageError as error:  # only decoding it tells
            reasons[error.reason] += bool(number)
        if number:
            enhance_seconds += time.perf_counter() - started
            tried_bytes += len(data)
    total = sum(rows["bytes"].to_pylist()) * (len(good) / len(looked_at) if looked_at else 0)
    seconds = enhance_seconds / tried_bytes * total / cores if tried_bytes else 0.0
    return Estimate(looked_at=len(looked_at), reasons=dict(reasons), seconds=seconds)


def describe(plan: Plan, guess: Estimate, *, cores: int) -> str:
    """What the plan would do, for people."""
    lines = [f"{'files':>9}"]
    for kind, words in _KINDS.items():
        if kind in plan.kinds:
            count, size = plan.kinds[kind]
            copied = kind in (SIDECAR, *((OTHER, REFUSED) if plan.options.copy_others else ()))
            lines.append(f"{count:>9}  {words}{', to be copied' if copied else ''}: {size / 1e6:.1f} MB")
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(guess.reasons.items())) or "none"
    return "\n".join(
        [
            *lines,
            f"{plan.done:>9}  done before",
            f"of {guess.looked_at} photos looked at, would not be enhanced: {reasons}",
            f"about {_duration(guess.seconds)} on {cores} cores; nothing was written",
        ]
    )


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def contact_sheet(source: str, target: str, report: Report) -> str:
    """An HTML page with a slider before/after for each enhanced photo, or for 200 spread over the archive if it has more."""
    enhanced = [row for row in report.table.to_pylist() if row["status"] == ENHANCED]
    shown = _spread(enhanced, _SHEET_PHOTOS)
    of = (
        f"{len(shown)} of its {len(enhanced)} enhanced photos" if len(shown) < len(enhanced) else f"{len(shown)} photos"
    )
    words = f"{of}. Move the slider: left of it the photo as it was, right of it enhanced."

    def photos() -> Iterator[tuple[str, str, dict[str, np.ndarray]]]:
        for row in track(shown, "sheet"):
            try:
                before, after = (_look(storage.join(place, from_text(row["source"]))) for place in (source, target))
            except (OSError, ImageError):  # deleted since
                continue
            after = cv2.resize(after, before.shape[1::-1], interpolation=cv2.INTER_AREA)
            yield row["source"], f"{row['megapixels']:.1f} MP", {"before": before, "after": after}

    parts = [sheet.paragraph(words), sheet.comparison(_LABELS, photos(), left="before", right="after")]
    return sheet.page(f"Enhanced: {to_text(source)}", parts)


def _look(uri: str) -> np.ndarray:
    pixels = training_pixels(decode(storage.read_bytes(uri)))
    scale = min(1.0, _SHEET_LONG_SIDE / max(pixels.shape[:2]))
    size = [max(1, round(side * scale)) for side in pixels.shape[1::-1]]
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _spread(items: list[T], count: int) -> list[T]:
    step = max(1.0, len(items) / count)
    return [items[int(place * step)] for place in range(min(count, len(items)))]
