"""The configuration refuses a wrong setting and says what is allowed."""

from __future__ import annotations

import dataclasses

import pytest

from naturaltone.training.config import RECIPES, TrainConfig, make_config


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_valid_and_can_be_changed(recipe: str) -> None:
    assert make_config(recipe, ["steps=7", "lambda_natural=0.5"]).steps == 7


def test_the_patent_recipe_has_the_authors_sizes() -> None:
    config = make_config("patent", [])
    assert (config.width, config.residual_blocks, config.inverse_layers) == (32, 16, 5) and config.crop >= 256


@pytest.mark.parametrize(
    ("recipe", "setting", "message"),
    [
        ("big", "steps=1", "recipe 'big' is unknown; use one of smoke, small, patent"),
        ("small", "stepz=1", "there is no field 'stepz'; use one of width, "),
        ("small", "steps=many", "'many' is not a valid int"),
        ("small", "steps=1.5", "'1.5' is not a valid int"),
        ("small", "steps", "write field=value"),
        ("small", "steps=0", "steps=0: must be at least 1"),
        ("small", "crop=100", "crop=100: must be a multiple of 16"),
        ("small", "lambda_color=-1", "lambda_color=-1.0: must be a positive number or 0"),
        ("small", "learning_rate=nan", "learning_rate=nan: must be a positive number, below 1,000,000"),
        ("small", "beta1=1", "beta1=1.0: must be below 1"),
        ("small", "ms_ssim_share=1.1", "ms_ssim_share=1.1: must be at most 1"),
    ],
)
def test_a_wrong_setting_is_named_with_the_remedy(recipe: str, setting: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make_config(recipe, [setting])
    assert message in str(caught.value)


def test_a_lambda_of_zero_is_allowed() -> None:
    assert make_config("small", ["lambda_natural=0"]).lambda_natural == 0


def test_the_configuration_survives_json() -> None:
    config = make_config("small", [])
    assert TrainConfig(**dataclasses.asdict(config)) == config
