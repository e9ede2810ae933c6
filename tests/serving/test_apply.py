"""The change of a small picture is transferred to the photo without bands, halos or seams."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from naturaltone.pipeline import caches
from naturaltone.serving.apply import affine_models, apply_models


@given(seed=st.integers(0, 99), strength=st.sampled_from([0.5, 1.0, 1.5]))
def test_a_photo_keeps_detail_in_shadows_and_highlights(seed: int, strength: float) -> None:
    """Each value keeps a third of its distance to black and to white, whatever the model does."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (24, 33, 3), np.uint8)
    models = random.normal(0, 3, (12, 16, 3, 4)).astype(np.float32)
    before, after = pixels.astype(int), apply_models(pixels, models, strength).astype(int)
    assert (after >= before // 3).all() and (255 - after >= (255 - before) // 3).all()
    assert not ((before < 250) & (after > 253)).any() and not ((before > 4) & (after < 2)).any()


def test_an_affine_change_of_colour_is_transferred_exactly(astronaut: np.ndarray) -> None:
    small = cv2.resize(astronaut, (128, 128), interpolation=cv2.INTER_AREA)
    matrix = np.array([[0.8, 0.1, 0.0], [0.05, 0.7, 0.1], [0.0, 0.1, 0.6]])

    def change(pixels: np.ndarray) -> np.ndarray:
        return np.clip(pixels @ matrix.T + 20, 0, 255).round().astype(np.uint8)

    result = apply_models(astronaut, affine_models(small, change(small)), 1.0)
    assert np.abs(result.astype(int) - change(astronaut)).mean() < 1.5


@given(seed=st.integers(0, 99))
def test_at_the_working_resolution_the_result_is_gs_own_picture(seed: int) -> None:
    """This includes local contrast, which a fit over a window misses."""
    random = np.random.default_rng(seed)
    # Far from black and white, where `KEPT` limits the change.
    before, after = random.integers(96, 160, (2, 31, 44, 3), np.uint8)
    result = apply_models(before, affine_models(before, after), 1.0)
    assert np.abs(result.astype(int) - after).max() <= 1


def test_the_identity_stays_the_identity_in_noise_and_at_edges(astronaut: np.ndarray) -> None:
    small = cv2.resize(astronaut, (128, 128), interpolation=cv2.INTER_AREA)
    result = apply_models(astronaut, affine_models(small, small), 1.0)
    assert np.abs(result.astype(int) - astronaut).max() <= 1


def test_a_stretched_gradient_gets_no_new_bands(astronaut: np.ndarray) -> None:
    ramp = np.tile(np.linspace(90, 130, 640).round().astype(np.uint8)[None, :, None], (200, 1, 3))
    models = np.zeros((10, 16, 3, 4), np.float32)
    models[..., [0, 1, 2], [0, 1, 2]] = 3
    models[..., 3] = -0.8
    stretched = apply_models(ramp, models, 1.0)
    levels = np.unique(stretched)
    assert np.diff(levels).max() == 1, "three times as steep, without a missing level"
    columns = stretched[..., 0].mean(axis=0)
    assert np.abs(columns - (ramp[0, :, 0] * 3.0 - 204)).max() < 0.3, "the same on average"


_FIRST_PHOTOS = """
import numpy as np
from naturaltone.serving import apply
for depth in (np.uint8, np.uint16):
    for channels in (3, 4):
        for writeable in (True, False):
            pixels = np.zeros((9, 7, channels), depth)
            pixels.flags.writeable = writeable
            apply.apply_models(pixels, np.ones((3, 5, 3, 4), np.float32), 0.5)
print(sum(apply._apply.stats.cache_hits.values()), sum(apply._apply.stats.cache_misses.values()))
"""


def test_the_first_photos_wait_for_no_compiler_if_the_image_brings_the_kernel(tmp_path: Path) -> None:
    """As in a container: the built cache can only be read, and the folder of the own cache is empty."""
    environment = {**os.environ, caches.VARIABLE: str(tmp_path / "build")}
    fill = "from naturaltone.serving import apply; apply.compile_kernel()"
    subprocess.run([sys.executable, "-c", fill], env=environment, check=True, timeout=120)
    shutil.copytree(tmp_path / "build", tmp_path / "built")
    (tmp_path / "build").rename(tmp_path / "gone")
    environment |= {caches.VARIABLE: str(tmp_path / "own"), caches.BUILT: str(tmp_path / "built")}
    done = subprocess.run(
        [sys.executable, "-c", _FIRST_PHOTOS], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["2", "0"], done.stderr
