"""Photos come from a folder or a store, and references are found by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from naturaltone.pipeline.dataset import shards
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation import evaluate
from naturaltone.serving.evaluation import report as evaluation_report
from naturaltone.serving.evaluation.photos import (
    EvaluationPhoto,
    find_references,
    open_photos,
    photo_names,
    with_references,
)
from naturaltone.training.checkpoint import Bundle
from tests.pages import page_of


def test_photos_of_the_same_name_stay_separate(bundle: Bundle, photos: list[EvaluationPhoto]) -> None:
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


def test_no_readable_photo_is_an_error(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="none of the photos can be read"):
        evaluate.evaluate(Enhancer(bundle, version=""), [], held_out=True)


def test_references_are_matched_by_the_name_without_suffix(
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
    assert "no reference has this name" in reasons and "not_an_image" in reasons
    assert "it has 141×101 pixels, the photo has 150×120" in reasons

    assert list(evaluation.labels)[-1] == "reference"
    assert evaluation.table["input"]["psnr"] == 100 and evaluation.table["input"]["delta_e2000"] == 0, "00.png alone"
    assert evaluation.table["result"]["psnr"] < 40 and evaluation.table["result"]["ssim"] < 1
    assert "psnr" not in evaluation.table["reference"] and evaluation.table["reference"]["fidelity"] > 0.9
    assert "1 of the 4 photos have a reference." in evaluation_report.format_table(evaluation)
    page = page_of(evaluation)
    assert page.count("no reference") == 3 and page.count('<div class="panel" data-stage="reference"') == 1


def test_references_of_other_photos_are_refused(photo_folder: Path, tmp_path: Path) -> None:
    shutil.copy(photo_folder / "01.jpg", tmp_path / "one.jpg")
    with pytest.raises(ValueError, match=r"no photo there is named as one of the evaluated photos \(such as '01\.jpg'"):
        find_references(str(tmp_path), ["01.jpg"])
    shutil.copy(photo_folder / "below" / "00.png", tmp_path / "one.png")
    with pytest.raises(ValueError, match=r"both '.*one\.jpg' and '.*one\.png' are named 'one'"):
        find_references(str(tmp_path), ["one.jpg"])


def test_a_store_gives_its_held_out_photos(tmp_path: Path) -> None:
    empty = shards.empty_store(str(tmp_path), algorithm="test", long_side=96)
    shards.update_manifest(empty, lambda store: store)
    photos, held_out = open_photos(str(tmp_path), [])
    assert not list(photos) and not held_out and photo_names(str(tmp_path)) == []


def test_evaluation_takes_a_stores_held_out_photos(store: str, bundle_folder: Path) -> None:
    photos, held_out = open_photos(store, [])
    result = evaluate.evaluate(Enhancer.load(str(bundle_folder)), photos, held_out=held_out)
    opened = shards.open_store(store)
    assert result.photos == opened.count("input", "test") > 0 and held_out
