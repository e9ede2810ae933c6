"""The lock that gives a folder, a store's role or a run to one process at a time.

A second process is refused and told which process is first. A process loses its lock if its machine sleeps or its network
is down for too long. It is told so before it writes anything else that others build on.

On a disk the lock is a locked file, which the system unlocks when the process ends. On S3 the lock is an object that its
holder renews. The clocks of two machines are never compared: a holder counts as dead if its object has not changed for
90 seconds of our own clock, or if it ran on this machine and has ended. The holder is sure of its lock for only 60 seconds
after a renewal.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from naturaltone.pipeline import s3, storage
from naturaltone.pipeline.errors import RunFailed

# Set if only one process uses the S3 server: it needs no warning that the server may give two processes the same lock.
PRIVATE_SERVER_VARIABLE = "NATURALTONE_PRIVATE_S3"

_RENEW_SECONDS = 10.0
_EXPIRE_SECONDS = 90.0
_SURE_SECONDS = 60.0  # after a renewal; the other 30 s are for the write that follows a check
_WATCH_SECONDS = 2.0
_SAME_START_SECONDS = 5.0

log = logging.getLogger(__name__)


class LeaseLost(RunFailed):
    """Another process has the lock. Continuing would mix what the two processes write."""


class LeaseHeld(storage.StorageError):
    """Another living process has the lock. The message names it."""


class Lease:
    """A lock that this process holds. Call `check()` before every write that others build on."""

    def check(self) -> None:
        """Raise `LeaseLost` if another process has the lock, `OSError` if the server does not say who has it."""

    def check_not_taken(self) -> None:
        """Raise `LeaseLost` if we know that another process has the lock. Does not ask the server, so it never waits."""


@contextlib.contextmanager
def hold(uri: str, *, what: str) -> Iterator[Lease]:
    """Hold the lock `uri` until the context or the process ends.

    what: the thing that is locked, for messages. `LeaseHeld` if another process holds the lock.
    """
    with _hold_object(uri, what) if storage.is_s3(uri) else _hold_file(uri, what) as lease:
        yield lease


def is_safe(uri: str) -> bool:
    """Whether the lock `uri` keeps two machines apart. An S3 server without conditional writes gives it to both."""
    if not storage.is_s3(uri):
        return True
    probe = f"{uri}.{uuid.uuid4().hex[:8]}"
    s3.write(probe, b"")
    try:
        s3.write_if(probe, b"other", etag=None)  # the same content would look like a write whose answer was lost
    except s3.Changed:
        return True
    finally:
        s3.delete(probe)
    return False


@contextlib.contextmanager
def _hold_file(uri: str, what: str) -> Iterator[Lease]:
    path = storage.resolve(uri)[1]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _refusal(what, _read(file.read())) from None
        file.truncate(0)
        file.write(json.dumps(_owner()))
        file.flush()
        yield Lease()
        file.truncate(0)


@contextlib.contextmanager
def _hold_object(uri: str, what: str) -> Iterator[Lease]:
    lease = _ObjectLease(uri, what)
    lease.take()
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(_RENEW_SECONDS):
            lease.renew()

    thread = threading.Thread(target=keep, name="lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        ended.set()
        thread.join()
        lease.give_back()


class _ObjectLease(Lease):
    """A lock that is an object on an S3 server."""

    def __init__(self, uri: str, what: str) -> None:
        self._uri, self._what = uri, what
        self._owner = {**_owner(), "token": uuid.uuid4().hex}
        self._renewed = _now()
        self._renewing = threading.Lock()
        self._taken_by: dict[str, Any] | None = None

    def take(self) -> None:
        """Write our object if no living process holds the lock; else `StorageError`."""
        watched: tuple[str, float] | None = None  # the first ETag, and when we saw it
        while True:
            try:
                content, etag = s3.read_with_etag(self._uri)
            except FileNotFoundError:
                content, etag = b"", None
            if etag is not None:
                holder = _read(content.decode(errors="replace"))
                if watched is None:
                    if _is_alive_here(holder):
                        raise _refusal(self._what, holder)
                    watched = etag, _now()
                    if not _is_dead_here(holder):
                        log.warning(
                            "%s is locked by %s; checking whether that process is alive", self._what, _name(holder)
                        )
                elif watched[0] != etag:
                    raise _refusal(self._what, holder)
                if not _is_dead_here(holder) and _now() - watched[1] < _EXPIRE_SECONDS:
                    time.sleep(_WATCH_SECONDS)
                    continue
            asked = _now()  # the write may arrive long before its answer, and others count from its arrival
            try:
                s3.write_if(self._uri, self._content(), etag=etag)
            except s3.Changed:  # another process was faster: look again, and see that it is alive
                continue
            # A server without conditional writes keeps the last of two writes: read which one it kept.
            found = _read(s3.read(self._uri).decode(errors="replace"))
            if found.get("token") != self._owner["token"]:
                raise _refusal(self._what, found)
            self._renewed = asked
            _say_once_what_the_server_cannot_do(self._uri)
            return

    def renew(self) -> None:
        """Show that we are alive, or find out that another process has the lock."""
        with self._renewing, contextlib.suppress(OSError):  # if the server fails, the next renewal will do
            if self._taken_by is not None:
                return
            try:
                content, etag = s3.read_with_etag(self._uri)
                holder = _read(content.decode(errors="replace"))
                if holder.get("token") != self._owner["token"]:
                    self._taken_by = holder
                    return
                asked = _now()
                s3.write_if(self._uri, self._content(), etag=etag)
                self._renewed = asked
            except (FileNotFoundError, s3.Changed):  # removed, or taken between reading and writing
                self._taken_by = {}

    def check(self) -> None:
        if not self._is_sure():
            self.renew()  # this machine slept, or the server was down: others may think that we are dead
        self.check_not_taken()
        if not self._is_sure():
            raise OSError(
                f"{self._what}: the storage server did not confirm the lock for {_SURE_SECONDS:.0f} s; "
                "give the same command again when the server answers"
            )

    def check_not_taken(self) -> None:
        if self._taken_by is not None:
            raise LeaseLost(
                f"{self._what}: this run lost its lock (now {_name(self._taken_by)} has it) and stopped; "
                "give the same command again when the other process has ended"
            )

    def _is_sure(self) -> bool:
        return _now() - self._renewed <= _SURE_SECONDS

    def give_back(self) -> None:
        # Reading and deleting are two steps, because few servers support conditional deletes. Nobody else writes between
        # the two unless we have been silent for 90 seconds.
        with contextlib.suppress(OSError):
            if _read(s3.read(self._uri).decode(errors="replace")).get("token") == self._owner["token"]:
                s3.delete(self._uri)

    def _content(self) -> bytes:
        return json.dumps({**self._owner, "renewal": uuid.uuid4().hex}).encode()  # new content gives a new ETag


def _say_once_what_the_server_cannot_do(uri: str) -> None:
    endpoint = os.environ.get(s3.ENDPOINT_VARIABLE, "AWS")
    if endpoint in _looked_at or os.environ.get(PRIVATE_SERVER_VARIABLE):
        return
    _looked_at.add(endpoint)
    if not is_safe(uri):
        log.warning(
            "the S3 server at %s does not support conditional writes: if two runs on one folder start in the same second, "
            "both may continue; start them one after the other",
            endpoint,
        )


_looked_at: set[str] = set()  # endpoints


def _owner() -> dict[str, Any]:
    process = psutil.Process()
    return {
        "process": process.pid,
        "started": process.create_time(),
        "machine": _machine(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _machine() -> str:
    """The same for all processes that see each other's process ids: the kernel's boot, and the container. "" if unknown."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return ""


