"""Lists, reads and writes whole objects on an S3 server with boto3, and tries again when the network fails.

pyarrow's own S3 filesystem only reads row groups here: it lists no ETags and has no conditional writes. It also uploads in
parts, and a killed process leaves its parts on the server.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from naturaltone.pipeline import figures

ENDPOINT_VARIABLE = "AWS_ENDPOINT_URL"
KEY_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")
CONNECT_SECONDS, READ_SECONDS = 5, 30
ATTEMPTS = 6

T = TypeVar("T")


class Changed(Exception):
    """A conditional write was refused because another writer was faster."""


def client(*, attempts: int = 2) -> Any:
    """The boto3 client for the server and keys in the environment. attempts: how often boto3 itself tries a request."""
    keys = tuple(os.environ.get(name) for name in KEY_VARIABLES)
    return _client(os.environ.get(ENDPOINT_VARIABLE), keys, attempts)


def split(uri: str) -> tuple[str, str]:
    """The bucket and key of an s3:// URI."""
    bucket, _, key = uri.removeprefix("s3://").rstrip("/").partition("/")
    return bucket, key


def list_objects(uri: str) -> Iterator[dict[str, Any]]:
    """The objects below the prefix `uri` as boto3 describes them, in the order of their keys; one page in memory at a time."""
    bucket, key = split(uri)
    query = {"Bucket": bucket, "Prefix": f"{key}/" if key else ""}
    while True:
        page = retry(uri, partial(client().list_objects_v2, **query))
        yield from page.get("Contents", ())
        if not page.get("IsTruncated"):
            return
        query["ContinuationToken"] = page["NextContinuationToken"]


def read(uri: str) -> bytes:
    return read_with_etag(uri)[0]


def read_with_etag(uri: str) -> tuple[bytes, str]:
    bucket, key = split(uri)

    def get() -> tuple[bytes, str]:
        answer = client().get_object(Bucket=bucket, Key=key)
        return answer["Body"].read(), answer["ETag"]

    return retry(uri, get)


def write(uri: str, data: bytes) -> None:
    """Write an object in one PUT. It appears on the server when all of it has arrived."""
    bucket, key = split(uri)
    retry(uri, lambda: client().put_object(Bucket=bucket, Key=key, Body=data))


def write_file(uri: str, path: str) -> None:
    """Write an object as `write` does, from a local file of up to 5 GiB, which is not read into memory."""
    bucket, key = split(uri)

    def put() -> None:
        with open(path, "rb") as file:
            client().put_object(Bucket=bucket, Key=key, Body=file)

    retry(uri, put)


def write_if(uri: str, data: bytes, *, etag: str | None) -> str:
    """Write if the object still has this ETag (None: if there is no object), and return its new ETag; else `Changed`.

    A server without conditional writes always writes: it ignores the condition (rclone's), or refuses it with 501.
    """
    bucket, key = split(uri)
    condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}

    def put() -> Any:
        try:
            return client().put_object(Bucket=bucket, Key=key, Body=data, **condition)
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 501:
                raise
            return client().put_object(Bucket=bucket, Key=key, Body=data)

    try:
        answer = retry(uri, put)
    except (FileExistsError, FileNotFoundError):
        # Our write may have succeeded, its answer been lost, and the retry been refused. Then the object holds our data.
        try:
            found, new_etag = read_with_etag(uri)
        except FileNotFoundError:
            raise Changed(uri) from None
        if found != data:
            raise Changed(uri) from None
        return new_etag
    return str(answer["ETag"])


def delete(uri: str) -> None:
    bucket, key = split(uri)
    retry(uri, lambda: client().delete_object(Bucket=bucket, Key=key))


def retry(uri: str, attempt: Callable[[], T]) -> T:
    """Call `attempt` until it succeeds, up to ATTEMPTS times, and return its result.

    Errors name `uri`: `FileNotFoundError`, `FileExistsError` (a condition does not hold) and `PermissionError` at once, other
    `OSError` after the last attempt. boto3 itself does not try again when an answer breaks off.
    """
    for number in range(ATTEMPTS):
        try:
            return attempt()
        except ClientError as error:
            code = error.response["Error"]["Code"]
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code in ("NoSuchKey", "NoSuchBucket", "404"):
                raise FileNotFoundError(f"'{uri}': does not exist ({code})") from None
            if status in (409, 412):
                raise FileExistsError(f"'{uri}': another writer changed it ({code})") from None
            if status < 500 and status != 429:
                figures.S3_FAILURES.add(why=f"{status} {code}")
                raise PermissionError(f"'{uri}': the server refuses it ({code})") from None
            last = why = f"{status} {code}"
        except (HTTPClientError, BotoCoreError, OSError) as error:
            if isinstance(error, (FileNotFoundError, PermissionError)):
                raise
            last, why = f"{type(error).__name__}: {error}", type(error).__name__
        if number + 1 < ATTEMPTS:
            figures.S3_RETRIES.add(why=why)
            time.sleep(random.uniform(0.5, 1) * 0.1 * 2**number)
    figures.S3_FAILURES.add(why=why)
    raise OSError(f"'{uri}': the server failed {ATTEMPTS} times, last with {last}")


@cache
def _client(endpoint: str | None, keys: tuple[str | None, ...], attempts: int) -> Any:
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=32,
    )
    # Not boto3's default session: it keeps the first keys that it saw.
    return boto3.Session().client("s3", endpoint_url=endpoint, config=config)


# Forked processes that share a connection would read each other's answers.
os.register_at_fork(after_in_child=_client.cache_clear)
