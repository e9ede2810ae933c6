"""Equations 1 to 6 of the method, as pure functions. x: input, y: natural, I_D: intermediate image of x."""

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
_REACH = 4  # σ of a Gaussian window to either side; beyond lie 6 of 100,000
_BLOCK = 56  # places that are blurred in one product


def color_loss(enhanced: Tensor, intermediate: Tensor, *, form: str = "mse", ms_ssim_share: float = 0.84) -> Tensor:
    """L_color, equation 2: E_x[MSE(G(x), I_D)], or with another `form` of the difference [0060]; trains G.

    form: `mse`, `l1`, `ssim` (1 − SSIM) or `ms_ssim_l1` (the mix of Zhao et al. 2017, whose α is `ms_ssim_share`).
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
    """L_artifact, equation 6: the form of equation 5; trains G."""
    return F.mse_loss(restored, input)


def identity_loss(enhanced_natural: Tensor, natural: Tensor) -> Tensor:
    """E_y[|G(y) − y|]: natural photos stay as they are (as in Zhu et al. 2017, CycleGAN); not in the document; trains G.

    L1, not MSE: of a photo that could be an input as well as a natural one, a squared loss makes a bit of both.
    """
    return F.l1_loss(enhanced_natural, natural)


def generator_loss(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """L_generator, equation 1: λ1 L_color + λ2 L_natural + λ3 L_artifact, of those `terms` that there are; trains G."""
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


def _ssim_terms(x: Tensor, y: Tensor, sigmas: tuple[float, ...]) -> list[tuple[Tensor, Tensor]]:
    """For each Gaussian window SSIM at each pixel and channel, and its contrast-structure part; y has no gradient."""
    x, y = (x + 1) / 2, (y + 1) / 2  # its luminance part is for values that are not negative
    # The formula needs the two variances only as a sum: four blurs, of which three have a way back.
    moments = torch.stack([x, x * x + y * y, x * y])
    return [_ssim(_blur(moments, sigma), _blur(y, sigma)) for sigma in sigmas]


def _ssim(means: Tensor, mean_y: Tensor) -> tuple[Tensor, Tensor]:
    """Of the local means of x, x² + y² and xy, and that of y."""
    mean_x, mean_squares, mean_xy = means.unbind()
    c1, c2 = _SSIM_K1**2, _SSIM_K2**2
    squared_means, product = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
    structure = (2 * (mean_xy - product) + c2) / (mean_squares - squared_means + c2)
    return structure * ((2 * product + c1) / (squared_means + c1)), structure


def _ms_ssim_l1(x: Tensor, y: Tensor, share: float) -> Tensor:
    """α (1 − MS-SSIM) + (1 − α) L1, the latter under the coarsest window, on the scale of [0, 1]."""
    terms = _ssim_terms(x, y, _MS_SSIM_SIGMAS)
    ms_ssim = terms[-1][0]
    for _, structure in terms[:-1]:
        ms_ssim = ms_ssim * structure
    # The mean of a blurred plane is the mean of the plane weighed by how often the window sees each place.
    down, across = (_gaussian_band(side, _MS_SSIM_SIGMAS[-1], x.device).sum(dim=0) for side in x.shape[-2:])
    difference = (x - y).abs() / 2 * down[:, None] * across
    return share * (1 - ms_ssim.mean()) + (1 - share) * difference.mean()


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of N×C×H×W to the same size, its window cut off and weighed anew at the sides."""
    return _Blur.apply(images, sigma)


class _Blur(torch.autograd.Function):
    """As products with band matrices, block by block of the places that they mix.

    A CPU takes five times as long for the convolutions with one channel that this is, and 1.5 times as long for products
    with the whole matrices. The way back is the product with the transposed ones; autograd's, through the slices, adds up a
    picture for each block.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, sigma: float) -> Tensor:
        ctx.sigma = sigma
        return _mix(images, sigma, transposed=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _mix(gradient, ctx.sigma, transposed=True), None


def _mix(images: Tensor, sigma: float, *, transposed: bool) -> Tensor:
    """Each place of N×C×H×W as a weighted sum of those around it, along both sides."""
    down, across = (_blocks(side, sigma, images.device, transposed) for side in images.shape[-2:])
    rows = torch.cat([weights @ images[..., seen, :] for seen, weights in down], dim=-2)
    return torch.cat([rows[..., seen] @ weights.T for seen, weights in across], dim=-1)


@functools.lru_cache(maxsize=64)
def _blocks(side: int, sigma: float, device: torch.device, transposed: bool) -> list[tuple[slice, Tensor]]:
    """The band matrix in blocks of its rows: the places that a block sees, and their weights."""
    band = _gaussian_band(side, sigma, device)
    band = band.T.contiguous() if transposed else band
    blocks = []
    for rows in band.split(_BLOCK):
        places = rows.any(dim=0).nonzero()
        seen = slice(int(places.min()), int(places.max()) + 1)
        blocks.append((seen, rows[:, seen].contiguous()))
    return blocks


@functools.lru_cache(maxsize=32)
def _gaussian_band(side: int, sigma: float, device: torch.device) -> Tensor:
    """side×side weights with which each place sees the others, up to 4σ away, rows summing to 1."""
    place = torch.arange(side, device=device)
    distance = place - place[:, None]
    band = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance.abs() <= _REACH * sigma)
    return band / band.sum(dim=1, keepdim=True)
