"""Equations 1 to 6 of the method, as pure functions. x: input, y: natural, I_D: intermediate image of x."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

_SSIM_SIGMA = 1.5  # Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", TIP 2004
_SSIM_K1, _SSIM_K2 = 0.01, 0.03
# Zhao et al., "Loss Functions for Image Restoration with Neural Networks", TCI 2017, section III.
_MS_SSIM_SIGMAS = (0.5, 1.0, 2.0, 4.0, 8.0)
_MS_SSIM_SHARE = 0.84


def color_loss(enhanced: Tensor, intermediate: Tensor, *, form: str = "mse") -> Tensor:
    """L_color, equation 2: E_x[MSE(G(x), I_D)], or with another `form` of the difference [0060]; trains G.

    form: `mse`, `l1`, `ssim` (1 − SSIM) or `ms_ssim_l1` (the mix of Zhao et al. 2017).
    """
    if form == "l1":
        return F.l1_loss(enhanced, intermediate)
    if form == "ssim":
        return 1 - _ssim_terms(enhanced, intermediate, _SSIM_SIGMA)[0].mean()
    if form == "ms_ssim_l1":
        return _ms_ssim_l1(enhanced, intermediate)
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
    """E_y[MSE(G(y), y)]: natural photos stay as they are; not in the document; trains G."""
    return F.mse_loss(enhanced_natural, natural)


def generator_loss(terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """L_generator, equation 1: λ1 L_color + λ2 L_natural + λ3 L_artifact, of those `terms` that there are; trains G."""
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


def _ssim_terms(x: Tensor, y: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """SSIM at each pixel and channel, and its contrast-structure part alone, with a Gaussian window; y has no gradient."""
    x, y = (x + 1) / 2, (y + 1) / 2  # its luminance part is for values that are not negative
    c1, c2 = _SSIM_K1**2, _SSIM_K2**2
    # The formula needs the two variances only as a sum: four blurs, of which three have a way back.
    mean_x, mean_squares, mean_xy = _blur(torch.stack([x, x * x + y * y, x * y]), sigma).unbind()
    mean_y = _blur(y, sigma)
    squared_means, product = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
    structure = (2 * (mean_xy - product) + c2) / (mean_squares - squared_means + c2)
    return structure * ((2 * product + c1) / (squared_means + c1)), structure


def _ms_ssim_l1(x: Tensor, y: Tensor) -> Tensor:
    """0.84 (1 − MS-SSIM) + 0.16 L1, the latter under the coarsest window, on the scale of [0, 1]."""
    terms = [_ssim_terms(x, y, sigma) for sigma in _MS_SSIM_SIGMAS]
    ms_ssim = terms[-1][0]
    for _, structure in terms[:-1]:
        ms_ssim = ms_ssim * structure
    # The mean of a blurred plane is the mean of the plane weighed by how often the window sees each place.
    down, across = (_gaussian_band(side, _MS_SSIM_SIGMAS[-1], x.device).sum(dim=0) for side in x.shape[-2:])
    difference = (x - y).abs() / 2 * down[:, None] * across
    return _MS_SSIM_SHARE * (1 - ms_ssim.mean()) + (1 - _MS_SSIM_SHARE) * difference.mean()


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of N×C×H×W to the same size, its window cut off and weighed anew at the sides.

    As products with band matrices: a CPU takes five times as long for the convolutions with one channel that this is.
    """
    down, across = (_gaussian_band(side, sigma, images.device) for side in images.shape[-2:])
    return down @ images @ across.T


@functools.lru_cache(maxsize=32)
def _gaussian_band(side: int, sigma: float, device: torch.device) -> Tensor:
    """side×side weights with which each place sees the others, rows summing to 1."""
    place = torch.arange(side, device=device)
    band = torch.exp(-0.5 * ((place - place[:, None]) / sigma) ** 2)
    return band / band.sum(dim=1, keepdim=True)
