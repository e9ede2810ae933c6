"""The model that serves, and a challenger beside it if there is one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from naturaltone.pipeline.photo.refusals import ImageError
from naturaltone.pipeline.reasons import Reason
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.service.follower import LOOK_SECONDS, Follower
from naturaltone.training.checkpoint import Bundle

MODEL, CHALLENGER = "model", "challenger"


def _build(which: str, bundle: Bundle, version: str) -> Enhancer:
    return Enhancer(bundle, version=version)


class Models:
    """Follows the two models. build: makes an enhancer from `which`, a bundle and its version. look_seconds: see `Follower`."""

    def __init__(
        self, *, build: Callable[[str, Bundle, str], Enhancer] = _build, look_seconds: float = LOOK_SECONDS
    ) -> None:
        self._followers = {
            which: Follower(which, build=functools.partial(build, which), look_seconds=look_seconds)
            for which in (MODEL, CHALLENGER)
        }

    def follow(self, *, model: str, compare: str = "") -> None:
        """Follow these models from now on. Returns at once."""
        self._followers[MODEL].follow(model)
        self._followers[CHALLENGER].follow(compare)

    def look_every(self, seconds: float) -> None:
        """Look for new versions every `seconds`, on average."""
        for follower in self._followers.values():
            follower.look_seconds = seconds

    def wait(self, seconds: float) -> None:
        """Wait until the first look for each model has ended."""
        for follower in self._followers.values():
            follower.wait_for_model(seconds)

    @property
    def serving(self) -> dict[str, Enhancer]:
        """The enhancers that serve now."""
        return {which: each.current for which, each in self._followers.items() if each.current is not None}

    def choose(self, which: str) -> Enhancer:
        """The enhancer that serves now; the caller uses it for its whole request. `ImageError` if there is none."""
        enhancer = self._followers[which].current
        if enhancer is not None:
            return enhancer
        if which == MODEL:
            raise ImageError(Reason.NO_MODEL, f"'{self._followers[MODEL].uri}' is not loaded yet; try again soon")
        raise ImageError(
            Reason.BAD_PARAMETER, "model=challenger: the service compares no second model; leave the parameter out"
        )

    def describe(self) -> dict[str, Any]:
        """The models that serve, and the version that was refused, if any."""
        followed, challenger = self._followers[MODEL], self._followers[CHALLENGER].current
        enhancer, refused = self.choose(MODEL), followed.refused
        return {
            "version": enhancer.version,
            "following": followed.uri,
            "parameters": enhancer.bundle.num_parameters,
            "working_resolution": enhancer.bundle.working_resolution,
            "challenger": {"version": challenger.version} if challenger else None,
            "refused": {"version": refused.version, "detail": refused.detail} if refused else None,
            "description": enhancer.bundle.description,
        }

    def close(self) -> None:
        for follower in self._followers.values():
            follower.close()
