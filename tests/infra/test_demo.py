"""The demo finds a photo to send to the service, even if the archive enhanced none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from naturaltone.infra import demo
from naturaltone.pipeline.errors import UserError
from naturaltone.serving.archive.report import FOLDER, JSON_LINES
from naturaltone.serving.enhancer import Enhancer


@pytest.fixture
def left_alone(tmp_path: Path) -> Path:
    """An archive in which every photo was left alone, such as a folder of HDR photos from a phone."""
    folder = tmp_path / "enhanced"
    (folder / FOLDER).mkdir(parents=True)
    row = {"source": "a.jpg", "status": "skipped", "reason": "hdr_gain_map"}
    (folder / FOLDER / JSON_LINES).write_text(json.dumps(row) + "\n")
    return folder


@pytest.fixture
def natural(tmp_path: Path) -> Path:
    folder = tmp_path / "natural"
    folder.mkdir()
    return folder


def test_a_natural_photo_is_sent_if_all_inputs_were_left_alone(
    left_alone: Path, natural: Path, enhancer: Enhancer, photo: np.ndarray, to_file: Callable[..., bytes]
) -> None:
    (natural / "1.jpg").write_bytes(b"no photo")
    (natural / "2.jpg").write_bytes(to_file(photo))
    photos = demo.Photos(inputs="unused", natural=str(natural), unseen=None)
    name, data, expected = demo._photo_to_send(enhancer, photos, left_alone)
    assert (Path(name).name, data) == ("2.jpg", to_file(photo))
    assert expected == enhancer.enhance_file(to_file(photo)).data


def test_nothing_is_sent_if_every_photo_is_left_alone(left_alone: Path, natural: Path, enhancer: Enhancer) -> None:
    (natural / "1.jpg").write_bytes(b"no photo")
    photos = demo.Photos(inputs="unused", natural=str(natural), unseen=None)
    assert demo._photo_to_send(enhancer, photos, left_alone)[1] is None


def test_a_folder_of_somebody_else_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(UserError, match="exists, and no demo wrote it"):
        demo._clear(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "all of it"


def test_the_demos_own_folder_is_emptied(tmp_path: Path) -> None:
    demo._clear(tmp_path / "demo")
    (tmp_path / "demo" / "report.html").write_text("old")
    demo._clear(tmp_path / "demo")
    assert not (tmp_path / "demo" / "report.html").exists()
