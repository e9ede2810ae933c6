"""The gate: whether a challenger is better than the champion beyond doubt, and nowhere worse.

One measure must improve, TMQI's naturalness N: of the measures it agreed best with a person's order of 30 photos before and
after (docs/retraining.md). Guards see what N does not: noise, halos, casts, bleached skin. They hold overall and on slices.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from naturaltone.serving import promotions
from naturaltone.serving.evaluation.gate_scores import PEOPLE, SLICES, PhotoScores
from naturaltone.serving.evaluation.measures import MEASURES
from naturaltone.serving.evaluation.verdict import MIN_PHOTOS, Check, Finding, improves, is_not_worse

PRIMARY = "naturalness"
LEAST_GAIN = 0.01  # of N; less than a person sees, but two models that differ by chance differ by less
SLOTS_PER_YEAR = 365.0


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A measure that must not get worse. sign: +1 if higher is better. margin: the loss that nobody would see."""

    sign: int
    margin: float


# Margins are in the measure's unit. On a slice they count twice, because it has few photos.
GUARDS = {
    "niqe": Guard(sign=-1, margin=0.1),
    "local_contrast_gain": Guard(sign=+1, margin=0.05),
    "clipped_fraction": Guard(sign=-1, margin=0.01),
    "banding": Guard(sign=-1, margin=0.03),
    "noise_gain": Guard(sign=-1, margin=0.15),
    "halo_overshoot": Guard(sign=-1, margin=0.015),
    "skin_hue_shift": Guard(sign=-1, margin=0.5),
    "neutral_shift": Guard(sign=-1, margin=0.3),
}
# In L*, C* and degrees; checked for each skin tone by itself and in low key, in inputs and natural photos.
SKIN_GUARDS = {
    "skin_lightness_shift": Guard(sign=-1, margin=1.5),
    "skin_chroma_shift": Guard(sign=-1, margin=2.0),
    "skin_turn": Guard(sign=-1, margin=2.0),
}
IDENTITY = Guard(sign=+1, margin=0.75)  # dB; on natural photos
_SLICE_MARGIN = 2.0
_LISTED = 4  # checks in the one line that says why


class Outcome(StrEnum):
    """What the gate says of the challenger."""

    BETTER = promotions.BETTER
    NOT_BETTER = "not better"
    WORSE = "worse"
    TOO_FEW = "too few photos"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The gate's decision. why: one line. checks: the primary measure first, then the guards, overall and by slice.

    not_judged: slices, or measures on a slice, with too few photos for a check, and how many they have.
    """

    outcome: Outcome
    why: str
    checks: tuple[Check, ...]
    not_judged: dict[str, int]

    @property
    def numbers(self) -> dict[str, float]:
        """What the history keeps: the gain in the primary measure, its lower bound, and the photos."""
        primary = self.checks[0]
        return {PRIMARY: primary.mean, "at_least": primary.bound, "photos": primary.photos}

    def to_json(self) -> dict[str, Any]:
        def plain(check: Check) -> dict[str, Any]:
            values = dataclasses.asdict(check)
            return {
                name: None if isinstance(value, float) and math.isnan(value) else value
                for name, value in values.items()
            }

        return {
            "outcome": self.outcome.value,
            "why": self.why,
            "checks": [plain(check) for check in self.checks],
            "not_judged": self.not_judged,
        }


def judge(
    scores: Sequence[PhotoScores], *, slots_per_year: float = SLOTS_PER_YEAR, least_gain: float = LEAST_GAIN
) -> Verdict:
    """Decide by the scores of the gate's photos. slots_per_year: how often a challenger comes before the gate."""
    inputs = [each for each in scores if each.role == "input"]
    natural = [each for each in scores if each.role == "natural"]
    gains = np.array([each.gain(PRIMARY) for each in inputs])
    checks = [improves(PRIMARY, gains, least=least_gain, slots_per_year=slots_per_year)]
    checks += [_guard(name, guard, inputs) for name, guard in GUARDS.items()]
    checks.append(_guard("identity_psnr", IDENTITY, natural, slice="natural photos"))
    not_judged = {}
    for slice in SLICES:
        members = [each for each in scores if slice in each.slices]
        if len(members) < MIN_PHOTOS:
            not_judged[slice] = len(members)
            continue
        if slice in PEOPLE:
            checks += [_guard(name, guard, members, slice=slice) for name, guard in SKIN_GUARDS.items()]
            continue
        for name, guard in {PRIMARY: Guard(sign=+1, margin=least_gain), **GUARDS}.items():
            check = _guard(name, guard, members, slice=slice, times=_SLICE_MARGIN)
            if check.photos < MIN_PHOTOS:
                not_judged[f"{label(name)} of {slice}"] = check.photos
            else:
                checks.append(check)
    return _decide(checks, not_judged, least_gain)


def _guard(
    measure: str, guard: Guard, photos: Sequence[PhotoScores], *, slice: str = "all", times: float = 1.0
) -> Check:
    gains = guard.sign * np.array([each.gain(measure) for each in photos])
    return is_not_worse(measure, gains, margin=guard.margin * times, slice=slice)


def _decide(checks: list[Check], not_judged: dict[str, int], least_gain: float) -> Verdict:
    primary, *guards = checks
    failed = [check for check in guards if check.finding is Finding.FAILS]
    open_ones = [check for check in checks if check.finding is Finding.TOO_FEW]
    if failed:
        outcome, why = Outcome.WORSE, f"worse in {_listed(failed)}"
    elif primary.finding is Finding.FAILS:
        outcome, why = Outcome.NOT_BETTER, f"not better: {_said(primary)}; it takes {least_gain:+g}, beyond noise"
    elif open_ones:
        needed = max(check.needed or MIN_PHOTOS for check in open_ones)
        outcome = Outcome.TOO_FEW
        why = f"cannot tell by so few photos: {_listed(open_ones)}; about {needed} would tell"
    else:
        outcome, why = Outcome.BETTER, f"better: {_said(primary)}, and worse nowhere"
    return Verdict(outcome=outcome, why=why, checks=tuple(checks), not_judged=not_judged)


def _listed(checks: list[Check]) -> str:
    more = f" and {len(checks) - _LISTED} more" if len(checks) > _LISTED else ""
    return ", ".join(map(_said, checks[:_LISTED])) + more


def _said(check: Check) -> str:
    where = "" if check.slice == "all" else f" of {check.slice}"
    if not check.photos:
        return f"{label(check.measure)}{where} has no value"
    # A check counts every gain as above 0. Here a measure moves in its own direction.
    numbers = f"{_signs()[check.measure] * check.mean:+.3g}"
    if check.measure == PRIMARY and not math.isnan(check.bound):
        numbers += f", at least {check.bound:+.3g}"
    return f"{label(check.measure)}{where} {numbers} ({check.photos} photos)"


def _signs() -> dict[str, int]:
    guards = {**GUARDS, **SKIN_GUARDS, "identity_psnr": IDENTITY}
    return {PRIMARY: +1} | {name: guard.sign for name, guard in guards.items()}


def label(measure: str) -> str:
    """A measure's name for people."""
    return MEASURES[measure].label if measure in MEASURES else measure.replace("_", " ")
