"""The service holds a model and, if it is asked to, a challenger; each is followed by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.serving.service.models import CHALLENGER, MODEL, Models
from tests.serving.service.conftest import models, save_model, wait_until


def test_a_challenger_comes_and_goes_and_the_model_stays(bundle_folder: Path, tmp_path: Path) -> None:
    other = str(save_model(tmp_path / "other", seed=5))
    followed = models(str(bundle_folder))
    model = followed.choose(MODEL)
    with pytest.raises(ImageError, match=r"bad_parameter: .*compares no second model"):
        followed.choose(CHALLENGER)
    followed.follow(model=str(bundle_folder), compare=other)
    wait_until(lambda: CHALLENGER in followed.serving)
    assert followed.describe()["challenger"] == {"version": followed.choose(CHALLENGER).version}
    followed.follow(model=str(bundle_folder))
    wait_until(lambda: CHALLENGER not in followed.serving)
    assert followed.choose(MODEL) is model and followed.describe()["challenger"] is None
    followed.close()


def test_without_a_model_the_reason_names_the_uri(tmp_path: Path) -> None:
    followed = Models()
    followed.follow(model=str(tmp_path / "none"))
    with pytest.raises(ImageError, match=f"no_model: '{tmp_path}/none' is not loaded yet"):
        followed.choose(MODEL)
    followed.close()
