"""Makes a page of held-out photos before and after the default model, with the licence and author of each.

    python -m naturaltone.infra.gallery PHOTOS WORK PAGE NAME...

PHOTOS and WORK are those of `naturaltone.infra.default_model`, which must have finished. PHOTOS/SOURCES.tsv names the sources.
Each NAME is a photo that was held out, such as `inputs/lake.jpg` or `portraits/p001.jpg`. docs/gallery.html is such a page.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from naturaltone.infra.endings import end_with
from naturaltone.infra.photo_sources import TABLE, sources_of
from naturaltone.pipeline import storage
from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.photo.decode import decode
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.sheet.parts import Comparison, compare
from naturaltone.serving.sheet.pictures import Inside
from naturaltone.serving.sheet.render import render

_LONG_SIDE, _QUALITY = 420, 80  # pixels; 24 photos then take less than 2 MB
_LABELS = {"before": "before", "after": "after"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("names", nargs="+")
    options = parser.parse_args(arguments)
    options.page.write_text(make_gallery(options.photos, options.work, options.names), encoding="utf-8")
    return 0


def make_gallery(photos: Path, work: Path, names: list[str]) -> str:
    """The page. `UserError` for a photo that was not held out, or has no row in SOURCES.tsv."""
    sources = {row["file"].rpartition(".")[0]: row for row in sources_of(photos)}
    enhancer, pictures = Enhancer.load(str(work / "pretrained")), Inside(long_side=_LONG_SIDE, quality=_QUALITY)
    compared = []
    for name in names:
        path, row = work / "held-out" / name, sources.get(name.rpartition(".")[0])
        if row is None:
            raise UserError(f"'{name}' has no row in {TABLE}; add its source and licence, or leave the photo out")
        if not path.exists():
            raise UserError(
                f"'{name}' was not held out; show photos that training never saw: see '{work / 'held-out'}'"
            )
        before = np.ascontiguousarray(decode(storage.read_bytes(str(path))).pixels)
        licence = row.get("licence as stated") or row["licence"]
        credit = " · ".join(filter(None, (row.get("author or credit"), licence, row.get("source page"))))
        compared.append(compare(name, credit, {"before": before, "after": enhancer.enhance(before)}, pictures))
    shown = "The model never saw these photos. It learned from others, and never from a pair of before and after"
    comparison = Comparison(labels=_LABELS, photos=compared, left="before", right="after")
    return render("gallery.html", title="naturaltone: before and after", shown=shown, comparison=comparison)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception as error:
        sys.exit(end_with(error, None))
