"""Times the fixed tone algorithms on one core at 2 megapixels, and measures their memory in float planes of the photo."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any

import cv2
import numpy as np

from naturaltone.pipeline import storage, tone
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.find import find_photos
from naturaltone.pipeline.photo.pixels import training_pixels
from naturaltone.pipeline.spread import spread

MEGAPIXELS = 2.0
_MEMORY_MEGAPIXELS = 12.0
_PHOTOS, _REPEATS = 8, 5

# Runs in a new process, because the peak memory of a process never falls. Writing 5 to clear_refs resets the peak (VmHWM)
# after the imports, so that it counts only the algorithm.
_MEASURE_MEMORY = """
import re, sys
import cv2, numpy as np
from naturaltone.pipeline import tone
cv2.setNumThreads(1)
algorithm, pixels = tone.ALGORITHMS[sys.argv[1]], float(sys.argv[2]) * 1e6
photo = np.random.default_rng(0).integers(0, 256, (int((pixels / 1.5) ** 0.5), int((pixels * 1.5) ** 0.5), 3), np.uint8)
tone.intermediate(photo[:64, :64].copy(), algorithm)
def status(name):
    return int(re.search(name + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
tone.intermediate(photo, algorithm)
print((status("VmHWM") - before) / (photo.size / 3 * 4))
"""


def bench_tone(photos: str) -> dict[str, Any]:
    """Time each algorithm, warmed up, on one core, on photos of the folder `photos` resized to 2 megapixels.

    Returns a dict of figures.
    """
    cv2.setNumThreads(1)
    pixels = [
        _at_2_megapixels(training_pixels(decode(storage.read_bytes(uri))))
        for uri in spread(find_photos(photos), _PHOTOS)
    ]
    figures: dict[str, Any] = {"photos": len(pixels), "megapixels": MEGAPIXELS}
    for name, algorithm in tone.ALGORITHMS.items():
        tone.intermediate(pixels[0], algorithm)
        rates = []
        for _ in range(_REPEATS):
            started = time.perf_counter()
            for photo in pixels:
                tone.intermediate(photo, algorithm)
            rates.append(sum(photo.size for photo in pixels) / 3e6 / (time.perf_counter() - started))
        figures[f"{name}_mp_per_s"] = statistics.median(rates)
        figures[f"{name}_peak_planes"] = _peak_planes(name)
    return figures | {"peak_planes": max(figures[f"{name}_peak_planes"] for name in tone.ALGORITHMS)}


def format_figures(figures: dict[str, Any]) -> str:
    """The figures as a table."""
    lines = [f"{'':18}{'MP/s':>8}{'float planes':>14}   (one core, {figures['megapixels']:.0f} megapixels)"]
    for name in tone.ALGORITHMS:
        lines.append(f"{name:18}{figures[f'{name}_mp_per_s']:>8.1f}{figures[f'{name}_peak_planes']:>14.1f}")
    return "\n".join(lines)


def _at_2_megapixels(pixels: np.ndarray) -> np.ndarray:
    scale = (MEGAPIXELS * 1e6 / (pixels.size / 3)) ** 0.5
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)


def _peak_planes(name: str) -> float:
    """The extra memory that the algorithm takes for one 12-megapixel photo, in planes of 4 bytes a pixel."""
    finished = subprocess.run(
        [sys.executable, "-c", _MEASURE_MEMORY, name, str(_MEMORY_MEGAPIXELS)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(json.loads(finished.stdout))
