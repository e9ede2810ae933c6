"""Limits the megapixels that all workers of one machine enhance at once, so that they do not run out of memory.

Memory is divided into slots. A slot is a file, and a worker locks it. When a worker dies, the system unlocks its files.
A worker that wants several slots takes them one by one while the other workers wait, so a huge photo gets its turn.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from naturaltone.pipeline.private_folder import private_folder

BYTES_PER_PIXEL = 20  # peak memory of enhancing, file and codecs included (RESULTS.md: `bench enhance`)
_SLOT_MEGAPIXELS = 16.0
_SHARE = 0.5  # of the machine's memory; the rest is for Ray, the workers themselves and the page cache
_WAIT_SECONDS = 0.05
_LIMIT = Path("/sys/fs/cgroup/memory.max")  # the memory limit of the container


@contextlib.contextmanager
def room_for(megapixels: float, *, slots: int | None = None) -> Iterator[None]:
    """Wait until this machine has memory for a photo of `megapixels`, and reserve it while the context lasts.

    A photo larger than all slots together waits until it is alone. slots: for tests; default: `total_slots()`.
    """
    slots = slots or total_slots()
    folder = private_folder()
    wanted = min(slots, max(1, math.ceil(megapixels / _SLOT_MEGAPIXELS)))
    with contextlib.ExitStack() as held:
        with open(folder / "turn", "w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            for slot in _free(folder, slots):
                held.enter_context(slot)
                wanted -= 1
                if not wanted:
                    break
        yield


def total_slots() -> int:
    """The number of slots that fit into the memory of this machine or its container; at least 1."""
    return max(1, int(memory() * _SHARE / (_SLOT_MEGAPIXELS * 1e6 * BYTES_PER_PIXEL)))


def memory() -> int:
    """The bytes of memory of this machine or its container."""
    total = int(psutil.virtual_memory().total)
    with contextlib.suppress(OSError, ValueError):  # the file says "max" if there is no limit
        total = min(total, int(_LIMIT.read_text()))
    return total


def _free(folder: Path, slots: int) -> Iterator[contextlib.AbstractContextManager[object]]:
    """Yield slots as they become free, each locked. Closing the yielded file frees the slot."""
    taken: set[int] = set()
    while True:
        for number in set(range(slots)) - taken:
            file = open(folder / f"slot-{number}", "w")  # noqa: SIM115 - the caller keeps it open
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            taken.add(number)
            yield file
        time.sleep(_WAIT_SECONDS)
