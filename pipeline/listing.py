"""Lists all files below a folder or an S3 prefix, in a fixed order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from naturaltone.pipeline import s3
from naturaltone.pipeline.reasons import Reason
from naturaltone.pipeline.storage import StorageError, is_s3, join, resolve


@dataclass(frozen=True)
class Problem:
    """Why a file is listed but must not be read."""

    reason: Reason
    detail: str


@dataclass(frozen=True)
class File:
    """One listed file.

    relative: its path below the listed folder. size: bytes. modified: when it last changed, in seconds since 1970.
    version: changes with the content; an object's ETag, or a local file's modification time in nanoseconds.
    """

    uri: str
    relative: str
    size: int
    modified: float
    version: str
    problem: Problem | None = None


def list_files(uri: str, *, suffixes: tuple[str, ...] = ("",), stay: bool = False) -> Iterator[File]:
    """All files below the folder `uri` whose name ends in one of `suffixes` (any case), in a fixed order.

    The listing is lazy: only one folder, or one page of an S3 prefix, is in memory. suffixes: in lower case.
    stay: do not leave the folder. Links that lead out of it, and folders below it that cannot be read, are listed as files
    with a `problem`. Without `stay`, links are followed, and a folder that we have no permission to read is a `StorageError`.
    """
    if is_s3(uri):
        files = _list_s3(uri)
    else:
        path = resolve(uri)[1]
        root = os.stat(path)
        inside = os.path.realpath(path) if stay else None
        files = _list_folder(path, join(uri, ""), "", ((root.st_dev, root.st_ino),), inside)
    for file in files:
        if file.problem or file.relative.lower().endswith(suffixes):
            yield file


def _list_s3(uri: str) -> Iterator[File]:
    bucket, prefix = s3.split(uri)
    for found in s3.list_objects(uri):
        relative = found["Key"].removeprefix(f"{prefix}/" if prefix else "")
        if not relative.endswith("/"):  # an object that stands for a folder
            modified = found["LastModified"].timestamp()
            yield File(f"s3://{bucket}/{found['Key']}", relative, found["Size"], modified, found["ETag"].strip('"'))


def _list_folder(
    path: str, uri: str, relative: str, above: tuple[tuple[int, int], ...], inside: str | None
) -> Iterator[File]:
    """uri: the prefix of the relative names. inside: the real path that links must not leave; None if links are followed."""
    try:
        with os.scandir(path) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        if inside is not None and relative:
            what = f"the folder cannot be listed ({(error.strerror or str(error)).lower()}); allow it"
            yield _unread(uri, relative.rstrip("/"), Reason.UNREADABLE, what)
            return
        if not isinstance(error, PermissionError):
            raise
        raise StorageError(
            f"'{path}': the folder cannot be listed (permission denied); make it readable, or name the other folders one by one"
        ) from None
    for entry in ordered:
        name = f"{relative}{entry.name}"
        try:
            os.lstat(entry.path)
            why = _why_not_followed(entry, inside)
            if why:
                yield _unread(uri, name, Reason.NOT_FOLLOWED, why)
            elif entry.is_dir():
                stat = entry.stat()
                identity = (stat.st_dev, stat.st_ino)
                if identity not in above:  # following a link to a folder above would never end
                    yield from _list_folder(entry.path, uri, f"{name}/", (*above, identity), inside)
                elif inside is not None:
                    yield _unread(uri, name, Reason.NOT_FOLLOWED, "a link to a folder that contains it")
            elif entry.is_file() or entry.is_symlink():  # a broken link is listed too: reading it fails and says why
                stat = entry.stat(follow_symlinks=entry.is_file())
                yield File(f"{uri}{name}", name, stat.st_size, stat.st_mtime, str(stat.st_mtime_ns))
        except FileNotFoundError:  # deleted since the folder was listed
            continue
        except PermissionError:
            if inside is None:
                raise StorageError(f"'{entry.path}': permission denied; give this user access to it") from None
            yield _unread(uri, name, Reason.UNREADABLE, "it cannot be looked at (permission denied); allow it")


def _unread(uri: str, relative: str, reason: Reason, detail: str) -> File:
    return File(f"{uri}{relative}", relative, 0, 0.0, "", Problem(reason, detail))


def _why_not_followed(entry: os.DirEntry[str], inside: str | None) -> str | None:
    """Why an entry is listed but not read, if links must not leave the folder `inside`; None if it is read."""
    if inside is None:
        return None
    if entry.is_symlink() and not f"{os.path.realpath(entry.path)}/".startswith(f"{inside.rstrip('/')}/"):
        return "a link that leads out of the folder"
    is_known = entry.is_dir() or entry.is_file() or entry.is_symlink()
    return None if is_known else "a pipe, socket or device"
