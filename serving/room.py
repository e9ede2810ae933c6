"""Room in memory for the photos under work on one machine: bounded by their megapixels, whatever the number of workers.

Slots are files that a worker locks; the system unlocks those of a dead one. Who wants several takes them one by one while
the others wait behind it, so that a huge photo gets its turn.
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

BYTES_PER_PIXEL = 20  # that enhancing takes at its peak, file and codecs included (RESULTS: `bench enhance`)
_SLOT_MEGAPIXELS = 16.0
_SHARE = 0.5  # of the machine's memory; the rest is Ray's, the workers' own and the page cache's
_WAIT_SECONDS = 0.05
_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of the container


@contextlib.contextmanager
def room_for(megapixels: float, *, slots: int | None = None) -> Iterator[None]:
    """Wait until there is room for a photo of that size on this machine; a larger one than there is at all goes alone."""
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
    """How many slots this machine's memory, or its container's, has room for."""
    memory = psutil.virtual_memory().total
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        memory = min(memory, int(_LIMIT.read_text()))
    return max(1, int(memory * _SHARE / (_SLOT_MEGAPIXELS * 1e6 * BYTES_PER_PIXEL)))


def _free(folder: Path, slots: int) -> Iterator[contextlib.AbstractContextManager[object]]:
    """Slots as they become free, locked; each is free again when its file is closed."""
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
