"""Runs an ingest of small photos, for many tests."""

from __future__ import annotations

from pathlib import Path

from naturaltone.pipeline.dataset import ingest
from tests.stores import LONG_SIDE


def run(folder: Path, store: Path, role: str = "natural", **options: object) -> ingest.IngestReport:
    return ingest.ingest(str(folder), role=role, store=str(store), long_side=LONG_SIDE, **options)  # type: ignore[arg-type]
