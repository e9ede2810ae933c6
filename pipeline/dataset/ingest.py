"""Photos to shards: a Ray Data job that decodes, checks, computes the intermediates in parallel, and writes the store.

The folder is taken in waves of its listing. A wave's new files are read once, in an order shuffled by the digest of their
names, hashed, decoded and written; then one write of the manifest makes the whole wave part of the store. Waves and
shards depend on nothing but the listing and the store, so a killed ingest that is run again writes the same files. Memory
is that of a wave's names, and 32 bytes for each file that the store knows.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from naturaltone.pipeline import storage, tone
from naturaltone.pipeline.dataset import ledger, shards
from naturaltone.pipeline.dataset.tables import from_ipc, to_ipc, to_tables
from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.listing import File, list_files
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.find import FOUND_SUFFIXES, check_photos, list_photos
from naturaltone.pipeline.photo.formats import refuse_raw
from naturaltone.pipeline.photo.pixels import shrink, training_pixels
from naturaltone.pipeline.photo.refusals import ImageError, check_bytes
from naturaltone.pipeline.photo.stored import encode_jpeg
from naturaltone.pipeline.progress import Progress
from naturaltone.pipeline.reasons import Reason

WAVE_PHOTOS = 2**16

_DUPLICATE = "duplicate"
_PREPARED = pa.schema([*shards.PHOTOS, ("key", pa.binary(16)), ("reason", pa.string()), ("detail", pa.string())])


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What one ingest did: counts of files, and those that are not in the store (schema `shards.REJECTED`).

    added: new photos. unchanged: known by name, size and version, not read. duplicates: read, but their content is in the
    store already. other_files: no photos by name.
    """

    found: int
    added: int
    unchanged: int
    duplicates: int
    other_files: int
    rejects: pa.Table


def ingest(
    source: str,
    *,
    role: str,
    store: str,
    long_side: int = shards.LONG_SIDE,
    algorithm: str = tone.LOCAL_LAPLACIAN.name,
    intermediates: str = "cached",
    full: bool = False,
) -> IngestReport:
    """Add the photos below the folder `source` to the store `store` (both URIs) as `input` or `natural` photos.

    A file that the store knows by name, size and version is not read, unless `full`. `StorageError` before any work if
    the folder holds no photos, a place is out of reach, or the store was made otherwise.
    """
    source, store = storage.absolute(source), storage.absolute(store)
    check_photos(source)
    made_with: dict[str, Any] = {
        "role": role, "long_side": long_side, "algorithm": algorithm, "intermediates": intermediates,
    }  # fmt: skip
    open_or_new(store, **made_with)
    tally = _Tally()
    with ledger.hold(store, role) as lease, Progress(f"ingest {role}", unit="photo") as progress:
        opened = open_or_new(store, **made_with)
        ledger.remove_orphans(opened, role)
        known = ledger.Known.load(opened, role)
        for wave in _waves(source, tally, progress):
            fresh = wave if full else _leave_out_known(wave, known, tally)
            progress.advance(len(wave) - len(fresh))
            if fresh:
                row_groups, outcomes = _ingest_wave(fresh, known, role=role, store=opened, progress=progress)
                lease.check()
                opened = _commit(opened, role, source, row_groups, known.new_rows(outcomes))
                tally.count(outcomes, known)
                known.add(outcomes)
        ledger.save_rejects(opened, role, known)
    return IngestReport(
        found=tally.found,
        added=tally.added,
        unchanged=tally.unchanged,
        duplicates=tally.duplicates,
        other_files=tally.other_files,
        rejects=pa.Table.from_pylist([{"role": role, **reject} for reject in tally.rejects], schema=shards.REJECTED),
    )


