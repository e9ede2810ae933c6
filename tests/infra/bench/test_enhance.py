"""`bench enhance` compares with decoding and encoding, and with ImageMagick if it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from naturaltone.infra.bench import enhance as bench


def test_all_figures_that_scripts_read_exist(
    photo_folder: Path, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MEGAPIXELS", 0.3), ("LARGE_MEGAPIXELS", 0.4), ("_REPEATS", 1), ("_RESOLUTION_PHOTOS", 1)):
        monkeypatch.setattr(bench, name, value)
    figures = bench.bench_enhance(str(photo_folder), model=str(bundle_folder))
    assert {"seconds", "codec_ratio", "imagemagick_ratio", "peak_mib", "resolution_psnr"} <= set(figures)
    assert figures["codec_ratio"] > 0 and figures["peak_mib"] > 100 and figures["resolution_psnr"] > 20
    assert "decode + encode" in bench.format_figures(figures)


def test_the_table_says_that_imagemagick_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {
        **{"seconds": 1.0, "codec_seconds": 0.5, "codec_ratio": 2.0, "megapixels": 24.0, "peak_mib": 1.0},
        **{"imagemagick_seconds": None, "imagemagick_ratio": None, "peak_mib_100_megapixels": 2.0},
        **{"resolution_psnr": 50.0, "gpu_images_per_second": None},
    }
    assert "not installed" in bench.format_figures(figures)
