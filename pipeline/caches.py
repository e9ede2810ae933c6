"""The one place for everything that is kept between runs and can be made again: compiled kernels, and models that served.

`NATURALTONE_CACHE` names it. A container with a read-only root and any user needs only this folder and TMPDIR.
"""

from __future__ import annotations

import os
from pathlib import Path

from naturaltone.pipeline.private_folder import private_folder

VARIABLE = "NATURALTONE_CACHE"


def cache_folder(name: str) -> Path:
    """The subfolder `name` of the cache; it is made if it is missing. Without the variable, it is in the user's cache.

    A home that cannot be written is no error: the folder is then in the temporary directory.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        folder = Path(chosen, name)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "naturaltone", name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        pass
    return private_folder(name)
