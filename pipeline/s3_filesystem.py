"""pyarrow's S3 filesystem for row groups and Ray Train: with our server and keys, without objects that stand for folders."""

from __future__ import annotations

from functools import cache

from pyarrow import NativeFile, fs

from naturaltone.pipeline import s3


@cache
def s3_filesystem(endpoint: str | None, keys: tuple[str | None, ...]) -> fs.S3FileSystem:
    """The filesystem of a server. pyarrow reads the keys from the environment; `keys` only makes one client for each set."""
    return fs.S3FileSystem(
        endpoint_override=endpoint,
        connect_timeout=s3.CONNECT_SECONDS,
        request_timeout=s3.READ_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=s3.ATTEMPTS),
        allow_bucket_creation=False,
    )


def without_directories(filesystem: fs.FileSystem) -> fs.FileSystem:
    """The same object store, but making a directory does nothing.

    pyarrow writes an empty object for each directory. A server that maps keys to files then cannot store objects below it;
    on other servers the empty object is litter.
    """
    return fs.PyFileSystem(_WithoutDirectories(filesystem))


class _WithoutDirectories(fs.FileSystemHandler):
    """Passes every call but `create_dir` on to another filesystem (pyarrow cannot override one method alone)."""

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
