"""What a store knows about the files it was made from: their digests, and which it rejected and why."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from naturaltone.pipeline import lease, storage
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.dataset.tables import from_parquet, to_parquet
from naturaltone.pipeline.listing import File, list_files
from naturaltone.pipeline.reasons import Reason

_PASSING = [reason for reason in Reason if not reason.lasts]
_ORPHAN_SECONDS = 86_400  # on S3, where the files of a killed ingest look like those of a running one


@dataclass(kw_only=True)
class Known:
    """What the store knows about one role.

    keys: sorted digests of the known files (`key_of`). ids: sorted digests of the photos in the store. rejected: the rows of
    the rejected files (schema `shards.SOURCES`), by source.
    """

    keys: np.ndarray
    ids: np.ndarray
    rejected: dict[str, dict[str, Any]]

    @classmethod
    def load(cls, store: shards.Store, role: str) -> Known:
        known = cls(keys=np.empty(0, "S16"), ids=np.empty(0, "S16"), rejected={})
        keys, ids = [known.keys], [known.ids]
        for file in store.sources[role]:
            ledger = shards.read_columns(store.uri, file, shards.SOURCES.names)
            keys.append(_digests(ledger["key"]))
            ids.append(id_digests(ledger.filter(pc.field("reason").is_null())["photo_id"]))
            known._note_rejects(ledger)
        # A file that could not be read may be readable today: it stays on the list of rejects, but its key is not known.
        again = [row["key"] for row in known.rejected.values() if row["reason"] in _PASSING]
        known.keys = np.setdiff1d(np.concatenate(keys), np.array(again, "S16"))
        known.ids = np.unique(np.concatenate(ids))
        return known

    def has(self, keys: list[bytes]) -> np.ndarray:
        """Which of the files need not be read. keys: digests of source, size and version."""
        return _among(self.keys, np.array(keys, "S16"))

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
        ids = np.unique(id_digests(ledger.filter(pc.field("reason").is_null())["photo_id"]))
        new = ids[~_among(self.ids, ids)]
        self.ids = np.insert(self.ids, np.searchsorted(self.ids, new), new)  # sorting all of them takes seconds a wave
        self._note_rejects(ledger)

    def _has_content(self, ledger: pa.Table) -> np.ndarray:
        """Whether each row's photo is in the store. Rejected rows have no photo and count as True."""
        has = np.ones(ledger.num_rows, bool)
        good = ledger["reason"].is_null().to_numpy(zero_copy_only=False)
        has[good] = _among(self.ids, id_digests(ledger.filter(pc.field("reason").is_null())["photo_id"]))
        return has

    def _note_rejects(self, ledger: pa.Table) -> None:
        if self.rejected:  # a file's later outcome replaces the earlier one
            later = pc.is_in(ledger["source"], value_set=pa.array(list(self.rejected), pa.string()))
            for source in ledger.filter(later)["source"].to_pylist():
                self.rejected.pop(source, None)
        self.rejected |= {row["source"]: row for row in ledger.filter(pc.field("reason").is_valid()).to_pylist()}


def key_of(file: File) -> bytes:
    """The digest that identifies a file. Another size or version makes it another file."""
    return hashlib.blake2b(f"{source_of(file)}\0{file.size}\0{file.version}".encode(), digest_size=16).digest()


def source_of(file: File) -> str:
    """The file's URI. Parquet holds only UTF-8, so other characters become question marks."""
    return file.uri.encode(errors="replace").decode()


def contains(ordered: np.ndarray, photo_id: str) -> bool:
    """Whether a photo is among the sorted digests `Known.ids`."""
    return bool(_among(ordered, np.frombuffer(bytes.fromhex(photo_id[:32]), "S16"))[0])


def _among(ordered: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Which of the wanted digests are in the sorted array `ordered`."""
    if not len(ordered):
        return np.zeros(len(wanted), bool)
    indices = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return np.asarray(ordered[indices] == wanted)


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


def save_rejects(store: shards.Store, role: str, known: Known) -> None:
    """Rewrite the role's part of rejects.parquet."""
    ours = pa.Table.from_pylist(
        [{"role": role, **known.rejected[source]} for source in sorted(known.rejected)], schema=shards.REJECTED
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
