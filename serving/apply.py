"""Transfers the change of a small picture to the full-size photo, through local affine colour models.

At the working resolution, an affine colour model at each pixel describes the change. A guided filter with the photo as
its guide fits the models (He, Sun & Tang 2013). An offset at each pixel adds what the fit misses. The models are then
enlarged to the photo and applied to its own pixels. So edges stay in position, and no detail of the photo is resized.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import cv2
import numba
import numpy as np

from naturaltone.pipeline import caches

# The share of its distance to black and to white that a value keeps, so that shadows and highlights keep detail.
KEPT = 0.35

_RADIUS = 1 / 24  # of the long side; one affine model explains the change within a window of this radius
_EPSILON = 1e-4  # in squared units of [0, 1]; keeps the model of a flat window close to a plain shift
_ROWS = 256
_TILE = 512  # columns at a time: their enlarged models fit into the cache of a core


def affine_models(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Fit a colour model [A | b] to each pixel, so that after = A·before + b for values in [0, 1].

    before, after: H×W×3 uint8. Returns H×W×3×4 float32. A is the least-squares fit over a window. The fit misses local
    contrast most of all. The offset b of each pixel takes up the remainder, so the models reproduce G's picture exactly
    at the working resolution.
    """
    x, y = before.astype(np.float32) / 255, after.astype(np.float32) / 255
    side = 2 * max(1, round(_RADIUS * max(x.shape[:2]))) + 1

    def mean(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(*values.shape[:2], -1)
        return cv2.blur(flat, (side, side), borderType=cv2.BORDER_REFLECT).reshape(values.shape)

    mean_x, mean_y = mean(x), mean(y)
    covariance = mean(x[..., :, None] * x[..., None, :]) - mean_x[..., :, None] * mean_x[..., None, :]
    cross = mean(y[..., :, None] * x[..., None, :]) - mean_y[..., :, None] * mean_x[..., None, :]
    identity = np.eye(3, dtype=np.float32)
    # Regularised towards the identity, not towards zero: flat areas keep their noise instead of being blurred.
    linear = mean(np.linalg.solve(covariance + _EPSILON * identity, np.swapaxes(cross + _EPSILON * identity, -1, -2)))
    linear = linear.swapaxes(-1, -2)
    offset = y - np.einsum("hwij,hwj->hwi", linear, x)
    return np.concatenate([linear, offset[..., None]], axis=-1)


def apply_models(pixels: np.ndarray, models: np.ndarray, strength: float) -> np.ndarray:
    """Enlarge the models bilinearly to the size of the photo and apply them; returns a new array like `pixels`.

    pixels: H×W×3 or H×W×4, uint8 or uint16; the fourth channel is kept. strength: 0 unchanged, 1 the models' result.
    Each value keeps at least the share `KEPT` of its distance to black and to white, so visible detail stays visible.
    8-bit photos are dithered: each value is moved by up to half a step first, so stretched gradients show no bands.
    """
    height, width = pixels.shape[:2]
    rows, columns = models.shape[:2]
    white = np.iinfo(pixels.dtype).max
    # One plane for each of the twelve coefficients. Interpolation needs at least two cells a side.
    planes = np.pad(models.reshape(rows, columns, 12), ((0, rows == 1), (0, columns == 1), (0, 0)), mode="edge")
    planes = np.ascontiguousarray(planes.transpose(2, 0, 1)) * np.float32(strength)
    planes[[0, 5, 10]] += np.float32(1 - strength)  # blends with the identity
    planes[3::4] *= white
    result = np.empty_like(pixels)
    source = np.ascontiguousarray(pixels).view()
    source.flags.writeable = False  # Pillow's pixels are so already; for numba it is another type, to be compiled anew
    _apply(
        source,
        result,
        planes,
        *_positions(height, rows),
        *_positions(width, columns),
        np.float32(KEPT),
        np.float32(white),
        pixels.dtype == np.uint8,
    )
    return result


def compile_kernel() -> None:
    """Compile the kernel for both depths, so that the cache has it: whoever builds an image calls this."""
    for depth in (np.uint8, np.uint16):
        apply_models(np.zeros((2, 2, 3), depth), np.zeros((2, 2, 3, 4), np.float32), 1.0)


def add_change(pixels: np.ndarray, before: np.ndarray, after: np.ndarray, strength: float) -> np.ndarray:
    """Add `strength` times the difference of two pictures to `pixels`; returns a new array like it.

    before, after: H×W×3 uint8, as large as `pixels`. The share `KEPT` limits the change as in `apply_models`.
    """
    white = np.iinfo(pixels.dtype).max
    result = pixels.copy()
    for top in range(0, len(pixels), _ROWS):
        strip = slice(top, top + _ROWS)
        own = pixels[strip, :, :3].astype(np.float32)
        change = (after[strip].astype(np.float32) - before[strip]) * np.float32(strength * white / 255)
        kept = own * np.float32(KEPT)
        result[strip, :, :3] = np.clip(own + change, kept, kept + white * np.float32(1 - KEPT)) + 0.5
    return result


def _positions(size: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The index of the cell before each pixel, and the distance from it in cells; pixel centres as in cv2.resize."""
    position = np.clip((np.arange(size, dtype=np.float32) + 0.5) * (cells / size) - 0.5, 0, cells - 1)
    before = np.minimum(position.astype(np.int32), max(cells - 2, 0))
    return before, (position - before).astype(np.float32)


def _apply_everywhere(source, result, planes, above, down, left, right, kept, white, is_dithered):  # type: ignore[no-untyped-def]
    """Enlarge the models along each row of cells once, then interpolate between two rows for each row of pixels."""
    height, width, channels = source.shape
    start = np.empty((12, _TILE), np.float32)
    change = np.empty((12, _TILE), np.float32)
    colours = np.empty((3, _TILE), np.float32)
    dither = np.zeros(_TILE, np.float32)
    out = np.empty(_TILE, np.float32)
    room = white * (np.float32(1) - kept)
    for first in range(0, width, _TILE):
        count = min(_TILE, width - first)
        row = -1
        for y in range(height):
            if above[y] != row:
                row = above[y]
                for k in range(12):
                    for x in range(count):
                        cell, share = left[first + x], right[first + x]
                        upper = planes[k, row, cell]
                        upper += share * (planes[k, row, cell + 1] - upper)
                        lower = planes[k, row + 1, cell]
                        lower += share * (planes[k, row + 1, cell + 1] - lower)
                        start[k, x] = upper
                        change[k, x] = lower - upper
            share = down[y]
            if is_dithered:
                # Interleaved gradient noise (Jimenez 2014): neighbouring pixels differ as much as possible.
                for x in range(count):
                    value = np.float32(0.06711056) * np.float32(first + x) + np.float32(0.00583715) * np.float32(y)
                    value = np.float32(52.9829189) * (value - np.floor(value))
                    dither[x] = np.float32(0.98) * (value - np.floor(value)) - np.float32(0.49)
            for x in range(count):
                for channel in range(3):
                    colours[channel, x] = np.float32(source[y, first + x, channel])
            for channel in range(3):
                k = 4 * channel
                for x in range(count):
                    noise = dither[x]
                    value = start[k + 3, x] + share * change[k + 3, x]
                    value += (start[k, x] + share * change[k, x]) * (colours[0, x] + noise)
                    value += (start[k + 1, x] + share * change[k + 1, x]) * (colours[1, x] + noise)
                    value += (start[k + 2, x] + share * change[k + 2, x]) * (colours[2, x] + noise)
                    own = colours[channel, x] * kept
                    out[x] = min(max(value, own), own + room) + np.float32(0.5)
                for x in range(count):
                    result[y, first + x, channel] = result.dtype.type(out[x])
            if channels == 4:
                for x in range(count):
                    result[y, first + x, 3] = source[y, first + x, 3]


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compile the function on its first call, and cache it on disk for the next process if a folder is writable.

    OpenCV and NumPy are ten times as slow: they pass every enlarged coefficient through memory, a hundred bytes a
    pixel.
    """
    if caches.VARIABLE in os.environ or caches.BUILT in os.environ:
        numba.config.CACHE_DIR = os.environ.get("NUMBA_CACHE_DIR") or str(caches.cache_folder("kernels"))
    try:
        return numba.njit(nogil=True, fastmath=True, cache=True)(function)
    except RuntimeError:  # no writable cache folder, as in some containers: each process compiles, 1 s and 70 MiB
        return numba.njit(nogil=True, fastmath=True)(function)


_apply = _compiled(_apply_everywhere)
