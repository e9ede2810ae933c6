"""The gate promotes what is better beyond doubt, and nothing else."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from naturaltone.pipeline import tone
from naturaltone.serving.evaluation import gate_scores
from naturaltone.serving.evaluation.gate import GUARDS, PRIMARY, SKIN_GUARDS, Outcome, Verdict, judge
from naturaltone.serving.evaluation.gate_scores import PEOPLE, PhotoScores
from naturaltone.serving.evaluation.verdict import Finding
from tests.gates import gate_photos, pretrained_and

CHAMPION = {
    **{"naturalness": 0.6, "niqe": 4.6, "local_contrast_gain": 1.45, "clipped_fraction": 0.02, "banding": 0.03},
    **{
        "noise_gain": 1.8,
        "halo_overshoot": 0.07,
        "skin_hue_shift": 2.2,
        "neutral_shift": 1.0,
        **{"skin_lightness_shift": 4.0, "skin_chroma_shift": 3.0, "skin_turn": 3.0},
    },
}
SPREAD = {
    **{"naturalness": 0.02, "niqe": 0.13, "local_contrast_gain": 0.05, "clipped_fraction": 0.03, "banding": 0.06},
    **{"noise_gain": 0.11, "halo_overshoot": 0.01, "skin_hue_shift": 0.45, "neutral_shift": 0.23},
    **{"skin_lightness_shift": 1.0, "skin_chroma_shift": 1.0, "skin_turn": 1.0, "identity_psnr": 1.6},
}  # of two models that differ by chance, over photos


def scores(
    *, inputs: int = 200, natural: int = 100, seed: int = 0, slice: tuple[str, int] = ("night", 60), **gains: float
) -> list[PhotoScores]:
    """The scores of a challenger with these mean gains, in the measures' own units. slice: with some of the inputs in it."""
    random = np.random.default_rng(seed)

    def one(number: int, role: str, measures: dict[str, float], slices: tuple[str, ...]) -> PhotoScores:
        challenger = {
            name: value + gains.get(name, 0.0) + random.normal(0, SPREAD[name]) for name, value in measures.items()
        }
        name = f"{role}{number}"
        return PhotoScores(
            photo_id=name, name=name, role=role, slices=slices, champion=dict(measures), challenger=challenger
        )

    name, members = slice
    return [
        *(one(number, "input", CHAMPION, (name,) if number < members else ()) for number in range(inputs)),
        *(one(number, "natural", {"identity_psnr": 32.0}, ()) for number in range(natural)),
    ]


def failed(verdict: Verdict) -> set[tuple[str, str]]:
    return {(check.measure, check.slice) for check in verdict.checks if check.finding is Finding.FAILS}


def test_a_challenger_that_is_better_and_nowhere_worse_is_promoted() -> None:
    verdict = judge(scores(naturalness=0.02))
    assert verdict.outcome is Outcome.BETTER
    assert verdict.why.startswith("better: naturalness N +0.0") and verdict.why.endswith("and worse nowhere")
    assert verdict.numbers[PRIMARY] == pytest.approx(0.02, abs=0.005) and verdict.numbers["photos"] == 200
    assert verdict.not_judged == dict.fromkeys(("high key", "already good", "people", *PEOPLE), 0)


def test_equal_models_and_gains_that_nobody_needs_are_not_promoted() -> None:
    for gain in (0.0, 0.004):
        assert judge(scores(naturalness=gain)).outcome is Outcome.NOT_BETTER


@pytest.mark.parametrize("measure", [*GUARDS, "identity_psnr"])
def test_no_gain_makes_up_for_a_measure_that_got_worse(measure: str) -> None:
    lost = {name: -guard.sign * 2 * guard.margin for name, guard in GUARDS.items()} | {"identity_psnr": -1.5}
    verdict = judge(scores(naturalness=0.2, **{measure: lost[measure]}))
    where = "natural photos" if measure == "identity_psnr" else "all"
    assert verdict.outcome is Outcome.WORSE and (measure, where) in failed(verdict)
    gained = judge(scores(naturalness=0.2, **{measure: -lost[measure]}))
    assert gained.outcome is Outcome.BETTER


