"""Held-out portraits are measured by the face that their table names, at the size at which they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from naturaltone.infra import held_out
from naturaltone.serving.evaluation.evaluate import Stage


@pytest.fixture
def photos(tmp_path: Path, astronaut: np.ndarray) -> Path:
    """A folder of photos whose one portrait is held out, in twice the size at which it is read."""
    (tmp_path / "portraits").mkdir()
    (tmp_path / "portraits" / "SOURCES.tsv").write_text("file\tface_box\tclass\nface.png\t360,100,200,260\tlight\n")
    for kind, values in (("portraits", astronaut), ("underexposed", astronaut // 3)):
        folder = tmp_path / "held-out" / kind
        folder.mkdir(parents=True)
        Image.fromarray(values).resize((1024, 1024)).save(folder / "face.jpg", quality=95)
    return tmp_path


def test_a_face_box_shrinks_with_its_portrait(photos: Path) -> None:
    kinds = {kind: list(each) for kind, each in held_out.kinds_of(photos, photos / "held-out").items()}
    assert list(kinds) == ["portraits", "low-key", "underexposed"]
    for [photo] in kinds.values():
        assert photo.face == pytest.approx(np.array([360, 100, 200, 260]) * max(photo.input.shape) / 1024)
    assert kinds["low-key"][0].input.mean() < 0.8 * kinds["portraits"][0].input.mean()
    assert kinds["underexposed"][0].reference is not None


def test_the_skin_of_an_underexposed_portrait_is_compared_with_the_portrait(photos: Path) -> None:
    stages = {"nothing": lambda pixels: pixels, "three times": lambda pixels: np.minimum(pixels, 85) * 3}
    nothing, brighter = (
        next(held_out.skin_distances(photos, photos / "held-out", Stage(name, make))) for name, make in stages.items()
    )
    assert brighter < 5 < 20 < nothing
