"""naturaltone never overwrites a file that it did not write."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from naturaltone.serving.archive.job import enhance_archive
from naturaltone.serving.enhancer import Enhancer
from tests.archives import outputs

pytestmark = pytest.mark.usefixtures("ray_cluster")
ToFile = Callable[..., bytes]


def test_a_file_of_the_user_is_not_overwritten(
    photo: np.ndarray, to_file: ToFile, enhancer: Enhancer, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target):
        folder.mkdir()
    (source / "a.jpg").write_bytes(to_file(photo))
    (target / "a.jpg").write_bytes(b"somebody's only copy")
    summary = enhance_archive(str(source), str(target), enhancer)
    assert summary.reasons == {"output_exists": 1} and (target / "a.jpg").read_bytes() == b"somebody's only copy"
    (target / "a.jpg").unlink()
    assert enhance_archive(str(source), str(target), enhancer).counts == {"enhanced": 1}


def test_a_plain_copy_of_the_photos_in_the_target_is_not_overwritten(
    photo_folder: Path, enhancer: Enhancer, tmp_path: Path
) -> None:
    shutil.copytree(photo_folder, tmp_path / "target")
    before = outputs(tmp_path / "target")
    assert enhance_archive(str(photo_folder), str(tmp_path / "target"), enhancer).reasons == {"output_exists": 24}
    assert outputs(tmp_path / "target") == before