def open_or_new(
    store: str,
    *,
    role: str,
    long_side: int = shards.LONG_SIDE,
    algorithm: str = tone.LOCAL_LAPLACIAN.name,
    intermediates: str = "cached",
) -> shards.Store:
    """The store at `store`, or an empty one to be; `ValueError` if it was made otherwise or an option is unknown."""
    for name, value, allowed in (
        ("role", role, shards.ROLES),
        ("algorithm", algorithm, tuple(tone.ALGORITHMS)),
        ("intermediates", intermediates, shards.INTERMEDIATES),
    ):
        if value not in allowed:
            raise UserError(f"{name} '{value}'; use one of {', '.join(allowed)}")
    if long_side < shards.MIN_LONG_SIDE:
        raise UserError(
            f"--long-side {long_side}: photos that small teach nothing; use at least {shards.MIN_LONG_SIDE}"
        )
    if long_side > shards.MAX_LONG_SIDE:
        raise UserError(f"--long-side {long_side}: a JPEG cannot hold that; use at most {shards.MAX_LONG_SIDE}")
    storage.check_writable(store)
    wanted = shards.empty_store(
        store,
        algorithm=tone.algorithm_id(tone.ALGORITHMS[algorithm]),
        long_side=long_side,
        intermediates=intermediates,
    )
    if not storage.exists(storage.join(store, shards.MANIFEST)):
        return wanted
    opened = shards.open_store(store)
    for name in ("algorithm", "long_side", "intermediates"):
        ours, theirs = getattr(wanted, name), getattr(opened, name)
        if ours != theirs:
            raise storage.StorageError(
                f"'{store}': made with {name.replace('_', ' ')} {theirs}, this ingest would use {ours}; "
                "use the same or a new store"
            )
    return opened


@dataclass(kw_only=True)
class _Tally:
    found: int = 0
    added: int = 0
    unchanged: int = 0
    duplicates: int = 0
    other_files: int = 0
    rejects: list[dict[str, Any]] = field(default_factory=list)

    def count(self, outcomes: pa.Table, known: ledger.Known) -> None:
        ids = ledger.id_digests(outcomes.filter(pc.field("reason").is_null())["photo_id"])
        new = len(np.setdiff1d(ids, known.ids))
        self.added += new
        self.duplicates += len(ids) - new
        rejected = outcomes.filter(pc.field("reason").is_valid())
        self.rejects += rejected.select(["source", "reason", "detail"]).to_pylist()


def _leave_out_known(wave: list[dict[str, Any]], known: ledger.Known, tally: _Tally) -> list[dict[str, Any]]:
    """The files of a wave whose source, size or version is new."""
    fresh = []
    for file, is_known in zip(wave, known.has([file["key"] for file in wave]), strict=True):
        if not is_known:
            fresh.append(file)
        elif reject := known.reject_of(file["source"], file["key"]):
            tally.rejects.append({name: reject[name] for name in ("source", "reason", "detail")})
        else:
            tally.unchanged += 1
    return fresh


def _waves(source: str, tally: _Tally, progress: Progress) -> Iterator[list[dict[str, Any]]]:
    """The photos below `source`, up to `WAVE_PHOTOS` at a time, as rows with the digest that each is known by."""
    photos = _only_photos(list_files(source), tally)
    while wave := list(islice(photos, WAVE_PHOTOS)):
        is_first, tally.found = not tally.found, tally.found + len(wave)
        if len(wave) < WAVE_PHOTOS:
            progress.expect(tally.found)
        elif is_first:  # more to come: a second listing runs ahead, for the ETA alone
            threading.Thread(target=_count_ahead, args=(source, progress), daemon=True).start()
        yield [
            {"source": ledger.source_of(file), "key": ledger.key_of(file), "size": file.size, "photo_id": None}
            for file in wave
        ]


def _only_photos(files: Iterable[File], tally: _Tally) -> Iterator[File]:
    for file in files:
        if file.relative.lower().endswith(FOUND_SUFFIXES):
            yield file
        else:
            tally.other_files += 1


def _count_ahead(source: str, progress: Progress) -> None:
    progress.expect(sum(1 for _ in list_photos(source)))


