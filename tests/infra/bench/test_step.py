"""`bench step` times the bare step, and counts its operations."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from naturaltone.infra import local
from naturaltone.infra.bench import step as bench
from naturaltone.training.config import TrainConfig


def test_the_bare_step_is_measured(
    ray_cluster: None, photo_folder: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "ray_session", contextlib.nullcontext)  # the tests' Ray
    figures = bench.bench_step(str(photo_folder), config, long_side=96, steps=4, rounds=1, bare=True)
    assert figures["bare_images_per_second"] > 0 and figures["tflops"] > 0
    assert "bare" in bench.format_figures(figures) and "overhead" not in bench.format_figures(figures)


def test_a_larger_crop_needs_more_operations(config: TrainConfig) -> None:
    def flops(crop: int) -> int:
        batch = {name: np.zeros((4, crop, crop, 3), np.uint8) for name in ("input", "intermediate", "natural")}
        return bench.count_flops(TrainConfig(width=4, residual_blocks=1, crop=crop, batch=4), batch)

    assert 3 < flops(64) / flops(32) < 5
