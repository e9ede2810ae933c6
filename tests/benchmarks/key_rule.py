"""Fits what `tone.KeyRule` aims at: the median that natural photos have whose tones look alike after the stretch.

    python -m tests.benchmarks.key_rule ../shared/photos_open/natural ../shared/portraits

Each photo and two dulled copies of it are stretched as the rule does; least squares then tell the photo's own median from
the tones of each. The last line printed is one JSON object: the weights, and the error of the logarithm in root mean square,
beside that of middle grey for every photo.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from naturaltone.infra import dull
from naturaltone.pipeline import storage, tone
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.find import find_photos
from naturaltone.pipeline.photo.pixels import shrink, training_pixels

_LONG_SIDE, _COPIES = 300, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", help="folders of natural photos")
    options = parser.parse_args()
    random, tones, aims = np.random.default_rng(0), [], []
    for uri in (uri for folder in options.folders for uri in find_photos(folder)):
        pixels = np.ascontiguousarray(shrink(training_pixels(decode(storage.read_bytes(uri))), _LONG_SIDE))
        median = np.median(tone.luminance_of(pixels)) / tone.WHITE
        for each in (pixels, *(dull.dull(pixels, random) for _ in range(_COPIES))):
            tones.append(stretched(each, tone.KeyRule()))
            aims.append(np.log(np.clip(median, 0.02, 0.98)))
    columns = np.c_[np.array(tones), np.ones(len(tones))]
    weights, *_ = np.linalg.lstsq(columns, np.array(aims), rcond=None)

    def error(aimed: np.ndarray | float) -> float:
        return round(float(np.sqrt(np.mean((aimed - np.array(aims)) ** 2))), 3)

    grey = float(np.log(tone.ToneRule().middle_grey))
    print(
        json.dumps(
            {
                "photos": len(aims) // (1 + _COPIES),
                "aim": [round(float(weight), 2) for weight in weights],
                "error": error(columns @ weights),
                "error_of_ours": error(columns @ np.array(tone.KeyRule().aim)),
                "error_of_middle_grey": error(grey),
            }
        )
    )


def stretched(pixels: np.ndarray, rule: tone.KeyRule) -> np.ndarray:
    """The logarithms of the median and of the bright percentile of the luminance, after the rule's stretch."""
    luminance = tone.luminance_of(pixels) / tone.WHITE
    low, high, *tones = np.percentile(luminance, (*rule.stretch_percentiles, 50, tone.BRIGHT))
    low = min(low, rule.max_black)
    high = max(high, low + rule.min_range)
    return np.log(np.clip((np.array(tones) - low) / (high - low), 0.01, 0.99))


if __name__ == "__main__":
    main()
