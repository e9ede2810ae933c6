"""Files on which workers die: given up after some attempts, since Ray would run a lost task again for ever.

An attempt is a byte in a file of this machine's, which goes when the attempt ends, however it ends, and stays when the process
dies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from naturaltone.pipeline.private_folder import private_folder

MOST = 8  # a run may be killed several times while it is at the same photo


@contextlib.contextmanager
def attempt(key: str) -> Iterator[int]:
    """Count one more attempt at what `key` names; gives its number, from 1."""
    path = private_folder() / f"attempt-{key}"
    with open(path, "ab") as file:
        file.write(b".")
        number = file.tell()
    try:
        yield number
    finally:
        path.unlink(missing_ok=True)
