"""Carry a change that was made to a small picture to the photo itself, of any size: local affine colour models.

The change is described at the working resolution by an affine colour model at each pixel (a guided filter with the photo
as its guide: He, Sun & Tang 2013, and what that leaves over as an offset), and the models are enlarged and applied: edges
stay where the photo has them, and no detail of the photo passes through a resize.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numba
import numpy as np

KEPT = 0.35  # of a value's distance to black and to white: what the photo has in shadows and highlights, it keeps

_RADIUS = 1 / 24  # of the long side: the window in which one affine model explains the change
_EPSILON = 1e-4  # keeps the model of a flat window near a shift; in squared units of [0, 1]
_ROWS = 256
_TILE = 512  # columns at a time: the models of a row of them, enlarged, fit into a core's cache


def affine_models(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The 3×4 colour model [A | b] around each pixel with after = A·before + b in [0, 1]; uint8 in, H×W×3×4 float32 out.

    A is the least-squares fit of a window. What that leaves over, local contrast most of all, which no single line through
    a window's colours has, is put into the pixel's own b: at the working resolution the models give G's picture exactly.
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
    # Regularised towards the identity, not towards zero: where the photo is flat, its noise is carried over, not blurred.
    linear = mean(np.linalg.solve(covariance + _EPSILON * identity, np.swapaxes(cross + _EPSILON * identity, -1, -2)))
    linear = linear.swapaxes(-1, -2)
    offset = y - np.einsum("hwij,hwj->hwi", linear, x)
    return np.concatenate([linear, offset[..., None]], axis=-1)


def apply_models(pixels: np.ndarray, models: np.ndarray, strength: float) -> np.ndarray:
    """Enlarge the models bilinearly to the photo and apply them; a new array like `pixels`.

    pixels: H×W×3 or H×W×4 (the fourth channel is kept), uint8 or uint16. No value comes nearer to black or white than `KEPT`
    of its own distance: what is there to see stays to be seen. A value of an 8-bit photo stands for the whole step around
    it: it is taken from there at random, so that stretched gradients do not fall apart into bands.
    """
    height, width = pixels.shape[:2]
    rows, columns = models.shape[:2]
    white = np.iinfo(pixels.dtype).max
    # One plane each for the twelve coefficients; at least two cells a side, to interpolate between.
    planes = np.pad(models.reshape(rows, columns, 12), ((0, rows == 1), (0, columns == 1), (0, 0)), mode="edge")
    planes = np.ascontiguousarray(planes.transpose(2, 0, 1)) * np.float32(strength)
    planes[[0, 5, 10]] += np.float32(1 - strength)  # the identity's share
    planes[3::4] *= white
    result = np.empty_like(pixels)
    _apply(
        np.ascontiguousarray(pixels),
        result,
        planes,
        *_places(height, rows),
        *_places(width, columns),
        np.float32(KEPT),
        np.float32(white),
        pixels.dtype == np.uint8,
    )
    return result


def add_change(pixels: np.ndarray, before: np.ndarray, after: np.ndarray, strength: float) -> np.ndarray:
    """`pixels` changed by what lies between two H×W×3 uint8 pictures of their size, within the same bounds."""
    white = np.iinfo(pixels.dtype).max
    result = pixels.copy()
    for top in range(0, len(pixels), _ROWS):
        strip = slice(top, top + _ROWS)
        own = pixels[strip, :, :3].astype(np.float32)
        change = (after[strip].astype(np.float32) - before[strip]) * np.float32(strength * white / 255)
        kept = own * np.float32(KEPT)
        result[strip, :, :3] = np.clip(own + change, kept, kept + white * np.float32(1 - KEPT)) + 0.5
    return result


def _places(size: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The cell before each pixel, and its distance from there in cells; the pixel centres of cv2.resize."""
    place = np.clip((np.arange(size, dtype=np.float32) + 0.5) * (cells / size) - 0.5, 0, cells - 1)
    before = np.minimum(place.astype(np.int32), max(cells - 2, 0))
    return before, (place - before).astype(np.float32)


def _apply_everywhere(source, result, planes, above, down, left, right, kept, white, is_dithered):  # type: ignore[no-untyped-def]
    """The models of a row of cells are enlarged along it once, and from row to row between two of them."""
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
                # Interleaved gradient noise (Jimenez 2014): neighbours differ as much as they can.
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
    """Compiled on its first call, and kept on disk for the next process where there is a place to write to.

    OpenCV and NumPy pass each of the enlarged coefficients through memory, a hundred bytes a pixel: ten times as slow.
    """
    try:
        return numba.njit(nogil=True, fastmath=True, cache=True)(function)
    except RuntimeError:  # a container without one: compiling takes a second and 70 MiB
        return numba.njit(nogil=True, fastmath=True)(function)


_apply = _compiled(_apply_everywhere)
