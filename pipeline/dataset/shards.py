"""The store: Parquet shards of photos in small row groups, and the manifest that names every row group.

Only the manifest makes a file part of the store. A killed ingest may leave shards and lists of sources that the manifest
does not name; these are ignored.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from naturaltone.pipeline import storage, tone
from naturaltone.pipeline.dataset.tables import from_parquet, to_parquet
from naturaltone.pipeline.photo.stored import decode_rgb, encode_jpeg

SCHEMA_VERSION = 2
ROW_GROUP_PHOTOS = 16
SHARD_PHOTOS = 256  # about 200 MB of inputs with their intermediates, which one task holds in memory
TEST_PERCENT = 10
LONG_SIDE, MIN_LONG_SIDE, MAX_LONG_SIDE = 1024, 64, 65_500  # pixels of a stored photo: the default and the limits
ROLES = ("input", "natural")
INTERMEDIATES = ("cached", "stream")
MANIFEST = "manifest.parquet"
RUNS = "runs"  # the folder of the runs that trained on the store; each run has a copy of the manifest
REJECTS = "rejects.parquet"

PHOTOS = pa.schema(
    [
        ("photo_id", pa.string()),
        ("source", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("split", pa.string()),
        ("image", pa.binary()),
        ("intermediate", pa.binary()),
    ]
)
_FEW, _MANY = (pa.dictionary(index, pa.string()) for index in (pa.int8(), pa.int32()))
ROW_GROUPS = pa.schema(
    [
        ("role", _FEW),
        ("split", _FEW),
        ("file", _MANY),
        ("row_group", pa.int16()),
        ("num_photos", pa.int16()),
        ("num_bytes", pa.int32()),
    ]
)
# Every file that an ingest looked at. key: a digest of source, size and version. reason: null if the photo is in the store.
SOURCES = pa.schema(
    [
        ("source", pa.string()),
        ("key", pa.binary(16)),
        ("photo_id", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
REJECTED = pa.schema([("source", pa.string()), ("role", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


@dataclass(frozen=True, kw_only=True)
class Store:
    """An opened store: its URI, its row groups (schema `ROW_GROUPS`), and how every photo in it was made.

    algorithm: the id of the algorithm of the intermediates. long_side: the limit of a photo's long side in pixels.
    intermediates: `cached` if the shards hold them, `stream` if they are computed when a batch needs them. sources: by role,
    the files (schema `SOURCES`) that list what was ingested, oldest first. origins: by role, the folders that were ingested.
    """

    uri: str
    row_groups: pa.Table
    algorithm: str
    long_side: int
    intermediates: str = "cached"
    sources: dict[str, tuple[str, ...]]
    origins: dict[str, tuple[str, ...]]

    def select(self, role: str, split: str | None = None, columns: tuple[str, ...] | None = None) -> pa.Table:
        """The row groups of one role, in one split or in both. columns: only these (None: all)."""
        chosen = _has_name(self.row_groups["role"], role)
        if split is not None:
            chosen = pc.and_(chosen, _has_name(self.row_groups["split"], split))
        return self.row_groups.select(columns or ROW_GROUPS.names).filter(chosen)

    def count(self, role: str, split: str | None = None) -> int:
        return pc.sum(self.select(role, split)["num_photos"]).as_py() or 0

    def photos(self, role: str, split: str, *, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """The photos of one role and split as dicts of schema `PHOTOS`, with one row group in memory at a time.

        Inputs always have their intermediates: those that are not stored are computed.
        """
        rows = (row for group in self.select(role, split).to_pylist() for row in self.read(group))
        return islice(rows, limit)

    def read(self, group: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The photos of one row of `row_groups`, as `photos` yields them."""
        for row in read_row_group(self.uri, group["file"], group["row_group"], PHOTOS.names).to_pylist():
            if group["role"] == "input" and row["intermediate"] is None:
                row["intermediate"] = make_intermediate(row["image"], tone.algorithm_of(self.algorithm))
            yield row


def split_of(photo_id: str) -> str:
    """`test` for TEST_PERCENT % of all photos, else `train`. It depends only on the content, so it never changes."""
    return "test" if int(photo_id[:8], 16) % 100 < TEST_PERCENT else "train"


def empty_store(uri: str, *, algorithm: str, long_side: int, intermediates: str = "cached") -> Store:
    """A new store. Nothing is written yet."""
    return Store(
        uri=uri,
        row_groups=ROW_GROUPS.empty_table(),
        algorithm=algorithm,
        long_side=long_side,
        intermediates=intermediates,
        sources={role: () for role in ROLES},
        origins={role: () for role in ROLES},
    )


def open_store(uri: str, *, manifest: str | None = None) -> Store:
    """Read the manifest of a store.

    manifest: the URI of an older copy to read instead. `StorageError` if the manifest is missing, or this version of
    naturaltone cannot read it.
    """
    storage.check_reachable(uri)
    try:
        return _parse(uri, storage.read_bytes(manifest or storage.join(uri, MANIFEST)))
    except FileNotFoundError:
        raise storage.StorageError(
            f"'{uri}': no store here ({MANIFEST} is missing); make one with `naturaltone ingest SRC --role input --to {uri}`"
        ) from None


