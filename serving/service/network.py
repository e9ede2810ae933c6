"""The network on GPUs: replicas that run G on batches of small photos. The other replicas do all the rest on CPUs.

On a CPU the network runs where the photo is: there a hop between processes costs more than it saves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from naturaltone.pipeline.photo.colour import from_srgb, to_srgb
from naturaltone.pipeline.photo.pixels import shrink, to_8bit
from naturaltone.serving.enhancer import Correction, Enhancer
from naturaltone.serving.service import metrics
from naturaltone.training.checkpoint import Bundle


@dataclass(frozen=True, kw_only=True)
class Question:
    """A photo for the network: sRGB, H×W×3 uint8, shrunk to the working resolution `side`."""

    pixels: np.ndarray
    side: int
    which: str


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the network gave, and which model it was: two versions live beside each other while a new one is swapped in.

    pixels: like those of the question; None if the model works at another resolution, so the photo must be shrunk again.
    """

    pixels: np.ndarray | None
    version: str
    working_resolution: int


def answer(enhancers: dict[str, Enhancer], questions: Sequence[Question]) -> list[Reply]:
    """Run each model once for all questions of the same size. enhancers: by the name in a question's `which`."""
    groups: dict[tuple[str, tuple[int, ...]], list[int]] = defaultdict(list)
    replies: dict[int, Reply] = {}
    for number, question in enumerate(questions):
        enhancer = enhancers[question.which]
        if question.side == enhancer.bundle.working_resolution:
            groups[question.which, question.pixels.shape].append(number)
        else:
            replies[number] = _reply(enhancer, None)
    for (which, _), numbers in groups.items():
        metrics.BATCH_SIZE.observe(len(numbers))
        results = enhancers[which].correct_batch(np.stack([questions[number].pixels for number in numbers]))
        replies |= {number: _reply(enhancers[which], pixels) for number, pixels in zip(numbers, results, strict=True)}
    return [replies[number] for number in range(len(questions))]


def _reply(enhancer: Enhancer, pixels: np.ndarray | None) -> Reply:
    return Reply(pixels=pixels, version=enhancer.version, working_resolution=enhancer.bundle.working_resolution)


class RemoteEnhancer(Enhancer):
    """An enhancer whose network runs elsewhere. ask: sends a question and waits for the reply; called from any thread."""

    def __init__(self, bundle: Bundle, *, version: str, ask: Callable[[Question], Reply], which: str) -> None:
        super().__init__(bundle, version=version)
        self._ask, self._which = ask, which

    def correction(self, pixels: np.ndarray, *, icc_profile: bytes | None, exact: bool = False) -> Correction:
        side = self.bundle.working_resolution
        while True:
            before = np.ascontiguousarray(to_8bit(shrink(pixels, side)[..., :3]))
            reply = self._ask(Question(pixels=to_srgb(before, icc_profile), side=side, which=self._which))
            if reply.pixels is not None:
                after = from_srgb(reply.pixels, icc_profile)
                return Correction(before=before, after=after, version=reply.version)
            side = reply.working_resolution
