"""Photos to shards: a Ray Data job that decodes and checks photos, computes their intermediates, and writes the store.

An ingest takes the folder's listing in waves. It reads, hashes, decodes and writes the new files of a wave, in the order of
a digest of their names, which shuffles them. Then one write of the manifest adds the whole wave to the store. Waves and
shards depend only on the listing and the store, so a killed ingest that runs again writes the same files. Memory holds the
names of two waves, the rejected files, and some of what the store knows (`digests.DigestSet`).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from naturaltone.pipeline import storage, tone
from naturaltone.pipeline.cpus import num_cpus
from naturaltone.pipeline.dataset import ledger, shards
from naturaltone.pipeline.dataset.digests import DigestSet, Run, among
from naturaltone.pipeline.dataset.tables import from_ipc, to_ipc, to_tables
from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.figures import Counter
from naturaltone.pipeline.lease import Lease
from naturaltone.pipeline.listing import File, list_files
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.find import FOUND_SUFFIXES, check_photos, list_photos
from naturaltone.pipeline.photo.formats import refuse_raw
from naturaltone.pipeline.photo.pixels import shrink, training_pixels
from naturaltone.pipeline.photo.refusals import ImageError, check_bytes
from naturaltone.pipeline.photo.stored import encode_jpeg
from naturaltone.pipeline.progress import Progress
from naturaltone.pipeline.reasons import Reason

# CPUs of a task that prepares photos, and of one that writes a shard. They must differ, or Ray would fuse the two stages, and
# one task would take as long as a whole shard. Ray Data keeps CPUs free for each stage, and rounds what remains of a node
# down: with 1 and 0.5 one of two cores rested, with 0.9 and 0.1 one of each node's after some seconds. Eight cores prepare a
# shard of photos of 3 megapixels in 6 s. That one writer keeps up with them is an assumption.
_PREPARE_CPUS, _WRITE_CPUS, _CPUS_A_WRITER = 1, 0, 8
WAVE_PHOTOS = 2**16

FILES_READ = Counter("naturaltone_ingest_files_read", "Files that ingests have read and hashed.", "role")
INGESTED = Counter(
    "naturaltone_ingest_photos",
    "Photos of the files that were read, counted once they are in the store. outcome: added, duplicate or rejected. reason: "
    "why one is rejected.",
    *("role", "outcome", "reason"),
)
T = TypeVar("T")

_DUPLICATE = "duplicate"
_NO_REASON = ""
_PREPARED = pa.schema([*shards.PHOTOS, ("key", pa.binary(16)), ("reason", pa.string()), ("detail", pa.string())])


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What one ingest did, in counts of files.

    found: files that are photos by name. added: new photos. unchanged: files not read, because their name, size and version
    are known. duplicates: files that were read, but are in the store already. other_files: files that are not photos by
    name. rejects: the photos that are not in the store, and why (schema `shards.REJECTED`).
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
    algorithm: str | None = None,
    intermediates: str = "cached",
    full: bool = False,
    before_work: Callable[[], None] = lambda: None,
) -> IngestReport:
    """Add the photos below the folder `source` to the store `store` (both URIs) as `input` or `natural` photos.

    algorithm: None for that of the store, and for `tone.KEYED_LAPLACIAN` in a new one. full: also read the files that the store
    knows by name, size and version. before_work: called before each wave with files
    to read; it may start Ray. Errors come before any work: `StorageError` if the folder has no photos, storage cannot be
    reached, the store was made with other options, or another process is adding or removing `role` photos; `UserError` if an
    option is not allowed.
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
        with ledger.Known.load(opened, role) as known:
            for wave in _one_ahead(_waves(source, tally, progress)):
                fresh = wave if full else _leave_out_known(wave, known, tally)
                progress.advance(len(wave) - len(fresh))
                if fresh:
                    before_work()
                    row_groups, outcomes = _ingest_wave(fresh, known, role=role, store=opened, progress=progress)
                    opened = _commit(opened, role, source, row_groups, known.new_rows(outcomes), lease)
                    tally.count(outcomes, known, role)
                    known.add(outcomes)
            ledger.save_rejects(opened, role, known.rejected)
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
    algorithm: str | None = None,
    intermediates: str = "cached",
) -> shards.Store:
    """The store at `store`, or a new one that is not written yet. algorithm: see `ingest`.

    `UserError` if an option is not allowed; `StorageError` if the store was made with other options.
    """
    for name, value, allowed in (
        ("role", role, shards.ROLES),
        ("algorithm", algorithm, (None, *tone.ALGORITHMS)),
        ("intermediates", intermediates, shards.INTERMEDIATES),
    ):
        if value not in allowed:
            raise UserError(f"{name} '{value}' is unknown; use one of {', '.join(filter(None, allowed))}")
    if long_side < shards.MIN_LONG_SIDE:
        raise UserError(
            f"--long-side {long_side}: such small photos teach a model nothing; use at least {shards.MIN_LONG_SIDE}"
        )
    if long_side > shards.MAX_LONG_SIDE:
        raise UserError(f"--long-side {long_side}: a JPEG cannot be that large; use at most {shards.MAX_LONG_SIDE}")
    storage.check_writable(store)
    opened = shards.open_store(store) if storage.exists(storage.join(store, shards.MANIFEST)) else None
    if opened and algorithm is None:
        used = opened.algorithm
    else:
        used = tone.algorithm_id(tone.ALGORITHMS[algorithm or tone.KEYED_LAPLACIAN.name])
    wanted = shards.empty_store(store, algorithm=used, long_side=long_side, intermediates=intermediates)
    if opened is None:
        return wanted
    for name in ("algorithm", "long_side", "intermediates"):
        ours, theirs = getattr(wanted, name), getattr(opened, name)
        if ours != theirs:
            raise storage.StorageError(
                f"'{store}': made with {name.replace('_', ' ')} {theirs}, this ingest would use {ours}; "
                "use the same value, or a new store"
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

    def count(self, outcomes: pa.Table, known: ledger.Known, role: str) -> None:
        ids = ledger.id_digests(outcomes.filter(pc.field("reason").is_null())["photo_id"])
        new = int((~known.ids.has(np.unique(ids))).sum())
        self.added += new
        self.duplicates += len(ids) - new
        rejected = outcomes.filter(pc.field("reason").is_valid())
        self.rejects += rejected.select(["source", "reason", "detail"]).to_pylist()
        INGESTED.add(new, role=role, outcome="added", reason=_NO_REASON)
        INGESTED.add(len(ids) - new, role=role, outcome="duplicate", reason=_NO_REASON)
        for each in pc.value_counts(rejected["reason"]).to_pylist():
            INGESTED.add(each["counts"], role=role, outcome="rejected", reason=each["values"])


def _leave_out_known(wave: list[dict[str, Any]], known: ledger.Known, tally: _Tally) -> list[dict[str, Any]]:
    """The files of a wave that the store does not know by source, size and version. Counts the others in `tally`."""
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
    """The photos below `source`, up to `WAVE_PHOTOS` at a time, as rows with the digest (`key`) that identifies each file."""
    photos = _only_photos(list_files(source), tally)
    while wave := list(islice(photos, WAVE_PHOTOS)):
        is_first, tally.found = not tally.found, tally.found + len(wave)
        if len(wave) < WAVE_PHOTOS:
            progress.expect(tally.found)
        elif is_first:  # a second listing counts all files, only for the ETA
            threading.Thread(target=_count_ahead, args=(source, progress), daemon=True).start()
        yield [
            {"source": ledger.source_of(file), "key": ledger.key_of(file), "size": file.size, "photo_id": None}
            for file in wave
        ]


def _one_ahead(waves: Iterator[T]) -> Iterator[T]:
    """The same waves. A thread already lists the next one while the caller works on this one."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, waves, None)
        while (wave := coming.result()) is not None:
            coming = thread.submit(next, waves, None)
            yield wave


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
    """Read, decode and write the files of a wave. Returns manifest rows, and the outcome of each file (`SOURCES`)."""
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
                "known_ids": _KnownIds.of(known.ids),
            },
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=_PREPARE_CPUS,
        )
        .map_batches(
            _write_batch,
            fn_kwargs={"role": role, "store": store.uri, "algorithm": store.algorithm},
            batch_size=shards.SHARD_PHOTOS,
            batch_format="pyarrow",
            num_cpus=_WRITE_CPUS,
            compute=ray.data.TaskPoolStrategy(size=max(1, int(num_cpus() / _CPUS_A_WRITER))),
        )
    )
    written.context.execution_options.preserve_order = True
    for result in written.iter_rows():
        row_groups.append(from_ipc(result["row_groups"]))
        outcomes.append(from_ipc(result["outcomes"]))
        FILES_READ.add(outcomes[-1].num_rows, role=role)
        progress.advance(outcomes[-1].num_rows)
    listed = pa.concat_tables(outcomes)
    first_of = {row["photo_id"]: row for row in listed.select(["photo_id", "reason", "detail"]).to_pylist()}
    changed = {"reason": Reason.UNREADABLE, "detail": "its content changed while it was ingested; ingest again"}
    also = [file | first_of.get(file["photo_id"], changed) for file in duplicates]
    return pa.concat_tables(row_groups), pa.concat_tables([listed, pa.Table.from_pylist(also, schema=shards.SOURCES)])


def _set_duplicates_aside(wave: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split a wave into the first file of each content, and the later files with the same content.

    Only files of the same size can be equal, so only these are read twice.
    """
    sizes = np.array([file["size"] for file in wave])
    _, index, count = np.unique(sizes, return_inverse=True, return_counts=True)
    suspects = [file for file, shared in zip(wave, count[index] > 1, strict=True) if shared and _is_read(file)]
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
    """The row groups of shards that the store does not name yet. A shard's name depends only on its photos."""
    named = shards.names_in(store.row_groups["file"])
    return row_groups.filter(pc.invert(pc.is_in(row_groups["file"].cast(pa.string()), value_set=named)))


def _is_read(file: dict[str, Any]) -> bool:
    """Whether `_prepare` will read the file. It refuses some files by their size or name."""
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
    except OSError:  # `_prepare` reads it again and reports the error
        return None


class _OlderIds:
    """Looks up ids in the driver's files, for tasks on every node. It runs on the driver's node."""

    def __init__(self, runs: tuple[Run, ...]) -> None:
        self._runs = runs

    def has(self, digests: np.ndarray) -> bool:
        return any(run.has(digests)[0] for run in self._runs)


@dataclass(frozen=True, kw_only=True)
class _KnownIds:
    """The ids of the photos in the store, as the tasks of a wave see them.

    recent: the sorted digests in memory. older: looks up the others; None if all are in memory.
    """

    recent: ray.ObjectRef
    older: ray.actor.ActorHandle | None

    @classmethod
    def of(cls, ids: DigestSet) -> _KnownIds:
        beside_driver = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, label_selector=beside_driver)(_OlderIds)
        older = actor.remote(ids.runs) if ids.runs else None
        return cls(recent=ray.put(ids.recent), older=older)

    def has(self, photo_id: str) -> bool:
        digest = ledger.id_digest(photo_id)
        is_recent = bool(among(ray.get(self.recent), digest)[0])
        return is_recent or (self.older is not None and ray.get(self.older.has.remote(digest)))


