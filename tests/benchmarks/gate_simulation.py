"""Simulates nightly slots before the gate: how often equal models are promoted, and how soon a better one is.

    python -m tests.benchmarks.gate_simulation

Each night a new challenger stands before the gate with 200 inputs and 100 natural photos. Its gain in each photo is its true
gain plus chance, with the spreads that pairs of retrained models showed (tests/benchmarks/RESULTS.md), in three shapes: normal,
heavy tails (t with 3 degrees of freedom), and skewed (a gamma distribution). Some of the photos have faces, of all tones and
some in low key, so that the guards of skin are simulated too.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter

import numpy as np

from naturaltone.serving.evaluation.gate import PRIMARY, Outcome, judge
from naturaltone.serving.evaluation.gate_scores import SKIN_IN_LOW_KEY, PhotoScores
from naturaltone.serving.evaluation.people import TONES

# The standard deviation over photos of the difference between two models that were trained alike.
SPREAD = {
    **{"naturalness": 0.03, "niqe": 0.15, "local_contrast_gain": 0.06, "clipped_fraction": 0.03, "banding": 0.06},
    **{"noise_gain": 0.15, "halo_overshoot": 0.012, "skin_hue_shift": 0.6, "neutral_shift": 0.3, "identity_psnr": 1.6},
}
# Of skin, over 147 portraits and underexposed copies: for checkpoints 400 steps apart, and for trainings of other settings.
# Two nights' models probably lie between; not measured.
SKIN_SPREADS = {
    "near": {"skin_lightness_shift": 0.34, "skin_chroma_shift": 0.30, "skin_turn": 0.09},
    "far": {"skin_lightness_shift": 4.5, "skin_chroma_shift": 3.5, "skin_turn": 1.1},
}
SHAPES = ("normal", "heavy tails", "skewed")
INPUTS, NATURAL = 200, 100
FACES = 30  # of each tone of skin, among the inputs; every third is in low key


def drawn(random: np.random.Generator, shape: str, count: int) -> np.ndarray:
    """Values of mean 0 and standard deviation 1."""
    if shape == "normal":
        return random.normal(size=count)
    if shape == "heavy tails":
        return random.standard_t(3, size=count) / np.sqrt(3)
    return (random.gamma(2.0, size=count) - 2) / np.sqrt(2)


def night(random: np.random.Generator, shape: str, gain: float, apart: float = 1.0, skin: str = "near") -> Outcome:
    """What the gate says of a challenger with this true gain in naturalness, and none in anything else.

    apart: how many times farther apart in naturalness the two models are than models that were trained alike. skin: how far
    apart they are in skin, one of `SKIN_SPREADS`.
    """
    differences = {
        name: spread * drawn(random, shape, NATURAL if name == "identity_psnr" else INPUTS)
        for name, spread in SPREAD.items()
    }
    differences[PRIMARY] = gain + apart * differences[PRIMARY]
    moved = {name: spread * drawn(random, shape, INPUTS) for name, spread in SKIN_SPREADS[skin].items()}
    scores = []
    for role, count in (("input", INPUTS), ("natural", NATURAL)):
        names = [name for name in SPREAD if (name == "identity_psnr") == (role == "natural")]
        for number in range(count):
            gains = {name: float(differences[name][number]) for name in names}
            slices = slices_of(number) if role == "input" else ()
            if slices:
                gains |= {name: float(values[number]) for name, values in moved.items()}
            scores.append(
                PhotoScores(
                    photo_id=f"{role}{number}",
                    name="",
                    role=role,
                    slices=slices,
                    champion=dict.fromkeys(gains, 0.0),
                    challenger=gains,
                )
            )
    return judge(scores).outcome


def slices_of(number: int) -> tuple[str, ...]:
    """The slices of an input: the first photos have faces."""
    if number >= FACES * len(TONES):
        return ()
    tone = f"{TONES[number % len(TONES)]} skin"
    return (tone, SKIN_IN_LOW_KEY) if number % 9 < len(TONES) else (tone,)


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
    for skin, gain in itertools.product(SKIN_SPREADS, (0.005, 0.01, 0.0125, 0.015, 0.02, 0.03)):
        random = np.random.default_rng(2)
        nights = options.nights // 20
        outcomes = Counter(night(random, "heavy tails", gain, skin=skin) for _ in range(nights))
        chance = outcomes[Outcome.BETTER] / nights
        print(
            f"a gain of {gain}, skin {skin}: promoted in a night {chance:.0%}, within a week {1 - (1 - chance) ** 7:.0%}; "
            f"{dict(outcomes)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
