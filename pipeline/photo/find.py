"""Find the photos in a folder by their names."""

from __future__ import annotations

from collections.abc import Iterator

from naturaltone.pipeline import storage
from naturaltone.pipeline.listing import File, list_files
from naturaltone.pipeline.photo.formats import REFUSED_SUFFIXES, SUFFIXES

FOUND_SUFFIXES = SUFFIXES + REFUSED_SUFFIXES


def list_photos(source: str) -> Iterator[File]:
    """All files below `source` with a photo's suffix, readable or not, in the order of the listing."""
    return list_files(source, suffixes=FOUND_SUFFIXES)


def check_photos(source: str) -> None:
    """Raise `StorageError` if there is no folder `source` or no file below it has a photo's suffix."""
    storage.check_folder(source)
    if next(list_photos(source), None) is None:
        raise storage.StorageError(
            f"'{source}': no photos here; looked for {', '.join(SUFFIXES)} in the folder and below it"
        )


def find_photos(source: str) -> list[str]:
    """The URIs of all files below `source` with a photo's suffix; `StorageError` if there are none."""
    check_photos(source)
    return [file.uri for file in list_photos(source)]
