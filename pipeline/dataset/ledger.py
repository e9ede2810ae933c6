"""What a store knows about the files it was made from: their digests, and which it rejected and why."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from naturaltone.pipeline import lease, storage
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.dataset.digests import DigestSet, among
from naturaltone.pipeline.dataset.tables import from_parquet, to_parquet
from naturaltone.pipeline.listing import File, list_files
from naturaltone.pipeline.private_folder import scratch_folder
from naturaltone.pipeline.reasons import Reason

_PASSING = [reason for reason in Reason if not reason.lasts]
_ROWS = 2**16  # of a list, at a time
_ORPHAN_SECONDS = 86_400  # on S3, where the files of a killed ingest look like those of a running one


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the store knows about one role.

    keys: digests of the known files (`key_of`). ids: digests of the photos in the store. rejected: the rows of the rejected
    files (schema `shards.SOURCES`), by source. again: the keys of rejected files that are read again, because they may be
    readable today.
    """

    keys: DigestSet
    ids: DigestSet
    rejected: dict[str, dict[str, Any]]
    again: np.ndarray

    @classmethod
    @contextlib.contextmanager
    def load(cls, store: shards.Store, role: str) -> Iterator[Known]:
        """What the store knows now. Only while the context lasts, because most of it may lie in files on this machine."""
        with scratch_folder("known") as folder:
            for name in ("keys", "ids"):
                (folder / name).mkdir()
            keys, ids = DigestSet(folder / "keys"), DigestSet(folder / "ids")
            rejected: dict[str, dict[str, Any]] = {}
            for rows in _listed(store, role):
                keys.add(_digests(rows["key"]))
                ids.add(id_digests(_in_store(rows)))
                _note_rejects(rejected, rows)
            keys.merge()
            ids.merge()
            again = np.sort(np.array([row["key"] for row in rejected.values() if row["reason"] in _PASSING], "S16"))
            yield cls(keys=keys, ids=ids, rejected=rejected, again=again)

    def has(self, keys: list[bytes]) -> np.ndarray:
        """Which of the files need not be read. keys: digests of source, size and version."""
        wanted = np.array(keys, "S16")
        return self.keys.has(wanted) & ~among(self.again, wanted)

    def reject_of(self, source: str, key: bytes) -> dict[str, Any] | None:
        """The row that says why the store rejected this version of the file; None if it did not."""
        row = self.rejected.get(source)
        return row if row and row["key"] == key else None

    def new_rows(self, ledger: pa.Table) -> pa.Table:
        """The rows worth a list: new files, new contents, and files that are or were rejected. After `full`, few rows are."""
        is_known = self.has(ledger["key"].to_pylist()) & self._has_content(ledger)
        was_rejected = np.array([source in self.rejected for source in ledger["source"].to_pylist()], bool)
        is_rejected = ledger["reason"].is_valid().to_numpy(zero_copy_only=False)
        return ledger.filter(pa.array(~is_known | was_rejected | is_rejected))

    def add(self, ledger: pa.Table) -> None:
        self.ids.add(id_digests(_in_store(ledger)))
        _note_rejects(self.rejected, ledger)

    def _has_content(self, ledger: pa.Table) -> np.ndarray:
        """Whether each row's photo is in the store. Rejected rows have no photo and count as True."""
        has = np.ones(ledger.num_rows, bool)
        good = ledger["reason"].is_null().to_numpy(zero_copy_only=False)
        has[good] = self.ids.has(id_digests(_in_store(ledger)))
        return has


def rejected_files(store: shards.Store, role: str) -> dict[str, dict[str, Any]]:
    """The rows of the files that the store rejected (schema `shards.SOURCES`), by source."""
    rejected: dict[str, dict[str, Any]] = {}
    for rows in _listed(store, role):
        _note_rejects(rejected, rows)
    return rejected


def _listed(store: shards.Store, role: str) -> Iterator[pa.Table]:
    """What earlier ingests of this role looked at, oldest first, with one row group of the lists in memory at a time."""
    for file in store.sources[role]:
        for number in range(shards.num_row_groups(store.uri, file)):
            group = shards.read_row_group(store.uri, file, number, shards.SOURCES.names)
            for start in range(0, group.num_rows, _ROWS):  # their digests are Python objects for a moment
                yield group.slice(start, _ROWS)
            pa.default_memory_pool().release_unused()  # decoding takes several times the memory of its result


def _in_store(ledger: pa.Table) -> pa.ChunkedArray:
    """The ids of the rows that are not rejected."""
    return ledger["photo_id"].filter(pc.is_null(ledger["reason"]))


