"""Fixtures that the tests of evaluations share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from naturaltone.serving.evaluation.photos import EvaluationPhoto
from naturaltone.training.checkpoint import Bundle
from naturaltone.training.measures import niqe


@pytest.fixture(scope="session")
def photos(photo: np.ndarray) -> list[EvaluationPhoto]:
    return [EvaluationPhoto(name=name, input=pixels) for name, pixels in (("a", photo), ("b", photo[::-1].copy() // 2))]


@pytest.fixture(scope="session")
def judge(bundle: Bundle, astronaut: np.ndarray) -> Bundle:
    """The bundle with a model of natural photos, as training saves it."""
    windows = [astronaut[top : top + 288, left : left + 288] for top in (0, 100, 200) for left in range(0, 224, 20)]
    return replace(bundle, natural_model=niqe.fit(windows))
