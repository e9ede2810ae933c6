"""A keyed shuffle of a range of numbers, computed for each number by itself, so nothing is held in memory."""

from __future__ import annotations

import numpy as np

_FEISTEL_ROUNDS = 6  # four suffice for large halves; in a small store a half is a few bits wide


def permute(index: np.ndarray, size: int | np.ndarray, key: np.ndarray) -> np.ndarray:
    """Permute range(size) by a key, each index by itself: a Feistel network with cycle walking.

    index, size and key are broadcast; each index may have a size and a key of its own.
    """
    value = np.array(index, np.uint64)
    size = np.broadcast_to(np.asarray(size, np.uint64), value.shape)
    key = np.broadcast_to(np.asarray(key, np.uint64), value.shape)
    # Half the bits of the largest index of each own size: what else is in the array must not change the result.
    # frexp is exact up to 2**53.
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
    """The finaliser of SplitMix64 (Steele et al. 2014): each input bit changes half of the output bits."""
    with np.errstate(over="ignore"):
        value = np.asarray(value, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(value ^ (value >> np.uint64(31)))
