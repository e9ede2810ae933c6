"""Makes stores without Ray, and reads photos, names and files of any store."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from naturaltone.pipeline import storage, tone
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.listing import list_files
from naturaltone.pipeline.photo.stored import encode_jpeg

LONG_SIDE = 96


def photos_of(store: str, role: str) -> list[dict]:
    """The rows of all photos of a role, of both splits."""
    opened = shards.open_store(store)
    return [row for split in ("train", "test") for row in opened.photos(role, split)]


def names(store: Path, role: str = "natural") -> list[str]:
    """The file names of all photos of a role."""
    return sorted(row["source"].rpartition("/")[2] for row in photos_of(str(store), role))


def content(store: Path | str) -> dict[str, bytes]:
    """The content of every file of a store except its locks, by path in the store."""
    files = [file for file in list_files(str(store)) if not file.relative.startswith("locks/")]
    return {file.relative: storage.read_bytes(file.uri) for file in files}


def windows(photo: np.ndarray, role: str, first: int, count: int) -> pa.Table:
    """Crops of a real photo as rows that `ingest` would store; crops 0 and 1 are held out."""
    rows = []
    for number in range(first, first + count):
        top, left = 17 * number % 400, 29 * number % 400
        image = encode_jpeg(np.ascontiguousarray(photo[top : top + 72, left : left + LONG_SIDE]))
        intermediate = {"intermediate": shards.make_intermediate(image, tone.algorithm_of(tone.algorithm_id()))}
        rows.append(
            {
                **{"photo_id": f"{number:064x}", "source": f"/photos/{number}.jpg", "image": image},
                **{"width": LONG_SIDE, "height": 72, "split": "test" if number < 2 else "train"},
                **(intermediate if role == "input" else {}),
            }
        )
    return pa.Table.from_pylist(rows, schema=shards.PHOTOS)


def add(store: shards.Store, photo: np.ndarray, role: str, first: int, count: int) -> None:
    """Add crops of a photo to a store."""
    photos = windows(photo, role, first, count)
    for split in set(photos["split"].to_pylist()):
        chosen = photos.filter(pc.equal(photos["split"], split))
        rows = shards.write_shard(store.uri, chosen, role=role, algorithm=store.algorithm)
        shards.update_manifest(
            store, lambda old, rows=rows: dataclasses.replace(old, row_groups=pa.concat_tables([old.row_groups, rows]))
        )


def make_store(folder: Path, photo: np.ndarray, count: int) -> str:
    """Make a small store with `count` crops of a real photo for each role, without Ray; returns its URI."""
    made = shards.empty_store(str(folder / "store"), algorithm=tone.algorithm_id(), long_side=LONG_SIDE)
    for role in shards.ROLES:
        add(made, photo, role, 0, count)
    return made.uri