def update_manifest(store: Store, change: Callable[[Store], Store]) -> Store:
    """Replace the newest manifest (`store` if none is written yet) by `change` of it. Returns the store that was written."""
    changed = [store]

    def rewritten(content: bytes | None) -> bytes:
        changed[0] = change(store if content is None else _parse(store.uri, content))
        return _format(changed[0])

    storage.update(storage.join(store.uri, MANIFEST), rewritten)
    return changed[0]


def names_in(column: pa.ChunkedArray) -> pa.Array:
    """The distinct names in a dictionary column, in the order of their first appearance."""
    names = [chunk.dictionary.take(pc.unique(chunk.indices)) for chunk in column.chunks]
    return pc.unique(pa.concat_arrays([pa.array([], pa.string()), *names]))


def _has_name(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Which rows of a dictionary column have this name. Comparing the column itself would decode every row's name."""
    codes = [(chunk.indices, pc.index(chunk.dictionary, name).as_py()) for chunk in column.chunks]
    return pa.chunked_array([pc.equal(indices, code) for indices, code in codes], pa.bool_())


def _parse(uri: str, content: bytes) -> Store:
    try:
        table = from_parquet(content, ROW_GROUPS)
    except (ValueError, KeyError) as error:  # not Parquet, or Parquet with another schema
        raise storage.StorageError(
            f"'{uri}': {MANIFEST} cannot be read ({error}); restore it from a backup or ingest into a new store"
        ) from None
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if metadata.get("schema_version") != str(SCHEMA_VERSION):
        raise storage.StorageError(
            f"'{uri}': store schema {metadata.get('schema_version')}, but this version of naturaltone reads {SCHEMA_VERSION}; "
            "ingest again into a new store"
        )
    return Store(
        uri=uri,
        row_groups=table.replace_schema_metadata(None),
        algorithm=metadata["algorithm"],
        long_side=int(metadata["long_side"]),
        intermediates=metadata["intermediates"],
        sources={role: tuple(files) for role, files in json.loads(metadata["sources"]).items()},
        origins={role: tuple(folders) for role, folders in json.loads(metadata["origins"]).items()},
    )


def _format(store: Store) -> bytes:
    metadata = {
        "schema_version": str(SCHEMA_VERSION),
        "algorithm": store.algorithm,
        "long_side": str(store.long_side),
        "intermediates": store.intermediates,
        "sources": json.dumps(store.sources),
        "origins": json.dumps(store.origins),
    }
    return to_parquet(store.row_groups.unify_dictionaries().replace_schema_metadata(metadata))


def write_shard(store_uri: str, photos: pa.Table, *, role: str, algorithm: str) -> pa.Table:
    """Write photos (schema `PHOTOS`, all of one split) as one shard. Returns its rows of the manifest.

    The file name is a hash of the photos' ids, so writing the same photos again writes the same file.
    """
    split = photos["split"][0].as_py()
    digest = hashlib.sha256("".join(photos["photo_id"].to_pylist()).encode()).hexdigest()[:16]
    file = f"{role}/{split}-{digest}.parquet"
    buffer = io.BytesIO()
    pq.write_table(
        photos.replace_schema_metadata({"algorithm": algorithm}),
        buffer,
        row_group_size=ROW_GROUP_PHOTOS,
        compression="none",  # the pictures are JPEG already
        use_dictionary=False,
    )
    storage.write_bytes(storage.join(store_uri, file), buffer.getvalue())
    buffer.seek(0)
    metadata = pq.read_metadata(buffer)
    return pa.Table.from_pylist(
        [
            {
                "role": role,
                "split": split,
                "file": file,
                "row_group": index,
                "num_photos": metadata.row_group(index).num_rows,
                "num_bytes": metadata.row_group(index).total_byte_size,
            }
            for index in range(metadata.num_row_groups)
        ],
        schema=ROW_GROUPS,
    )


def read_row_group(store_uri: str, file: str, row_group: int, columns: Iterable[str]) -> pa.Table:
    """One row group of a shard, only the named columns."""
    return storage.read_with(
        storage.join(store_uri, file),
        lambda source: pq.ParquetFile(source, pre_buffer=True).read_row_group(row_group, columns=list(columns)),
    )


def num_row_groups(store_uri: str, file: str) -> int:
    """The number of row groups of a shard, or of a list of sources."""
    return storage.read_with(storage.join(store_uri, file), lambda source: int(pq.read_metadata(source).num_row_groups))


def read_columns(store_uri: str, file: str, columns: Iterable[str]) -> pa.Table:
    """The named columns of all photos of a shard, or of a list of sources."""
    return storage.read_with(
        storage.join(store_uri, file), lambda source: pq.read_table(source, columns=list(columns), partitioning=None)
    )


def make_intermediate(image: bytes, algorithm: tone.Algorithm) -> bytes:
    """The intermediate of a stored photo, as stored. It is made from the stored JPEG, so it can be made again at any time."""
    return encode_jpeg(tone.intermediate(decode_rgb(image), algorithm))
