"""The first that a request meets: this ASGI middleware runs in Ray Serve's proxy, before the request is routed to a replica.

Serve gives a request its slot of a replica before its body has arrived, buffers bodies without bound, lets clients override
its limits by headers, and answers in plain text. So the guard reads the whole body first, within limits of size and time. It
asks for the API key, removes those headers, and answers every error as JSON. It also logs and counts each request.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import re
import time
import uuid
from dataclasses import dataclass
from http import HTTPStatus

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from naturaltone.pipeline.errors import UserError
from naturaltone.pipeline.reasons import Reason
from naturaltone.serving.service import metrics, settings
from naturaltone.serving.service.access import Access
from naturaltone.serving.service.limits import MAX_BODY
from naturaltone.serving.service.log import log_to

ENHANCE = "/v1/enhance"
# Keys of the ASGI scope, which only the guard can set: who sends the request (None: no access), and whether keys exist.
CLIENT, NEEDS_KEY = "naturaltone.client", "naturaltone.needs_key"
BODY = "naturaltone.body"  # the body: a replica gets it with the request, instead of asking the proxy for it (5 ms)
_PATHS = (ENHANCE, "/v1/model", "/healthz", "/readyz", "/openapi.json", "/docs", "/")  # with figures of their own
# Serve's headers that switch its limits off or choose a replica. It also takes them with underscores.
_REFUSED_HEADERS = {
    *(b"x-request-timeout-seconds", b"x-request-disconnect-disabled", b"serve-multiplexed-model-id"),
    *(b"x-session-id", b"serve-session-id", b"session-id"),
}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_CLOSED_POLICY = b"default-src 'none'; frame-ancestors 'none'"
# What Serve's proxy and Starlette answer in plain text.
_REASONS = {
    400: Reason.NOT_AN_IMAGE,
    401: Reason.UNAUTHORIZED,
    404: Reason.NOT_FOUND,
    405: Reason.METHOD_NOT_ALLOWED,
    408: Reason.TIMED_OUT,
    413: Reason.TOO_LARGE,
    503: Reason.OVERLOADED,
}
_RETRY_SECONDS = 1
_LENGTH_DIGITS = 18  # Python refuses to read numbers of thousands of digits

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What requests may cost.

    max_bytes: of one body. max_small: of one body that is no photo. max_buffered: of all bodies that this proxy holds.
    grace_seconds: the time that every body gets; bytes_per_second: each so many bytes give another second; deadline_seconds:
    the most time in any case. linger_seconds: a refused body is still read for so long, because a client that sends sees the
    answer only if the connection stays open. most_inside: photos that are let in at the same time; None: any number.
    """

    max_bytes: int = MAX_BODY
    max_small: int = 2**16
    max_buffered: int = 2**30
    grace_seconds: float = 10.0
    bytes_per_second: float = 2**15
    deadline_seconds: float = 300.0
    most_inside: int | None = None
    linger_seconds: float = 2.0

    @classmethod
    def from_environment(cls) -> Limits:
        """`UserError` if the variable for `most_inside` is no number of photos."""
        most = os.environ.get(settings.MOST_INSIDE)
        if most and not (most.isascii() and most.isdecimal() and int(most[:_LENGTH_DIGITS]) >= 1):
            raise UserError(f"{settings.MOST_INSIDE} '{most}': must be a whole number of photos, at least 1")
        return cls(most_inside=int(most) if most else None)


@dataclass(eq=False)
class Refusal(Exception):
    """The request is answered with this error, and goes no further."""

    reason: Reason
    detail: str
    retry_seconds: int | None = None


class _Gone(Exception):
    """The client closed the connection."""


class Guard:
    """The middleware. `app` is the proxy of Serve, or the service itself in tests."""

    def __init__(self, app: ASGIApp, *, access: Access | None = None, limits: Limits | None = None) -> None:
        self._app = app
        self._access = access or Access()
        self._limits = limits or Limits()
        self._buffered = 0
        self._inside = 0  # photos

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)