def _prepare_batch(batch: pa.Table, *, long_side: int, algorithm: str | None, known_ids: _KnownIds) -> pa.Table:
    cv2.setNumThreads(1)  # Ray runs one task a core
    rows = [_prepare(row, long_side=long_side, algorithm=algorithm, known_ids=known_ids) for row in batch.to_pylist()]
    return pa.Table.from_pylist(rows, schema=_PREPARED)


def _prepare(row: dict[str, Any], *, long_side: int, algorithm: str | None, known_ids: _KnownIds) -> dict[str, Any]:
    """The row of one photo, with its intermediate if `algorithm` is not None; or the reason why it is rejected."""
    prepared = {"source": row["source"], "key": row["key"]}
    try:
        check_bytes(row["size"])
        refuse_raw(row["source"])
        data = storage.read_bytes(row["source"])
    except ImageError as error:
        return prepared | {"reason": error.reason, "detail": error.detail}
    except OSError as error:
        return prepared | {"reason": Reason.UNREADABLE, "detail": str(error)}
    prepared["photo_id"] = hashlib.sha256(data).hexdigest()
    if known_ids.has(prepared["photo_id"]):
        return prepared | {"reason": _DUPLICATE}
    try:
        pixels = shrink(training_pixels(decode(data)), long_side)
        stored = {"image": encode_jpeg(pixels)}
        if algorithm:
            stored["intermediate"] = shards.make_intermediate(stored["image"], tone.algorithm_of(algorithm))
    except ImageError as error:
        return prepared | {"reason": error.reason, "detail": error.detail}
    except MemoryError:  # a reason that does not last: the next ingest tries the photo again
        return prepared | {"reason": Reason.UNREADABLE, "detail": "the machine has too little free memory for it"}
    except (OSError, cv2.error) as error:  # one photo must not end the ingest of the others
        return prepared | {"reason": Reason.UNPROCESSABLE, "detail": f"{type(error).__name__}: {error}"}
    size = {"width": pixels.shape[1], "height": pixels.shape[0]}
    return prepared | size | stored | {"split": shards.split_of(prepared["photo_id"])}


