"""The board: rank 0 posts its progress on it, and the driver reads it.

It has its own module so that its process need not import torch.
"""

from __future__ import annotations

Newest = tuple[int, dict[str, float]]


class Board:
    """Keeps the newest progress, (steps done, metrics). It runs as a Ray actor."""

    def __init__(self) -> None:
        self._newest: Newest = (0, {})

    def post(self, steps: int, metrics: dict[str, float]) -> None:
        self._newest = (steps, metrics)

    def read(self) -> Newest:
        return self._newest