def _note_rejects(rejected: dict[str, dict[str, Any]], ledger: pa.Table) -> None:
    if rejected:  # a file's later outcome replaces the earlier one
        later = pc.is_in(ledger["source"], value_set=pa.array(list(rejected), pa.string()))
        for source in ledger.filter(later)["source"].to_pylist():
            rejected.pop(source, None)
    rejected |= {row["source"]: row for row in ledger.filter(pc.field("reason").is_valid()).to_pylist()}


def key_of(file: File) -> bytes:
    """The digest that identifies a file. Another size or version makes it another file."""
    return hashlib.blake2b(f"{source_of(file)}\0{file.size}\0{file.version}".encode(), digest_size=16).digest()


def source_of(file: File) -> str:
    """The file's URI. Parquet holds only UTF-8, so other characters become question marks."""
    return file.uri.encode(errors="replace").decode()


def write_sources(store: str, role: str, ledger: pa.Table) -> str:
    """Write a list of sources (schema `shards.SOURCES`). Returns its file name, which the manifest must then name."""
    data = to_parquet(ledger)
    # The name is a hash of the whole content: the same files with other outcomes must not overwrite a list in the manifest.
    file = f"sources/{role}-{hashlib.sha256(data).hexdigest()[:16]}.parquet"
    storage.write_bytes(storage.join(store, file), data)
    return file


def named_files(store: shards.Store, role: str) -> set[str]:
    """The shards and lists of sources of one role that the manifest names."""
    return {*shards.names_in(store.row_groups["file"]).to_pylist(), *store.sources[role]}


def save_rejects(store: shards.Store, role: str, rejected: dict[str, dict[str, Any]]) -> None:
    """Rewrite the role's part of rejects.parquet. rejected: rows of schema `shards.SOURCES`, by source."""
    ours = pa.Table.from_pylist(
        [{"role": role, **rejected[source]} for source in sorted(rejected)], schema=shards.REJECTED
    )

    def change(content: bytes | None) -> bytes:
        earlier = shards.REJECTED.empty_table() if content is None else from_parquet(content, shards.REJECTED)
        return to_parquet(pa.concat_tables([earlier.filter(pc.field("role") != role), ours]))

    storage.update(storage.join(store.uri, shards.REJECTS), change)


def hold(store: str, role: str) -> contextlib.AbstractContextManager[lease.Lease]:
    """Lock one role of a store, so that only one job at a time adds or removes its photos."""
    return lease.hold(storage.join(store, "locks", f"{role}.json"), what=f"'{store}' ({role} photos)")


def remove_orphans(store: shards.Store, role: str) -> None:
    """Delete what a killed ingest of this role left: files that no manifest names, and half-written files.

    The caller holds the role's lock, so nobody else writes these files. On S3 they still stay for a day: some servers may
    give the lock to two jobs that start in the same second.
    """
    newest = shards.open_store(store.uri) if storage.exists(storage.join(store.uri, shards.MANIFEST)) else store
    named = named_files(newest, role)
    before = time.time() - (_ORPHAN_SECONDS if storage.is_s3(store.uri) else 0)
    storage.delete_half_written(store.uri, older_than=before)
    orphans = [
        file
        for file in list_files(store.uri)
        if file.relative.startswith((f"{role}/", f"sources/{role}-"))
        and file.relative not in named
        and file.modified <= before
    ]
    if not orphans:
        return
    frozen = set().union(*files_of_runs(store.uri).values())
    for file in orphans:
        if file.relative not in frozen:
            storage.delete(file.uri)


def files_of_runs(store: str) -> dict[str, set[str]]:
    """The shards that each run started with, by the run's name. Its batches need them, whatever the store holds today."""
    folder = storage.join(store, shards.RUNS)
    if not storage.is_s3(store) and not os.path.isdir(storage.resolve(folder)[1]):
        return {}
    manifests = list_files(folder, suffixes=(f"/{shards.MANIFEST}",))
    return {file.relative.removesuffix(f"/{shards.MANIFEST}"): _shards_in(file.uri) for file in manifests}


def _shards_in(manifest: str) -> set[str]:
    files = storage.read_with(
        manifest, lambda source: pq.read_table(source, columns=["file"], read_dictionary=["file"])
    )
    return set(shards.names_in(files["file"]).to_pylist())


def _digests(keys: pa.ChunkedArray) -> np.ndarray:
    return np.array(keys.to_pylist(), "S16")


def id_digests(ids: pa.ChunkedArray) -> np.ndarray:
    """The first 16 bytes of each SHA-256."""
    return np.frombuffer(bytes.fromhex("".join(photo_id[:32] for photo_id in ids.to_pylist())), "S16")


def id_digest(photo_id: str) -> np.ndarray:
    """The first 16 bytes of one SHA-256, as an array of one digest."""
    return np.frombuffer(bytes.fromhex(photo_id[:32]), "S16")
