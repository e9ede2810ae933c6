"""Runs G on every pixel of a photo of any size, as the reference for the fast way.

The residual blocks use the mean of the whole photo, so G as a whole cannot work tile by tile. The encoder and the
decoder can, since they are only a few convolutions deep. Between them, the residual part runs once on the features of
the whole photo, which have an eighth of its size.
"""

from __future__ import annotations

from types import EllipsisType

import torch
import torch.nn.functional as F
from torch import Tensor

from naturaltone.training.networks import STRIDE, ToneEnhancer

_TILE = 1024  # pixels a side
# Wider than what encoder and decoder see around a pixel: 7 pixels each, and one feature of 8. A multiple of the stride.
_MARGIN = 4 * STRIDE


@torch.inference_mode()
def generate(generator: ToneEnhancer, image: Tensor, *, tile: int = _TILE) -> Tensor:
    """Compute `generator(image)` in tiles of `tile` pixels a side; equal to it except for rounding.

    image: 1×3×H×W in [−1, 1], of any size; the result too.
    """
    height, width = image.shape[-2:]
    if max(height, width) <= tile:
        return generator(image)
    padded = F.pad(image, (0, -width % STRIDE, 0, -height % STRIDE), mode="reflect")
    tiles = [_Tile(padded.shape, top, left, tile) for top in range(0, height, tile) for left in range(0, width, tile)]
    features = padded.new_empty((1, generator.features, padded.shape[-2] // STRIDE, padded.shape[-1] // STRIDE))
    for each in tiles:
        features[each.inner(STRIDE)] = generator.encode(padded[each.outer()])[-1][each.inside(STRIDE)]
    features = generator.residual(features)
    result = torch.empty_like(padded)
    for each in tiles:
        part = padded[each.outer()]
        skips = generator.encode(part)[:-1]
        result[each.inner()] = generator.decode(part, *skips, features[each.outer(STRIDE)])[each.inside()]
    return result[..., :height, :width]


_Index = tuple[slice | EllipsisType, ...]


class _Tile:
    """The indexes of a tile, in pixels, or in features if a stride is given.

    inner: the tile in the image. outer: the tile with a margin around it, in the image. inside: the tile within outer.
    """

    def __init__(self, shape: torch.Size, top: int, left: int, side: int) -> None:
        self._spans = []
        for start, size in ((top, shape[-2]), (left, shape[-1])):
            stop = min(start + side, size)
            self._spans.append((start, stop, max(0, start - _MARGIN), min(size, stop + _MARGIN)))

    def inner(self, stride: int = 1) -> _Index:
        return ..., *(slice(start // stride, stop // stride) for start, stop, _, _ in self._spans)

    def outer(self, stride: int = 1) -> _Index:
        return ..., *(slice(begin // stride, end // stride) for _, _, begin, end in self._spans)

    def inside(self, stride: int = 1) -> _Index:
        return ..., *(
            slice((start - begin) // stride, (stop - begin) // stride) for start, stop, begin, _ in self._spans
        )
