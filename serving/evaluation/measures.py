"""The measures of an evaluation: their names and meanings, and a function that computes all of them for a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from naturaltone.pipeline.photo.pixels import shrink
from naturaltone.serving.evaluation.photos import EvaluationPhoto
from naturaltone.training.checkpoint import Bundle
from naturaltone.training.measures import metrics, niqe, skin, tmqi

Scores = dict[str, dict[str, float]]  # stage -> measure -> value; NaN if the photo has nothing to measure


class Measure(NamedTuple):
    """How a table names and explains a measure. best: `min` or `max`; None if neither end of the scale is better."""

    label: str
    meaning: str
    best: Callable[[Iterable[float]], float] | None


MEASURES = {
    "niqe": Measure("NIQE", "distance from your natural photos; lower is better", min),
    "naturalness": Measure("naturalness N", "TMQI: how usual the tone is, 0 to 1; higher is better", max),
    "fidelity": Measure("fidelity S", "TMQI: structure kept from the input, 0 to 1; higher is better", max),
    "quality": Measure("quality Q", "TMQI: N and S combined, 0 to 1; higher is better", max),
    "local_contrast_gain": Measure("local contrast gain", "times the input's; above 1 is more contrast", None),
    "colourfulness": Measure("colourfulness", "15 is slightly, 45 quite, 82 highly colourful", None),
    "clipped_fraction": Measure("clipped fraction", "share of pixels at pure black or white; lower is better", min),
    "banding": Measure("banding", "levels skipped in smooth areas, per 100 pixels; lower is better", min),
    "noise_gain": Measure("noise gain", "noise in flat areas, times the input's; lower is better", min),
    "halo_overshoot": Measure("halo overshoot", "beside strong edges, as a share of the step; lower is better", min),
    "skin_hue_shift": Measure("skin hue shift", "degrees away from the input's; lower is better", min),
    "neutral_shift": Measure("neutral shift", "colour cast on the input's greys, in a*b*; lower is better", min),
    "identity_psnr": Measure("identity PSNR", "dB, natural photos before and after; higher is less changed", max),
    "identity_psnr_p50": Measure("identity, median", "dB; half of the natural photos change more", max),
    "identity_psnr_p10": Measure("identity, worst tenth", "dB; a tenth of the natural photos changes more", max),
    "psnr": Measure("PSNR to reference", "dB; higher is closer", max),
    "ssim": Measure("SSIM to reference", "1 is the same structure; higher is closer", max),
    "delta_e2000": Measure("ΔE2000 to reference", "1 is just noticeable; lower is closer", min),
}


def measure_picture(picture: np.ndarray, photo: EvaluationPhoto, judge: Bundle) -> dict[str, float]:
    source, reference = photo.input, photo.reference
    natural, fidelity = tmqi.naturalness(picture), tmqi.structural_fidelity(picture, source)
    values = {
        "naturalness": natural,
        "fidelity": fidelity,
        "quality": tmqi.combine(fidelity, natural),
        "local_contrast_gain": metrics.local_contrast_gain(picture, source),
        "colourfulness": metrics.colourfulness(picture),
        "clipped_fraction": metrics.clipped_fraction(picture),
        "banding": metrics.banding(picture),
        "noise_gain": metrics.noise_gain(picture, source),
        "halo_overshoot": metrics.halo_overshoot(picture, source),
        "skin_hue_shift": skin.skin_hue_shift(picture, source),
        "neutral_shift": metrics.neutral_shift(picture, source),
    }
    if judge.natural_model:
        # At the size of the natural photos, since local statistics depend on the size.
        values["niqe"] = niqe.score(shrink(picture, judge.working_resolution), judge.natural_model)
    if reference is not None and picture is not reference:
        values |= {
            "psnr": metrics.psnr(picture, reference),
            "ssim": metrics.ssim(picture, reference),
            "delta_e2000": metrics.delta_e2000(picture, reference),
        }
    return values
