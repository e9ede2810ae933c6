"""The configuration of a training run: one frozen dataclass, validated, and the recipes that fill it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run besides the store. Construction raises `ValueError` for a value out of range."""

    width: int = 16
    """Channels of the generator's first encoder layer; the next two have twice and four times as many."""
    residual_blocks: int = 4
    """Blocks of two convolutions in the generator's residual part."""
    discriminator_width: int = 16
    """Channels of the discriminator's first layer; each of the next three doubles them."""
    inverse_width: int = 8
    """Channels of the inverse network's inner layers."""
    inverse_layers: int = 5
    """Convolutions of the inverse network; never more than the generator has."""
    crop: int = 128
    """Side of the square training crops, pixels; a multiple of 16."""
    batch: int = 8
    """Photos a step over all workers together."""
    steps: int = 1000
    """Steps of the whole run."""
    learning_rate: float = 1e-3
    """Adam's, for the generator and the inverse network."""
    discriminator_learning_rate: float = 2e-4
    """Adam's, for the discriminator."""
    beta1: float = 0.9
    """Adam's decay of the mean gradient."""
    lambda_color: float = 1.0
    """λ1 of equation 1: towards the intermediate image."""
    lambda_natural: float = 0.02
    """λ2 of equation 1: towards what the discriminator finds natural."""
    lambda_artifact: float = 0.1
    """λ3 of equation 1: away from what the inverse network cannot undo."""
    seed: int = 0
    """Of the initial weights and of the order of the photos."""
    checkpoint_every: int = 200
    """Steps between checkpoints; the last step always makes one."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            smallest = 0 if field.name.startswith(("lambda", "seed", "residual", "beta")) else 1
            if field.type == "int" and value < smallest:
                raise ValueError(f"{field.name}={value}: must be at least {smallest}")
            if field.type == "float" and not (0 < value < 1e6 or (smallest == 0 and value == 0)):
                raise ValueError(f"{field.name}={value}: must be a positive number{'' if smallest else ' or 0'}")
        if self.crop % 16:
            raise ValueError(f"crop={self.crop}: must be a multiple of 16, the discriminator halves it four times")
        if self.beta1 >= 1:
            raise ValueError(f"beta1={self.beta1}: must be below 1")


def smoke() -> TrainConfig:
    """Seconds on a CPU: shows that everything works, teaches nothing."""
    return TrainConfig(
        width=8,
        residual_blocks=1,
        discriminator_width=4,
        inverse_width=4,
        crop=64,
        batch=4,
        steps=8,
        checkpoint_every=4,
    )


def small() -> TrainConfig:
    """About an hour on a small CPU."""
    return TrainConfig(steps=4000)


def patent() -> TrainConfig:
    """The size that the authors released, with their batch of 9 made one that 2, 4 and 8 workers share; for GPUs."""
    return TrainConfig(
        width=32,
        residual_blocks=16,
        discriminator_width=32,
        inverse_width=32,
        crop=256,
        batch=16,
        steps=100_000,
        learning_rate=1e-4,
        discriminator_learning_rate=1e-4,
        checkpoint_every=1000,
    )


RECIPES = {"smoke": smoke, "small": small, "patent": patent}


def make_config(recipe: str, settings: list[str]) -> TrainConfig:
    """A recipe with `field=value` settings on top; `ValueError` lists what is allowed."""
    if recipe not in RECIPES:
        raise ValueError(f"recipe '{recipe}' is unknown; use one of {', '.join(RECIPES)}")
    kinds = {field.name: {"int": int, "float": float}[str(field.type)] for field in dataclasses.fields(TrainConfig)}
    values: dict[str, int | float] = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator:
            raise ValueError(f"--set '{setting}': write field=value, for example --set steps=500")
        if name not in kinds:
            raise ValueError(f"--set '{setting}': there is no field '{name}'; use one of {', '.join(kinds)}")
        try:
            values[name] = kinds[name](text)
        except ValueError:
            raise ValueError(f"--set '{setting}': '{text}' is no {kinds[name].__name__}") from None
    return dataclasses.replace(RECIPES[recipe](), **values)  # type: ignore[arg-type]
