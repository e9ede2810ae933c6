"""The folder in which a user's processes share files on this machine. No other user can read it or write to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
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


@contextlib.contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """A new folder below the subfolder `name`, which is removed when the context ends.

    It is locked while the process lives. The folders of killed processes have no lock any more, and are removed here.
    """
    parent = private_folder(name)
    with contextlib.ExitStack() as held:
        with _locked(parent):  # otherwise another process could remove the new folder before it is locked
            for leftover in parent.iterdir():
                with contextlib.suppress(OSError), _locked(leftover, fcntl.LOCK_NB):
                    shutil.rmtree(leftover)
            folder = held.enter_context(tempfile.TemporaryDirectory(dir=parent))
            held.enter_context(_locked(folder))
        yield Path(folder)


@contextlib.contextmanager
def _locked(folder: str | Path, flags: int = 0) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
        yield
    finally:
        os.close(descriptor)


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
