"""Equations 1 to 6, by hand."""

from __future__ import annotations

import pytest
import torch

from training import losses


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