def _ingest_wave(
    wave: list[dict[str, Any]], known: ledger.Known, *, role: str, store: shards.Store, progress: Progress
) -> tuple[pa.Table, pa.Table]:
    """Read, decode and write the files of a wave; returns rows of the manifest, and what came of each (`SOURCES`)."""
    first, duplicates = _set_duplicates_aside(wave)
    progress.advance(len(duplicates))
    ordered = sorted(first, key=lambda file: file["key"])
    row_groups, outcomes = [shards.ROW_GROUPS.empty_table()], [shards.SOURCES.empty_table()]
    written = (
        ray.data.from_arrow(to_tables(ordered, shards.ROW_GROUP_PHOTOS))
        .map_batches(
            _prepare_batch,
            fn_kwargs={
                "long_side": store.long_side,
                "algorithm": store.algorithm if role == "input" and store.intermediates == "cached" else None,
                "known_ids": ray.put(known.ids),
            },
            batch_size=None,
            batch_format="pyarrow",
        )
        # Another CPU share than the stage before: Ray would fuse them, and a task would be a whole shard long.
        .map_batches(
            _write_batch,
            fn_kwargs={"role": role, "store": store.uri, "algorithm": store.algorithm},
            batch_size=shards.SHARD_PHOTOS,
            batch_format="pyarrow",
            num_cpus=0.5,
        )
    )
    written.context.execution_options.preserve_order = True
    for result in written.iter_rows():
        row_groups.append(from_ipc(result["row_groups"]))
        outcomes.append(from_ipc(result["outcomes"]))
        progress.advance(outcomes[-1].num_rows)
    listed = pa.concat_tables(outcomes)
    first_of = {row["photo_id"]: row for row in listed.select(["photo_id", "reason", "detail"]).to_pylist()}
    changed = {"reason": Reason.UNREADABLE, "detail": "its content changed while it was ingested; ingest again"}
    also = [file | first_of.get(file["photo_id"], changed) for file in duplicates]
    return pa.concat_tables(row_groups), pa.concat_tables([listed, pa.Table.from_pylist(also, schema=shards.SOURCES)])


