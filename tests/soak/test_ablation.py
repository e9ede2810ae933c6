"""`naturaltone ablation RUN` trains the two missing models of Fig. 6 on the photos of the run, and only once."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

from naturaltone import cli
from naturaltone.infra import local
from naturaltone.pipeline import storage
from naturaltone.pipeline.dataset import shards
from naturaltone.pipeline.photo.stored import encode_jpeg
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.evaluation import ablation
from naturaltone.training import runs
from tests.stores import add, make_store


@pytest.mark.usefixtures("ray_cluster")
def test_the_missing_models_are_trained_once_on_the_photos_of_the_run(
    tmp_path: Path, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path, astronaut, 14)
    monkeypatch.setattr(local, "ray_session", contextlib.nullcontext)  # Ray runs already
    monkeypatch.chdir(tmp_path)
    settings = ("--set", "steps=4", "--set", "crop=32", "--set", "lambda_identity=0.5")
    assert cli.main(["train", store, "--recipe", "smoke", *settings, "--run", "whole"]) == 0
    add(shards.open_store(store), astronaut, "input", 14, 4)  # photos that the run has not seen

    command = ["ablation", "whole", "--photos", str(photos(tmp_path, astronaut)), "--sheet", "fig6.html", "--json"]
    assert cli.main(command) == 0
    told = capsys.readouterr()
    assert "training whole-color into models/whole-color" in told.err
    figures = json.loads(told.out.splitlines()[-1])
    assert set(figures["models"]) == set(ablation.MODELS) and len(figures["expectations"]) == 12
    weights = {name: Enhancer.load(f"models/{name}").bundle for name in ("whole", "whole-color", "whole-natural")}
    assert len({bundle.digest for bundle in weights.values()}) == 3
    trained = {name: bundle.description["training"] for name, bundle in weights.items()}
    assert [trained[f"whole-{part}"]["lambda_natural"] > 0 for part in ("color", "natural")] == [False, True]
    assert {each["lambda_identity"] for each in trained.values()} == {0.5}
    seen = [runs.open_run(store, name).store.count("input", "train") for name in weights]
    assert len(set(seen)) == 1
    assert "1 input" in Path("fig6.html").read_text()

    assert cli.main(command) == 0
    assert "training" not in capsys.readouterr().err


def photos(folder: Path, astronaut: np.ndarray) -> Path:
    for number in range(2):
        data = encode_jpeg(astronaut[number * 60 : number * 60 + 200, :240], quality=95)
        storage.write_bytes(str(folder / "photos" / f"{number}.jpg"), data)
    return folder / "photos"
