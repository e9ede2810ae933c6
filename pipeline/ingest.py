"""Photos to shards: a Ray Data job that decodes, checks, computes the intermediates in parallel, and writes the store.

Two passes: the first reads bytes and hashes them, so that duplicates and photos already in the store cost no more than
that; the second decodes the new ones, in the order of their hash. Shards are thereby shuffled by content, whatever the
order of the folders: what the training stream needs to mix photos without seeking (see stream.py).
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from pipeline import images, shards, storage, tone
from pipeline.progress import track

LONG_SIDE, MIN_LONG_SIDE = 1024, 64
_PREPARED = pa.schema([*shards.PHOTOS, ("reason", pa.string()), ("detail", pa.string())])


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What one ingest did: counts of photos, and the rejected ones (schema `shards.REJECTED`)."""

    found: int
    added: int
    known: int
    rejects: pa.Table


def ingest(source: str, *, role: str, store: str, long_side: int = LONG_SIDE) -> IngestReport:
    """Add the photos below the folder `source` to the store `store` (both URIs) as `input` or `natural` photos.

    `StorageError` before any work if the folder holds no photos, a place is out of reach, or the store was made
    otherwise.
    """
    if role not in shards.ROLES:
        raise ValueError(f"role '{role}'; use one of {', '.join(shards.ROLES)}")
    source, store = storage.absolute(source), storage.absolute(store)
    uris = find_photos(source)
    opened = open_or_new(store, long_side)
    hashed = _hash_photos(uris)
    readable = hashed.filter(pc.field("reason").is_null()).sort_by([("photo_id", "ascending"), ("source", "ascending")])
    known = _known_ids(opened, role)
    new = _first_of_each(readable).filter(~pc.field("photo_id").isin(known))

    row_groups, rejects = _prepare_and_write(new, role=role, store=opened)
    unreadable = hashed.filter(pc.field("reason").is_valid()).append_column(
        "role", pa.array([role] * pc.sum(pc.is_valid(hashed["reason"])).as_py(), pa.string())
    )
    rejects = pa.concat_tables([unreadable.select(shards.REJECTED.names), rejects])
    # Read again: an ingest of the other role may have ended meanwhile.
    newest = open_or_new(store, long_side)
    shards.save_manifest(replace(newest, row_groups=pa.concat_tables([newest.row_groups, row_groups])))
    _save_rejects(store, rejects, role=role, tried=pa.array(uris))
    return IngestReport(
        found=len(uris),
        added=pc.sum(row_groups["num_photos"]).as_py() or 0,
        known=readable.num_rows - new.num_rows,
        rejects=rejects,
    )


def find_photos(source: str) -> list[str]:
    """The URIs of all files below `source` that are photos by name; `StorageError` if there are none."""
    storage.check_folder(source)
    uris = [file.uri for file in storage.list_files(source, suffixes=images.SUFFIXES)]
    if not uris:
        raise storage.StorageError(
            f"'{source}': no photos here; looked for {', '.join(images.SUFFIXES)} in the folder and below it"
        )
    return uris


def shrink(pixels: np.ndarray, long_side: int) -> np.ndarray:
    """The photo with its long side at most `long_side`, averaged down; the same array if it is no larger."""
    scale = long_side / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    size = [max(1, round(side * scale)) for side in (pixels.shape[1], pixels.shape[0])]
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def open_or_new(store: str, long_side: int) -> shards.Store:
    """The store at `store`, or an empty one to be; `ValueError` if it was made with another algorithm or long side."""
    if long_side < MIN_LONG_SIDE:
        raise ValueError(f"--long-side {long_side}: photos that small teach nothing; use at least {MIN_LONG_SIDE}")
    storage.check_writable(store)
    if not storage.exists(storage.join(store, shards.MANIFEST)):
        return shards.Store(
            uri=store, row_groups=shards.ROW_GROUPS.empty_table(), algorithm=tone.algorithm_id(), long_side=long_side
        )
    opened = shards.open_store(store)
    for name, ours, theirs in (
        ("algorithm", tone.algorithm_id(), opened.algorithm),
        ("long side", long_side, opened.long_side),
    ):
        if ours != theirs:
            raise storage.StorageError(
                f"'{store}': made with {name} {theirs}, this ingest would use {ours}; use the same or a new store"
            )
    return opened


def _hash_photos(uris: list[str]) -> pa.Table:
    table = pa.table({"source": uris})
    hashed = ray.data.from_arrow(_blocks(table, 64)).map_batches(_hash_batch, batch_size=None, batch_format="pyarrow")
    return pa.concat_tables(hashed.iter_batches(batch_size=None, batch_format="pyarrow"))


def _hash_batch(batch: pa.Table) -> pa.Table:
    rows = []
    for uri in batch["source"].to_pylist():
        row = {"source": uri, "photo_id": None, "reason": None, "detail": None}
        try:
            row["photo_id"] = hashlib.sha256(storage.read_bytes(uri)).hexdigest()
        except OSError as error:
            row |= {"reason": "unreadable", "detail": str(error)}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in row]))


def _first_of_each(ordered: pa.Table) -> pa.Table:
    ids = ordered["photo_id"].to_numpy(zero_copy_only=False)
    return ordered.filter(pa.array(np.append(True, ids[1:] != ids[:-1])[: len(ids)], pa.bool_()))


