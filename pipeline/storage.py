"""URIs (a path, file://, s3://) to pyarrow filesystems: endpoints, credentials, checks, whole-or-nothing writes."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pyarrow import NativeFile, fs

ENDPOINT_VARIABLE = "AWS_ENDPOINT_URL"
TIMEOUT_S = 10
_KEY_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")
ATTEMPTS = 5


class StorageError(ValueError):
    """A place that cannot be used as asked; the message names it and the remedy."""


@dataclass(frozen=True)
class File:
    """One listed file: its URI, its path relative to the listed folder, bytes, and seconds since 1970 when it changed."""

    uri: str
    relative: str
    size: int
    modified: float


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
        keys = tuple(os.environ.get(name) for name in _KEY_VARIABLES)
        return _s3(os.environ.get(ENDPOINT_VARIABLE), keys), uri.removeprefix("s3://").rstrip("/")
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
    filesystem, path = resolve(uri)
    with filesystem.open_input_stream(path) as stream:
        return stream.read()


def write_bytes(uri: str, data: bytes) -> None:
    """Write `uri` so that a reader sees the old content or the new, never a part."""
    filesystem, path = resolve(uri)
    if is_s3(uri):  # an object appears when its upload is complete
        with filesystem.open_output_stream(path) as stream:
            stream.write(data)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def exists(uri: str) -> bool:
    filesystem, path = resolve(uri)
    return filesystem.get_file_info(path).type == fs.FileType.File


def list_files(uri: str, *, suffixes: tuple[str, ...] = ("",)) -> Iterator[File]:
    """All files below the folder `uri` whose name ends in one of `suffixes` (any case), sorted by path."""
    filesystem, path = resolve(uri)
    infos = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    for info in sorted(infos, key=lambda info: info.path):
        if info.type == fs.FileType.File and info.path.lower().endswith(suffixes):
            relative = info.path[len(path) :].lstrip("/")
            yield File(join(uri, relative), relative, info.size, info.mtime_ns / 1e9)


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


def check_reachable(uri: str) -> None:
    """Fail at once, with the remedy, where retries would hide a wrong endpoint, key or bucket for minutes."""
    if not is_s3(uri):
        resolve(uri)
        return
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    endpoint = os.environ.get(ENDPOINT_VARIABLE)
    where = f"'{uri}' at {endpoint or 'AWS'}"
    bucket = uri.removeprefix("s3://").split("/")[0]
    config = Config(connect_timeout=3, read_timeout=TIMEOUT_S, retries={"max_attempts": 1})
    try:
        # A session of its own: the default one keeps the first keys it saw.
        boto3.Session().client("s3", endpoint_url=endpoint, config=config).list_objects_v2(Bucket=bucket, MaxKeys=1)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in ("NoSuchBucket", "404"):
            raise StorageError(f"{where}: there is no bucket '{bucket}'; create it or correct the name") from None
        raise StorageError(
            f"{where}: the server refuses access ({code}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None
    except (BotoCoreError, ValueError) as error:
        raise StorageError(
            f"{where}: cannot be reached ({type(error).__name__}); check --s3-endpoint or {ENDPOINT_VARIABLE}, "
            "the AWS keys, and that the server runs"
        ) from None


@cache
def _s3(endpoint: str | None, keys: tuple[str | None, ...]) -> fs.S3FileSystem:
    """One client for each server and set of keys; pyarrow reads these from the environment itself."""
    return fs.S3FileSystem(
        endpoint_override=endpoint,
        connect_timeout=TIMEOUT_S,
        request_timeout=30,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
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
