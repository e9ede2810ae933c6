"""Where rank 0 pins how far it is, for the driver to read; a module of its own, since its process needs no torch."""

from __future__ import annotations

Newest = tuple[int, dict[str, float]]


class Board:
    """An actor that keeps the newest (steps done, metrics)."""

    def __init__(self) -> None:
        self._newest: Newest = (0, {})

    def post(self, steps: int, metrics: dict[str, float]) -> None:
        self._newest = (steps, metrics)

    def read(self) -> Newest:
        return self._newest
