"""What a run starts from when it goes on from an earlier model: a checkpoint with all networks, or a bundle with G alone."""

from __future__ import annotations

import torch

from naturaltone.pipeline.errors import UserError
from naturaltone.training import runs
from naturaltone.training.checkpoint import Bundle, Snapshot, take_snapshot
from naturaltone.training.config import SHAPES_OF_G, TrainConfig
from naturaltone.training.step import GanStep

# What gives the weights of all networks their shapes. The discriminator's last layer depends on the crop.
_SHAPES = (*SHAPES_OF_G, "discriminator_width", "inverse_width", "inverse_layers", "crop")


def last_checkpoint(store_uri: str, run: str, config: TrainConfig) -> Snapshot | None:
    """The state of all networks and optimisers at the end of a run; None if its checkpoints are gone.

    `UserError` if networks of `config` have other shapes, `BundleError` if the checkpoint is damaged.
    """
    uri = runs.run_uri(store_uri, run)
    newest = runs.newest_checkpoint(uri)
    if newest is None:
        return None
    snapshot = runs.read_checkpoint(uri, newest)
    _refuse_other_shapes(snapshot.config, config, _SHAPES, f"run '{run}'")
    return snapshot


def from_bundle(bundle: Bundle, config: TrainConfig) -> Snapshot:
    """A state with the bundle's G, and a new D and C. Give the run a `discriminator_warmup`.

    `UserError` if `config` has a G of another shape.
    """
    _refuse_other_shapes(TrainConfig(**bundle.description["training"]), config, SHAPES_OF_G, "the model")
    gan = GanStep(config, device=torch.device("cpu"))
    for generator in (gan.networks["generator"], gan.ema):
        generator.load_state_dict(bundle.generator.state_dict())
    return take_snapshot(gan, step=0)


def _refuse_other_shapes(before: TrainConfig, config: TrainConfig, fields: tuple[str, ...], what: str) -> None:
    other = [
        f"{field} {getattr(before, field)}, now {getattr(config, field)}"
        for field in fields
        if getattr(before, field) != getattr(config, field)
    ]
    if other:
        raise UserError(f"{what} has {'; '.join(other)}: a run can only go on from networks of the same size")
