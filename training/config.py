"""The configuration of a training run: one frozen dataclass that checks itself, and the recipes that fill it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from naturaltone.pipeline.errors import UserError

_TYPES = {"int": int, "float": float, "str": str, "bool": bool}
SHAPES_OF_G = ("width", "residual_blocks", "colour_gain", "peaks")  # the fields that give G's weights their shapes
_MOST = 1e6  # every float is below this; more is a typing error
# A key of a field's metadata. Its function returns what a value must be, or None if the value is allowed.
_WRONG = "wrong"


def _at_least(default: int, least: int, *, multiple_of: int = 1, why: str = "") -> Any:
    """A field for a whole number."""

    def wrong(value: int) -> str | None:
        if value < least:
            return f"must be at least {least}"
        return None if value % multiple_of == 0 else f"must be a multiple of {multiple_of}{why}"

    return dataclasses.field(default=default, metadata={_WRONG: wrong})


def _positive(default: float, *, or_0: bool = False, below: float = _MOST, at_most: float = _MOST) -> Any:
    """A field for a number above 0, or from 0 up with `or_0`."""

    def wrong(value: float) -> str | None:
        if not 0 <= value < _MOST or (value == 0 and not or_0):  # NaN is in no range
            return f"must be a positive number{' or 0' if or_0 else ''}, below {_MOST:,.0f}"
        if value > at_most:
            return f"must be at most {at_most:g}"
        return None if value < below else f"must be below {below:g}"

    return dataclasses.field(default=default, metadata={_WRONG: wrong})


def _one_of(default: str, *others: str) -> Any:
    names = (default, *others)

    def wrong(value: str) -> str | None:
        return None if value in names else f"use one of {', '.join(names)}"

    return dataclasses.field(default=default, metadata={_WRONG: wrong})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All settings of a training run except its store. Construction raises `UserError` for a value out of range."""

    width: int = _at_least(16, 1)
    """Channels of the generator's first encoder layer; the next two have twice and four times as many."""
    residual_blocks: int = _at_least(4, 0)
    """Blocks of two convolutions in the generator's residual part."""
    colour_gain: bool = False
    """Whether the generator also has a gain of colour at each pixel, for vivid colours. The patent has none."""
    peaks: bool = False
    """Whether G's residual part also sees the peaks of its features, so that it can tell dark scenes from underexposed ones."""
    discriminator_width: int = _at_least(16, 1)
    """Channels of the discriminator's first layer; each of the next three layers doubles the number."""
    inverse_width: int = _at_least(8, 1)
    """Channels of the inverse network's inner layers."""
    inverse_layers: int = _at_least(5, 1)
    """Convolution layers of the inverse network; at most as many as the generator has."""
    crop: int = _at_least(128, 1, multiple_of=16, why=", because the discriminator halves it four times")
    """Side of the square training crops in pixels; a multiple of 16."""
    batch: int = _at_least(8, 1)
    """Photos in a step, over all workers together."""
    steps: int = _at_least(1000, 1)
    """Steps of the whole run."""
    learning_rate: float = _positive(1e-3)
    """Adam's learning rate for the generator and the inverse network."""
    discriminator_learning_rate: float = _positive(2e-4)
    """Adam's learning rate for the discriminator."""
    beta1: float = _positive(0.9, or_0=True, below=1)
    """Adam's β1, the decay rate of its mean gradient."""
    lambda_color: float = _positive(1.0, or_0=True)
    """λ1 of equation 1: pulls G(x) towards the intermediate image."""
    lambda_natural: float = _positive(0.02, or_0=True)
    """λ2 of equation 1: pulls G(x) towards what the discriminator finds natural."""
    lambda_artifact: float = _positive(0.1, or_0=True)
    """λ3 of equation 1: pushes G(x) away from changes that the inverse network cannot undo."""
    lambda_identity: float = _positive(0.0, or_0=True)
    """λ of a term that the patent's equation 1 does not have: it teaches G to leave natural photos as they are."""
    color_loss: str = _one_of("mse", "l1", "ssim", "ms_ssim_l1")
    """The form of equation 2: mse, l1, ssim or ms_ssim_l1 (Zhao et al. 2017)."""
    ms_ssim_share: float = _positive(0.84, or_0=True, at_most=1)
    """MS-SSIM's share of ms_ssim_l1, Zhao's α. The rest is L1. MS-SSIM sees structure, L1 sees brightness."""
    ema_half_life: int = _at_least(4000, 0)
    """Half-life, in photos, of the moving average of G that the model bundle holds; 0 for no averaging."""
    discriminator_warmup: int = _at_least(0, 0)
    """Steps at the start in which G stays as it is while D and C learn. For a G that was trained before, when they were not."""
    gradient_clip: float = _positive(10.0, or_0=True)
    """Largest norm of each network's gradient; a longer one is shortened to it. 0 for no limit."""
    precision: str = _one_of("auto", "fp32", "bf16")
    """Arithmetic of the networks: fp32, bf16 (autocast; losses stay in fp32), or auto: bf16 if the device has it."""
    compile: bool = False
    """Whether to compile the networks with torch.compile; slower on the CPUs that were measured."""
    seed: int = _at_least(0, 0)
    """Seed of the initial weights and of the photos' order, crops and flips."""
    checkpoint_every: int = _at_least(200, 1)
    """Steps between checkpoints; the last step always makes one."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if _WRONG in field.metadata and (wrong := field.metadata[_WRONG](value)):
                raise UserError(f"{field.name}={value}: {wrong}")
        if not any((self.lambda_color, self.lambda_natural, self.lambda_artifact, self.lambda_identity)):
            raise UserError("every lambda is 0, so G would learn nothing; set at least lambda_color")

    @property
    def architecture(self) -> dict[str, Any]:
        """The arguments of `ToneEnhancer`."""
        return {name: getattr(self, name) for name in SHAPES_OF_G}


def smoke() -> TrainConfig:
    """A few seconds on a CPU. It shows that everything works; the model learns nothing useful."""
    return TrainConfig(
        width=8,
        residual_blocks=1,
        discriminator_width=4,
        inverse_width=4,
        crop=64,
        batch=4,
        steps=8,
        checkpoint_every=4,
        precision="fp32",
    )


def small() -> TrainConfig:
    """40 to 90 minutes on two CPU cores, for a store with --long-side 320, whose photos its crops fit.

    With `colour_gain` and `peaks` it made the model in serving/pretrained.
    """
    return TrainConfig(
        crop=208,
        steps=6000,
        color_loss="ms_ssim_l1",
        ms_ssim_share=0.25,
        lambda_natural=0.025,
        lambda_artifact=0.05,
        lambda_identity=0.24,
    )


def patent() -> TrainConfig:
    """The size of the authors' release, for GPUs. Their batch of 9 is 16 here, which 2, 4 or 8 workers can share."""
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
        ema_half_life=10_000,
        checkpoint_every=1000,
    )


RECIPES = {"smoke": smoke, "small": small, "patent": patent}


def make_config(recipe: str, settings: list[str]) -> TrainConfig:
    """Make a configuration from a recipe and `field=value` settings that change it. `UserError` lists what is allowed."""
    if recipe not in RECIPES:
        raise UserError(f"recipe '{recipe}' is unknown; use one of {', '.join(RECIPES)}")
    kinds = {field.name: _TYPES[str(field.type)] for field in dataclasses.fields(TrainConfig)}
    values: dict[str, int | float | str] = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator:
            raise UserError(f"--set '{setting}': write field=value, for example --set steps=500")
        if name not in kinds:
            raise UserError(f"--set '{setting}': there is no field '{name}'; use one of {', '.join(kinds)}")
        try:
            values[name] = _boolean(text) if kinds[name] is bool else kinds[name](text)
        except ValueError:
            raise UserError(f"--set '{setting}': '{text}' is not a valid {kinds[name].__name__}") from None
    return dataclasses.replace(RECIPES[recipe](), **values)  # type: ignore[arg-type]


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"
