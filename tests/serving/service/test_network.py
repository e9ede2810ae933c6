"""The network in a process of its own answers as the network beside the photo, also while a new model is swapped in."""

from __future__ import annotations

import numpy as np

from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.service import network
from naturaltone.training.checkpoint import Bundle

SIZES = [(64, 96), (96, 64), (64, 96), (96, 96), (64, 96)]


def questions(side: int) -> list[network.Question]:
    random = np.random.default_rng(0)
    return [
        network.Question(pixels=random.integers(0, 256, (*size, 3), np.uint8), side=side, which="model")
        for size in SIZES
    ]


def test_a_batch_of_mixed_sizes_gives_each_photo_its_own_result_in_its_own_place(enhancer: Enhancer) -> None:
    asked = questions(enhancer.bundle.working_resolution)
    replies = network.answer({"model": enhancer}, asked)
    for question, reply in zip(asked, replies, strict=True):
        assert reply.pixels is not None
        alone = enhancer.correct(question.pixels).astype(int)
        assert np.abs(reply.pixels - alone).max() <= 1, "batches round differently"
        assert (reply.version, reply.working_resolution) == (enhancer.version, enhancer.bundle.working_resolution)


def test_a_photo_for_another_resolution_is_asked_for_again(enhancer: Enhancer) -> None:
    [reply, *_] = network.answer({"model": enhancer}, questions(side=enhancer.bundle.working_resolution + 1))
    assert reply.pixels is None and reply.working_resolution == enhancer.bundle.working_resolution


def test_photos_get_the_look_and_the_version_of_the_network_that_answered(
    enhancer: Enhancer, bundle: Bundle, astronaut: np.ndarray
) -> None:
    """The replica of the photo still has the old model, which works at another resolution."""
    old = Bundle(
        generator=bundle.generator,
        description={**bundle.description, "working_resolution": 64},
        digest="00000000",
    )
    asked = []

    def ask(question: network.Question) -> network.Reply:
        asked.append(question)
        return network.answer({"model": enhancer}, [question])[0]

    remote = network.RemoteEnhancer(old, version="old", ask=ask, which="model")
    correction = remote.correction(astronaut, icc_profile=None)
    expected = enhancer.correction(astronaut, icc_profile=None)
    assert [max(question.pixels.shape) for question in asked] == [64, 96]
    assert correction.version == enhancer.version and np.array_equal(correction.before, expected.before)
    assert np.abs(correction.after.astype(int) - expected.after).max() <= 1
