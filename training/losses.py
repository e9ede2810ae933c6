"""Equations 1 to 6 of the patent (US 12277676 B2), as pure functions.

x: input photo, y: natural photo, I_D: intermediate image of x.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_SSIM_SIGMA = 1.5  # Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", TIP 2004
_SSIM_K1, _SSIM_K2 = 0.01, 0.03
# Zhao et al., "Loss Functions for Image Restoration with Neural Networks", TCI 2017, section III.
_MS_SSIM_SIGMAS = (0.5, 1.0, 2.0, 4.0, 8.0)
_REACH = 4  # σ that a Gaussian window covers on either side; 6 of 100,000 of its weight lie beyond
_BLOCK = 56  # pixels along a side that one product blurs


def color_loss(enhanced: Tensor, intermediate: Tensor, *, form: str = "mse", ms_ssim_share: float = 0.84) -> Tensor:
    """L_color, equation 2: E_x[MSE(G(x), I_D)], or with another `form` of the difference [0060]; trains G.

    form: `mse`, `l1`, `ssim` (1 − SSIM) or `ms_ssim_l1` (the mix of Zhao et al. 2017 with α = `ms_ssim_share`).
    """
    if form == "l1":
        return F.l1_loss(enhanced, intermediate)
    if form == "ssim":
        [(similarity, _)] = _ssim_terms(enhanced, intermediate, (_SSIM_SIGMA,))
        return 1 - similarity.mean()
    if form == "ms_ssim_l1":
        return _ms_ssim_l1(enhanced, intermediate, ms_ssim_share)
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
    """L_artifact, equation 6: E_x[MSE(C(G(x)), x)], as in equation 5; trains G."""
    return F.mse_loss(restored, input)


def identity_loss(enhanced_natural: Tensor, natural: Tensor) -> Tensor:
    """E_y[|G(y) − y|]: natural photos stay as they are; trains G. Not in the patent, but in Zhu et al. 2017 (CycleGAN).

    It is L1, not MSE. A photo can be one that G should change or one that G should leave. L1 makes G choose the likelier
    of the two results; a squared loss makes G mix them.
    """
    return F.l1_loss(enhanced_natural, natural)


def generator_loss(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """L_generator, equation 1: λ1 L_color + λ2 L_natural + λ3 L_artifact, for the losses in `terms`; trains G.

    weights: the λ of each term.
    """
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


def _ssim_terms(x: Tensor, y: Tensor, sigmas: tuple[float, ...]) -> list[tuple[Tensor, Tensor]]:
    """SSIM and its contrast-structure part at each pixel and channel, for each Gaussian window. Only x needs a gradient."""
    x, y = (x + 1) / 2, (y + 1) / 2  # to [0, 1]: the luminance part is made for values that are not negative
    # The formula needs only the sum of the two variances. So four blurs are enough, and only three need a backward pass.
    moments = torch.stack([x, x * x + y * y, x * y])
    return [_ssim(_blur(moments, sigma), _blur(y, sigma)) for sigma in sigmas]


def _ssim(means: Tensor, mean_y: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure part, from the local means of x, x² + y² and xy, and of y."""
    mean_x, mean_squares, mean_xy = means.unbind()
    c1, c2 = _SSIM_K1**2, _SSIM_K2**2
    squared_means, product = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
    structure = (2 * (mean_xy - product) + c2) / (mean_squares - squared_means + c2)
    return structure * ((2 * product + c1) / (squared_means + c1)), structure


def _ms_ssim_l1(x: Tensor, y: Tensor, share: float) -> Tensor:
    """α (1 − MS-SSIM) + (1 − α) L1. The coarsest window weights the L1, which is on the scale of [0, 1]."""
    terms = _ssim_terms(x, y, _MS_SSIM_SIGMAS)
    ms_ssim = terms[-1][0]
    for _, structure in terms[:-1]:
        ms_ssim = ms_ssim * structure
    # No blur is needed: the mean of a blurred plane is the mean of the plane with each pixel weighted by what all windows
    # together give it.
    down, across = (_gaussian_band(side, _MS_SSIM_SIGMAS[-1], x.device).sum(dim=0) for side in x.shape[-2:])
    difference = (x - y).abs() / 2 * down[:, None] * across
    return share * (1 - ms_ssim.mean()) + (1 - share) * difference.mean()


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of N×C×H×W to the same size. At the sides the window is cut off, and its weights still sum to 1."""
    return _Blur.apply(images, sigma)


class _Blur(torch.autograd.Function):
    """A blur as products with band matrices, in blocks of pixels.

    On a CPU, convolutions with one channel take five times as long for the same blur. Products with the whole matrices take
    1.5 times as long. The backward pass is the product with the transposed matrices. Autograd's own backward pass would go
    through the slices and add up a whole picture for each block.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, sigma: float) -> Tensor:
        ctx.sigma = sigma
        return _mix(images, sigma, transposed=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _mix(gradient, ctx.sigma, transposed=True), None


def _mix(images: Tensor, sigma: float, *, transposed: bool) -> Tensor:
    """Make each pixel of N×C×H×W a weighted sum of its neighbours, along the height and the width."""
    down, across = (_blocks(side, sigma, images.device, transposed) for side in images.shape[-2:])
    rows = torch.cat([weights @ images[..., seen, :] for seen, weights in down], dim=-2)
    return torch.cat([rows[..., seen] @ weights.T for seen, weights in across], dim=-1)


@functools.lru_cache(maxsize=64)
def _blocks(side: int, sigma: float, device: torch.device, transposed: bool) -> list[tuple[slice, Tensor]]:
    """The band matrix in blocks of rows: for each, the pixels that the block sees and their weights."""
    band = _gaussian_band(side, sigma, device)
    band = band.T.contiguous() if transposed else band
    blocks = []
    for rows in band.split(_BLOCK):
        columns = rows.any(dim=0).nonzero()
        seen = slice(int(columns.min()), int(columns.max()) + 1)
        blocks.append((seen, rows[:, seen].contiguous()))
    return blocks


@functools.lru_cache(maxsize=32)
def _gaussian_band(side: int, sigma: float, device: torch.device) -> Tensor:
    """side×side: row i holds the weights with which pixel i sees the pixels up to 4σ away. Each row sums to 1."""
    index = torch.arange(side, device=device)
    distance = index - index[:, None]
    band = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance.abs() <= _REACH * sigma)
    return band / band.sum(dim=1, keepdim=True)
