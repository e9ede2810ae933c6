"""What a model does to people is told by skin tone and by the key of the picture."""

from __future__ import annotations

import numpy as np
import pytest

from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation import evaluate, people
from naturaltone.serving.evaluation import report as evaluation_report
from naturaltone.serving.evaluation.people import Face, find_face, group_faces, tone_of
from naturaltone.serving.evaluation.photos import EvaluationPhoto
from naturaltone.training.checkpoint import Bundle
from naturaltone.training.measures.skin import SkinChange
from tests.pages import page_of


@pytest.mark.parametrize(
    ("angle", "tone"), [(60, 0), (28.1, 0), (28, 1), (10.1, 1), (10, 2), (-60, 2)], ids=lambda value: str(value)
)
def test_the_angle_of_skin_decides_its_group(angle: float, tone: int) -> None:
    assert tone_of(angle) == people.TONES[tone]


def face(tone: str, low_key: bool, lightness: float) -> Face:
    change = SkinChange(lightness=lightness, chroma=-lightness, hue=2 * lightness)
    return Face(name=f"{lightness:+}", tone=tone, is_low_key=low_key, changes={"result": change})


def test_faces_that_move_apart_do_not_hide_each_other_and_low_key_comes_first() -> None:
    faces = [face("tan", False, 1.0), face("lighter", True, 12.0), face("tan", True, 4.0), face("tan", True, -8.0)]
    groups = group_faces(faces, "result")
    assert [(group.label, group.faces) for group in groups] == [
        ("lighter, low key", 1),
        ("tan, low key", 2),
        ("tan, other", 1),
    ]
    assert groups[1].mean == SkinChange(lightness=-2.0, chroma=2.0, hue=-4.0)
    assert (groups[1].farthest, groups[1].farthest_name) == (-8.0, "-8.0")


def test_the_face_of_a_photo_is_found_and_a_photo_without_one_counts_for_nothing(astronaut: np.ndarray) -> None:
    brighter = (astronaut // 2 + 127).astype(np.uint8)
    found = find_face("her", astronaut, {"same": astronaut, "brighter": brighter})
    assert found is not None and found.tone == "lighter" and not found.is_low_key
    assert found.changes["same"] == SkinChange(lightness=0, chroma=0, hue=0)
    assert found.changes["brighter"].lightness > 10 and found.changes["brighter"].chroma < 0
    assert find_face("suit", np.ascontiguousarray(astronaut[300:]), {}) is None


def test_an_evaluation_tells_of_the_faces_of_all_photos(bundle: Bundle, astronaut: np.ndarray) -> None:
    dark = (astronaut // 2).astype(np.uint8)
    evaluation = evaluate.evaluate(
        Enhancer(bundle, version="v"),
        [EvaluationPhoto(name="dark", input=dark)],
        natural=[EvaluationPhoto(name="good", input=astronaut)],
        held_out=True,
    )
    assert {each.name for each in evaluation.faces} == {"dark", "good"}
    text, page = evaluation_report.format_table(evaluation), page_of(evaluation)
    for group in group_faces(evaluation.faces, "result"):
        [row] = [line for line in text.splitlines() if line.startswith(group.label)]
        assert f"{group.mean.lightness:+.1f}" in row and f"{group.mean.hue:+.1f}°" in row
        assert group.label in page
    skin = evaluation_report.to_json(evaluation)["skin"]
    assert set(skin) == {"intermediate", "result"} and sum(group["faces"] for group in skin["result"]) == 2


def test_without_faces_no_table_of_skin_is_shown(bundle: Bundle, photo: np.ndarray) -> None:
    evaluation = evaluate.evaluate(
        Enhancer(bundle, version="v"), [EvaluationPhoto(name="a", input=photo)], held_out=True
    )
    assert "skin of faces" not in evaluation_report.format_table(evaluation)
    assert "skin of faces" not in page_of(evaluation)
    assert evaluation_report.to_json(evaluation)["skin"] == {}