class _Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self._guard, self._limits = guard, guard._limits
        self._receive, self._send = receive, send
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        self._headers = dict(headers)
        given = self._headers.get(b"x-request-id", b"").decode("latin-1")
        self._id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        kept = [(name, value) for name, value in headers if name.replace(b"_", b"-") not in _REFUSED_HEADERS]
        kept = [(name, value) for name, value in kept if name != b"x-request-id"]
        self._scope = {**scope, "headers": [*kept, (b"x-request-id", self._id.encode())], CLIENT: None}
        self._scope[NEEDS_KEY] = guard._access.keys is not None
        self._method = scope["method"]
        self._path = scope["path"]
        self._place = next((path for path in _PATHS if self._path.endswith(path)), "other")
        self._started = time.perf_counter()
        self._client: str | None = None
        self._body_bytes = 0
        self._has_body = False  # whether the whole body was read
        self._is_inside = False  # whether it takes one of the places for photos
        self._status = 0
        self._reason = ""
        self._model = ""
        self._is_replaced = False  # the app's own answer is not sent

    async def run(self) -> None:
        try:
            self._scope[BODY] = await self._admit()
            self._enter()
            with metrics.INSIDE.track_inprogress():
                await self._guard._app(self._scope, self._receiver(), self._send_checked)
            if not self._status:  # Serve leaves a request without an answer when its replica died
                raise Refusal(Reason.WORKER_LOST, Reason.WORKER_LOST.meaning, _RETRY_SECONDS)
        except Refusal as refusal:
            await self._refuse(refusal)
        except _Gone:
            pass
        except Exception:
            log.exception("request %s: a bug in naturaltone", self._id)
            if not self._status:
                await self._refuse(Refusal(Reason.INTERNAL, f"{Reason.INTERNAL.meaning} Request {self._id}"))
        finally:
            self._leave()
            self._guard._buffered -= self._body_bytes
            metrics.BUFFERED.dec(self._body_bytes)
            self._note()

    async def _admit(self) -> bytes:
        """Check everything that the head of the request shows, then read the body."""
        address = (self._scope.get("client") or ("", 0))[0]
        access = self._guard._access
        self._client = access.client(
            self._headers.get(b"authorization", b"").decode("utf-8", "surrogateescape"),
            address,
            self._headers.get(b"host", b"").decode("latin-1"),
        )
        self._scope[CLIENT] = self._client
        if not self._path.isprintable():  # Starlette routes /v1/enhance%0A as if the line feed were not there
            raise Refusal(Reason.NOT_FOUND, Reason.NOT_FOUND.meaning)
        is_enhance = self._place == ENHANCE
        if is_enhance and self._method == "POST":
            if self._client is None:
                raise Refusal(Reason.UNAUTHORIZED, _how_to_enter(access))
            if access.rate and (wait := access.rate.seconds_to_wait(self._client)):
                raise Refusal(Reason.RATE_LIMITED, f"try again in {math.ceil(wait)} s", math.ceil(wait))
        return await self._read_body(self._limits.max_bytes if is_enhance else self._limits.max_small)

    async def _read_body(self, most: int) -> bytes:
        length = self._headers.get(b"content-length", b"")
        if length.isdigit() and (len(length) > _LENGTH_DIGITS or int(length) > most):
            raise _too_large(most)
        limits, chunks, begun = self._limits, [], time.monotonic()
        with metrics.UPLOADS.track_inprogress():
            while True:
                allowed = min(
                    limits.grace_seconds + self._body_bytes / limits.bytes_per_second, limits.deadline_seconds
                )
                try:
                    async with asyncio.timeout(begun + allowed - time.monotonic()):
                        message = await self._receive()
                except TimeoutError:
                    raise Refusal(
                        Reason.TIMED_OUT,
                        f"{self._body_bytes} bytes arrived in {allowed:.0f} s; send the photo faster, at least "
                        f"{limits.bytes_per_second / 1024:.0f} KiB a second",
                    ) from None
                if message["type"] == "http.disconnect":
                    raise _Gone
                chunk = message.get("body", b"")
                chunks.append(chunk)
                self._body_bytes += len(chunk)
                self._guard._buffered += len(chunk)
                metrics.BUFFERED.inc(len(chunk))
                if self._body_bytes > most:
                    raise _too_large(most)
                if self._guard._buffered > limits.max_buffered:
                    raise Refusal(Reason.OVERLOADED, "too many photos arrive at once; try again soon", _RETRY_SECONDS)
                if not message.get("more_body", False):
                    self._has_body = True
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _enter(self) -> None:
        """Refuse a photo that would wait in Serve's queue: it polls, which costs CPU, and forgets the order of arrival."""
        most = self._limits.most_inside
        if self._place != ENHANCE:
            return
        if most is not None and self._guard._inside >= most:
            raise Refusal(Reason.OVERLOADED, Reason.OVERLOADED.meaning, _RETRY_SECONDS)
        self._guard._inside += 1
        self._is_inside = True

    def _leave(self) -> None:
        """The photo is enhanced, or will not be; the place is free, although the answer may still have to be read."""
        self._guard._inside -= self._is_inside
        self._is_inside = False

    def _receiver(self) -> Receive:
        """Gives the end of a body that has been read; afterwards only the client's leaving can arrive."""
        messages: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Message:
            return messages.pop() if messages else await self._receive()

        return receive

    async def _send_checked(self, message: Message) -> None:
        if self._is_replaced:
            return
        if message["type"] == "http.response.start":
            self._leave()
            headers = {name.lower(): value for name, value in message.get("headers", [])}
            status, kind = message["status"], headers.get(b"content-type", b"")
            if status >= 400 and not kind.startswith(b"application/json"):
                self._is_replaced = True
                reason = _REASONS.get(status, Reason.INTERNAL)
                given = headers.get(b"retry-after", b"")
                retry = int(given) if given.isdigit() else _RETRY_SECONDS
                await self._refuse(Refusal(reason, reason.meaning, retry if status == 503 else None), status=status)
                return
            self._status = status
            self._reason = headers.get(b"x-naturaltone-reason", b"").decode()
            self._model = headers.get(b"x-model-version", b"").decode()
            message = {**message, "headers": self._with_ours(list(message.get("headers", [])))}
        await self._send(message)

    async def _refuse(self, refusal: Refusal, *, status: int | None = None) -> None:
        self._status, self._reason = status or refusal.reason.http_status, refusal.reason
        body = json.dumps({"error": refusal.reason, "detail": refusal.detail}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if refusal.retry_seconds is not None:
            headers.append((b"retry-after", str(refusal.retry_seconds).encode()))
        if self._status == HTTPStatus.UNAUTHORIZED:
            headers.append((b"www-authenticate", b'Bearer realm="naturaltone"'))
        if not self._has_body:
            headers.append((b"connection", b"close"))
        start = {"type": "http.response.start", "status": self._status, "headers": self._with_ours(headers)}
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body, "more_body": not self._has_body})
        if not self._has_body:
            await self._linger()
            await self._send({"type": "http.response.body", "body": b""})

    async def _linger(self) -> None:
        """Read and drop what still arrives, so that the client gets to read the answer before the connection closes."""
        try:
            async with asyncio.timeout(self._limits.linger_seconds):
                while (message := await self._receive())["type"] == "http.request" and message.get("more_body", False):
                    pass
        except TimeoutError:
            pass

    def _with_ours(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        present = {name.lower() for name, _ in headers}
        added = [*_SECURITY_HEADERS, (b"x-request-id", self._id.encode())]
        for name, value in ((b"content-security-policy", _CLOSED_POLICY), (b"cache-control", b"no-store")):
            if name not in present:
                added.append((name, value))
        return [(name, value) for name, value in headers if name.lower() not in _INTERNAL_HEADERS] + added

    def _note(self) -> None:
        seconds = time.perf_counter() - self._started
        metrics.REQUESTS.labels(self._place, str(self._status), self._reason).inc()
        metrics.REQUEST_SECONDS.labels(self._place).observe(seconds)
        log.info(
            "request",
            extra={
                "request_id": self._id,
                "method": self._method,
                "path": self._path,
                "client": self._client,
                "status": self._status,
                "reason": self._reason,
                "bytes": self._body_bytes,
                "seconds": round(seconds, 4),
                "model": self._model,
            },
        )


# The app tells the guard by this header why a request failed. Nobody else sees it.
REASON_HEADER = "x-naturaltone-reason"
_INTERNAL_HEADERS = {REASON_HEADER.encode(), b"server", b"x-request-id"}


def _too_large(most: int) -> Refusal:
    limit = f"{most / 2**20:.0f} MiB" if most >= 2**20 else f"{most / 2**10:.0f} KiB"
    return Refusal(Reason.TOO_LARGE, f"the body is larger than {limit}; send a smaller photo")


def _how_to_enter(access: Access) -> str:
    if access.keys is None:
        return (
            "the service has no API keys, so it serves only its own machine, as localhost or 127.0.0.1; its owner sets "
            f"{settings.API_KEYS}, or {settings.NO_AUTH}=1 to let everybody in"
        )
    return "send a valid API key in the header `Authorization: Bearer KEY`"


def middlewares() -> list[Middleware]:
    """The callback for Serve's proxy: reads who has access from the environment, and starts to answer Prometheus."""
    log_to(os.environ.get(settings.LOG, ""))
    address = os.environ.get(settings.METRICS, "")
    if address:
        metrics.answer_prometheus(address)
    return [Middleware(Guard, access=Access.from_environment(), limits=Limits.from_environment())]
