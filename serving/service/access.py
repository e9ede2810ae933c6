"""Who may use the service: API keys, known by their hashes, and the number of requests a minute that each key may send."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from naturaltone.pipeline.errors import UserError
from naturaltone.serving.service.settings import API_KEYS, NO_AUTH, RATE_LIMIT

_HASH = re.compile(r"[0-9a-fA-F]{64}")
_NAME = re.compile(r"[\w.@-]{1,64}")
_LOCAL_NAME = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_LOOPBACK = re.compile(r"127\.|::1$|::ffff:127\.")

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Key:
    """An API key that is valid. digest: the SHA-256 of its text. name: what logs call it."""

    digest: bytes
    name: str


class Keys:
    """The valid API keys.

    setting: hashes with commas between them, or the path of a file with a hash in each line. A name may follow the hash after
    a blank. The file is read again when it changes; if it cannot be read then, the keys of before stay valid. `UserError` at
    the start if a hash is no SHA-256 or the file cannot be read.
    """

    def __init__(self, setting: str) -> None:
        entries = [entry.strip() for entry in setting.split(",") if entry.strip()]
        self._path = None if any(_HASH.match(entry) for entry in entries) else Path(setting.strip())
        self._seen = self._state()
        self._keys = _read(self._path) if self._path else _parse(entries, API_KEYS)

    def find(self, text: str) -> Key | None:
        """The key with this text, None if there is none. The time that it takes does not depend on the text."""
        self._read_again()
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key  # no `break`: it would tell by the time how far the search went
        return found

    def _read_again(self) -> None:
        if self._path is None or (state := self._state()) == self._seen:
            return
        self._seen = state
        try:
            self._keys = _read(self._path)
        except UserError as error:
            log.error("the API keys stay those of before: %s", error)

    def _state(self) -> tuple[int, ...] | None:
        """Changes whenever the file does."""
        if self._path is None:
            return None
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size


def _read(path: Path) -> tuple[Key, ...]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError) as error:
        # A name without a file is not shown: it may be a key that somebody forgot to hash.
        shown = f" '{path}'" if os.path.exists(path) else ""
        why = f" ({error.strerror if isinstance(error, OSError) else 'no text'})" if shown else ""
        raise UserError(
            f"{API_KEYS}{shown}: neither SHA-256 hashes nor a file that can be read{why}; make a hash with "
            "`printf %s KEY | sha256sum`"
        ) from None
    return _parse((line for line in lines if line.strip() and not line.startswith("#")), f"'{path}'")


def _parse(entries: Iterable[str], where: str) -> tuple[Key, ...]:
    keys = []
    for number, entry in enumerate(entries, 1):
        digest, _, name = entry.strip().partition(" ")
        name = name.strip() or digest[:8]
        # The entry itself is not shown: it may be a key that somebody forgot to hash.
        if not _HASH.fullmatch(digest) or not _NAME.fullmatch(name):
            raise UserError(
                f"{where}, entry {number}: must be the SHA-256 of a key as 64 hex digits, then maybe a name; make one with "
                "`printf %s KEY | sha256sum`"
            )
        keys.append(Key(digest=bytes.fromhex(digest), name=name))
    return tuple(keys)


class RateLimit:
    """Counts the requests of each key: `per_minute` on average, and as many at once after a quiet minute."""

    def __init__(self, per_minute: float) -> None:
        self._per_minute = per_minute
        self._left: dict[str, tuple[float, float]] = {}  # name of a key: requests left, and when that was counted

    def seconds_to_wait(self, name: str, *, now: float | None = None) -> float:
        """Count a request of a key; returns 0 if it may go on, else the seconds until the next one may."""
        now = time.monotonic() if now is None else now
        left, counted = self._left.get(name, (self._per_minute, now))
        left = min(self._per_minute, left + (now - counted) * self._per_minute / 60)
        is_free = left >= 1
        self._left[name] = (left - is_free, now)
        return 0.0 if is_free else (1 - left) * 60 / self._per_minute


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may enhance photos. keys: None if the service has no keys. is_open: everybody may, from any machine."""

    keys: Keys | None = None
    is_open: bool = False
    rate: RateLimit | None = None

    @classmethod
    def from_environment(cls) -> Access:
        """The access that the variables of the environment describe. `UserError` for a bad value."""
        setting, per_minute = os.environ.get(API_KEYS, ""), os.environ.get(RATE_LIMIT, "")
        try:
            rate = float(per_minute or 0)
        except ValueError:
            rate = -1.0
        if not 0 <= rate < 1e9 or 0 < rate < 1:
            raise UserError(
                f"{RATE_LIMIT} '{per_minute}': must be a number of requests a minute, at least 1; 0 for no limit"
            )
        return cls(
            keys=Keys(setting) if setting.strip() else None,
            is_open=os.environ.get(NO_AUTH) == "1",
            rate=RateLimit(rate) if rate else None,
        )

    def client(self, authorization: str | None, address: str, host: str = "") -> str | None:
        """The name of the client, None if it may not enhance photos.

        authorization, host: headers of the request. address: the IP address of the client. Without keys, clients of this
        machine may use the service by its local names, and others only if it is open. Any other name in `host` is that of
        a reverse proxy, or of a web page whose owner lets its name point here (DNS rebinding) to read what we answer.
        """
        if self.keys is None:
            is_local = _LOOPBACK.match(address) and (not host or _LOCAL_NAME.fullmatch(host))
            return "open" if self.is_open or is_local else None
        scheme, _, text = (authorization or "").partition(" ")
        key = self.keys.find(text.strip())
        return key.name if key and text.strip() and scheme.lower() == "bearer" else None