def test_a_slice_that_got_worse_stops_a_gain_over_all() -> None:
    mixed = scores(naturalness=0.05)
    for each in mixed:
        if "night" in each.slices:
            each.challenger["noise_gain"] += 0.5
            each.challenger["naturalness"] -= 0.1
    assert {("noise_gain", "night"), (PRIMARY, "night")} <= failed(judge(mixed))


@pytest.mark.parametrize("slice", PEOPLE)
@pytest.mark.parametrize("measure", SKIN_GUARDS)
def test_skin_of_one_tone_or_in_low_key_that_changes_stops_a_gain_over_all(slice: str, measure: str) -> None:
    mixed = scores(naturalness=0.05, slice=(slice, 30))
    for each in mixed[:30]:
        each.challenger[measure] += 4
    assert failed(judge(mixed)) == {(measure, slice)}


def test_the_skin_of_natural_photos_counts_too() -> None:
    """Well-exposed portraits are among them; inputs may have no face at all."""
    good = scores(naturalness=0.05, slice=("night", 0))
    portraits = [
        dataclasses.replace(
            each,
            slices=("brown to dark skin",),
            champion=each.champion | dict.fromkeys(SKIN_GUARDS, 1.0),
            challenger=each.challenger | dict.fromkeys(SKIN_GUARDS, 9.0),
        )
        for each in good[200:230]
    ]
    verdict = judge([*good[:200], *portraits, *good[230:]])
    assert failed(verdict) == {(measure, "brown to dark skin") for measure in SKIN_GUARDS}


def test_a_slice_of_few_photos_is_not_judged_and_is_named() -> None:
    few = scores(naturalness=0.05, slice=("night", 19))
    for each in few[:19]:
        each.challenger["noise_gain"] += 0.3
    verdict = judge(few)
    assert verdict.outcome is Outcome.BETTER and verdict.not_judged["night"] == 19


def test_too_few_photos_keep_a_challenger_and_say_how_many_would_tell() -> None:
    verdict = judge(scores(inputs=19, natural=19, naturalness=0.1, slice=("night", 0)))
    assert verdict.outcome is Outcome.TOO_FEW and "would tell" in verdict.why
    assert verdict.checks[0].finding is Finding.TOO_FEW and verdict.checks[0].needed == 20
    unsure = judge(scores(inputs=21, natural=100, naturalness=0.016, slice=("night", 0)))
    assert unsure.outcome is Outcome.TOO_FEW
    needed = max(check.needed or 0 for check in unsure.checks)
    assert f"about {needed} would tell" in unsure.why and needed > 21


def test_a_champion_without_niqe_reference_lets_nobody_pass() -> None:
    blind = scores(naturalness=0.1)
    for each in blind:
        each.champion["niqe"] = math.nan
    verdict = judge(blind)
    assert verdict.outcome is Outcome.TOO_FEW and "NIQE has no value" in verdict.why


def test_the_verdict_is_the_same_twice_and_survives_json() -> None:
    once, again = judge(scores(naturalness=0.02)).to_json(), judge(scores(naturalness=0.02)).to_json()
    assert once == again and once["outcome"] == "better" and once["checks"][0]["measure"] == PRIMARY


def test_the_gate_refuses_what_poisoned_natural_photos_would_teach() -> None:
    """Noise, one colour, and the fixed algorithm's own pictures; by the champion's NIQE where NIQE can see it."""
    random = np.random.default_rng(0)
    photos = gate_photos(20)

    def noise(picture: np.ndarray, source: np.ndarray) -> np.ndarray:
        return np.clip(picture + random.normal(0, 12, source.shape), 0, 255).astype(np.uint8)

    def one_colour(picture: np.ndarray, source: np.ndarray) -> np.ndarray:
        return (picture * 0.1 + np.array([110, 125, 90])).astype(np.uint8)

    def fixed(picture: np.ndarray, source: np.ndarray) -> np.ndarray:
        return tone.intermediate(source, tone.LOCAL_LAPLACIAN)

    for poison, by in ((noise, "niqe"), (one_colour, "niqe"), (fixed, "identity_psnr")):
        with pretrained_and(poison):
            verdict = judge([gate_scores._score(photo) for photo in photos])
        assert verdict.outcome is Outcome.WORSE
        assert by in {measure for measure, _ in failed(verdict)}, (poison.__name__, verdict.why)
