"""GanStep: the three networks, their optimisers, and one step of the learning loop S510–S540 (Fig. 5), without Ray."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from naturaltone.pipeline.errors import RunFailed
from naturaltone.pipeline.stream.samples import Batch
from naturaltone.training import losses
from naturaltone.training.config import TrainConfig
from naturaltone.training.networks import InverseEnhancer, NaturalnessDiscriminator, ToneEnhancer, check_imbalance

Wrap = Callable[[nn.Module], nn.Module]
FINAL_RATE = 0.1
NETWORKS = ("generator", "discriminator", "inverse")

# Largest half-life of the average, as a share of the photos seen so far. Without this limit, the average of a short run
# would be its initial weights.
_EMA_RAMP = 0.05


class TrainingDiverged(RunFailed):
    """A loss or a gradient is not finite. Its network has not been updated with it."""


class GanStep:
    """G, D and C with an Adam optimiser each, and the moving average of G. `step` trains all three once.

    wrap: puts a network into DDP. Each network has its own DDP, because a step computes their gradients at different times.
    workers: how many workers share a global batch. Their shares may be unequal. `UserError` if C has more layers than G.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        device: torch.device,
        wrap: Wrap = lambda network: network,
        workers: int = 1,
    ) -> None:
        self.config = config
        self.device = device
        self.workers = workers
        torch.manual_seed(config.seed)
        generator = ToneEnhancer(**config.architecture)
        discriminator = NaturalnessDiscriminator(width=config.discriminator_width, crop=config.crop)
        inverse = InverseEnhancer(width=config.inverse_width, num_layers=config.inverse_layers)
        check_imbalance(generator, inverse)
        # Photos come as N×H×W×3, which is channels last without a copy. So the weights are channels last too.
        self.networks: dict[str, nn.Module] = {
            name: network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            for name, network in zip(NETWORKS, (generator, discriminator, inverse), strict=True)
        }
        self.ema = copy.deepcopy(generator).requires_grad_(False)
        self._runs = {name: wrap(_compiled(network, config)) for name, network in self.networks.items()}
        self._bf16 = _has_bf16(device) if config.precision == "auto" else config.precision == "bf16"
        self.base_rates = {
            "generator": config.learning_rate,
            "discriminator": config.discriminator_learning_rate,
            "inverse": config.learning_rate,
        }
        self.optimizers = {
            name: torch.optim.Adam(network.parameters(), lr=self.base_rates[name], betas=(config.beta1, 0.999))
            for name, network in self.networks.items()
        }

    def step(self, batch: Batch, *, number: int) -> dict[str, Tensor]:
        """Train on a batch in step `number` of the run, from 0; return the metrics as scalar tensors on the device.

        batch: `input`, `intermediate` and `natural`, each N×H×W×3 uint8. A λ of 0 skips all work for its term. If a loss or
        gradient is not finite, all workers raise `TrainingDiverged` before the network is updated.
        """
        config = self.config
        self._set_learning_rates(number)
        x, intermediate, y = (to_tensor(batch[name], self.device) for name in ("input", "intermediate", "natural"))
        share = len(x) * self.workers / config.batch
        terms: dict[str, Tensor] = {}
        seen: dict[str, Tensor] = {}

        # S510: G makes the first corrected image.
        learns = number >= config.discriminator_warmup
        with torch.set_grad_enabled(learns):
            enhanced = self._run("generator", x)
        detached = enhanced.detach()

        # S520: L_color pulls G towards the intermediate image.
        if config.lambda_color:
            terms["color"] = losses.color_loss(
                enhanced, intermediate, form=config.color_loss, ms_ssim_share=config.ms_ssim_share
            )

        # S530: D learns y → 1 and G(x) → 0. Then L_natural asks the updated D about G(x).
        if config.lambda_natural:
            activation_natural, activation_enhanced = self._run("discriminator", torch.cat([y, detached])).chunk(2)
            seen["loss_discriminator"] = losses.discriminator_loss(activation_natural, activation_enhanced)
            seen["gradient_discriminator"] = self._update("discriminator", seen["loss_discriminator"], share, number)
            seen["activation_natural"] = activation_natural.mean()
            seen["activation_enhanced"] = activation_enhanced.mean()
            with self._frozen("discriminator") as judge:
                terms["natural"] = losses.natural_loss(judge(enhanced))

        # S540: C learns to restore x from G(x). Then L_artifact punishes G for what the updated C cannot restore.
        if config.lambda_artifact:
            seen["loss_inverse"] = losses.inverse_loss(self._run("inverse", detached), x)
            seen["gradient_inverse"] = self._update("inverse", seen["loss_inverse"], share, number)
            with self._frozen("inverse") as restorer:
                terms["artifact"] = losses.artifact_loss(restorer(enhanced), x)

        # Not in the patent, and off by default: G learns to leave natural photos alone.
        if config.lambda_identity:
            with torch.set_grad_enabled(learns):
                terms["identity"] = losses.identity_loss(self._run("generator", y), y)

        # Equation 1: G's step on all terms.
        generator = losses.generator_loss(terms, {name: getattr(config, f"lambda_{name}") for name in terms})
        seen["gradient_generator"] = torch.zeros((), device=self.device)
        if learns:
            seen["gradient_generator"] = self._update("generator", generator, share, number)
            self._average(number)
        seen |= {"loss_generator": generator, **{f"loss_{name}": term for name, term in terms.items()}}
        return {name: value.detach() for name, value in seen.items()} | {
            "learning_rate": torch.tensor(self.optimizers["generator"].param_groups[0]["lr"])
        }

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser states by network name, and the average of G, as tensors and plain values."""
        state: dict[str, Any] = {
            name: {"weights": self.networks[name].state_dict(), "optimizer": self.optimizers[name].state_dict()}
            for name in NETWORKS
        }
        return state | {"ema": {"weights": self.ema.state_dict()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in NETWORKS:
            self.networks[name].load_state_dict(state[name]["weights"])
            self.optimizers[name].load_state_dict(state[name]["optimizer"])
        self.ema.load_state_dict(state["ema"]["weights"])

    def _run(self, name: str, images: Tensor) -> Tensor:
        """A network's output in fp32. The network itself computes in bf16 if that is the run's precision."""
        return self._forward(self._runs[name], images)

    def _forward(self, network: nn.Module, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16):
            return network(images).float()

    @contextmanager
    def _frozen(self, name: str) -> Iterator[Callable[[Tensor], Tensor]]:
        """The bare network, with gradients for G but not for its own weights. So it needs no all-reduce."""
        network = self.networks[name].requires_grad_(False)
        try:
            yield lambda images: self._forward(network, images)
        finally:
            network.requires_grad_(True)

    def _set_learning_rates(self, number: int) -> None:
        """Lower the rates along half a cosine, to a tenth at the end of the run.

        They depend only on the step, so resuming needs no state.
        """
        fraction = FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * number / self.config.steps))
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.base_rates[name] * fraction

    def _update(self, name: str, loss: Tensor, share: float, number: int) -> Tensor:
        """Take one Adam step of a network on its loss; return the norm of the global batch's gradient.

        share: this worker's share of the photos in the global batch, times the number of workers. It turns DDP's mean over
        workers into the mean over photos. A loss that is not finite makes the gradient NaN, and DDP's all-reduce carries the
        NaN to every worker.
        """
        optimizer, parameters = self.optimizers[name], list(self.networks[name].parameters())
        optimizer.zero_grad(set_to_none=True)
        poison = torch.where(loss.detach().isfinite(), share, math.nan)
        (loss * poison).backward()
        norm = nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip or math.inf)
        if not norm.isfinite():
            where = "" if not loss.isfinite() or self.workers == 1 else ", maybe from another worker"
            raise TrainingDiverged(
                f"step {number}: loss_{name} is {loss.item():.4g} and the norm of its gradient is {norm.item():.4g}{where}"
            )
        optimizer.step()
        return norm

    def _average(self, number: int) -> None:
        """Move the average of G towards G. The half-life is in photos, so it means the same at any batch size."""
        config = self.config
        half_life = min(config.ema_half_life, _EMA_RAMP * (number + 1) * config.batch)
        kept = 0.5 ** (config.batch / half_life) if half_life else 0.0
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.ema.parameters()), list(self.networks["generator"].parameters()), weight=1 - kept
            )


def to_tensor(pixels: np.ndarray, device: torch.device) -> Tensor:
    """N×H×W×3 uint8 to N×3×H×W float in [−1, 1]; in memory the channels stay last."""
    return torch.tensor(pixels, device=device).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(images: Tensor) -> np.ndarray:
    """N×3×H×W float to N×H×W×3 uint8, clipped and rounded; the inverse of `to_tensor`."""
    scaled = ((images.detach().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _compiled(network: nn.Module, config: TrainConfig) -> nn.Module:
    return torch.compile(network) if config.compile else network  # type: ignore[return-value]


def _has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware. Emulated bf16 is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
