"""The service enhances with the model that was chosen, and stops when nobody wants the result any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import numpy as np
import pytest

from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.service import metrics
from naturaltone.serving.service.models import Models
from naturaltone.serving.service.service import Service
from naturaltone.serving.service.slots import Stages
from tests.serving.service.conftest import LONGEST, wait_until


def test_a_photo_is_enhanced_as_the_enhancer_does_and_its_stages_are_measured(
    service: Service, enhancer: Enhancer, photo: np.ndarray, to_file: Callable[..., bytes]
) -> None:
    data, stages = to_file(photo, "PNG"), Stages()
    before = metrics.MEGAPIXELS.labels(enhancer.version)._value.get()
    enhanced = asyncio.run(service.enhance(data, stages, strength=0.5))
    assert enhanced == enhancer.enhance_file(data, strength=0.5)
    assert list(stages.seconds) == ["wait", "decode", "network", "apply", "encode"]
    assert metrics.MEGAPIXELS.labels(enhancer.version)._value.get() == before + enhanced.megapixels


def test_the_challenger_is_another_model(service: Service, photo: np.ndarray, to_file: Callable[..., bytes]) -> None:
    data = to_file(photo, "PNG")
    both = [asyncio.run(service.enhance(data, Stages(), which=which)) for which in ("model", "challenger")]
    assert both[0].version != both[1].version and both[0].data != both[1].data


def test_a_cancelled_request_stops_after_the_stage_that_runs(
    service: Service, photo: np.ndarray, to_file: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_network, go_on = threading.Event(), threading.Event()
    real = Enhancer.correction

    def slow(self: Enhancer, *arguments: object, **options: object) -> object:
        in_network.set()
        go_on.wait(LONGEST)
        return real(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Enhancer, "correction", slow)
    stages = Stages()

    async def test() -> None:
        task = asyncio.create_task(service.enhance(to_file(photo), stages))
        await asyncio.to_thread(in_network.wait, LONGEST)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(test())
    go_on.set()
    wait_until(lambda: metrics.BUSY._value.get() == 0)
    assert list(stages.seconds) == ["wait", "decode", "network"], "nothing was applied or encoded"


def test_without_a_model_nothing_waits(to_file: Callable[..., bytes], photo: np.ndarray) -> None:
    service = Service(Models())
    with pytest.raises(ImageError, match="no_model"):
        asyncio.run(service.enhance(to_file(photo), Stages()))
    service.close()