def _known_ids(store: shards.Store, role: str) -> pa.Array:
    files = pc.unique(store.select(role)["file"]).to_pylist()
    ids = []
    for file in files:
        filesystem, path = storage.resolve(storage.join(store.uri, file))
        ids.append(pq.read_table(path, columns=["photo_id"], filesystem=filesystem)["photo_id"].combine_chunks())
    return pa.concat_arrays(ids) if ids else pa.array([], pa.string())


def _prepare_and_write(photos: pa.Table, *, role: str, store: shards.Store) -> tuple[pa.Table, pa.Table]:
    """The second pass: decode, compute and write `photos`; returns the manifest rows and the rejected photos."""
    if not photos.num_rows:
        return shards.ROW_GROUPS.empty_table(), shards.REJECTED.empty_table()
    split = pa.array([shards.split_of(photo_id) for photo_id in photos["photo_id"].to_pylist()])
    ordered = photos.append_column("split", split).sort_by([("split", "ascending"), ("photo_id", "ascending")])
    context = ray.data.DataContext.get_current()
    keep, context.execution_options.preserve_order = context.execution_options.preserve_order, True
    try:
        written = (
            ray.data.from_arrow(_blocks(ordered, shards.ROW_GROUP_PHOTOS))
            .map_batches(
                _prepare_batch,
                fn_kwargs={"role": role, "long_side": store.long_side},
                batch_size=None,
                batch_format="pyarrow",
            )
            # Another CPU share than the stage before: Ray would fuse them, and a task would be 512 photos long.
            .map_batches(
                _write_batch,
                fn_kwargs={"role": role, "store": store.uri, "algorithm": store.algorithm},
                batch_size=shards.SHARD_PHOTOS,
                batch_format="pyarrow",
                num_cpus=0.5,
            )
        )
        shards_expected = -(-ordered.num_rows // shards.SHARD_PHOTOS)
        results = list(track(written.iter_rows(), f"ingest {role}", total=shards_expected, unit="shard"))
    finally:
        context.execution_options.preserve_order = keep
    row_groups = [_from_ipc(result["row_groups"]) for result in results]
    rejects = [_from_ipc(result["rejects"]) for result in results]
    return pa.concat_tables(row_groups), pa.concat_tables(rejects)


def _prepare_batch(batch: pa.Table, *, role: str, long_side: int) -> pa.Table:
    cv2.setNumThreads(1)  # Ray runs one task a core
    rows = [_prepare(row, role=role, long_side=long_side) for row in batch.to_pylist()]
    return pa.Table.from_pylist(rows, schema=_PREPARED)


def _prepare(row: dict[str, Any], *, role: str, long_side: int) -> dict[str, Any]:
    prepared = {name: row.get(name) for name in _PREPARED.names}
    try:
        pixels = shrink(images.training_pixels(images.decode(storage.read_bytes(row["source"]))), long_side)
    except images.ImageError as error:
        return prepared | {"reason": error.reason, "detail": error.detail}
    except OSError as error:
        return prepared | {"reason": "unreadable", "detail": str(error)}
    prepared |= {"width": pixels.shape[1], "height": pixels.shape[0], "image": images.encode_jpeg(pixels)}
    if role == "input":
        prepared["intermediate"] = images.encode_jpeg(tone.intermediate(pixels))
    return prepared


def _write_batch(batch: pa.Table, *, role: str, store: str, algorithm: str) -> dict[str, list[bytes]]:
    """Write one shard for each split in the batch; rejected photos travel with their batch so that its size is exact."""
    good = batch.filter(pc.field("reason").is_null())
    row_groups = [shards.ROW_GROUPS.empty_table()]
    for split in pc.unique(good["split"]).to_pylist():
        rows = good.filter(pc.field("split") == split).select(shards.PHOTOS.names).to_pylist()
        name = hashlib.sha256("".join(row["photo_id"] for row in rows).encode()).hexdigest()[:16]
        row_groups.append(
            shards.write_shard(store, f"{role}/{split}-{name}.parquet", rows, role=role, algorithm=algorithm)
        )
    bad = batch.filter(pc.field("reason").is_valid())
    rejects = bad.append_column("role", pa.array([role] * bad.num_rows, pa.string())).select(shards.REJECTED.names)
    return {"row_groups": [_to_ipc(pa.concat_tables(row_groups))], "rejects": [_to_ipc(rejects)]}


def _save_rejects(store: str, rejects: pa.Table, *, role: str, tried: pa.Array) -> None:
    """Add to the store's rejects; what this ingest tried again counts by its new outcome."""
    uri = storage.join(store, shards.REJECTS)
    if storage.exists(uri):
        earlier = pq.read_table(io.BytesIO(storage.read_bytes(uri)))
        rejects = pa.concat_tables(
            [earlier.filter(~(pc.field("source").isin(tried) & (pc.field("role") == role))), rejects]
        )
    shards.write_table(uri, rejects)


def _blocks(table: pa.Table, rows: int) -> list[pa.Table]:
    return [table.slice(start, rows) for start in range(0, table.num_rows, rows)]


def _to_ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _from_ipc(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()