def _set_duplicates_aside(wave: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The files of a wave without the second and later ones of the same content, and those.

    Only files of the same size can be the same: these alone are read twice.
    """
    sizes = np.array([file["size"] for file in wave])
    _, place, count = np.unique(sizes, return_inverse=True, return_counts=True)
    suspects = [file for file, shared in zip(wave, count[place] > 1, strict=True) if shared and _is_read(file)]
    if not suspects:
        return wave, []
    hashed = ray.data.from_arrow(to_tables(suspects, 64)).map_batches(
        _hash_batch, batch_size=None, batch_format="pyarrow"
    )
    ids = {row["key"]: row["photo_id"] for row in hashed.iter_rows()}
    seen: set[str] = set()
    first: list[dict[str, Any]] = []
    duplicates: list[dict[str, Any]] = []
    for file in wave:
        photo_id = ids.get(file["key"])
        (duplicates if photo_id in seen else first).append(file | {"photo_id": photo_id})
        if photo_id:
            seen.add(photo_id)
    return first, duplicates


def _not_yet_in(store: shards.Store, row_groups: pa.Table) -> pa.Table:
    """The row groups whose shards the store does not name yet: a shard's name is that of its photos."""
    named = shards.names_in(store.row_groups["file"])
    return row_groups.filter(pc.invert(pc.is_in(row_groups["file"].cast(pa.string()), value_set=named)))


def _is_read(file: dict[str, Any]) -> bool:
    """Whether `_prepare` will read the file, rather than refuse it by its size or name."""
    try:
        check_bytes(file["size"])
        refuse_raw(file["source"])
    except ImageError:
        return False
    return True


def _hash_batch(batch: pa.Table) -> pa.Table:
    ids = [_hash(source) for source in batch["source"].to_pylist()]
    return batch.set_column(batch.schema.get_field_index("photo_id"), "photo_id", pa.array(ids, pa.string()))


def _hash(source: str) -> str | None:
    try:
        return hashlib.sha256(storage.read_bytes(source)).hexdigest()
    except OSError:  # the second look reports it
        return None


def _prepare_batch(batch: pa.Table, *, long_side: int, algorithm: str | None, known_ids: ray.ObjectRef) -> pa.Table:
    cv2.setNumThreads(1)  # Ray runs one task a core
    known = ray.get(known_ids)
    rows = [_prepare(row, long_side=long_side, algorithm=algorithm, known_ids=known) for row in batch.to_pylist()]
    return pa.Table.from_pylist(rows, schema=_PREPARED)


def _prepare(row: dict[str, Any], *, long_side: int, algorithm: str | None, known_ids: np.ndarray) -> dict[str, Any]:
    """The row of one photo (with its intermediate by `algorithm`, if not None), or why there is none."""
    prepared = {"source": row["source"], "key": row["key"]}
    try:
        check_bytes(row["size"])
        refuse_raw(row["source"])
        data = storage.read_bytes(row["source"])
        prepared["photo_id"] = hashlib.sha256(data).hexdigest()
        if ledger.contains(known_ids, prepared["photo_id"]):
            return prepared | {"reason": _DUPLICATE}
    except ImageError as error:
        return prepared | {"reason": error.reason, "detail": error.detail}
    except OSError as error:
        return prepared | {"reason": Reason.UNREADABLE, "detail": str(error)}
    try:
        pixels = shrink(training_pixels(decode(data)), long_side)
        stored = {"image": encode_jpeg(pixels)}
        if algorithm:
            stored["intermediate"] = shards.make_intermediate(stored["image"], tone.algorithm_of(algorithm))
    except ImageError as error:
        return prepared | {"reason": error.reason, "detail": error.detail}
    except (OSError, MemoryError, cv2.error) as error:  # one photo must not end the ingest of the others
        return prepared | {"reason": Reason.UNPROCESSABLE, "detail": f"{type(error).__name__}: {error}"}
    size = {"width": pixels.shape[1], "height": pixels.shape[0]}
    return prepared | size | stored | {"split": shards.split_of(prepared["photo_id"])}


def _write_batch(batch: pa.Table, *, role: str, store: str, algorithm: str) -> dict[str, list[bytes]]:
    """Write one shard for each split in the batch; what is not written travels with it so that batches do not depend on it."""
    good = batch.filter(pc.field("reason").is_null())
    row_groups = [shards.ROW_GROUPS.empty_table()]
    for split in pc.unique(good["split"]).to_pylist():
        photos = good.filter(pc.field("split") == split).select(shards.PHOTOS.names)
        row_groups.append(shards.write_shard(store, photos, role=role, algorithm=algorithm))
    is_duplicate = pc.equal(batch["reason"], _DUPLICATE)
    reason = pc.if_else(pc.fill_null(is_duplicate, False), pa.scalar(None, pa.string()), batch["reason"])
    outcomes = batch.set_column(batch.schema.get_field_index("reason"), "reason", reason).select(shards.SOURCES.names)
    return {"row_groups": [to_ipc(pa.concat_tables(row_groups))], "outcomes": [to_ipc(outcomes)]}


def _commit(store: shards.Store, role: str, origin: str, row_groups: pa.Table, outcomes: pa.Table) -> shards.Store:
    """Make a wave part of the store: list its sources in a file, then name all in the manifest."""
    files = [ledger.write_sources(store.uri, role, outcomes)] if outcomes.num_rows else []

    def change(newest: shards.Store) -> shards.Store:
        return replace(
            newest,
            row_groups=pa.concat_tables([newest.row_groups, _not_yet_in(newest, row_groups)]),
            sources=newest.sources | {role: tuple(dict.fromkeys((*newest.sources[role], *files)))},
            origins=newest.origins | {role: tuple(dict.fromkeys((*newest.origins[role], origin)))},
        )

    return shards.update_manifest(store, change)