def _is_alive_here(owner: dict[str, Any]) -> bool:
    return _is_here(owner) and _runs(owner) is True


def _is_dead_here(owner: dict[str, Any]) -> bool:
    return _is_here(owner) and _runs(owner) is False


def _is_here(owner: dict[str, Any]) -> bool:
    return bool(_machine()) and owner.get("machine") == _machine()


def _runs(owner: dict[str, Any]) -> bool | None:
    """Whether the holder runs. None: a process has its id, but /proc hides other users' processes (hidepid)."""
    try:
        with contextlib.suppress(PermissionError):  # it runs, as another user
            os.kill(owner["process"], 0)  # signal 0 only asks whether there is such a process
        # Equal to within seconds: psutil counts from the system's boot time, which moves when the clock is set.
        return abs(psutil.Process(owner["process"]).create_time() - owner["started"]) < _SAME_START_SECONDS
    except (ProcessLookupError, KeyError, TypeError, ValueError, OverflowError):
        return False
    except psutil.Error:
        return None


def _read(content: str) -> dict[str, Any]:
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError):  # the lock was just taken, and its holder is not written yet
        return {}


def _name(owner: dict[str, Any]) -> str:
    try:
        return f"process {owner['process']} on {owner['host']} (since {owner['since']})"
    except KeyError:
        return "another process"


def _refusal(what: str, owner: dict[str, Any]) -> LeaseHeld:
    return LeaseHeld(f"{what}: {_name(owner)} is writing there; wait until it ends, or write somewhere else")


def _now() -> float:
    # Unlike the monotonic clock, this one runs on while the machine sleeps.
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
