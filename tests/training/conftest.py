"""The batch that the tests of training share."""

from __future__ import annotations

import numpy as np
import pytest

from naturaltone.pipeline.stream.samples import Batch
from naturaltone.training.config import TrainConfig


@pytest.fixture
def batch(config: TrainConfig, astronaut: np.ndarray) -> Batch:
    side, count = config.crop, config.batch
    crops = np.stack([astronaut[40 * i :, 30 * i :][:side, :side] for i in range(3 * count)])
    return {"input": crops[:count] // 2, "intermediate": crops[:count], "natural": crops[2 * count :]}
