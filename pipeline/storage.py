"""URIs (a path, file://, s3://) to pyarrow filesystems: endpoints, credentials, checks, whole-or-nothing writes."""

from __future__ import annotations

import contextlib
import fcntl
import filecmp
import os
import shutil
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
    """A place that cannot be used as asked; the message names it and the remedy."""


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
        return s3_filesystem(os.environ.get(s3.ENDPOINT_VARIABLE), keys), uri.removeprefix("s3://").rstrip("/")
    if "://" in uri and not uri.startswith("file://"):
        raise StorageError(f"'{uri}': only paths, file:// and s3:// are known; copy the photos to one of these")
    path = unquote(urlsplit(uri).path) if uri.startswith("file://") else uri
    return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(path))


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


def write_file(uri: str, path: str) -> None:
    """Write `uri` as `write_bytes` does, with the content of the local file `path`, of which only a part is in memory."""
    if is_s3(uri):
        s3.write_file(uri, path)
    else:
        copy(path, uri)


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
    """Replace the content of `uri` by `change` of it (None: there is no such file), so that no other update is lost.

    `change` may be asked more than once, also of what it has made already. S3 servers without conditional writes cannot
    promise anything.
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
    """Delete what killed processes left half-written in a local folder (not below it) before a time, seconds since 1970.

    On S3 nothing is ever half-written.
    """
    if is_s3(folder):
        return
    with _one_change_at_a_time(folder):  # else it could be what another process is writing now
        for path in Path(resolve(folder)[1]).glob(f".*{TEMPORARY_SUFFIX}"):
            if path.stat().st_mtime <= older_than:
                path.unlink()


@contextlib.contextmanager
def _one_change_at_a_time(folder: str) -> Iterator[None]:
    """Hold a local folder for a moment; others wait. (`lease.hold` is for work that takes longer.)"""
    path = resolve(folder)[1]
    os.makedirs(path, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
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
