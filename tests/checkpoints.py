"""Makes snapshots of a tiny run, and writes them to the folder of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from naturaltone.training import checkpoint
from naturaltone.training.checkpoint import Snapshot
from naturaltone.training.config import TrainConfig
from naturaltone.training.runs import CheckpointWriter
from naturaltone.training.step import GanStep


def snapshots_of(config: TrainConfig) -> Callable[[int], Snapshot]:
    """`take(step)`: a snapshot of a tiny run; all weights of its generator equal `step`."""
    gan = GanStep(dataclasses.replace(config, width=4, crop=32), device=torch.device("cpu"))

    def take(step: int) -> Snapshot:
        with torch.no_grad():
            for weight in gan.networks["generator"].parameters():
                weight.fill_(step)
        return checkpoint.take_snapshot(gan, step=step)

    return take


def write(uri: str, *snapshots: Snapshot, score: Callable[[Snapshot], float] = lambda _: 0.5) -> None:
    """Write the snapshots one after the other; none is left out."""
    for snapshot in snapshots:
        writer = CheckpointWriter(uri, judge=score)
        writer.put(snapshot)
        writer.close()
