"""Both models are measured on the same photos, and each photo knows its slices."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from naturaltone.pipeline.errors import RunFailed
from naturaltone.serving.evaluation import gate_scores
from naturaltone.serving.evaluation.gate_scores import SKIN_IN_LOW_KEY, people_slices, score_gate, slices_of
from naturaltone.serving.registry import PRETRAINED
from naturaltone.training.measures.skin import face_skin
from tests.gates import gate_photos

_PRETRAINED = Path(gate_scores.__file__).parents[1] / PRETRAINED


def test_processes_score_as_one_process_does_and_in_the_order_of_the_photos() -> None:
    photos = [each for each in gate_photos(2) if each.role == "input"] + gate_photos(1)[1:]
    both = score_gate(photos, champion=_PRETRAINED, challenger=_PRETRAINED, processes=2, total=3)
    assert [each.photo_id for each in both] == [photo.photo_id for photo in photos]
    gate_scores._load(_PRETRAINED, _PRETRAINED)
    alone = [gate_scores._score(photo) for photo in photos]
    gate_scores._models.clear()
    assert repr(both) == repr(alone), "NaN equals nothing, so compare what is printed"
    assert both[0].champion == pytest.approx(both[0].challenger, nan_ok=True)
    assert both[0].gain("niqe") == 0 and math.isnan(both[0].gain("identity_psnr"))
    assert set(both[2].champion) == {"identity_psnr"} and both[2].slices == ()


def test_a_process_that_dies_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="a process of the gate died"):
        score_gate(gate_photos(1), champion=tmp_path, challenger=tmp_path, processes=1, total=2)


def test_photos_belong_to_the_slices_that_their_light_and_faces_say(astronaut: np.ndarray) -> None:
    nobody = np.zeros(astronaut.shape[:2], bool)
    assert "night" in slices_of(astronaut // 4, nobody)
    assert "high key" in slices_of(255 - astronaut // 4, nobody)
    assert not {"night", "high key"} & set(slices_of(astronaut, nobody))
    assert {"people", "lighter skin"} <= set(slices_of(astronaut, face_skin(astronaut)))
    assert "people" not in slices_of(astronaut, nobody)


@pytest.mark.parametrize(
    ("colour", "tone"),
    [((255, 219, 195), "lighter skin"), ((180, 130, 95), "tan skin"), ((95, 60, 45), "brown to dark skin")],
)
def test_a_face_is_in_the_slice_of_its_skin_tone(colour: tuple[int, int, int], tone: str) -> None:
    pixels = np.full((40, 40, 3), colour, np.uint8)
    assert people_slices(pixels, np.ones((40, 40), bool)) == ((tone,) if max(colour) > 100 else (tone, SKIN_IN_LOW_KEY))
