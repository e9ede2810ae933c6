"""Tells what each file of an archive is: a photo, a sidecar of one, or something else.

The name decides. Only the movie of a Live Photo needs its neighbours: it is the sidecar of a photo with its stem.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from naturaltone.pipeline.listing import File, Problem
from naturaltone.pipeline.photo.formats import REFUSED_SUFFIXES, SUFFIXES
from naturaltone.pipeline.reasons import Reason
from naturaltone.serving.archive.report import FOLDER
from naturaltone.serving.archive.task import Kind

# Metadata of any program; edits in Apple's Photos, DxO PhotoLab, ON1 Photo RAW and RawTherapee.
_SIDECAR_SUFFIXES = (".xmp", ".aae", ".dop", ".on1", ".pp3")
_LIVE_PHOTO_SUFFIXES = (".mov", ".mp4")
_PHOTO_SUFFIXES = (*SUFFIXES, *REFUSED_SUFFIXES)
# Google Takeout names the JSON of PHOTO(1).jpg `PHOTO.jpg.supplemental-metadata(1).json`, until 2024 `PHOTO.jpg(1).json`. It
# cuts all before the number to 46 UTF-16 units. Google does not say so; users found it: ente/ente#4956,
# TheLastGimbus/GooglePhotosTakeoutHelper#449, and the tests of simulot/immich-go, on GitHub. The name alone decides, since in a
# sorted folder any number of files may lie between a numbered photo and its JSON.
_TAKEOUT_WORDS, _TAKEOUT_UNITS = "supplemental-metadata", 46
_TAKEOUT_NUMBER = re.compile(r"\(\d+\)$")


def with_kinds(files: Iterable[File]) -> Iterator[tuple[File, Kind]]:
    """Yield each file with its kind. A movie may come later than it was listed; all others keep their order.

    A movie waits for a photo with its stem, until no further name begins with that stem. So only movies are in memory, and
    only of stems with which the newest name begins. files: in an order that keeps together the names with a common beginning.
    Both orders of `list_files` do.
    """
    # Two stacks, of beginnings up to the suffix. Each beginning is one of the newest name, and the longest is on top.
    photos: list[str] = []
    movies: list[tuple[str, File]] = []
    for file in files:
        name = file.relative
        while photos and not name.startswith(photos[-1]):
            photos.pop()
        while movies and not name.startswith(movies[-1][0]):
            yield movies.pop()[1], Kind.OTHER
        if problem := _problem(file):
            yield replace(file, problem=problem), Kind.PROBLEM
            continue
        kind = _kind_by_name(name)
        if kind not in (Kind.PHOTO, None):
            yield file, kind
            continue
        start = name[: name.rindex(".") + 1]
        if kind is Kind.PHOTO:
            yield file, kind
            photos.append(start)
            while movies and movies[-1][0] == start:
                yield movies.pop()[1], Kind.SIDECAR
        elif photos and photos[-1] == start:
            yield file, Kind.SIDECAR
        else:
            movies.append((start, file))
    for _, movie in movies:
        yield movie, Kind.OTHER


def _problem(file: File) -> Problem | None:
    if file.relative.startswith(f"{FOLDER}/"):
        return Problem(Reason.NOT_FOLLOWED, "it belongs to the report of an archive that was enhanced before")
    if not file.problem and {"", ".", ".."} & set(file.relative.split("/")):  # S3 allows any key
        return Problem(Reason.UNSAFE_NAME, "its key is no path below the source; rename the object")
    return file.problem


def _kind_by_name(relative: str) -> Kind | None:
    """The kind of a file; None for what may be the movie of a Live Photo."""
    name = os.path.basename(relative)
    lowered = name.lower()
    if name.startswith("._"):  # a metadata file of macOS
        return Kind.OTHER
    if lowered.endswith(SUFFIXES):
        return Kind.PHOTO
    if lowered.endswith(REFUSED_SUFFIXES):
        return Kind.REFUSED
    if lowered.endswith(_SIDECAR_SUFFIXES) or (lowered.endswith(".json") and _is_of_photo(name[: -len(".json")])):
        return Kind.SIDECAR
    return None if lowered.endswith(_LIVE_PHOTO_SUFFIXES) else Kind.OTHER


def _is_of_photo(name: str) -> bool:
    """Whether a JSON file belongs to a photo. name: without `.json`."""
    name = _TAKEOUT_NUMBER.sub("", name)
    lowered = name.lower()
    owner, _, words = lowered.rpartition(".")
    if words and _TAKEOUT_WORDS.startswith(words):
        return owner.endswith(_PHOTO_SUFFIXES)  # the JSON of a movie is named alike
    if lowered.removesuffix(".").endswith(_PHOTO_SUFFIXES):
        return True
    # Of a longer name, the cut has left no whole suffix.
    return len(name.encode("utf-16-le", "surrogatepass")) == 2 * _TAKEOUT_UNITS
