"""One process at a time for a folder: the second is refused, and told who the first is."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

from naturaltone.pipeline import s3, storage

_RENEW_SECONDS = 20.0
_EXPIRE_SECONDS = 90.0  # without a renewal: its owner is dead


@contextlib.contextmanager
def hold(uri: str) -> Iterator[None]:
    """Hold the lock file `uri` until the context or the process ends; `StorageError` naming who holds it already.

    On a disk the system drops a dead process's lock at once. On S3 the lock is an object that its owner renews, and that
    counts for nothing 90 seconds after it last did.
    """
    with _hold_object(uri) if storage.is_s3(uri) else _hold_file(uri):
        yield


@contextlib.contextmanager
def _hold_file(uri: str) -> Iterator[None]:
    path = storage.resolve(uri)[1]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise storage.StorageError(_refusal(uri, file.read())) from None
        file.truncate(0)
        file.write(_owner("", _now()))
        file.flush()
        yield
        file.truncate(0)


@contextlib.contextmanager
def _hold_object(uri: str) -> Iterator[None]:
    token, since = uuid.uuid4().hex, _now()
    _take(uri, token, since)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(_RENEW_SECONDS):
            with contextlib.suppress(OSError, ValueError):  # a server that fails for a while: the next time will do
                if _token(uri) == token:  # else somebody took it over while this machine slept
                    s3.write(uri, _owner(token, since).encode())

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError, ValueError):
            if _token(uri) == token:
                s3.delete(uri)


def _take(uri: str, token: str, since: str) -> None:
    try:
        before, etag = s3.read_with_etag(uri)
    except FileNotFoundError:
        before, etag = b"", None
    if before and time.time() - json.loads(before)["renewed"] < _EXPIRE_SECONDS:
        raise storage.StorageError(_refusal(uri, before.decode()))
    try:
        s3.write_if(uri, _owner(token, since).encode(), etag=etag)
    except s3.Changed:
        raise storage.StorageError(_refusal(uri, s3.read(uri).decode())) from None
    # Read again: a server without conditional writes keeps the last of two.
    found = s3.read(uri).decode()
    if json.loads(found)["token"] != token:
        raise storage.StorageError(_refusal(uri, found))


def _token(uri: str) -> str:
    return str(json.loads(s3.read(uri))["token"])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _owner(token: str, since: str) -> str:
    who = {"process": os.getpid(), "host": socket.gethostname(), "since": since}
    return json.dumps(who | {"renewed": time.time(), "token": token})


def _refusal(uri: str, content: str) -> str:
    folder = uri.rpartition("/")[0].rpartition("/")[0]
    try:
        owner = json.loads(content)
        who = f"process {owner['process']} on {owner['host']}, since {owner['since']}"
    except (ValueError, KeyError):  # just taken, not yet written
        who = "another process"
    return f"'{folder}': {who}, is writing there; wait until it has ended, or choose another folder"
