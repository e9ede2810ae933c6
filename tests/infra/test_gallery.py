"""The gallery shows only photos that training never saw, and credits each."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from naturaltone.infra import exit_codes, gallery
from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.photo.stored import encode_jpeg


@pytest.fixture
def photos(tmp_path: Path, photo: np.ndarray, bundle_folder: Path) -> Path:
    """A folder of photos and of a finished default model: `a` and `nobody` are held out, `b` is not."""
    (tmp_path / "SOURCES.tsv").write_text(
        "file\tlicence\tlicence as stated\tauthor or credit\ninputs/a.png\tCC BY\tCC BY 2.0\tAnn <Lee>\ninputs/b.png\tCC0\t\t\n"
    )
    (tmp_path / "held-out/inputs").mkdir(parents=True)
    for name in ("a", "nobody"):
        (tmp_path / f"held-out/inputs/{name}.jpg").write_bytes(encode_jpeg(photo, quality=90))
    shutil.copytree(bundle_folder, tmp_path / "pretrained")
    return tmp_path


def test_each_photo_stands_there_before_and_after_with_its_licence_and_author(photos: Path) -> None:
    page = photos / "gallery.html"
    assert gallery.main([str(photos), str(photos), str(page), "inputs/a.jpg"]) == 0
    text = page.read_text()
    assert text.count("<img") == 2 and "Ann &lt;Lee&gt; · CC BY 2.0<" in text


def test_a_mistake_is_one_line_without_a_traceback(photos: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "naturaltone.infra.gallery",
        *[str(photos)] * 2,
        str(photos / "page.html"),
        "inputs/b.jpg",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == exit_codes.WRONG_USAGE
    assert ended.stderr.startswith("naturaltone: 'inputs/b.jpg' was not held out") and ended.stderr.count("\n") == 1


def test_a_photo_that_training_saw_or_without_a_source_is_refused(photos: Path) -> None:
    with pytest.raises(UserError, match=r"'inputs/b.jpg' was not held out; show photos that training never saw"):
        gallery.make_gallery(photos, photos, ["inputs/b.jpg"])
    with pytest.raises(UserError, match=r"'inputs/nobody.jpg' has no row in SOURCES.tsv; add its source"):
        gallery.make_gallery(photos, photos, ["inputs/nobody.jpg"])
