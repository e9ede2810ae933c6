"""URIs (a path, file://, s3://) to pyarrow filesystems: endpoints, credentials, checks, whole-or-nothing writes."""

from __future__ import annotations

import contextlib
import fcntl
import filecmp
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit

from botocore.exceptions import BotoCoreError, ClientError
from pyarrow import NativeFile, fs

from naturaltone.pipeline import s3
from naturaltone.pipeline.errors import UserError

TEMPORARY_SUFFIX = ".naturaltone.tmp"
_COPY_BYTES = 2**22

T = TypeVar("T")


class StorageError(UserError):
    """A place that cannot be used as asked; the message names it and the remedy."""


@dataclass(frozen=True)
class File:
    """One listed file: its URI, its path relative to the listed folder, bytes, and seconds since 1970 when it changed.

    `version` changes with the content: an object's ETag, a local file's time of change in nanoseconds. `problem`: a word and a
    sentence on why it is listed but not to be read, "" if it is.
    """

    uri: str
    relative: str
    size: int
    modified: float
    version: str
    problem: str = ""


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def absolute(uri: str) -> str:
    """The same place for a process in another folder."""
    return uri if is_s3(uri) else resolve(uri)[1]


def join(uri: str, *names: str) -> str:
    return "/".join([uri.rstrip("/"), *names])


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of `uri` and the path inside it; `AWS_*` variables choose server and keys."""
    if is_s3(uri):
        keys = tuple(os.environ.get(name) for name in s3.KEY_VARIABLES)
        return _s3(os.environ.get(s3.ENDPOINT_VARIABLE), keys), uri.removeprefix("s3://").rstrip("/")
    if "://" in uri and not uri.startswith("file://"):
        raise StorageError(f"'{uri}': only paths, file:// and s3:// are known; copy the photos to one of these")
    path = unquote(urlsplit(uri).path) if uri.startswith("file://") else uri
    return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(path))


def without_directories(filesystem: fs.FileSystem) -> fs.FileSystem:
    """The same object store, where making a directory does nothing.

    pyarrow writes an empty object for each; on servers that map keys to files that object is in the way of what should
    lie below it, and elsewhere it is litter.
    """
    return fs.PyFileSystem(_WithoutDirectories(filesystem))


def read_bytes(uri: str) -> bytes:
    """The whole content of `uri`; `OSError` if it cannot be read."""
    if is_s3(uri):
        return s3.read(uri)
    return Path(resolve(uri)[1]).read_bytes()


def read_with(uri: str, read: Callable[[NativeFile], T]) -> T:
    """What `read` makes of the file at `uri`, opened for reading anywhere; begun again if an S3 server fails on the way."""
    filesystem, path = resolve(uri)

    def attempt() -> T:
        with filesystem.open_input_file(path) as file:
            return read(file)

    if not is_s3(uri):
        return attempt()
    return s3.retry(uri, attempt)


def write_bytes(uri: str, data: bytes, *, modified: float | None = None) -> None:
    """Write `uri` so that a reader sees the old content or the new, never a part; `OSError` if it cannot be written.

    modified: the time of change, seconds since 1970, that a local file gets; objects have that of their upload.
    """
    if is_s3(uri):
        s3.write(uri, data)
        return
    path = resolve(uri)[1]
    with _whole(path, modified) as file:
        file.write(data)


def copy(source: str, target: str, *, modified: float | None = None) -> None:
    """Copy a file as `write_bytes` writes; between disks a block at a time, whatever its size."""
    if is_s3(source) or is_s3(target):
        write_bytes(target, read_bytes(source), modified=modified)
        return
    with open(resolve(source)[1], "rb") as original, _whole(resolve(target)[1], modified) as file:
        shutil.copyfileobj(original, file, _COPY_BYTES)


def same_content(a: str, b: str) -> bool:
    """Whether two files hold the same bytes."""
    if is_s3(a) or is_s3(b):
        return read_bytes(a) == read_bytes(b)
    return filecmp.cmp(resolve(a)[1], resolve(b)[1], shallow=False)


@contextlib.contextmanager
def _whole(path: str, modified: float | None) -> Iterator[BinaryIO]:
    """A file to write to, which is at `path` when the context has ended well."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # Not the name with something behind it: that may be as long as names can be.
    temporary = os.path.join(os.path.dirname(path), f".{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name with nothing in it
        if modified is not None:
            os.utime(temporary, (modified, modified))
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def update(uri: str, change: Callable[[bytes | None], bytes]) -> None:
    """Replace the content of `uri` by `change` of it (None: there is none), so that no other update between is lost.

    S3 servers without conditional writes cannot promise that.
    """
    if not is_s3(uri):
        with locked(uri.rpartition("/")[0]):
            write_bytes(uri, change(read_bytes(uri) if exists(uri) else None))
        return
    wanted = None
    while True:
        try:
            before, etag = s3.read_with_etag(uri)
        except FileNotFoundError:
            before, etag = None, None
        if before is not None and before == wanted:  # it was our own write whose answer had been lost
            return
        wanted = change(before)
        with contextlib.suppress(s3.Changed):
            s3.write_if(uri, wanted, etag=etag)
            return


@contextlib.contextmanager
def locked(folder: str, *, wait: bool = True) -> Iterator[None]:
    """Hold a local folder for this process until the context ends, or the process does; `StorageError` if not to wait.

    Does nothing for S3, which has no locks that end with their owner.
    """
    if is_s3(folder):
        yield
        return
    path = resolve(folder)[1]
    os.makedirs(path, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise StorageError(f"'{folder}': another process is writing there; wait until it has ended") from None
        yield
    finally:
        os.close(descriptor)


def delete(uri: str) -> None:
    """Remove a file; nothing happens if it is not there."""
    if is_s3(uri):
        s3.delete(uri)
    else:
        Path(resolve(uri)[1]).unlink(missing_ok=True)


def delete_empty_folder(uri: str) -> None:
    """Remove what deleting its files left of a folder on a disk; object stores have none."""
    if not is_s3(uri):
        with contextlib.suppress(OSError):
            os.rmdir(resolve(uri)[1])


def exists(uri: str) -> bool:
    filesystem, path = resolve(uri)
    if not is_s3(uri):
        return os.path.isfile(path)
    return bool(s3.retry(uri, lambda: filesystem.get_file_info(path).type == fs.FileType.File))


def list_files(uri: str, *, suffixes: tuple[str, ...] = ("",), stay: bool = False) -> Iterator[File]:
    """All files below the folder `uri` whose name ends in one of `suffixes` (any case), in a fixed order.

    Listed while they are taken: a folder or a page of an S3 prefix is in memory at a time. stay: list links that lead out of
    the folder, and folders that cannot be read, as files with a `problem`, instead of following them or giving up.
    """
    if is_s3(uri):
        files = _list_s3(uri)
    else:
        path = resolve(uri)[1]
        root = os.stat(path)
        files = _list_folder(path, "", ((root.st_dev, root.st_ino),), os.path.realpath(path) if stay else None)
    for file in files:
        if file.problem or file.relative.lower().endswith(suffixes):
            yield file if is_s3(uri) else replace(file, uri=join(uri, file.relative))


def _list_s3(uri: str) -> Iterator[File]:
    bucket, prefix = s3.split(uri)
    for found in s3.list_objects(uri):
        relative = found["Key"].removeprefix(f"{prefix}/" if prefix else "")
        if not relative.endswith("/"):  # an object that stands for a folder
            modified = found["LastModified"].timestamp()
            yield File(f"s3://{bucket}/{found['Key']}", relative, found["Size"], modified, found["ETag"].strip('"'))


def _list_folder(path: str, relative: str, above: tuple[tuple[int, int], ...], inside: str | None) -> Iterator[File]:
    """inside: the real path that no link is to lead out of, None if links are followed anywhere."""
    try:
        with os.scandir(path) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        if inside is not None and relative:
            what = f"unreadable: the folder cannot be listed ({(error.strerror or str(error)).lower()}); allow it"
            yield File("", relative.rstrip("/"), 0, 0.0, "", what)
            return
        if not isinstance(error, PermissionError):
            raise
        raise StorageError(
            f"'{path}': the folder cannot be listed (permission denied); allow it, or name the folders beside it one by one"
        ) from None
    for entry in ordered:
        name = f"{relative}{entry.name}"
        try:
            os.lstat(entry.path)
            problem = _problem(entry, inside)
            if problem:
                yield File("", name, 0, 0.0, "", problem)
            elif entry.is_dir():
                stat = entry.stat()
                identity = (stat.st_dev, stat.st_ino)
                if identity not in above:  # a link to a folder above would go round for ever
                    yield from _list_folder(entry.path, f"{name}/", (*above, identity), inside)
                elif inside is not None:
                    yield File("", name, 0, 0.0, "", "not_followed: a link to a folder that it lies in")
            elif entry.is_file() or entry.is_symlink():  # a link to nothing is listed too: reading it says so
                stat = entry.stat(follow_symlinks=entry.is_file())
                yield File("", name, stat.st_size, stat.st_mtime, str(stat.st_mtime_ns))
        except FileNotFoundError:  # deleted since
            continue
        except PermissionError:
            if inside is None:
                raise StorageError(f"'{entry.path}': cannot be looked at (permission denied); allow it") from None
            yield File("", name, 0, 0.0, "", "unreadable: it cannot be looked at (permission denied); allow it")


def _problem(entry: os.DirEntry[str], inside: str | None) -> str:
    """Why something in a folder that is not to be left is listed but not read; "" if it is read."""
    if inside is None:
        return ""
    if entry.is_symlink() and not f"{os.path.realpath(entry.path)}/".startswith(f"{inside.rstrip('/')}/"):
        return "not_followed: a link that leads out of the folder"
    is_known = entry.is_dir() or entry.is_file() or entry.is_symlink()
    return "" if is_known else "not_followed: a pipe, socket or device"


def check_folder(uri: str) -> None:
    """Refuse a folder to read from that is missing or out of reach."""
    check_reachable(uri)
    filesystem, path = resolve(uri)
    if not is_s3(uri) and filesystem.get_file_info(path).type != fs.FileType.Directory:
        raise StorageError(f"'{uri}': no such folder; check the path")


def check_writable(uri: str) -> None:
    """Refuse a folder to write to that is out of reach, is a file, or belongs to somebody else."""
    check_reachable(uri)
    if is_s3(uri):
        return
    place = Path(resolve(uri)[1])
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise StorageError(f"'{uri}': nothing can be written to '{place}'; choose a folder that is yours")


def check_file_writable(uri: str | None) -> None:
    """Refuse, before any work, a file (None: there is none) that cannot be written at its end."""
    if uri is None:
        return
    if os.path.isdir(uri):
        raise StorageError(f"'{uri}' is a folder; name the file that is to be written")
    check_writable(uri if is_s3(uri) else os.path.dirname(os.path.abspath(uri)))


def check_reachable(uri: str) -> None:
    """Fail at once, with the remedy, where retries would hide a wrong endpoint, key or bucket for minutes."""
    if not is_s3(uri):
        resolve(uri)
        return
    endpoint = os.environ.get(s3.ENDPOINT_VARIABLE)
    where = f"'{uri}' at {endpoint or 'AWS'}"
    bucket = s3.split(uri)[0]
    try:
        # Tried three times, since a server may be busy; a refusal is not tried again.
        s3.client(attempts=3).list_objects_v2(Bucket=bucket, MaxKeys=1)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in ("NoSuchBucket", "404"):
            raise StorageError(f"{where}: there is no bucket '{bucket}'; create it or correct the name") from None
        if status >= 500 or status == 429:
            raise StorageError(f"{where}: the server is overloaded ({code}); try again later") from None
        raise StorageError(
            f"{where}: the server refuses access ({code}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None
    except (BotoCoreError, ValueError) as error:
        raise StorageError(
            f"{where}: cannot be reached ({type(error).__name__}); check --s3-endpoint or {s3.ENDPOINT_VARIABLE}, "
            "the AWS keys, and that the server runs"
        ) from None


@cache
def _s3(endpoint: str | None, keys: tuple[str | None, ...]) -> fs.S3FileSystem:
    """One client for each server and set of keys; pyarrow reads these from the environment itself."""
    return fs.S3FileSystem(
        endpoint_override=endpoint,
        connect_timeout=s3.CONNECT_SECONDS,
        request_timeout=s3.READ_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=s3.ATTEMPTS),
        allow_bucket_creation=False,
    )


class _WithoutDirectories(fs.FileSystemHandler):
    """Hands everything but directories on to another filesystem (pyarrow has no hook for less)."""

    def __init__(self, filesystem: fs.FileSystem) -> None:
        self._fs = filesystem

    def get_type_name(self) -> str:
        return f"{self._fs.type_name}-without-directories"

    def create_dir(self, path: str, recursive: bool) -> None: ...

    def normalize_path(self, path: str) -> str:
        return self._fs.normalize_path(path)

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return self._fs.get_file_info(paths)

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        return self._fs.get_file_info(selector)

    def delete_dir(self, path: str) -> None:
        self._fs.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self._fs.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        self._fs.delete_dir_contents("/", accept_root_dir=True)

    def delete_file(self, path: str) -> None:
        self._fs.delete_file(path)

    def move(self, source: str, target: str) -> None:
        self._fs.move(source, target)

    def copy_file(self, source: str, target: str) -> None:
        self._fs.copy_file(source, target)

    def open_input_stream(self, path: str) -> NativeFile:
        return self._fs.open_input_stream(path, compression=None)

    def open_input_file(self, path: str) -> NativeFile:
        return self._fs.open_input_file(path)

    def open_output_stream(self, path: str, metadata: dict[str, str] | None) -> NativeFile:
        return self._fs.open_output_stream(path, compression=None, metadata=metadata)

    def open_append_stream(self, path: str, metadata: dict[str, str] | None) -> NativeFile:
        return self._fs.open_append_stream(path, compression=None, metadata=metadata)
