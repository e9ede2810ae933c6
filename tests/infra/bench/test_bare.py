"""The peers of two benchmarks do the enhancer's own work, on photos of the size that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from naturaltone.infra.bench import bare
from naturaltone.pipeline.photo.decode import decode
from naturaltone.serving.enhancer import Enhancer


def test_a_process_gives_what_the_enhancer_gives(bundle_folder: Path, photo_folder: Path) -> None:
    photo, megapixels = bare.photo_of(str(photo_folder / "01.jpg"), 0.1)
    assert megapixels == decode(photo).megapixels == pytest.approx(0.1, rel=0.02)
    with bare.bare_enhancers(1, str(bundle_folder)) as processes:
        enhanced = processes.submit(bare.enhance, photo).result()
    assert enhanced == Enhancer.load(str(bundle_folder)).enhance_file(photo).data
