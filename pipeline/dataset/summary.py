"""Summarises a store in numbers, and picks random photos from it to look at."""

from __future__ import annotations

import random
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from naturaltone.pipeline import storage
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.dataset.tables import from_parquet


def summarize(store: shards.Store) -> dict[str, Any]:
    """Counts and bytes by role and split, how the photos were made, their folders, and the rejects by role and reason."""
    photos: dict[str, dict[str, dict[str, int]]] = {}
    for role in shards.ROLES:
        for split in ("train", "test"):
            groups = store.select(role, split)
            photos.setdefault(role, {})[split] = {
                "photos": store.count(role, split),
                "bytes": pc.sum(groups["num_bytes"]).as_py() or 0,
                "shards": len(pc.unique(groups["file"])),
                "row_groups": groups.num_rows,
            }
    return {
        "store": store.uri,
        "algorithm": store.algorithm,
        "intermediates": store.intermediates,
        "long_side": store.long_side,
        "photos": photos,
        "origins": {role: list(store.origins[role]) for role in shards.ROLES},
        "rejects": _rejects_by_reason(store),
    }


def format_summary(summary: dict[str, Any]) -> str:
    """The summary as plain text."""
    lines = [
        f"{summary['store']}: {summary['algorithm']}, intermediates {summary['intermediates']}, "
        f"long side at most {summary['long_side']}",
        "",
        f"{'role':10}{'split':8}{'photos':>12}{'MiB':>12}{'shards':>10}{'row groups':>12}",
    ]
    for role, splits in summary["photos"].items():
        for split, count in splits.items():
            mib = f"{count['bytes'] / 2**20:.1f}"
            lines.append(
                f"{role:10}{split:8}{count['photos']:>12,}{mib:>12}{count['shards']:>10,}{count['row_groups']:>12,}"
            )
    for role, folders in summary["origins"].items():
        lines += [f"{role} from {folder}" for folder in folders]
    for role, reasons in summary["rejects"].items():
        lines += [f"{role} rejected: {count:,} {reason}" for reason, count in reasons.items()]
    return "\n".join(lines)


def random_photos(store: shards.Store, role: str, count: int, *, seed: int) -> list[dict[str, Any]]:
    """Up to `count` random photos of a role, one a row group, as rows of schema `PHOTOS` with their intermediates."""
    groups = store.select(role)
    chance = random.Random(f"{seed} {role}")
    chosen = chance.sample(range(groups.num_rows), min(count, groups.num_rows))
    return [
        next(islice(store.read(group), chance.randrange(group["num_photos"]), None))
        for group in (groups.slice(index, 1).to_pylist()[0] for index in chosen)
    ]


def _rejects_by_reason(store: shards.Store) -> dict[str, dict[str, int]]:
    uri = storage.join(store.uri, shards.REJECTS)
    table = (
        from_parquet(storage.read_bytes(uri), shards.REJECTED) if storage.exists(uri) else shards.REJECTED.empty_table()
    )
    counted = (
        table.group_by(["role", "reason"])
        .aggregate([([], "count_all")])
        .sort_by([("role", "ascending"), ("count_all", "descending")])
    )
    rejects: dict[str, dict[str, int]] = {role: {} for role in shards.ROLES}
    for row in pa.Table.to_pylist(counted):
        rejects[row["role"]][row["reason"]] = row["count_all"]
    return rejects
