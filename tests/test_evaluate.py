"""Evaluation: measures of every photo in every stage, references, another model, and a page that shows them."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from naturaltone.pipeline import tone
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.photo.pixels import shrink
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation import evaluate
from naturaltone.serving.evaluation import report as evaluation_report
from naturaltone.serving.evaluation.measures import MEASURES
from naturaltone.serving.evaluation.photos import (
    EvaluationPhoto,
    find_references,
    open_photos,
    photo_names,
    with_references,
)
from naturaltone.serving.sheet import sheet
from naturaltone.training.checkpoint import Bundle
from naturaltone.training.measures import metrics, niqe


@pytest.fixture(scope="module")
def photos(photo: np.ndarray) -> list[EvaluationPhoto]:
    return [EvaluationPhoto(name=name, input=pixels) for name, pixels in (("a", photo), ("b", photo[::-1].copy() // 2))]


@pytest.fixture(scope="module")
def judge(bundle: Bundle, astronaut: np.ndarray) -> Bundle:
    """The bundle with a model of natural photos, as training leaves one."""
    windows = [astronaut[top : top + 288, left : left + 288] for top in (0, 100, 200) for left in range(0, 224, 20)]
    return replace(bundle, natural_model=niqe.fit(windows))


def page_of(evaluation: evaluate.Evaluation) -> str:
    return sheet.page("t", evaluation_report.sheet_parts(evaluation))


def test_the_inputs_own_gain_is_1_and_means_are_over_all_photos(bundle: Bundle, photos: list[EvaluationPhoto]) -> None:
    enhancer = Enhancer(bundle, version="")
    both = evaluate.evaluate(enhancer, photos, held_out=True)
    single = [evaluate.evaluate(enhancer, [one], held_out=True) for one in photos]
    assert both.photos == 2 and both.table["input"]["local_contrast_gain"] == 1
    assert both.table["input"]["fidelity"] == pytest.approx(1)
    assert tuple(both.table) == evaluate.STAGES
    for stage in evaluate.STAGES:
        for name, mean in both.table[stage].items():
            values = [one.table[stage][name] for one in single if not math.isnan(one.table[stage][name])]
            assert mean == pytest.approx(np.mean(values), nan_ok=True) if values else math.isnan(mean)
    assert both.scores["a"]["result"] == pytest.approx(single[0].scores["a"]["result"], nan_ok=True)


def test_every_measure_is_named_and_explained(judge: Bundle, photos: list[EvaluationPhoto]) -> None:
    with_all = [replace(photo, reference=photo.input) for photo in photos]
    evaluation = evaluate.evaluate(Enhancer(judge, version=""), with_all, natural=photos, held_out=True)
    assert set(evaluation.table["result"]) == set(MEASURES), "each is computed, and no other"
    text, page = evaluation_report.format_table(evaluation), page_of(evaluation)
    for measure in MEASURES.values():
        assert measure.label in text and measure.meaning in text
        assert measure.label in page


def test_niqe_is_compared_at_the_size_of_the_natural_photos(judge: Bundle, astronaut: np.ndarray) -> None:
    evaluation = evaluate.evaluate(
        Enhancer(judge, version=""), [EvaluationPhoto(name="a", input=astronaut)], held_out=True
    )
    assert judge.natural_model and judge.working_resolution == 96
    small = shrink(astronaut, 96)
    assert evaluation.scores["a"]["input"]["niqe"] == niqe.score(small, judge.natural_model)


def test_a_bundle_without_natural_photos_says_why_there_is_no_niqe(
    bundle: Bundle, judge: Bundle, photos: list[EvaluationPhoto]
) -> None:
    without = evaluate.evaluate(Enhancer(bundle, version=""), photos, held_out=True)
    assert "niqe" not in without.table["result"]
    assert "NIQE is missing" in evaluation_report.format_table(without) and "NIQE is missing" in page_of(without)
    with_it = evaluate.evaluate(Enhancer(judge, version=""), photos, held_out=True)
    assert "NIQE is missing" not in evaluation_report.format_table(with_it)


def test_what_no_photo_has_is_a_dash_and_null(bundle: Bundle, photo: np.ndarray) -> None:
    blue = photo.copy()
    blue[..., :2] //= 4  # neither skin nor greys
    evaluation = evaluate.evaluate(
        Enhancer(bundle, version=""), [EvaluationPhoto(name="sea", input=blue)], held_out=True
    )
    assert math.isnan(evaluation.table["result"]["skin_hue_shift"])
    row = next(line for line in evaluation_report.format_table(evaluation).splitlines() if line.startswith("skin"))
    assert row.split()[3:6] == ["-", "-", "-"]
    plain = json.loads(json.dumps(evaluation_report.to_json(evaluation), allow_nan=False))
    assert plain["table"]["result"]["skin_hue_shift"] is None and plain["scores"]["sea"]["input"]["noise_gain"] == 1
    assert "eval/result/skin_hue_shift" not in evaluation_report.to_metrics(evaluation)
    assert evaluation_report.to_metrics(evaluation)["eval/input/noise_gain"] == 1


def test_a_mean_leaves_out_photos_without_the_measure(bundle: Bundle, photo: np.ndarray) -> None:
    blue = photo.copy()
    blue[..., :2] //= 4
    pair = [EvaluationPhoto(name=name, input=pixels) for name, pixels in (("skin", photo), ("sea", blue))]
    evaluation = evaluate.evaluate(Enhancer(bundle, version=""), pair, held_out=True)
    skin = evaluation.scores["skin"]["result"]["skin_hue_shift"]
    assert skin > 0 and evaluation.table["result"]["skin_hue_shift"] == skin


def test_the_intermediate_is_made_by_the_models_own_algorithm(bundle: Bundle, photo: np.ndarray) -> None:
    clahe = tone.ALGORITHMS["clahe"]
    own = replace(bundle, description={**bundle.description, "lineage": {"algorithm": tone.algorithm_id(clahe)}})
    nothing_said = replace(bundle, description={"working_resolution": 96})
    for model, algorithm in ((own, clahe), (bundle, tone.LOCAL_LAPLACIAN), (nothing_said, tone.LOCAL_LAPLACIAN)):
        photos = [EvaluationPhoto(name="a", input=photo)]
        evaluation = evaluate.evaluate(Enhancer(model, version=""), photos, held_out=True)
        shown = evaluation.examples[0].pictures["intermediate"]
        assert np.array_equal(shown, tone.intermediate(photo, algorithm))


def test_another_model_is_a_stage_of_its_own(bundle: Bundle, judge: Bundle, photos: list[EvaluationPhoto]) -> None:
    enhancer, other = Enhancer(judge, version="first-1"), Enhancer(bundle, version="<second>-2")
    evaluation = evaluate.evaluate(enhancer, photos, held_out=True, against=other)
    assert list(evaluation.labels) == ["input", "intermediate", "result", "against"]
    assert evaluation.table["against"] == pytest.approx(evaluation.table["result"], nan_ok=True), "the same weights"
    assert "<second>-2" in evaluation_report.format_table(evaluation)
    page = page_of(evaluation)
    assert "<second>" not in page and "&lt;second&gt;-2" in page


def test_the_best_of_what_was_made_is_marked(bundle: Bundle, photos: list[EvaluationPhoto]) -> None:
    evaluation = evaluate.evaluate(Enhancer(bundle, version=""), photos, held_out=True)
    table = evaluation.table
    best = max(("intermediate", "result"), key=lambda stage: table[stage]["naturalness"])
    number = f"{table[best]['naturalness']:.3f}"
    row = next(line for line in evaluation_report.format_table(evaluation).splitlines() if line.startswith("natural"))
    assert row.count("*") == 1 and f"{number}*" in row
    assert f"<td><b>{number}</b></td>" in page_of(evaluation)
    gain = next(line for line in evaluation_report.format_table(evaluation).splitlines() if "contrast gain" in line)
    assert "*" not in gain, "more contrast is not always better"
    stages = {name: evaluate.Stage(name, lambda pixels: pixels) for name in ("input", "one", "two")}
    twins = evaluate.score(photos, stages, held_out=True, judged="two", judge=bundle)
    assert not re.search(r"\d\*", evaluation_report.format_table(twins)), "the same is not better"


def test_the_page_shows_the_first_photos_and_the_worst_ones(
    bundle: Bundle, photo: np.ndarray, photos: list[EvaluationPhoto]
) -> None:
    same = [EvaluationPhoto(name=f"{number:02}", input=photo) for number in range(14)]
    last = photo // 12 + 100  # flat and grey: its noise and colours change most
    evaluation = evaluate.evaluate(
        Enhancer(bundle, version=""), [*same, EvaluationPhoto(name="last", input=last)], held_out=True
    )
    names = [example.name for example in evaluation.examples]
    assert "last" in names and "13" not in names and len(names) == 13
    worst = next(example for example in evaluation.examples if example.name == "last")
    assert worst.worst_in
    page = page_of(evaluation)
    assert "of all photos the worst in" in page and page.count("<img") == 13 * 3 and "13 of the 15 photos" in page


def test_photos_of_the_same_name_stay_apart(bundle: Bundle, photos: list[EvaluationPhoto]) -> None:
    twins = [replace(photo, name="IMG_1.jpg") for photo in photos]
    evaluation = evaluate.evaluate(Enhancer(bundle, version=""), twins, held_out=True)
    assert evaluation.photos == 2


def test_a_folder_of_photos_is_read_and_counted(photo_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(photo_folder / "below", tmp_path / "photos"))
    (folder / "text.jpg").write_text("no photo")
    rejects: list[str] = []
    photos, held_out = open_photos(str(folder), rejects)
    assert [photo.name for photo in photos] == ["00.png", "12.png"] and held_out
    assert len(rejects) == 1 and "text.jpg: not_an_image" in rejects[0]
    assert photo_names(str(folder)) == ["00.png", "12.png", "text.jpg"]


def test_nothing_to_read_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="none of the photos can be read"):
        evaluate.evaluate(Enhancer(bundle, version=""), [], held_out=True)


def test_references_go_by_the_name_without_suffix(
    photo_folder: Path, tmp_path: Path, bundle: Bundle, photo: np.ndarray, to_file: Callable[..., bytes]
) -> None:
    inputs = Path(shutil.copytree(photo_folder / "below", tmp_path / "inputs"))  # 00.png and 12.png, 150×120
    shutil.copy(photo_folder / "01.jpg", inputs / "01.jpg")
    (inputs / "02.jpg").write_bytes((photo_folder / "02.jpg").read_bytes())
    references = tmp_path / "references"
    references.mkdir()
    shutil.copy(photo_folder / "below" / "00.png", references / "00.png")
    (references / "12.jpg").write_bytes(to_file(photo))  # 141×101
    (references / "02.jpg").write_text("no photo")
    (references / "unrelated.jpg").write_bytes(to_file(photo))

    names = photo_names(str(inputs))
    found = find_references(str(references), names)
    assert set(found) == {"00", "12", "02"}
    missing: list[str] = []
    photos, held_out = open_photos(str(inputs), [])
    with_them = with_references(photos, found, missing)
    evaluation = evaluate.evaluate(Enhancer(bundle, version=""), with_them, held_out=held_out)
    assert sorted(line.partition(":")[0] for line in missing) == ["01.jpg", "02.jpg", "12.png"]
    reasons = " ".join(sorted(missing))
    assert "no photo of that name" in reasons and "not_an_image" in reasons
    assert "141×101 pixels where the photo has 150×120" in reasons

    assert list(evaluation.labels)[-1] == "reference"
    assert evaluation.table["input"]["psnr"] == 100 and evaluation.table["input"]["delta_e2000"] == 0, "00.png alone"
    assert evaluation.table["result"]["psnr"] < 40 and evaluation.table["result"]["ssim"] < 1
    assert "psnr" not in evaluation.table["reference"] and evaluation.table["reference"]["fidelity"] > 0.9
    assert "1 of the 4 photos have a reference." in evaluation_report.format_table(evaluation)
    page = page_of(evaluation)
    assert page.count("no reference") == 3 and page.count('<div class="panel" data-stage="reference"') == 1


def test_references_of_other_photos_are_refused(photo_folder: Path, tmp_path: Path) -> None:
    shutil.copy(photo_folder / "01.jpg", tmp_path / "one.jpg")
    with pytest.raises(ValueError, match=r"no photo there is named as one of those to evaluate \(such as '01\.jpg'"):
        find_references(str(tmp_path), ["01.jpg"])
    shutil.copy(photo_folder / "below" / "00.png", tmp_path / "one.png")
    with pytest.raises(ValueError, match=r"both '.*one\.jpg' and '.*one\.png' are named 'one'"):
        find_references(str(tmp_path), ["one.jpg"])


def test_the_slider_can_be_touched_and_driven_by_keys(bundle: Bundle, photos: list[EvaluationPhoto]) -> None:
    evaluation = evaluate.evaluate(Enhancer(bundle, version=""), photos, held_out=False)
    page = page_of(evaluation)
    assert "(too few to hold any out)" in page
    assert page.count('<input type="range"') == 2 and page.count('aria-label="a: how much') == 1
    for side, chosen in (("left", "input"), ("right", "result")):
        values = re.findall(rf'<input type="radio" name="{side}" value="(\w+)"( checked)?>', page)
        assert [value for value, _ in values] == list(evaluate.STAGES)
        assert [value for value, checked in values if checked] == [chosen]
    assert 'name="view" value="slider" checked' in page
    assert "touch-action: pan-y" in page and "clip-path" in page and "color-scheme: light dark" in page
    assert page.count('src="data:image/jpeg;base64,') == page.count("<img") == 6
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"base64,[^\"]*", "", page)), "nothing from the network"


def test_names_cannot_break_the_page(bundle: Bundle, photo: np.ndarray) -> None:
    name = "<script>\"&'.jpg"
    evaluation = evaluate.evaluate(
        Enhancer(bundle, version=""), [EvaluationPhoto(name=name, input=photo)], held_out=True
    )
    pixels = np.zeros((20, 20, 3), np.uint8)
    page = sheet.page(
        "<t>",
        [sheet.paragraph("a & b"), sheet.picture_row([(name, pixels)]), *evaluation_report.sheet_parts(evaluation)],
    )
    assert page.count("<script>") == 1 and "<script>&quot;" not in page, "ours"
    assert "&lt;script&gt;&quot;&amp;&#x27;.jpg" in page and "a &amp; b" in page and "<t>" not in page


def test_a_table_marks_the_cells_that_it_is_told(photo: np.ndarray) -> None:
    table = sheet.table(["", "x"], [["one", "1"], ["<two>", "2"]], bold={(1, 1)})
    assert "<td>1</td>" in table and "<td><b>2</b></td>" in table and "&lt;two&gt;" in table


def test_a_store_gives_its_held_out_photos(tmp_path: Path) -> None:
    empty = shards.empty_store(str(tmp_path), algorithm="test", long_side=96)
    shards.update_manifest(empty, lambda store: store)
    photos, held_out = open_photos(str(tmp_path), [])
    assert not list(photos) and not held_out and photo_names(str(tmp_path)) == []


def test_natural_photos_are_scored_by_how_far_they_are_left_alone(bundle: Bundle, photo: np.ndarray) -> None:
    natural = [EvaluationPhoto(name="n", input=photo), EvaluationPhoto(name="m", input=photo // 2)]
    enhancer = Enhancer(bundle, version="v")
    result = evaluate.evaluate(enhancer, natural[:1], natural=natural, held_out=True)
    expected = np.mean([metrics.psnr(enhancer.enhance(one.input), one.input) for one in natural])
    assert result.table["result"]["identity_psnr"] == pytest.approx(expected)
    assert "identity_psnr" not in result.table["input"] and "identity PSNR" in evaluation_report.format_table(result)
    assert evaluation_report.to_json(result)["natural_photos"] == 2
