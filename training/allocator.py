"""What a process does with memory that it has freed: keep it for the next step, and share it among threads.

glibc returns large blocks to the system when a step frees them. The next step then gets them back page by page. In the
recipe `small` this costs 12,000 page faults a step, a tenth of the step's time. A training process needs the same blocks
again and again and ends with its run, so it may keep them.

glibc also gives each thread an arena of its own, and what is free in one does not serve another thread. The proxy of Ray
Serve would grow by a MiB a minute. So the threads of a process that runs for weeks share one arena, which keeps a little.
"""

from __future__ import annotations

import ctypes

_MMAP_THRESHOLD = 2**30  # bytes; smaller blocks are not mapped one by one
# Bytes; glibc returns memory only if more than this is free at the end of the heap. This is the most that mallopt takes.
_TRIM_THRESHOLD = 2**31 - 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h

# The settings of `keep_freed_memory` for a process that is not started yet. It may train in another thread than its main
# one. glibc still shrinks the arenas of other threads, so all threads share one arena.
KEEP_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(_MMAP_THRESHOLD),
    "MALLOC_TRIM_THRESHOLD_": str(_TRIM_THRESHOLD),
}
# For a process that serves for weeks. It keeps enough for the copies of a few photos: mapping each anew costs page faults.
SERVE_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**26),
}


def keep_freed_memory(*, block: int = _MMAP_THRESHOLD, total: int = _TRIM_THRESHOLD) -> None:
    """Make this process keep the memory that its main thread frees.

    block: size in bytes of the largest blocks to keep. total: bytes to keep at most. Does nothing without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, block)
        mallopt(_M_TRIM_THRESHOLD, total)
