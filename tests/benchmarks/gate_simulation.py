"""Simulates nightly slots before the gate: how often equal models are promoted, and how soon a better one is.

    python -m tests.benchmarks.gate_simulation

Each night a new challenger stands before the gate with 200 inputs and 100 natural photos. Its gain in each photo is its true
gain plus chance, with the spreads that pairs of retrained models showed (tests/benchmarks/RESULTS.md), in three shapes: normal,
heavy tails (t with 3 degrees of freedom), and skewed (a gamma distribution).
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter

import numpy as np

from naturaltone.serving.evaluation.gate import PRIMARY, Outcome, judge
from naturaltone.serving.evaluation.gate_scores import PhotoScores

# The standard deviation over photos of the difference between two models that were trained alike.
SPREAD = {
    **{"naturalness": 0.03, "niqe": 0.15, "local_contrast_gain": 0.06, "clipped_fraction": 0.03, "banding": 0.06},
    **{"noise_gain": 0.15, "halo_overshoot": 0.012, "skin_hue_shift": 0.6, "neutral_shift": 0.3, "identity_psnr": 1.6},
}
SHAPES = ("normal", "heavy tails", "skewed")
INPUTS, NATURAL = 200, 100


def drawn(random: np.random.Generator, shape: str, count: int) -> np.ndarray:
    """Values of mean 0 and standard deviation 1."""
    if shape == "normal":
        return random.normal(size=count)
    if shape == "heavy tails":
        return random.standard_t(3, size=count) / np.sqrt(3)
    return (random.gamma(2.0, size=count) - 2) / np.sqrt(2)


def night(random: np.random.Generator, shape: str, gain: float, apart: float = 1.0) -> Outcome:
    """What the gate says of a challenger with this true gain in naturalness, and none in anything else.

    apart: how many times farther apart in naturalness the two models are than models that were trained alike.
    """
    differences = {
        name: spread * drawn(random, shape, NATURAL if name == "identity_psnr" else INPUTS)
        for name, spread in SPREAD.items()
    }
    differences[PRIMARY] = gain + apart * differences[PRIMARY]
    scores = []
    for role, count in (("input", INPUTS), ("natural", NATURAL)):
        names = [name for name in SPREAD if (name == "identity_psnr") == (role == "natural")]
        for number in range(count):
            gains = {name: float(differences[name][number]) for name in names}
            scores.append(
                PhotoScores(
                    photo_id=f"{role}{number}",
                    name="",
                    role=role,
                    slices=(),
                    champion=dict.fromkeys(names, 0.0),
                    challenger=gains,
                )
            )
    return judge(scores).outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=2000, help="for each shape of equal models (default: 2000)")
    options = parser.parse_args()
    for apart, shape in itertools.product((1.0, 3.0), SHAPES):
        random = np.random.default_rng(1)
        found = Counter(night(random, shape, 0.0, apart) for _ in range(options.nights))
        ten_years = found[Outcome.BETTER] / options.nights * 3650
        print(
            f"equal models, {apart:g} times apart, {shape}: {ten_years:.1f} promotions in ten years; {dict(found)}",
            flush=True,
        )
    for gain in (0.005, 0.01, 0.0125, 0.015, 0.02, 0.03):
        random = np.random.default_rng(2)
        nights = options.nights // 20
        chance = sum(night(random, "heavy tails", gain) is Outcome.BETTER for _ in range(nights)) / nights
        print(
            f"a gain of {gain}: promoted in a night {chance:.0%}, within a week {1 - (1 - chance) ** 7:.0%}", flush=True
        )


if __name__ == "__main__":
    main()
