"""Memory that a training step frees stays with the process for the next step.

glibc returns large blocks to the system when they are freed, and gets them anew, page by page, when the next step asks for
as many: 12,000 page faults a step of the recipe `small`, a tenth of the step. A training process needs the same blocks
again and again and ends with its run: let it keep them.
"""

from __future__ import annotations

import ctypes

_MMAP_THRESHOLD = 2**30  # bytes; smaller blocks are not mapped one by one
_TRIM_THRESHOLD = 2**31 - 1  # bytes free at the end of the heap before any are returned; the most that mallopt takes
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h

# For a process still to be started, whose training need not run in its main thread: arenas of other threads shrink all the
# same, so there is to be one for all.
ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(_MMAP_THRESHOLD),
    "MALLOC_TRIM_THRESHOLD_": str(_TRIM_THRESHOLD),
}


def keep_freed_memory(*, block: int = _MMAP_THRESHOLD, total: int = _TRIM_THRESHOLD) -> None:
    """Have this process keep what its main thread frees: blocks of up to `block` bytes, up to `total` bytes of them.

    Nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, block)
        mallopt(_M_TRIM_THRESHOLD, total)
