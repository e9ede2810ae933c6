"""`bench archive` compares with the bare enhancer, and times a run with nothing to do."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from naturaltone.infra import local
from naturaltone.infra.bench import archive as bench


def test_all_figures_that_scripts_read_exist(
    ray_cluster: None, photo_folder: Path, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "ray_session", contextlib.nullcontext)  # the tests' Ray
    for name, value in (("_PHOTOS", 4), ("_MEGAPIXELS", (0.05, 0.1)), ("_ROUNDS", 1), ("_KNOWN", 2000)):
        monkeypatch.setattr(bench, name, value)
    figures = bench.bench_archive(str(photo_folder), model=str(bundle_folder))
    assert {"throughput_ratio", "mp_per_s", "rescan_seconds"} <= set(figures)
    assert figures["mp_per_s"] > 0 and figures["peer_mp_per_s"] > 0 and figures["rescan_seconds"] > 0
    assert "nothing to do over 2,000 files" in bench.format_figures(figures)
