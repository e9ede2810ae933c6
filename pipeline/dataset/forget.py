"""Removes a folder's photos from a store: rewrites the shards that hold them, then the manifest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from naturaltone.pipeline import storage
from naturaltone.pipeline.dataset import ledger, shards
from naturaltone.pipeline.dataset.tables import from_ipc, to_ipc, to_tables


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """What a forget did.

    photos: how many photos it removed. kept_for_runs: how many shards with these photos stay on disk, by the name of the run
    that still needs them.
    """

    photos: int
    kept_for_runs: dict[str, int]


def forget(source: str, *, role: str, store: str) -> Forgotten:
    """Remove from the store every `role` photo that came only from below the folder `source`.

    A photo stays if another ingested folder holds the same content; its source is then the file in that folder. A run
    still needs the shards that it started with, or it could not be resumed. So these shards stay on disk, although the
    manifest no longer names them. A later ingest or forget deletes them once the run's folder is gone.

    `StorageError` if the store has nothing from this folder, or another process is adding or removing `role` photos.
    """
    source, store = storage.absolute(source), storage.absolute(store)
    prefix = storage.join(source, "")
    storage.check_writable(store)
    shards.open_store(store)
    with ledger.hold(store, role) as lease:
        opened = shards.open_store(store)
        ledger.remove_orphans(opened, role)
        listed = [shards.read_columns(store, file, shards.SOURCES.names) for file in opened.sources[role]]
        sources = pa.concat_tables([shards.SOURCES.empty_table(), *listed])
        below = pc.starts_with(sources["source"], prefix)
        if not pc.any(below).as_py():
            # An earlier forget of this folder may have died before it wrote the rejects.
            ledger.save_rejects(opened, role, ledger.rejected_files(opened, role))
            raise storage.StorageError(
                f"'{source}': the store has no {role} photos from this folder; `naturaltone store {store}` lists its folders"
            )
        kept = sources.filter(pc.invert(below))
        also = kept.filter(pc.is_in(kept["photo_id"], value_set=sources.filter(below)["photo_id"].combine_chunks()))
        elsewhere = dict(zip(also["photo_id"].to_pylist(), also["source"].to_pylist(), strict=True))
        rewritten = _rewrite_shards(opened, role, prefix, elsewhere)
        files = [ledger.write_sources(store, role, kept)] if kept.num_rows else []
        new = pa.concat_tables([shards.ROW_GROUPS.empty_table(), *rewritten.values()])

        def change(newest: shards.Store) -> shards.Store:
            lease.check()
            # The new files too, because `change` may be called with its own result.
            gone = pa.array([*rewritten, *shards.names_in(new["file"]).to_pylist()], pa.string())
            untouched = newest.row_groups.filter(
                pc.invert(pc.is_in(newest.row_groups["file"].cast(pa.string()), value_set=gone))
            )
            later = [file for file in newest.sources[role] if file not in opened.sources[role]]
            return replace(
                newest,
                row_groups=pa.concat_tables([untouched, new]),
                sources=newest.sources | {role: tuple(dict.fromkeys((*files, *later)))},
                origins=newest.origins
                | {role: tuple(o for o in newest.origins[role] if not storage.join(o, "").startswith(prefix))},
            )

        changed = shards.update_manifest(opened, change)
        # A shard keeps its name if all of its photos are known from other folders: the manifest still needs that file.
        old = (set(opened.sources[role]) | set(rewritten)) - ledger.named_files(changed, role)
        frozen = {run: old & named for run, named in ledger.files_of_runs(store).items()}
        lease.check()  # who has the lock now may have made a shard of the same name again
        for file in old - set().union(*frozen.values()):
            storage.delete(storage.join(store, file))
        ledger.save_rejects(changed, role, ledger.rejected_files(changed, role))
        return Forgotten(
            photos=opened.count(role) - changed.count(role),
            kept_for_runs={run: len(named) for run, named in frozen.items() if named},
        )


def _rewrite_shards(store: shards.Store, role: str, prefix: str, elsewhere: dict[str, str]) -> dict[str, pa.Table]:
    """Rewrite the shards that hold photos from below `prefix`. Returns the new rows of the manifest by the old file's name."""
    files = shards.names_in(store.select(role)["file"]).to_pylist()
    rewritten = (
        ray.data.from_arrow(to_tables([{"file": file} for file in files], 1))
        .map_batches(
            _rewrite_batch,
            fn_kwargs={
                "role": role,
                "store": store.uri,
                "algorithm": store.algorithm,
                "prefix": prefix,
                "elsewhere": ray.put(elsewhere),
            },
            batch_size=None,
            batch_format="pyarrow",
        )
        .iter_rows()
    )
    changed = {row["file"]: row["row_groups"] for row in rewritten if row["row_groups"] is not None}
    return {file: from_ipc(changed[file]) for file in files if file in changed}


def _rewrite_batch(
    batch: pa.Table, *, role: str, store: str, algorithm: str, prefix: str, elsewhere: ray.ObjectRef
) -> dict[str, list[Any]]:
    file = batch["file"][0].as_py()
    from_there = pc.starts_with(shards.read_columns(store, file, ["source"])["source"], prefix)
    if not pc.any(from_there).as_py():
        return {"file": [file], "row_groups": [None]}
    names = ray.get(elsewhere)
    rows = []
    for row in shards.read_columns(store, file, shards.PHOTOS.names).to_pylist():
        if not row["source"].startswith(prefix):
            rows.append(row)
        elif row["photo_id"] in names:
            rows.append(row | {"source": names[row["photo_id"]]})
    if not rows:
        return {"file": [file], "row_groups": [to_ipc(shards.ROW_GROUPS.empty_table())]}
    photos = pa.Table.from_pylist(rows, schema=shards.PHOTOS)
    row_groups = shards.write_shard(store, photos, role=role, algorithm=algorithm)
    return {"file": [file], "row_groups": [to_ipc(row_groups)]}