def _write_batch(batch: pa.Table, *, role: str, store: str, algorithm: str) -> dict[str, list[bytes]]:
    """Write one shard for each split in the batch.

    Rejected files and duplicates stay in the batch, so that they do not shift the borders between batches.
    """
    good = batch.filter(pc.field("reason").is_null())
    row_groups = [shards.ROW_GROUPS.empty_table()]
    for split in pc.unique(good["split"]).to_pylist():
        photos = good.filter(pc.field("split") == split).select(shards.PHOTOS.names)
        row_groups.append(shards.write_shard(store, photos, role=role, algorithm=algorithm))
    is_duplicate = pc.equal(batch["reason"], _DUPLICATE)
    reason = pc.if_else(pc.fill_null(is_duplicate, False), pa.scalar(None, pa.string()), batch["reason"])
    outcomes = batch.set_column(batch.schema.get_field_index("reason"), "reason", reason).select(shards.SOURCES.names)
    return {"row_groups": [to_ipc(pa.concat_tables(row_groups))], "outcomes": [to_ipc(outcomes)]}


def _commit(
    store: shards.Store, role: str, origin: str, row_groups: pa.Table, outcomes: pa.Table, lease: Lease
) -> shards.Store:
    """Add a wave to the store: write the list of its sources, then name that list and the new shards in the manifest."""
    files = [ledger.write_sources(store.uri, role, outcomes)] if outcomes.num_rows else []

    def change(newest: shards.Store) -> shards.Store:
        lease.check()
        return replace(
            newest,
            row_groups=pa.concat_tables([newest.row_groups, _not_yet_in(newest, row_groups)]),
            sources=newest.sources | {role: tuple(dict.fromkeys((*newest.sources[role], *files)))},
            origins=newest.origins | {role: tuple(dict.fromkeys((*newest.origins[role], origin)))},
        )

    return shards.update_manifest(store, change)
