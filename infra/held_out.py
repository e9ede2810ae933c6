"""Reads the held-out photos on which the default model is measured, and makes copies of them whose right result is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from naturaltone.infra import dull
from naturaltone.infra.photo_sources import read_table
from naturaltone.pipeline import storage
from naturaltone.pipeline.photo.find import find_photos
from naturaltone.pipeline.photo.header import size
from naturaltone.serving.evaluation.evaluate import Stage
from naturaltone.serving.evaluation.photos import EvaluationPhoto, folder_photos, with_references
from naturaltone.training.measures.skin import Box, face_skin, skin_change


def kinds_of(photos: Path, held_out: Path) -> dict[str, Iterator[EvaluationPhoto]]:
    """The held-out photos of each kind that there is."""
    kinds = {kind: photos_in(held_out / kind) for kind in ("inputs", "dulled") if (held_out / kind).exists()}
    if "dulled" in kinds:
        kinds["dulled"] = with_references(kinds["dulled"], _by_stem(held_out / "natural"), [])
    if (held_out / "portraits").exists():
        kinds["portraits"] = _portraits(photos, held_out / "portraits")
        kinds["low-key"] = _low_keys(photos, held_out)
        kinds["underexposed"] = _underexposed(photos, held_out)
    return kinds


def _portraits(photos: Path, folder: Path) -> Iterator[EvaluationPhoto]:
    """Portraits, with the boxes of their faces."""
    boxes = {f"{Path(row['file']).stem}.jpg": box_of(row["face_box"]) for row in read_table(photos / "portraits")}
    for photo in photos_in(folder):
        full = max(size(storage.read_bytes(str(folder / photo.name))))
        scale = max(photo.input.shape) / full
        left, top, width, height = boxes[photo.name]
        yield dataclasses.replace(photo, face=(left * scale, top * scale, width * scale, height * scale))


def _low_keys(photos: Path, held_out: Path) -> Iterator[EvaluationPhoto]:
    """A copy of each held-out portrait, re-lit as low key."""
    random = np.random.default_rng(0)
    for portrait in _portraits(photos, held_out / "portraits"):
        assert portrait.face
        yield dataclasses.replace(portrait, input=dull.low_key(portrait.input, portrait.face, random))


def _underexposed(photos: Path, held_out: Path) -> Iterator[EvaluationPhoto]:
    """An underexposed copy of each held-out portrait, with the portrait as its reference."""
    return with_references(_portraits(photos, held_out / "underexposed"), _by_stem(held_out / "portraits"), [])


def skin_distances(photos: Path, held_out: Path, stage: Stage) -> Iterator[float]:
    """How far the skin of each underexposed portrait is from that of the portrait, in L*, after the stage."""
    for photo in _underexposed(photos, held_out) if (held_out / "portraits").exists() else ():
        assert photo.reference is not None
        skin = face_skin(photo.reference, photo.face)
        if skin.any():
            yield abs(skin_change(stage.make(photo.input), photo.reference, skin).lightness)


def box_of(text: str) -> Box:
    """Read a face box of a table, such as `112,68,165,217`."""
    left, top, width, height = map(float, text.split(","))
    return left, top, width, height


def photos_in(folder: Path) -> Iterator[EvaluationPhoto]:
    return folder_photos(find_photos(str(folder)), [])


def _by_stem(folder: Path) -> dict[str, str]:
    return {path.stem: str(path) for path in folder.iterdir()}
