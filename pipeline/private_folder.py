"""The folder in which a user's processes share files on this machine. No other user can read it or write to it."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from naturaltone.pipeline.errors import UserError


def private_folder(name: str = "") -> Path:
    """The path of the folder, or of its subfolder `name`. It is made if it is missing.

    Its path can be guessed, and every user may write to the temporary directory around it. So `UserError` if it is a link,
    belongs to another user or can be written by others: they could read what we write, or make us overwrite other files.
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
    found = folder.lstat()  # of the link itself, if it is a link
    why = None
    if not stat.S_ISDIR(found.st_mode):
        why = "is not a folder"
    elif found.st_uid != os.getuid():
        why = "belongs to another user"
    elif found.st_mode & 0o022:
        why = "can be written by other users"
    if why:
        raise UserError(f"'{folder}': {why}; remove it, or set TMPDIR to a folder of your own")
    if found.st_mode & 0o077:  # an earlier version let all users read it
        folder.chmod(0o700)
