"""Whether one model is better than another beyond doubt, by how both did on the same photos.

A paired bootstrap over the photos: each photo gives one difference between the two models, and the photos are drawn again
many times to see how far the mean could have gone by chance. The bootstrap-t (Efron 1982, Hall 1988) divides each drawn mean
by its own standard error, so its bounds hold for far tails and for a few dozen photos, where plain percentiles are too narrow.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np

MIN_PHOTOS = 20  # with fewer, a bound would say more about the formula than about the photos
_FEWEST_DRAWS, _TAIL_DRAWS = 4_000, 20  # at least so many samples in the tail that the error cuts off
_POWER = 0.8  # the chance to see an effect that is there, for the number of photos that would be needed
_GUARD_ERROR = 0.05


class Finding(StrEnum):
    """What the photos say about one measure."""

    HOLDS = "holds"
    FAILS = "fails"
    TOO_FEW = "too few photos"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One measure over the photos of one slice.

    mean: of the differences, in the measure's unit; above 0 is better. bound: the mean is at least this, but for the allowed
    error; NaN for too few photos. limit: what bound must reach. needed: how many photos would probably tell; None if the
    finding is clear.
    """

    measure: str
    slice: str
    photos: int
    mean: float
    bound: float
    limit: float
    finding: Finding
    needed: int | None


def improves(
    measure: str, differences: np.ndarray, *, least: float, slots_per_year: float, slice: str = "all"
) -> Check:
    """Whether the challenger is better: its mean gain is at least `least`, and above 0 beyond noise.

    differences: one for each photo, above 0 where the challenger is better; NaN where there is nothing to measure.
    slots_per_year: how often this is asked. The error is such that equal models pass once in ten years.
    """
    known = _known(differences)
    error = 1 / (10 * max(1.0, slots_per_year))
    mean, bound = _mean(known), lower_bound(known, error=error)
    # The photos may be too few to be sure of an effect that is as large as it seems.
    finding = _finding(holds=bound > 0 and mean >= least, is_open=math.isnan(bound) or mean >= least)
    needed = _needed(known, max(mean, least), error) if finding is Finding.TOO_FEW else None
    return Check(
        measure=measure,
        slice=slice,
        photos=len(known),
        mean=mean,
        bound=bound,
        limit=0.0,
        finding=finding,
        needed=needed,
    )


def is_not_worse(measure: str, differences: np.ndarray, *, margin: float, slice: str = "all") -> Check:
    """Whether the challenger is not worse by more than `margin`, with an error of 5%. differences: see `improves`."""
    known = _known(differences)
    mean, bound = _mean(known), lower_bound(known, error=_GUARD_ERROR)
    finding = _finding(holds=bound >= -margin, is_open=math.isnan(bound) or mean > -margin)
    return Check(
        measure=measure,
        slice=slice,
        photos=len(known),
        mean=mean,
        bound=bound,
        limit=-margin,
        finding=finding,
        needed=_needed(known, margin + min(mean, 0.0), _GUARD_ERROR) if finding is Finding.TOO_FEW else None,
    )


def _finding(*, holds: bool, is_open: bool) -> Finding:
    if holds:
        return Finding.HOLDS
    return Finding.TOO_FEW if is_open else Finding.FAILS


def lower_bound(differences: np.ndarray, *, error: float) -> float:
    """The mean of all photos of this kind is at least this, with the given error (bootstrap-t); NaN for under 20 photos.

    The same differences always give the same bound.
    """
    count = len(differences)
    if count < MIN_PHOTOS:
        return math.nan
    mean, spread = differences.mean(), differences.std()
    if spread == 0:
        return float(mean)
    centred = ((differences - mean) / spread).astype(np.float32)
    times = _times_drawn(count, draws=max(_FEWEST_DRAWS, math.ceil(_TAIL_DRAWS / error)))
    means, squares = (_weighed(times, column) for column in (centred, centred**2))
    # Both the drawn means and their deviations lack the same factor, so it cancels.
    drawn = means / np.sqrt(np.maximum(squares - means**2, 1e-6))
    return float(mean - spread * np.quantile(drawn, 1 - error))


@functools.lru_cache(maxsize=4)  # 15 MB for 200 photos and nightly slots
def _times_drawn(count: int, *, draws: int) -> np.ndarray:
    """How often each of `count` photos is drawn in each of `draws` samples of as many photos."""
    random = np.random.default_rng(0)
    return random.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.uint8)


def _weighed(times: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The mean of `column` in each sample; in pieces, because the products are floats."""
    pieces = np.array_split(times, math.ceil(times.size / 2**24))
    return np.concatenate([piece.astype(np.float32) @ column for piece in pieces]) / len(column)


def _needed(known: np.ndarray, effect: float, error: float) -> int:
    """The photos with which an effect of this size is seen four times out of five, by the normal approximation."""
    if len(known) < 2 or effect <= 0:
        return MIN_PHOTOS
    quantiles = NormalDist().inv_cdf(1 - error) + NormalDist().inv_cdf(_POWER)
    return max(MIN_PHOTOS, math.ceil((quantiles * known.std(ddof=1) / effect) ** 2))


def _known(differences: np.ndarray) -> np.ndarray:
    values = np.asarray(differences, np.float64)
    return values[np.isfinite(values)]


def _mean(known: np.ndarray) -> float:
    return float(known.mean()) if len(known) else math.nan
