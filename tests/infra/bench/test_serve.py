"""`bench serve` compares with the bare enhancer, and counts what fails."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from naturaltone.infra import local
from naturaltone.infra.bench import serve as bench


def test_all_figures_that_scripts_read_exist(
    ray_cluster: None, photo_folder: Path, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "ray_session", contextlib.nullcontext)  # the tests' Ray
    monkeypatch.setattr(local, "cores", lambda: 1)
    for name, value in (("MEGAPIXELS", 0.05), ("_PHOTOS", 2), ("_ROUNDS", 1), ("_OVERLOAD", 2.0)):
        monkeypatch.setattr(bench, name, value)
    figures = bench.bench_serve(str(photo_folder), model=str(bundle_folder), seconds=0.5)
    assert {"throughput_ratio", "p50_ratio", "p99_overload_ratio", "requests_per_second", "failed"} <= set(figures)
    assert figures["requests_per_second"] > 0 and figures["peer_photos_per_second"] > 0 and figures["failed"] == 0
    assert "failed: 0" in bench.format_figures(figures)
