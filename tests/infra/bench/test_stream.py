"""`bench stream` compares with a torch DataLoader, on local disk and on S3."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from naturaltone.infra import local
from naturaltone.infra.bench import stream as bench


def test_all_figures_that_scripts_read_exist(
    ray_cluster: None, object_store: local.ObjectStore, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def tests_own(folder: Path) -> Iterator[local.ObjectStore]:  # the tests' Ray knows only the keys of this one
        yield local.ObjectStore(uri=f"{object_store.uri}/bench", environment=object_store.environment)

    monkeypatch.setattr(local, "ray_session", contextlib.nullcontext)
    monkeypatch.setattr(local, "object_store", tests_own)
    for name in ("_FIRST", "_ROUNDS"):
        monkeypatch.setattr(bench, name, 1)
    figures = bench.bench_stream(str(photo_folder), seconds=0.4, processes=1, batch=4, crop=32)
    wanted = {"ratio_local", "ratio_s3", "images_per_second", "peer_images_per_second", "first_batch_seconds"}
    assert wanted | {"longest_gap_ratio"} <= set(figures) and all(figures[name] > 0 for name in wanted)
    assert bench.format_figures(figures).count("DataLoader") == 2
