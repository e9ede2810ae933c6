"""Counts the attempts at a photo that kills its workers. Ray alone would run the lost task again for ever.

Each attempt adds a byte to a file on this machine. The file is removed when an attempt ends, with success or an error.
It stays only if the process dies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from naturaltone.pipeline.private_folder import private_folder

MOST = 8  # more than a few, since a user may kill several runs while they work on the same good photo


@contextlib.contextmanager
def attempt(key: str) -> Iterator[int]:
    """Count one more attempt at the file that `key` names; yields the number of attempts, from 1."""
    path = private_folder() / f"attempt-{key}"
    with open(path, "ab") as file:
        file.write(b".")
        number = file.tell()
    try:
        yield number
    finally:
        path.unlink(missing_ok=True)
