"""A folder on this machine that only this user can read and write: what its processes tell each other lies there."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from naturaltone.pipeline.errors import UserError


def private_folder(name: str = "") -> Path:
    """The folder, or the folder `name` in it; made if it is not there.

    Its path can be guessed, and everybody may write to the temporary directory it is in. So `UserError` if it is a link, or
    somebody else made it: they could read what we write, or have us write over other files.
    """
    folder = Path(tempfile.gettempdir(), f"naturaltone-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        _check(folder)
    if not name:
        return folder
    (folder / name).mkdir(exist_ok=True)
    return folder / name


def _check(folder: Path) -> None:
    found = folder.lstat()  # of a link itself, not of what it leads to
    why = None
    if not stat.S_ISDIR(found.st_mode):
        why = "is no folder"
    elif found.st_uid != os.getuid():
        why = "belongs to another user"
    elif found.st_mode & 0o022:
        why = "can be written by other users"
    if why:
        raise UserError(f"'{folder}': {why}; remove it, or set TMPDIR to a folder of your own")
    if found.st_mode & 0o077:  # made by an earlier version, for all to read
        folder.chmod(0o700)
