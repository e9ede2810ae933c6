"""The gate set: held-out photos of a store on which champion and challenger are compared, always the same ones.

STORE/gate.json names the photos by their ids. It is written when it is first asked for, and then changes only by `grow`: what
is ingested later never comes in by itself, so that every verdict of a year is about the same photos. The pixels stay in the
shards, so that a photo that is forgotten is forgotten here too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from naturaltone.pipeline import storage
from naturaltone.pipeline.dataset import shards

GATE = "gate.json"
MOST = {"input": 200, "natural": 100}  # photos of each role


@dataclass(frozen=True, kw_only=True)
class GateSet:
    """The ids of the photos, by role. digest: of all ids. since: when the set was last frozen or grown, UTC."""

    ids: Mapping[str, tuple[str, ...]]
    digest: str
    since: str


@dataclass(frozen=True, kw_only=True)
class GatePhoto:
    """A photo of the gate set. image: as the shard holds it, a JPEG."""

    photo_id: str
    name: str
    role: str
    image: bytes


def open_gate_set(store: shards.Store, most: Mapping[str, int] = MOST) -> GateSet:
    """Read the gate set of a store. At the first call it is frozen: the held-out photos of now, at most `most` of each role.

    `StorageError` if the file is damaged.
    """
    uri = storage.join(store.uri, GATE)
    try:
        return _parse(uri, storage.read_bytes(uri))
    except FileNotFoundError:
        return _change(store, {role: () for role in shards.ROLES}, most)


def grow(store: shards.Store, most: Mapping[str, int] = MOST) -> GateSet:
    """Add held-out photos that the store has got since, until there are `most` of each role. No photo leaves the set."""
    return _change(store, open_gate_set(store, most).ids, most)


def read_gate_photos(store: shards.Store, gate: GateSet) -> Iterator[GatePhoto]:
    """The photos that are still in the store, with one row group in memory at a time."""
    for role, ids in gate.ids.items():
        wanted = set(ids)
        for group in store.select(role, "test").to_pylist():
            columns = ["photo_id", "source", "image"]
            for row in shards.read_row_group(store.uri, group["file"], group["row_group"], columns).to_pylist():
                if row["photo_id"] in wanted:
                    name = row["source"].rpartition("/")[2]
                    yield GatePhoto(photo_id=row["photo_id"], name=name, role=role, image=row["image"])


def missing(store: shards.Store, gate: GateSet) -> list[str]:
    """The ids of the photos that the store has forgotten."""
    return [each for role, ids in gate.ids.items() for each in sorted(set(ids) - set(_held_out(store, role)))]


def _change(store: shards.Store, ids: Mapping[str, tuple[str, ...]], most: Mapping[str, int]) -> GateSet:
    """Add held-out photos. Of two processes at the same time, the second takes what the first has written."""
    added = {role: _added(ids[role], _held_out(store, role), most[role]) for role in shards.ROLES}
    before = dict(ids)
    uri = storage.join(store.uri, GATE)
    written = [b""]

    def rewritten(content: bytes | None) -> bytes:
        is_ours = content is None or _parse(uri, content).ids == before
        written[0] = _format(added) if is_ours and (content is None or added != before) else content or b""
        return written[0]

    storage.update(uri, rewritten)
    return _parse(uri, written[0])


def _added(ids: tuple[str, ...], held_out: list[str], most: int) -> tuple[str, ...]:
    # An id is a hash of the photo, so the first ones are a random choice, and the same one everywhere.
    new = sorted(set(held_out) - set(ids))
    return (*ids, *new[: max(0, most - len(ids))])


def _held_out(store: shards.Store, role: str) -> list[str]:
    files = shards.names_in(store.select(role, "test")["file"]).to_pylist()
    return [
        each for file in files for each in shards.read_columns(store.uri, file, ["photo_id"])["photo_id"].to_pylist()
    ]


def _digest(ids: Mapping[str, tuple[str, ...]]) -> str:
    return hashlib.sha256(json.dumps({role: sorted(ids[role]) for role in sorted(ids)}).encode()).hexdigest()[:16]


def _format(ids: Mapping[str, tuple[str, ...]]) -> bytes:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"digest": _digest(ids), "since": since, "photos": ids}, indent=1).encode()


def _parse(uri: str, content: bytes) -> GateSet:
    try:
        document = json.loads(content)
        ids = {role: tuple(document["photos"][role]) for role in shards.ROLES}
        found = GateSet(ids=ids, digest=document["digest"], since=document["since"])
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(uri, str(error)) from None
    if found.digest != _digest(ids):
        raise _damaged(uri, "its digest does not match its photos")
    return found


def _damaged(uri: str, why: str) -> storage.StorageError:
    return storage.StorageError(
        f"'{uri}': cannot be used ({why}); restore it from a backup, or delete it to freeze a new set of photos"
    )
