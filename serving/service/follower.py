"""Follows the model that a URI names: loads and tests a new version beside the old one, then swaps the two.

Requests use `current`, a plain reference. So a swap takes no lock, fails no request and lets none wait. The last version that
passed its test is kept on disk: a new process starts from it, also while the registry is away.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from naturaltone.pipeline.errors import UserError, first_line
from naturaltone.serving import registry
from naturaltone.serving.enhancer import Enhancer
from naturaltone.serving.selftest import ModelRefused, self_test
from naturaltone.serving.service import kept, metrics
from naturaltone.training.checkpoint import Bundle, BundleError, load_bundle

LOOK_SECONDS = 10.0  # between two looks for a new version, on average
_JITTER = 0.25  # so that the replicas of a large cluster do not ask all at once

log = logging.getLogger(__name__)

Build = Callable[[Bundle, str], Enhancer]


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A version that does not serve. detail: what its self-test or its loading found."""

    version: str
    detail: str


class Follower:
    """Follows one URI at a time; see the module. which: its name in the metrics, `model` or `challenger`.

    build: makes the enhancer of a bundle and its version.
    """

    def __init__(
        self,
        which: str,
        *,
        build: Build = lambda bundle, version: Enhancer(bundle, version=version),
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._which, self._build, self.look_seconds = which, build, look_seconds
        self.uri = ""
        self.current: Enhancer | None = None
        self.refused: Refused | None = None
        self._state = ""  # of the model that serves
        self._refused_state = ""
        self._wake = threading.Event()
        self._looked = threading.Event()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=f"follow-{which}", daemon=True)
        self._thread.start()

    def follow(self, uri: str) -> None:
        """Follow another URI, from the next look on, which begins now. "" for no model. Returns at once."""
        if uri != self.uri:
            self.uri = uri
            self._looked.clear()
            self._wake.set()

    def wait_for_model(self, seconds: float) -> None:
        """Wait until the first look has ended, or a model of the disk serves."""
        deadline = time.monotonic() + seconds
        while self.current is None and not self._looked.wait(0.05) and time.monotonic() < deadline:
            pass

    def close(self) -> None:
        self._is_closed = True
        self._wake.set()

    def _run(self) -> None:
        uri, jitter = "", random.Random()  # its own: a seed that others set must not make all replicas look at once
        while not self._is_closed:
            try:
                if self.uri != uri:
                    uri = self.uri
                    self._start(uri)
                if uri:
                    self.look(uri)
            except Exception as error:  # a look must never end the following
                metrics.MISSED_LOOKS.labels(self._which).inc()
                is_bug = not isinstance(error, UserError | OSError)
                log.warning(
                    "model '%s': no look for a new version was possible (%s)",
                    uri,
                    first_line(error),
                    exc_info=error if is_bug else None,
                )
            self._looked.set()
            self._wake.wait(self.look_seconds * jitter.uniform(1 - _JITTER, 1 + _JITTER))
            self._wake.clear()

    def _start(self, uri: str) -> None:
        """Begin to follow a URI: with the version that served last, if the disk has it."""
        self._state = self._refused_state = ""
        self.refused = None
        if not uri:
            self._swap(None)
        elif self.current is None and (found := kept.read(uri)):
            bundle, version = found
            enhancer = self._build(bundle, version)
            try:
                self_test(enhancer)
            except ModelRefused as error:  # another version of naturaltone kept it
                log.warning("model '%s': %s, which served last, is refused (%s)", uri, version, error)
                return
            self._swap(enhancer)
            log.info("model '%s': starts with %s, which served last", uri, version)

    def look(self, uri: str) -> None:
        """Look once. Any error means that no look was possible; the model stays."""
        state = registry.state(uri)
        if state == self._state:  # after a refusal: the URI names the model again that serves
            self._refused_state, self.refused = "", None
        if state in (self._state, self._refused_state):
            return
        version = uri
        try:
            with registry.fetched(uri) as (folder, name):
                version = name
                bundle = load_bundle(folder)
                version = f"{name}-{bundle.digest}"
                if self.current is None or version != self.current.version:
                    enhancer = self._tested(bundle, version)
                    kept.keep(uri, folder, version)
                    self._swap(enhancer)
        except (BundleError, ModelRefused) as error:
            self._refused_state, self.refused = state, Refused(version=version, detail=first_line(error))
            metrics.REFUSALS.labels(self._which).inc()
            log.error("model '%s': %s is refused (%s); the model of before stays", uri, version, first_line(error))
            return
        self._state, self.refused = state, None

    def _tested(self, bundle: Bundle, version: str) -> Enhancer:
        enhancer = self._build(bundle, version)
        try:
            self_test(enhancer)
        except ModelRefused:
            raise
        except Exception as error:  # as too little memory: the next look tries again, and meanwhile people can see why
            detail = f"its self-test could not end ({first_line(error)}); the next look tries it again"
            self.refused = Refused(version=version, detail=detail)
            raise
        return enhancer

    def _swap(self, enhancer: Enhancer | None) -> None:
        before, self.current = self.current, enhancer
        if before is not None:
            metrics.MODEL.labels(self._which, before.version).set(0)
        if enhancer is not None:
            metrics.MODEL.labels(self._which, enhancer.version).set(1)
        if before is not None and enhancer is not None:
            metrics.SWAPS.labels(self._which).inc()
            log.info("model '%s': %s follows %s", self.uri, enhancer.version, before.version)
