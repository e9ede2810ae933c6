"""GanStep: the three networks, their optimisers, and one step of the learning loop S510–S540 (Fig. 5); no Ray."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.stream import Batch
from training import losses
from training.config import TrainConfig
from training.networks import InverseEnhancer, NaturalnessDiscriminator, ToneEnhancer, check_imbalance

Wrap = Callable[[nn.Module], nn.Module]
FINAL_RATE = 0.1
NETWORKS = ("generator", "discriminator", "inverse")


class GanStep:
    """G, D and C with an Adam each; `step(batch)` trains all three once.

    wrap: puts a network into DDP. Each has its own, because a step gives them gradients at different times.
    """

    def __init__(self, config: TrainConfig, *, device: torch.device, wrap: Wrap = lambda network: network) -> None:
        self.config = config
        self.device = device
        torch.manual_seed(config.seed)
        generator = ToneEnhancer(width=config.width, residual_blocks=config.residual_blocks)
        discriminator = NaturalnessDiscriminator(width=config.discriminator_width, crop=config.crop)
        inverse = InverseEnhancer(width=config.inverse_width, num_layers=config.inverse_layers)
        check_imbalance(generator, inverse)
        self.networks: dict[str, nn.Module] = dict(
            zip(NETWORKS, (network.to(device) for network in (generator, discriminator, inverse)), strict=True)
        )
        self.generator, self.discriminator, self.inverse = (wrap(network) for network in self.networks.values())
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
        """Step `number` of the run on uint8 N×H×W×3 `input`, `intermediate`, `natural`; scalars, still on the device."""
        config = self.config
        self._set_learning_rates(number)
        x, intermediate, y = (to_tensor(batch[name], self.device) for name in ("input", "intermediate", "natural"))

        # S510: G makes the first corrected image.
        enhanced = self.generator(x)
        detached = enhanced.detach()

        # S520: L_color pulls G towards the intermediate image.
        color = losses.color_loss(enhanced, intermediate)

        # S530: D learns y → 1, G(x) → 0; then L_natural asks the D so learned what it thinks of G(x).
        activation_natural, activation_enhanced = self.discriminator(torch.cat([y, detached])).chunk(2)
        discriminator = losses.discriminator_loss(activation_natural, activation_enhanced)
        self._update("discriminator", discriminator)
        with _frozen(self.networks["discriminator"]) as judge:
            natural = losses.natural_loss(judge(enhanced))

        # S540: C learns to restore x from G(x); then L_artifact punishes in G what the C so learned cannot restore.
        inverse = losses.inverse_loss(self.inverse(detached), x)
        self._update("inverse", inverse)
        with _frozen(self.networks["inverse"]) as restorer:
            artifact = losses.artifact_loss(restorer(enhanced), x)

        # Equation 1: G's step on all three.
        generator = losses.generator_loss(
            color,
            natural,
            artifact,
            lambda_color=config.lambda_color,
            lambda_natural=config.lambda_natural,
            lambda_artifact=config.lambda_artifact,
        )
        self._update("generator", generator)
        return {
            "loss_color": color.detach(),
            "loss_natural": natural.detach(),
            "loss_artifact": artifact.detach(),
            "loss_generator": generator.detach(),
            "loss_discriminator": discriminator.detach(),
            "loss_inverse": inverse.detach(),
            "activation_natural": activation_natural.detach().mean(),
            "activation_enhanced": activation_enhanced.detach().mean(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser states by network name, as tensors and plain values."""
        return {
            name: {"weights": self.networks[name].state_dict(), "optimizer": self.optimizers[name].state_dict()}
            for name in NETWORKS
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in NETWORKS:
            self.networks[name].load_state_dict(state[name]["weights"])
            self.optimizers[name].load_state_dict(state[name]["optimizer"])

    def _set_learning_rates(self, number: int) -> None:
        """Half a cosine down to a tenth at the end of the run; a function of the step, so resuming needs no state."""
        fraction = FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * number / self.config.steps))
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.base_rates[name] * fraction

    def _update(self, name: str, loss: Tensor) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def to_tensor(pixels: np.ndarray, device: torch.device) -> Tensor:
    """N×H×W×3 uint8 to N×3×H×W float in [−1, 1]; channels last in memory, as it came."""
    return torch.tensor(pixels, device=device).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(images: Tensor) -> np.ndarray:
    """N×3×H×W float to N×H×W×3 uint8, clipped and rounded; the inverse of `to_tensor`."""
    scaled = ((images.detach().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()


@contextmanager
def _frozen(network: nn.Module) -> Iterator[nn.Module]:
    """The bare network, without gradients of its own: what passes through it trains G alone and needs no all-reduce."""
    network.requires_grad_(False)
    try:
        yield network
    finally:
        network.requires_grad_(True)
