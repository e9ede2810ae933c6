"""The configuration of a training run: one frozen dataclass, validated, and the recipes that fill it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from naturaltone.pipeline.errors import UserError

_CHOICES = {"color_loss": ("mse", "l1", "ssim", "ms_ssim_l1"), "precision": ("auto", "fp32", "bf16")}
_MAY_BE_0 = {
    *("lambda_color", "lambda_natural", "lambda_artifact", "lambda_identity"),
    *("residual_blocks", "beta1", "seed", "ms_ssim_share", "ema_half_life", "gradient_clip"),
}
_TYPES = {"int": int, "float": float, "str": str, "bool": bool}


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
    lambda_identity: float = 0.0
    """Of an addition to equation 1 that the document does not have: G leaves natural photos as they are."""
    color_loss: str = "mse"
    """The form of equation 2: mse, l1, ssim or ms_ssim_l1 (Zhao et al. 2017)."""
    ms_ssim_share: float = 0.84
    """MS-SSIM's share of ms_ssim_l1, Zhao's α; the rest is L1, which sees brightness where MS-SSIM sees structure."""
    ema_half_life: int = 4000
    """Photos after which a weight counts half in the moving average of G that the model bundle holds; 0 for none."""
    gradient_clip: float = 10.0
    """Norm to which each network's gradient is shortened; 0 never does."""
    precision: str = "auto"
    """Of the networks' arithmetic: fp32, bf16 (autocast; losses stay in fp32), or auto: bf16 where the device has it."""
    compile: bool = False
    """Whether torch.compile takes the networks first; slower on the CPUs that were measured."""
    seed: int = 0
    """Of the initial weights and of the order of the photos."""
    checkpoint_every: int = 200
    """Steps between checkpoints; the last step always makes one."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            smallest = 0 if field.name in _MAY_BE_0 else 1
            if field.type == "int" and value < smallest:
                raise UserError(f"{field.name}={value}: must be at least {smallest}")
            if field.type == "float" and not (0 < value < 1e6 or (smallest == 0 and value == 0)):
                raise UserError(f"{field.name}={value}: must be a positive number{'' if smallest else ' or 0'}")
        if self.crop % 16:
            raise UserError(f"crop={self.crop}: must be a multiple of 16, the discriminator halves it four times")
        if self.beta1 >= 1:
            raise UserError(f"beta1={self.beta1}: must be below 1")
        if self.ms_ssim_share > 1:
            raise UserError(f"ms_ssim_share={self.ms_ssim_share}: must be at most 1")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"{name}={getattr(self, name)}: use one of {', '.join(allowed)}")
        if not any((self.lambda_color, self.lambda_natural, self.lambda_artifact, self.lambda_identity)):
            raise UserError("every lambda is 0: G would learn nothing; set lambda_color at least")


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
        precision="fp32",
    )


def small() -> TrainConfig:
    """About an hour on two CPU cores: that of the model in serving/pretrained; crops of a store with --long-side 320."""
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
        ema_half_life=10_000,
        checkpoint_every=1000,
    )


RECIPES = {"smoke": smoke, "small": small, "patent": patent}


def make_config(recipe: str, settings: list[str]) -> TrainConfig:
    """A recipe with `field=value` settings on top; `ValueError` lists what is allowed."""
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
            raise UserError(f"--set '{setting}': '{text}' is no {kinds[name].__name__}") from None
    return dataclasses.replace(RECIPES[recipe](), **values)  # type: ignore[arg-type]


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"
