"""A set of digests that is too large for memory: the newest are in memory, the others in sorted files on this machine.

A store of 10⁸ photos knows 2·10⁸ digests of 16 bytes, which are 3 GB. A `DigestSet` keeps up to `_RECENT` of them in memory. It
writes the others into sorted files (`Run`) and remembers the first digest of every block of `_BLOCK`. To look a digest up,
it reads the one block of each file that may hold it. So every answer is exact.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from naturaltone.pipeline.errors import RunFailed

_RECENT = 2**20  # digests in memory
_MOST_RUNS = 16  # more files than this are merged into one
_BLOCK = 128  # digests
_LOOKED_UP = 2**12  # digests that are looked up at a time; their blocks are in memory
_SIZE = 16  # bytes of a digest


@dataclass(frozen=True, kw_only=True)
class Run:
    """A sorted file of different digests. It never changes, and other processes on this machine can read it.

    firsts: the first digest of each block. starts: where the digests with each first byte start; the last item is the
    number of all digests.
    """

    path: Path
    firsts: np.ndarray
    starts: np.ndarray

    def has(self, wanted: np.ndarray) -> np.ndarray:
        """Which of the digests are in the file."""
        found = np.zeros(len(wanted), bool)
        order = np.argsort(wanted)  # neighbours share blocks, and the file is read in its order
        with open(self.path, "rb") as file:
            for start in range(0, len(order), _LOOKED_UP):
                chosen = order[start : start + _LOOKED_UP]
                digests = wanted[chosen]
                blocks = np.maximum(np.searchsorted(self.firsts, digests, side="right") - 1, 0)
                distinct, index = np.unique(blocks, return_inverse=True)
                held = np.stack([self._block(file.fileno(), int(block)) for block in distinct])
                found[chosen] = (held[index] == digests[:, None]).any(axis=1)
        return found

    def with_first_byte(self, byte: int) -> np.ndarray:
        start, end = int(self.starts[byte]), int(self.starts[byte + 1])
        return np.fromfile(self.path, "S16", end - start, offset=start * _SIZE)

    def _block(self, descriptor: int, number: int) -> np.ndarray:
        block = np.frombuffer(os.pread(descriptor, _BLOCK * _SIZE, number * _BLOCK * _SIZE), "S16")
        return block if len(block) == _BLOCK else np.pad(block, (0, _BLOCK - len(block)), mode="edge")


class DigestSet:
    """A growing set of digests of 16 bytes (arrays of type S16). folder: where its files go; the caller removes them.

    recent: the sorted digests that are in memory. runs: the files that hold the others.
    """

    def __init__(self, folder: Path) -> None:
        self.recent = np.empty(0, "S16")
        self.runs: tuple[Run, ...] = ()
        self._folder = folder
        self._written = 0

    def add(self, digests: np.ndarray) -> None:
        self.recent = _distinct([self.recent, digests])
        if len(self.recent) >= _RECENT:
            self.runs = (*self.runs, self._write(_by_first_byte(self.recent)))
            self.recent = self.recent[:0].copy()
        if len(self.runs) > _MOST_RUNS:
            self.merge()

    def has(self, wanted: np.ndarray) -> np.ndarray:
        """Which of the digests are in the set."""
        found = among(self.recent, wanted)
        for run in self.runs:
            found[~found] = run.has(wanted[~found])
        return found

    def merge(self) -> None:
        """Merge all files into one, so that a look-up reads only one block. Memory holds a 256th of them."""
        if len(self.runs) < 2:
            return
        merged = self._write(_distinct([run.with_first_byte(byte) for run in self.runs]) for byte in range(256))
        for run in self.runs:
            run.path.unlink()
        self.runs = (merged,)

    def _write(self, parts: Iterable[np.ndarray]) -> Run:
        """Write the sorted digests with each first byte as a file."""
        path = self._folder / f"{self._written}.digests"
        self._written += 1
        firsts, starts = [], [0]
        try:
            with open(path, "wb") as file:
                for part in parts:
                    file.write(part.tobytes())
                    firsts.append(part[-starts[-1] % _BLOCK :: _BLOCK].copy())
                    starts.append(starts[-1] + len(part))
        except OSError as error:
            raise RunFailed(
                f"'{tempfile.gettempdir()}': the list of known files cannot be kept there ({error.strerror}); free some "
                "space, or set TMPDIR to a folder on another disk, and run the same command again"
            ) from error
        return Run(path=path, firsts=np.concatenate(firsts), starts=np.array(starts))


def among(ordered: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Which of the wanted digests are in the sorted array `ordered`."""
    if not len(ordered):
        return np.zeros(len(wanted), bool)
    indices = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return np.asarray(ordered[indices] == wanted)


def _distinct(parts: list[np.ndarray]) -> np.ndarray:
    """The different digests of all parts, sorted. Fast if each part is sorted, because a stable sort only merges them."""
    digests = np.concatenate(parts)
    digests.sort(kind="stable")
    is_first = np.ones(len(digests), bool)
    is_first[1:] = digests[1:] != digests[:-1]
    return digests[is_first]


def _by_first_byte(ordered: np.ndarray) -> Iterable[np.ndarray]:
    first_bytes = ordered.view(np.uint8)[::_SIZE]
    bounds = np.searchsorted(first_bytes, np.arange(257))
    return (ordered[start:end] for start, end in pairwise(bounds))
