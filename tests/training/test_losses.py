"""Equations 1 to 6, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from naturaltone.training import losses


def test_l_color_is_the_mean_squared_difference_to_the_intermediate() -> None:
    assert losses.color_loss(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 0.0])).item() == 5.0


def test_l_discriminator_wants_1_for_natural_and_0_for_enhanced() -> None:
    natural, enhanced = torch.tensor([[1.0], [0.5]]), torch.tensor([[0.0], [0.4]])
    assert losses.discriminator_loss(natural, enhanced).item() == pytest.approx(0.125 + 0.08)
    assert losses.discriminator_loss(torch.ones(3, 1), torch.zeros(3, 1)).item() == 0


def test_l_natural_wants_1_for_enhanced() -> None:
    assert losses.natural_loss(torch.tensor([[0.0], [0.5]])).item() == pytest.approx(0.625)


def test_l_inverse_and_l_artifact_are_the_distance_of_the_second_corrected_image_to_the_input() -> None:
    restored, x = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 0.0])
    assert losses.inverse_loss(restored, x).item() == losses.artifact_loss(restored, x).item() == 2.0


def test_l_generator_weighs_its_terms_with_the_users_lambdas() -> None:
    terms = {"color": torch.tensor(1.0), "natural": torch.tensor(2.0), "artifact": torch.tensor(3.0)}
    assert losses.generator_loss(terms, {"color": 10, "natural": 0.5, "artifact": 2}).item() == 17
    assert losses.generator_loss({"color": torch.tensor(2.0)}, {"color": 3}).item() == 6


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1


def test_ssim_agrees_with_scikit_image(astronaut: np.ndarray) -> None:
    one = np.ascontiguousarray(astronaut[:128, 100:260])
    other = (one * 0.7 + 30).astype(np.uint8)
    inner = (slice(20, -20), slice(20, -20))  # the two treat the sides differently
    expected = structural_similarity(
        one, other, channel_axis=2, gaussian_weights=True, use_sample_covariance=False, data_range=255, full=True
    )[1][inner].mean()
    [(ours, _)] = losses._ssim_terms(tensor(one), tensor(other), (1.5,))
    assert ours[..., inner[0], inner[1]].mean().item() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("form", ["mse", "l1", "ssim", "ms_ssim_l1"])
def test_every_form_of_l_color_is_0_for_equal_pictures_and_grows_with_the_difference(
    form: str, astronaut: np.ndarray
) -> None:
    x = tensor(np.ascontiguousarray(astronaut[:64, 200:264]))
    worse = [losses.color_loss(x * share, x, form=form).item() for share in (1.0, 0.9, 0.6, 0.2)]
    assert worse[0] == pytest.approx(0, abs=1e-5) and worse == sorted(worse) and worse[-1] > 0.01


def test_ms_ssim_l1_mixes_zhaos_shares() -> None:
    """For two flat pictures the contrast terms are 1. The luminance term and L1 are known."""
    x, y = torch.full((1, 3, 48, 48), 0.0), torch.full((1, 3, 48, 48), 0.5)  # 0.5 and 0.75 on the scale of [0, 1]
    luminance = (2 * 0.5 * 0.75 + 1e-4) / (0.5**2 + 0.75**2 + 1e-4)
    expected = 0.84 * (1 - luminance) + 0.16 * 0.25
    assert losses.color_loss(x, y, form="ms_ssim_l1").item() == pytest.approx(expected, abs=1e-3)
    expected = 0.2 * (1 - luminance) + 0.8 * 0.25
    assert losses.color_loss(x, y, form="ms_ssim_l1", ms_ssim_share=0.2).item() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("sigma", [0.5, 8.0])
def test_the_blur_in_blocks_and_its_gradient_agree_with_the_whole_matrices(sigma: float) -> None:
    torch.manual_seed(0)
    images, weights = torch.rand(2, 1, 61, 130, requires_grad=True), torch.rand(2, 1, 61, 130)
    down, across = (losses._gaussian_band(side, sigma, images.device) for side in images.shape[-2:])
    ways = [losses._blur(images, sigma), down @ images @ across.T]
    gradients = [torch.autograd.grad((way * weights).sum(), images)[0] for way in ways]
    torch.testing.assert_close(ways[0], ways[1])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_l1_is_the_mean_distance() -> None:
    assert losses.color_loss(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0]), form="l1").item() == 1.5


def test_l_identity_is_the_distance_to_the_natural_photo() -> None:
    assert losses.identity_loss(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 0.0])).item() == 1.5
