"""A verdict is no more certain than its photos: chance promotes nobody, and too few photos say how many are needed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naturaltone.serving.evaluation.verdict import Finding, improves, is_not_worse, lower_bound

SEEDS = st.integers(0, 2**32 - 1)
NIGHTLY = 365.0


def differences(seed: int, *, mean: float, photos: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1.0, photos)


@pytest.mark.parametrize(
    "draw",
    [
        lambda random: random.normal(size=40),
        lambda random: random.exponential(size=40) - 1,
        lambda random: 1 - random.exponential(size=40),
    ],
    ids=["symmetric", "long tail above", "long tail below"],
)
def test_a_bound_at_5_percent_is_wrong_in_about_5_percent(draw: object) -> None:
    random = np.random.default_rng(3)
    wrong = np.mean([lower_bound(draw(random), error=0.05) > 0 for _ in range(600)])  # type: ignore[operator]
    assert 0.03 < wrong < 0.075


@settings(max_examples=30)
@given(SEEDS, st.floats(0.01, 100), st.floats(-100, 100))
def test_a_bound_follows_the_unit_of_the_measure(seed: int, scale: float, offset: float) -> None:
    given = differences(seed, mean=0)
    bound = lower_bound(given, error=0.05)
    assert lower_bound(scale * given + offset, error=0.05) == pytest.approx(scale * bound + offset, rel=1e-3, abs=1e-3)


@settings(max_examples=30)
@given(SEEDS, st.floats(-2, 2))
def test_less_error_gives_a_lower_bound_and_all_are_below_the_mean(seed: int, mean: float) -> None:
    given = differences(seed, mean=mean)
    bounds = [lower_bound(given, error=error) for error in (0.05, 0.01, 0.001)]
    assert given.mean() > bounds[0] > bounds[1] > bounds[2]
    assert bounds[0] == lower_bound(given, error=0.05), "the same photos always give the same verdict"


def test_a_model_is_better_only_beyond_noise_and_by_something_that_can_be_seen() -> None:
    clear = improves("niqe", differences(1, mean=2.0), least=0.5, slots_per_year=NIGHTLY)
    assert (clear.finding, clear.needed, clear.photos) == (Finding.HOLDS, None, 60) and 0 < clear.bound < clear.mean
    sure_but_tiny = improves("niqe", differences(1, mean=0) * 1e-3 + 0.1, least=0.5, slots_per_year=NIGHTLY)
    assert sure_but_tiny.bound > 0 and sure_but_tiny.finding is Finding.FAILS
    worse = improves("niqe", differences(1, mean=-2.0), least=0.5, slots_per_year=NIGHTLY)
    assert worse.finding is Finding.FAILS and worse.needed is None


def test_what_seems_better_but_may_be_chance_says_how_many_photos_would_tell() -> None:
    unsure = improves("niqe", differences(4, mean=0.4), least=0.2, slots_per_year=NIGHTLY)
    assert unsure.mean >= 0.2 and unsure.finding is Finding.TOO_FEW
    assert unsure.needed is not None and unsure.needed > unsure.photos
    enough = np.resize(differences(4, mean=0.4), unsure.needed)
    assert improves("niqe", enough, least=0.2, slots_per_year=NIGHTLY).finding is Finding.HOLDS


def test_more_slots_a_year_ask_for_more_certainty() -> None:
    given = differences(2, mean=0.5)
    nightly, weekly = (improves("niqe", given, least=0, slots_per_year=slots).bound for slots in (365, 52))
    assert nightly < weekly


def test_not_worse_means_within_the_margin_beyond_doubt() -> None:
    same = differences(1, mean=0.0)
    assert is_not_worse("halo", same, margin=1.0).finding is Finding.HOLDS
    assert is_not_worse("halo", same - 2.0, margin=1.0).finding is Finding.FAILS
    unsure = is_not_worse("halo", same, margin=0.1)
    assert unsure.finding is Finding.TOO_FEW and unsure.needed is not None and unsure.needed > 60


@pytest.mark.parametrize("photos", [0, 1, 19])
def test_a_few_photos_decide_nothing(photos: int) -> None:
    few = np.ones(photos)
    assert improves("niqe", few, least=0.1, slots_per_year=NIGHTLY).finding is Finding.TOO_FEW
    check = is_not_worse("halo", few, margin=0.1, slice="night")
    assert (check.finding, check.slice, check.photos) == (Finding.TOO_FEW, "night", photos) and math.isnan(check.bound)


def test_photos_without_a_value_do_not_count() -> None:
    given = differences(1, mean=2.0)
    with_gaps = np.concatenate([given, [math.nan] * 7])
    assert improves("niqe", with_gaps, least=0.5, slots_per_year=NIGHTLY) == improves(
        "niqe", given, least=0.5, slots_per_year=NIGHTLY
    )


def test_photos_that_agree_exactly_are_no_division_by_zero() -> None:
    assert lower_bound(np.full(30, 0.25), error=0.05) == 0.25
    assert is_not_worse("halo", np.zeros(30), margin=0.0).finding is Finding.HOLDS
