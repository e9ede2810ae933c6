"""Equations 1 to 6 of the method, as pure functions. x: input, y: natural, I_D: intermediate image of x."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def color_loss(enhanced: Tensor, intermediate: Tensor) -> Tensor:
    """L_color, equation 2: E_x[MSE(G(x), I_D)]; trains G."""
    return F.mse_loss(enhanced, intermediate)


def discriminator_loss(activation_natural: Tensor, activation_enhanced: Tensor) -> Tensor:
    """L_discriminator, equation 3: E_y[(D(y) − 1)²] + E_x[D(G(x))²]; trains D."""
    return (activation_natural - 1).square().mean() + activation_enhanced.square().mean()


def natural_loss(activation_enhanced: Tensor) -> Tensor:
    """L_natural, equation 4: E_x[(D(G(x)) − 1)²]; trains G."""
    return (activation_enhanced - 1).square().mean()


def inverse_loss(restored: Tensor, input: Tensor) -> Tensor:
    """L_inverse, equation 5: E_x[MSE(C(G(x)), x)]; trains C."""
    return F.mse_loss(restored, input)


def artifact_loss(restored: Tensor, input: Tensor) -> Tensor:
    """L_artifact, equation 6: the form of equation 5; trains G."""
    return F.mse_loss(restored, input)


def generator_loss(
    color: Tensor,
    natural: Tensor,
    artifact: Tensor,
    *,
    lambda_color: float,
    lambda_natural: float,
    lambda_artifact: float,
) -> Tensor:
    """L_generator, equation 1: λ1 L_color + λ2 L_natural + λ3 L_artifact; trains G."""
    return lambda_color * color + lambda_natural * natural + lambda_artifact * artifact
