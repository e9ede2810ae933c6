"""Reads the photos of an evaluation, from a store or a folder, with their references and with natural photos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from naturaltone.pipeline import storage
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.dataset.shards import LONG_SIDE
from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.find import find_photos
from naturaltone.pipeline.photo.pixels import shrink, training_pixels
from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.pipeline.photo.stored import decode_rgb
from naturaltone.training.measures.skin import Box


@dataclass(frozen=True, kw_only=True)
class EvaluationPhoto:
    """A photo to score, as H×W×3 uint8 sRGB pixels.

    reference: how the photo should look, in the same size; None if unknown. face: the box of its face in `input`; None if
    unknown.
    """

    name: str
    input: np.ndarray
    reference: np.ndarray | None = None
    face: Box | None = None


def open_photos(uri: str, rejects: list[str]) -> tuple[Iterator[EvaluationPhoto], bool]:
    """Read the photos of a store or a folder; returns them and whether training never saw them.

    A store gives its held-out inputs, or its training inputs if it holds none out. The photos of a folder count as held
    out, since only the user knows. rejects: gets a line for each file that cannot be read. `StorageError` if the
    storage cannot be reached.
    """
    store = _store_at(uri)
    if store is None:
        return folder_photos(find_photos(uri), rejects), True
    split = _split(store)
    return _store_photos(store, "input", split), split == "test"


def natural_photos(folder: str | None, photos: str, rejects: list[str]) -> Iterator[EvaluationPhoto]:
    """Read the natural photos of `folder`, a folder of photos or a store (its held-out ones).

    Without `folder`, those of `photos` if it is a store, else none. rejects: see `open_photos`.
    """
    if folder is None and _store_at(photos) is None:
        return iter(())
    store = _store_at(folder or photos)
    if store is None:
        return folder_photos(find_photos(folder or photos), rejects)
    return _store_photos(store, "natural", "test")


def photo_names(uri: str) -> list[str]:
    """The names of the photos that `open_photos` reads."""
    store = _store_at(uri)
    if store is None:
        return [_name(photo) for photo in find_photos(uri)]
    return [_name(row["source"]) for row in _store_rows(store, "input", _split(store), ["source"])]


def folder_photos(uris: list[str], rejects: list[str]) -> Iterator[EvaluationPhoto]:
    """Read photo files, shrunk to at most `shards.LONG_SIDE` pixels.

    rejects: gets a line with the reason for each file that cannot be read.
    """
    for uri in uris:
        try:
            pixels = _read(uri, LONG_SIDE)
        except (ImageError, OSError) as error:
            rejects.append(f"{uri}: {error}")
            continue
        yield EvaluationPhoto(name=_name(uri), input=pixels)


def find_references(folder: str, names: list[str]) -> dict[str, str]:
    """Find the photos in `folder` that are named as `names`; the suffix may differ. Returns their URIs by stem.

    `UserError` if there is none, or if two photos in the folder have the same stem.
    """
    wanted = {PurePosixPath(name).stem for name in names}
    found: dict[str, str] = {}
    for uri in find_photos(folder):
        stem = PurePosixPath(_name(uri)).stem
        if stem in found:
            raise UserError(f"--references: both '{found[stem]}' and '{uri}' are named '{stem}'; remove one of them")
        if stem in wanted:
            found[stem] = uri
    if not found:
        raise UserError(
            f"--references '{folder}': no photo there is named as one of the evaluated photos (such as "
            f"'{names[0]}'; the suffix may differ); give the folder of their references"
        )
    return found


def with_references(
    photos: Iterable[EvaluationPhoto], references: dict[str, str], missing: list[str]
) -> Iterator[EvaluationPhoto]:
    """Yield each photo with its reference, as `find_references` found it.

    A photo without a fitting reference is yielded without one. missing: gets a line with the reason for each of these.
    """
    for photo in photos:
        uri = references.get(PurePosixPath(photo.name).stem)
        try:
            pixels = None if uri is None else _read(uri, max(photo.input.shape))
        except (ImageError, OSError) as error:
            missing.append(f"{photo.name}: '{uri}' cannot be read ({error})")
        else:
            if pixels is None:
                missing.append(f"{photo.name}: no reference has this name")
            elif pixels.shape != photo.input.shape:
                ours, theirs = (f"{shape[1]}×{shape[0]}" for shape in (photo.input.shape, pixels.shape))
                missing.append(f"{photo.name}: '{uri}' does not fit: it has {theirs} pixels, the photo has {ours}")
            else:
                photo = replace(photo, reference=pixels)
        yield photo


def _store_at(uri: str) -> shards.Store | None:
    storage.check_reachable(uri)
    return shards.open_store(uri) if storage.exists(storage.join(uri, shards.MANIFEST)) else None


def _split(store: shards.Store) -> str:
    return "test" if store.count("input", "test") else "train"


def _store_rows(store: shards.Store, role: str, split: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    for group in store.select(role, split).to_pylist():
        yield from shards.read_row_group(store.uri, group["file"], group["row_group"], columns).to_pylist()


def _store_photos(store: shards.Store, role: str, split: str) -> Iterator[EvaluationPhoto]:
    for row in _store_rows(store, role, split, ["source", "image"]):
        pixels = decode_rgb(row["image"])
        yield EvaluationPhoto(name=_name(row["source"]), input=shrink(pixels, max(pixels.shape)))


def _read(uri: str, long_side: int) -> np.ndarray:
    return shrink(training_pixels(decode(storage.read_bytes(uri))), long_side)


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]
