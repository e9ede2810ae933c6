"""Times the enhancing of one large photo file, beside decoding and encoding alone and beside ImageMagick."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from naturaltone.infra.imagemagick import imagemagick
from naturaltone.pipeline import storage
from naturaltone.pipeline.photo.decode import decode
from naturaltone.pipeline.photo.encode import recode
from naturaltone.pipeline.photo.find import find_photos
from naturaltone.pipeline.photo.pixels import training_pixels
from naturaltone.pipeline.photo.stored import encode_jpeg
from naturaltone.pipeline.spread import spread
from naturaltone.serving.enhancer import Enhancer
from naturaltone.training.measures import metrics
from naturaltone.training.step import to_tensor

MEGAPIXELS, LARGE_MEGAPIXELS = 24.0, 100.0
_REPEATS = 7
_GRAIN = 3.0  # standard deviation of added noise, because enlarged small photos have less grain than a camera's
_TILES = 4  # tiles on each side of the large photo
_RESOLUTION_PHOTOS = 8
_GPU_BATCH, _GPU_BATCHES = 32, 20

# Runs in a new process, because the peak memory of a process never falls.
_MEASURE_MEMORY = """
import re, sys
from naturaltone.serving.enhancer import Enhancer
data = open(sys.argv[2], "rb").read()
Enhancer.load(sys.argv[1]).enhance_file(data)
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


def bench_enhance(photos: str, *, model: str) -> dict[str, Any]:
    """Time the enhancer, warmed up, on a 24-megapixel JPEG file made from the folder `photos`; returns a dict of figures."""
    enhancer = Enhancer.load(model)
    with tempfile.TemporaryDirectory() as folder:
        photo, large = Path(folder, "photo.jpg"), Path(folder, "large.jpg")
        photo.write_bytes(_large_photo(photos, MEGAPIXELS))
        large.write_bytes(_large_photo(photos, LARGE_MEGAPIXELS))
        target = Path(folder, "target.jpg")

        def enhance() -> None:
            target.write_bytes(enhancer.enhance_file(photo.read_bytes()).data)

        ways: dict[str, Callable[[], object]] = {
            "ours": enhance,
            "codec": lambda: recode(str(photo), str(target)),
        }
        peer = imagemagick()
        if peer:
            command = [peer, str(photo), "-auto-level", "-auto-gamma", str(target)]
            ways["imagemagick"] = lambda: subprocess.run(command, check=True)
        seconds = _time(ways)
        figures: dict[str, Any] = {
            "megapixels": MEGAPIXELS,
            "file_mib": photo.stat().st_size / 2**20,
            "seconds": seconds["ours"],
            "codec_seconds": seconds["codec"],
            "imagemagick_seconds": seconds.get("imagemagick"),
            "codec_ratio": seconds["ours"] / seconds["codec"],
            "imagemagick_ratio": seconds["ours"] / seconds["imagemagick"] if peer else None,
            "peak_mib": _peak_mib(model, photo),
            "peak_mib_100_megapixels": _peak_mib(model, large),
        }
    return figures | {
        "resolution_psnr": _resolution_psnr(enhancer, photos),
        "gpu_images_per_second": _gpu_rate(enhancer) if torch.cuda.is_available() else None,
    }


def format_figures(figures: dict[str, Any]) -> str:
    """The figures as a table."""
    rows = [
        ("naturaltone", figures["seconds"], 1.0),
        ("decode + encode", figures["codec_seconds"], figures["codec_ratio"]),
        ("ImageMagick auto", figures["imagemagick_seconds"], figures["imagemagick_ratio"]),
    ]
    lines = [f"{'':18}{'seconds':>9}{'ours is':>10}   ({figures['megapixels']:.0f} megapixels, file to file)"]
    lines += [
        f"{name:18}{seconds:>9.2f}{ratio:>9.2f}x" if seconds else f"{name:18}{'not installed':>19}"
        for name, seconds, ratio in rows
    ]
    lines.append(
        f"peak memory {figures['peak_mib']:.0f} MiB, of {LARGE_MEGAPIXELS:.0f} megapixels "
        f"{figures['peak_mib_100_megapixels']:.0f} MiB; the same look at any size: {figures['resolution_psnr']:.1f} dB"
    )
    if figures["gpu_images_per_second"]:
        lines.append(f"network alone on the GPU: {figures['gpu_images_per_second']:.0f} photos/s")
    return "\n".join(lines)


def _time(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The median seconds of each way. The ways take turns, so that other load on the machine slows all of them."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(_REPEATS + 1):
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            if repeat:  # the first run warms up
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def _large_photo(photos: str, megapixels: float) -> bytes:
    """A JPEG of `megapixels`: 4×4 enlarged photos, picked evenly from the folder, with the grain of a camera."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5 / _TILES)
    width = round(height * 1.5)
    tiles = [_read(uri, (width, height)) for uri in spread(find_photos(photos), _TILES**2)]
    rows = [
        np.hstack([tiles[(row * _TILES + column) % len(tiles)] for column in range(_TILES)]) for row in range(_TILES)
    ]
    pixels = np.vstack(rows)
    random = np.random.default_rng(0)
    for top in range(0, len(pixels), height):
        strip = pixels[top : top + height]
        grain = random.normal(0, _GRAIN, strip.shape[:2]).astype(np.float32)
        np.copyto(strip, np.clip(strip + grain[..., None], 0, 255).astype(np.uint8))
    return encode_jpeg(pixels, quality=92)


def _resolution_psnr(enhancer: Enhancer, photos: str) -> float:
    """Mean PSNR, in dB, between photos enhanced at 24 megapixels and then shrunk to 1, and photos shrunk first."""
    values = []
    for uri in spread(find_photos(photos), _RESOLUTION_PHOTOS):
        large = _read(uri, (6000, 4000))
        small = cv2.resize(large, (1224, 816), interpolation=cv2.INTER_AREA)
        shrunk = cv2.resize(enhancer.enhance(large), (1224, 816), interpolation=cv2.INTER_AREA)
        values.append(metrics.psnr(shrunk, enhancer.enhance(small)))
    return statistics.mean(values)


def _gpu_rate(enhancer: Enhancer) -> float:
    """Photos a second that the generator alone takes on the GPU, at its working resolution, in batches of 32."""
    side = enhancer.bundle.working_resolution
    batch = to_tensor(np.zeros((_GPU_BATCH, side * 2 // 3, side, 3), np.uint8), torch.device("cuda"))
    generator = enhancer.bundle.generator.cuda()
    with torch.inference_mode():
        generator(batch)
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(_GPU_BATCHES):
            generator(batch)
        torch.cuda.synchronize()
    return _GPU_BATCH * _GPU_BATCHES / (time.perf_counter() - started)


def _peak_mib(model: str, photo: Path) -> float:
    """The peak memory, in MiB, of a process that loads the model and enhances one photo."""
    finished = subprocess.run(
        [sys.executable, "-c", _MEASURE_MEMORY, model, str(photo)], capture_output=True, text=True, check=True
    )
    return int(re.sub(r"\D", "", finished.stdout)) / 1024


def _read(uri: str, size: tuple[int, int]) -> np.ndarray:
    pixels = training_pixels(decode(storage.read_bytes(uri)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)
