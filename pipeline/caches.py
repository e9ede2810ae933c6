"""The one place for everything that is kept between runs and can be made again: compiled kernels, and models that served.

`NATURALTONE_CACHE` names it. A container with a read-only root and any user needs only this folder and TMPDIR. An image
brings a cache that was filled when it was built, and names it by `NATURALTONE_BUILT_CACHE`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from naturaltone.pipeline.private_folder import private_folder

VARIABLE = "NATURALTONE_CACHE"
BUILT = "NATURALTONE_BUILT_CACHE"  # a folder with the same subfolders; it is only read


def cache_folder(name: str) -> Path:
    """The subfolder `name` of the cache; it is made if it is missing. Without the variable, it is in the user's cache.

    A home that cannot be written is no error: the folder is then in the temporary directory. The files of the built cache
    are copied into it, unless it has them.
    """
    folder = _folder(name)
    if built := os.environ.get(BUILT):
        with contextlib.suppress(OSError):  # what is kept can be made again
            _fill(folder, Path(built, name))
    return folder


def _fill(folder: Path, built: Path) -> None:
    """Copy each file that the folder lacks. numba takes no cache that it cannot write to, so it cannot use `built` itself."""
    for source in sorted(built.rglob("*")):
        target = folder / source.relative_to(built)
        if source.is_dir():
            target.mkdir(exist_ok=True)
        elif not target.exists():
            with tempfile.TemporaryDirectory(dir=folder) as beside:
                # Other processes may start at the same moment: each file appears whole.
                shutil.copyfile(source, Path(beside, "file")).replace(target)


def _folder(name: str) -> Path:
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
