"""`bench tone` measures speed and memory of every fixed algorithm."""

from __future__ import annotations

from pathlib import Path

import pytest

from naturaltone.infra.bench import tone as bench


def test_every_algorithm_has_a_rate_and_a_peak(photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MEGAPIXELS", 0.05), ("_MEMORY_MEGAPIXELS", 1.0), ("_PHOTOS", 1), ("_REPEATS", 1)):
        monkeypatch.setattr(bench, name, value)
    figures = bench.bench_tone(str(photo_folder))
    for name in ("local_laplacian", "keyed_laplacian", "shift_scale", "clahe"):
        assert figures[f"{name}_mp_per_s"] > 0 and name in bench.format_figures(figures)
    assert 0 < figures["peak_planes"] < 40
