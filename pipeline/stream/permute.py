"""Keyed bijections of a range of numbers, computed for each number by itself."""

from __future__ import annotations

import numpy as np

_FEISTEL_ROUNDS = 6  # four suffice for large halves; these are a few bits wide in small stores


def permute(index: np.ndarray, size: int | np.ndarray, key: np.ndarray) -> np.ndarray:
    """A keyed bijection of range(size), computed for each index by itself: a Feistel network with cycle walking."""
    value = np.array(index, np.uint64)
    size = np.broadcast_to(np.asarray(size, np.uint64), value.shape)
    key = np.broadcast_to(np.asarray(key, np.uint64), value.shape)
    # Half the bits of the largest index, by each index's own size: the company must not matter. frexp is exact to 2**53.
    half = np.maximum(1, (np.frexp((size - np.uint64(1)).astype(np.float64))[1] + 1) // 2).astype(np.uint64)
    pending = np.ones(value.shape, bool)
    while pending.any():
        bits, mask = half[pending], (np.uint64(1) << half[pending]) - np.uint64(1)
        left, right = value[pending] >> bits, value[pending] & mask
        for number in range(_FEISTEL_ROUNDS):
            left, right = right, left ^ (mix(right ^ mix(key[pending] + np.uint64(number))) & mask)
        value[pending] = (left << bits) | right
        pending = value >= size
    return value.astype(np.int64)


def mix(value: np.ndarray | np.uint64) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014): every input bit changes half of the output bits."""
    with np.errstate(over="ignore"):
        value = np.asarray(value, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(value ^ (value >> np.uint64(31)))
