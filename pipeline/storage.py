"""Reads and writes URIs (a path, file://, s3://): filesystems, credentials, checks, and writes that are whole or absent."""

from __future__ import annotations

import contextlib
import fcntl
import filecmp
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit

from botocore.exceptions import BotoCoreError, ClientError
from pyarrow import NativeFile, fs

from naturaltone.pipeline import s3
from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.s3_filesystem import s3_filesystem

TEMPORARY_SUFFIX = ".naturaltone.tmp"
_COPY_BYTES = 2**22

T = TypeVar("T")


class StorageError(UserError):
    """A URI that cannot be used as asked. The message names the URI and the remedy."""


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def absolute(uri: str) -> str:
    """The URI with a local path made absolute, so that a process in another folder can use it."""
    return uri if is_s3(uri) else resolve(uri)[1]


def join(uri: str, *names: str) -> str:
    return "/".join([uri.rstrip("/"), *names])


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of `uri` and the path inside it. The `AWS_*` variables choose the server and keys."""
    if is_s3(uri):
        keys = tuple(os.environ.get(name) for name in s3.KEY_VARIABLES)
        return s3_filesystem(os.environ.get(s3.ENDPOINT_VARIABLE), keys), uri.removeprefix("s3://").rstrip("/")
    if "://" in uri and not uri.startswith("file://"):
        raise StorageError(f"'{uri}': only paths, file:// and s3:// are supported; copy the photos to one of these")
    path = unquote(urlsplit(uri).path) if uri.startswith("file://") else uri
    return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(path))


def read_bytes(uri: str) -> bytes:
    """The whole content of `uri`; `OSError` if it cannot be read."""
    if is_s3(uri):
        return s3.read(uri)
    return Path(resolve(uri)[1]).read_bytes()


def read_with(uri: str, read: Callable[[NativeFile], T]) -> T:
    """The result of `read` on the file at `uri`, opened for random access. Starts again if an S3 server fails on the way."""
    filesystem, path = resolve(uri)

    def attempt() -> T:
        with filesystem.open_input_file(path) as file:
            return read(file)

    if not is_s3(uri):
        return attempt()
    return s3.retry(uri, attempt)


def write_bytes(uri: str, data: bytes, *, modified: float | None = None) -> None:
    """Write `uri` so that a reader sees the old content or the new, never a part; `OSError` if it cannot be written.

    modified: the modification time to give a local file, in seconds since 1970. An S3 object has the time of its upload.
    """
    if is_s3(uri):
        s3.write(uri, data)
        return
    path = resolve(uri)[1]
    with _whole(path, modified) as file:
        file.write(data)


def write_file(uri: str, path: str) -> None:
    """Write the content of the local file `path` to `uri` as `write_bytes` does, with only a part of it in memory."""
    if is_s3(uri):
        s3.write_file(uri, path)
    else:
        copy(path, uri)


def copy(source: str, target: str, *, modified: float | None = None) -> None:
    """Copy a file as `write_bytes` writes, with only a block in memory at a time."""
    if is_s3(target):
        with _on_disk(source) as path:
            s3.write_file(target, path)
        return
    with _whole(resolve(target)[1], modified) as file:
        _download(source, file)


def same_content(a: str, b: str) -> bool:
    """Whether two files hold the same bytes."""
    if is_s3(a) or is_s3(b):
        return _digest(a) == _digest(b)
    return filecmp.cmp(resolve(a)[1], resolve(b)[1], shallow=False)


def _digest(uri: str) -> bytes:
    return read_with(uri, lambda file: hashlib.file_digest(file, "blake2b").digest())


def _download(source: str, file: BinaryIO) -> None:
    def attempt(original: NativeFile) -> None:
        file.seek(0)
        file.truncate()
        shutil.copyfileobj(original, file, _COPY_BYTES)

    read_with(source, attempt)


@contextlib.contextmanager
def _on_disk(uri: str) -> Iterator[str]:
    """The path of a file: its own, or that of a copy in `TMPDIR` if it is on S3."""
    if not is_s3(uri):
        yield resolve(uri)[1]
        return
    with tempfile.NamedTemporaryFile() as file:
        _download(uri, file)  # type: ignore[arg-type]
        file.flush()
        yield file.name


@contextlib.contextmanager
def _whole(path: str, modified: float | None) -> Iterator[BinaryIO]:
    """A file to write to. It appears at `path` when the context ends without an error."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # Not the name with a suffix: it could be longer than the filesystem allows.
    temporary = os.path.join(os.path.dirname(path), f".{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # otherwise a power cut may leave the new name on an empty file
        if modified is not None:
            os.utime(temporary, (modified, modified))
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def update(uri: str, change: Callable[[bytes | None], bytes]) -> None:
    """Replace the content of `uri` by `change(content)` (None: there is no such file), so that no other update is lost.

    `change` may be called more than once, also with its own result. On an S3 server without conditional writes an update
    can be lost.
    """
    if not is_s3(uri):
        with _one_change_at_a_time(uri.rpartition("/")[0]):
            write_bytes(uri, change(read_bytes(uri) if exists(uri) else None))
        return
    while True:
        try:
            before, etag = s3.read_with_etag(uri)
        except FileNotFoundError:
            before, etag = None, None
        with contextlib.suppress(s3.Changed):
            s3.write_if(uri, change(before), etag=etag)
            return


def delete_half_written(folder: str, *, older_than: float) -> None:
    """Delete the half-written files that killed processes left in a local folder (not in its subfolders).

    older_than: delete only files last changed by this time, in seconds since 1970. On S3 nothing is ever half-written.
    """
    if is_s3(folder):
        return
    with _one_change_at_a_time(folder):  # else this could delete a file that another process is writing
        for path in Path(resolve(folder)[1]).glob(f".*{TEMPORARY_SUFFIX}"):
            if path.stat().st_mtime <= older_than:
                path.unlink()


@contextlib.contextmanager
def _one_change_at_a_time(folder: str) -> Iterator[None]:
    """Lock a local folder for a moment; other processes wait. (`lease.hold` is for work that takes longer.)"""
    path = resolve(folder)[1]
    os.makedirs(path, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def delete(uri: str) -> None:
    """Delete a file; do nothing if it does not exist."""
    if is_s3(uri):
        s3.delete(uri)
    else:
        Path(resolve(uri)[1]).unlink(missing_ok=True)


def delete_empty_folder(uri: str) -> None:
    """Delete a folder on a disk if it is empty. Object stores have no folders."""
    if not is_s3(uri):
        with contextlib.suppress(OSError):
            os.rmdir(resolve(uri)[1])


def exists(uri: str) -> bool:
    filesystem, path = resolve(uri)
    if not is_s3(uri):
        return os.path.isfile(path)
    return bool(s3.retry(uri, lambda: filesystem.get_file_info(path).type == fs.FileType.File))


def check_folder(uri: str) -> None:
    """`StorageError` if a folder to read from is missing or may not be read, or its storage cannot be reached."""
    check_reachable(uri)
    if is_s3(uri):
        return
    try:
        os.scandir(resolve(uri)[1]).close()
    except PermissionError:
        raise StorageError(f"'{uri}': permission denied; give this user access to it") from None
    except (FileNotFoundError, NotADirectoryError):
        raise StorageError(f"'{uri}': no such folder; check the path") from None


def check_writable(uri: str) -> None:
    """`StorageError` if a folder to write to is a file, belongs to another user, or its storage cannot be reached."""
    check_reachable(uri)
    if is_s3(uri):
        return
    existing = Path(resolve(uri)[1])
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise StorageError(f"'{uri}': nothing can be written to '{existing}'; choose a folder that you can write to")


def check_file_writable(uri: str | None) -> None:
    """`StorageError`, before any work starts, if its output file `uri` cannot be written. None: there is no output file."""
    if uri is None:
        return
    if os.path.isdir(uri):
        raise StorageError(f"'{uri}' is a folder; name a file to write")
    check_writable(uri if is_s3(uri) else os.path.dirname(os.path.abspath(uri)))


def check_reachable(uri: str) -> None:
    """`StorageError` at once for a wrong endpoint, key or bucket, which retries would hide for minutes."""
    if not is_s3(uri):
        resolve(uri)
        return
    endpoint = os.environ.get(s3.ENDPOINT_VARIABLE)
    where = f"'{uri}' at {endpoint or 'AWS'}"
    bucket = s3.split(uri)[0]
    try:
        # Up to three attempts, because a server may be busy. boto3 does not try again after a refusal.
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
