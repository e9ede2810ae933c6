"""The pretrained model ships with the package, is small, names no path of its training machine, and needs no set-up."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from naturaltone import cli, serving
from naturaltone.infra.photo_sources import names_its_author, read_table
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.registry import PRETRAINED
from naturaltone.training.measures import metrics, skin

FOLDER = Path(serving.__file__).parent / PRETRAINED


@pytest.fixture(scope="module")
def pretrained() -> Enhancer:
    return Enhancer.load(PRETRAINED)


def test_it_has_a_card_and_is_small() -> None:
    card = (FOLDER / "README.md").read_text()
    assert "also commercially" in card and "## Skin" in card and "## Limits" in card
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 12e6


def test_each_photo_has_a_source_and_a_licence_that_allows_commercial_use() -> None:
    rows = read_table(FOLDER)
    assert {row["used for"] for row in rows} == {"training", "measuring"}
    for row in rows:
        assert (
            row["licence"].startswith(("CC0", "CC BY 3.0", "Public domain", "Apache-2.0")) or row["licence"] == "CC BY"
        ), row
        assert not re.search(
            r"\b(NC|ND|SA)\b|noncommercial", row["licence"] + row["licence as stated"], re.IGNORECASE
        ), row
    assert all(names_its_author(row) for row in rows), "CC BY asks for the author's name"


def test_it_names_its_measurements_but_no_path_of_its_training_machine(pretrained: Enhancer) -> None:
    description = pretrained.bundle.description
    assert not {"store", "run", "mlflow_run_id"} & set(description["lineage"])
    assert set(description["metrics"]) == {*("inputs", "poor", "dulled", "portraits", "low-key", "underexposed")}
    for kind in description["metrics"].values():
        assert kind["photos"] >= 16 and {"niqe", "naturalness", "clipped_fraction"} <= set(kind["result"])
    for row in (row for kind in description["metrics"].values() for row in kind.values() if isinstance(row, dict)):
        assert all(math.isfinite(value) for value in row.values())
    assert "NaN" not in json.dumps(description["metrics"])
    assert pretrained.bundle.natural_model is not None


def test_it_brightens_a_dark_photo_without_clipping_it(pretrained: Enhancer, astronaut: np.ndarray) -> None:
    dark = np.clip(astronaut * 0.3, 0, 255).astype(np.uint8)
    enhanced = pretrained.enhance(dark)
    assert enhanced.mean() > 1.3 * dark.mean()
    assert metrics.clipped_fraction(enhanced) <= metrics.clipped_fraction(dark) + 0.01


def test_it_keeps_hues(pretrained: Enhancer, astronaut: np.ndarray) -> None:
    hue = [
        cv2.cvtColor(photo, cv2.COLOR_RGB2HSV)[..., 0].astype(int)
        for photo in (astronaut, pretrained.enhance(astronaut))
    ]
    coloured = cv2.cvtColor(astronaut, cv2.COLOR_RGB2HSV)[..., 1] > 80
    apart = np.abs(hue[0] - hue[1])[coloured] * 2
    assert np.median(np.minimum(apart, 360 - apart)) <= 4


def test_it_leaves_a_well_exposed_face_as_it_is(pretrained: Enhancer, astronaut: np.ndarray) -> None:
    change = skin.skin_change(pretrained.enhance(astronaut), astronaut, skin.face_skin(astronaut))
    assert abs(change.lightness) <= 2 and abs(change.chroma) <= 2 and abs(change.hue) <= 2


def test_a_user_without_a_registry_gets_it_by_default_and_sees_its_name(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")  # the database does not exist
    assert cli.main(["enhance", str(photo_folder / "01.jpg"), "enhanced.jpg"]) == 0
    assert "enhanced by pretrained-" in capsys.readouterr().out
    assert Path("enhanced.jpg").exists() and not Path("mlflow.db").exists()
