"""A registered model loads as an MLflow pyfunc."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from naturaltone.pipeline.photo.decode import decode
from naturaltone.serving.enhancer import Enhancer
from naturaltone.training import model_registry


def test_a_registered_model_gives_one_result_as_pyfunc_and_as_enhancer(registered: str, photo_folder: Path) -> None:
    import mlflow

    photo = decode((photo_folder / "02.jpg").read_bytes()).pixels
    enhanced = Enhancer.load(model_registry.CHAMPION_URI).enhance(photo)
    loaded = mlflow.pyfunc.load_model(model_registry.CHAMPION_URI)
    assert np.array_equal(loaded.predict(photo[None])[0], enhanced)
    assert np.array_equal(loaded.predict(photo[None], params={"strength": 0.0})[0], photo)
