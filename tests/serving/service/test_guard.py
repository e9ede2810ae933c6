"""No request gets past the guard without a key, without its whole body, or without an answer in JSON."""

from __future__ import annotations

import asyncio
import importlib
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from naturaltone.pipeline.reasons import Reason
from naturaltone.serving.service import metrics, settings
from naturaltone.serving.service.access import Access, RateLimit
from naturaltone.serving.service.guard import BODY, CLIENT, NEEDS_KEY, Guard, Limits, middlewares
from tests.serving.service.conftest import KEY, Answer, Server, access, read_answer, serving, wait_until

QUICK = Limits(
    max_bytes=100_000,
    max_small=2000,
    grace_seconds=0.4,
    bytes_per_second=50_000,
    deadline_seconds=1.5,
    linger_seconds=0.3,
)
HEAD = b"POST /v1/enhance HTTP/1.1\r\nHost: localhost\r\n"
Events = list[dict[str, Any]]


class Inner:
    """An app that remembers what it was asked, and answers what the test wants."""

    def __init__(
        self, status: int = 200, body: bytes = b"{}", kind: bytes = b"application/json", **headers: str
    ) -> None:
        self.scopes: list[Scope] = []
        self.messages: list[Message] = []
        self._status, self._body = status, body
        self._headers = [(b"content-type", kind)] if kind else []
        self._headers += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self.messages.append(await receive())
        await send({"type": "http.response.start", "status": self._status, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._body})


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """As Serve's proxy when a replica died."""


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError("the secret of the bug")


async def breaks_midway(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise ValueError("the secret of the bug")


def ask(
    app: Any,
    *,
    chunks: tuple[bytes, ...] = (b"photo",),
    headers: tuple[tuple[bytes, bytes], ...] = (),
    path: str = "/v1/enhance",
    method: str = "POST",
    client: tuple[str, int] | None = ("127.0.0.1", 1),
    leaves: bool = False,
    **options: Any,
) -> Answer:
    """Send one request through a guard, without a socket. leaves: the client goes after its chunks."""
    guard = app if isinstance(app, Guard) else Guard(app, **options)
    incoming: Events = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if incoming and not leaves:
        incoming[-1]["more_body"] = False
    sent: Events = []

    async def receive() -> Message:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(dict(message))

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers), "client": client}
    asyncio.run(guard(scope, receive, send))
    assert guard._buffered == 0, "the bytes of a request that has ended still count"
    if not sent:
        return Answer(0, {}, b"")
    assert [message["type"] for message in sent].count("http.response.start") == 1
    given = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    assert len(given) == len(sent[0]["headers"]), "a header is there twice"
    return Answer(sent[0]["status"], given, b"".join(message.get("body", b"") for message in sent[1:]))


def value(metric: Any) -> float:
    return float(metric._value.get())


# Answers


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (400, "not_an_image"),
        (404, "not_found"),
        (405, "method_not_allowed"),
        (408, "timed_out"),
        (413, "too_large"),
        (418, "internal"),
        (500, "internal"),
        (503, "overloaded"),
    ],
)
@pytest.mark.parametrize("kind", [b"text/plain; charset=utf-8", b""])
def test_a_plain_error_of_serve_becomes_json(status: int, reason: str, kind: bytes) -> None:
    answer = ask(Inner(status, b"Internal: actor 0x12 of deployment Enhance", kind))
    assert (answer.status, answer.error()) == (status, reason)
    assert b"0x12" not in answer.body, "what Serve says inside is nobody's business"
    assert ("retry-after" in answer.headers) == (status == 503)


def test_the_retry_after_of_serve_is_kept() -> None:
    assert ask(Inner(503, b"busy", b"text/plain", retry_after="7")).headers["retry-after"] == "7"


@pytest.mark.parametrize("given", ["Wed, 21 Oct 2026 07:28:00 GMT", "-1", "1.5", "²"])
def test_a_retry_after_that_is_no_number_of_seconds_does_no_harm(given: str) -> None:
    answer = ask(Inner(503, b"busy", b"text/plain", retry_after=given))
    assert (answer.status, answer.error(), answer.headers["retry-after"]) == (503, "overloaded", "1")


def test_a_json_error_of_the_app_stays_as_it_is() -> None:
    answer = ask(Inner(422, b'{"error": "bad_parameter", "detail": "x"}', x_naturaltone_reason="bad_parameter"))
    assert (answer.status, answer.error()) == (422, "bad_parameter")
    assert "x-naturaltone-reason" not in answer.headers, "this header is between app and guard"


def test_an_app_that_never_answers_is_503_and_worker_lost() -> None:
    answer = ask(silent)
    assert (answer.status, answer.error(), answer.headers["retry-after"]) == (503, "worker_lost", "1")


def test_a_bug_is_500_without_its_message() -> None:
    answer = ask(broken, headers=((b"x-request-id", b"7-b"),))
    assert (answer.status, answer.error()) == (500, "internal")
    assert b"secret" not in answer.body and b"7-b" in answer.body


def test_a_bug_within_the_answer_does_not_start_a_second_answer() -> None:
    answer = ask(breaks_midway)
    assert (answer.status, answer.body) == (200, b"half")


def test_a_client_sees_that_an_answer_was_cut(
    service_log: Callable[[], list[dict[str, Any]]],
) -> None:
    with serving(Guard(breaks_midway)) as server, server.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = b""
        while piece := connection.recv(1000):
            received += piece
    assert received.endswith(b"half"), "10 bytes were announced, and then the connection ended"


@pytest.mark.parametrize("app", [Inner(), Inner(404, b"no", b"text/plain"), silent, broken])
@pytest.mark.parametrize("path", ["/v1/enhance", "/v1/model", "/anything", "/"])
def test_every_answer_has_the_security_headers_and_its_id(app: Any, path: str) -> None:
    headers = ask(app, path=path).headers
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["cache-control"] == "no-store" and len(headers["x-request-id"]) == 32


def test_a_page_may_have_its_own_policy() -> None:
    headers = ask(Inner(content_security_policy="default-src 'self'", cache_control="no-cache"), path="/").headers
    assert headers["content-security-policy"] == "default-src 'self'" and headers["cache-control"] == "no-cache"


def test_the_answer_does_not_tell_the_server_software() -> None:
    assert "server" not in ask(Inner(server="uvicorn")).headers


@pytest.mark.parametrize("method", ["OPTIONS", "POST"])
def test_other_sites_get_no_cors_headers(server: Server, method: str) -> None:
    answer = server.ask(
        "/v1/enhance",
        method=method,
        data=b"x",
        origin="https://evil.example",
        access_control_request_method="POST",
        access_control_request_headers="authorization",
    )
    assert answer.status in (400, 405)
    assert not [name for name in answer.headers if name.startswith("access-control")]


# Request ids and headers


@pytest.mark.parametrize("given", ["a", "0" * 64, "trace.01_A-b"])
def test_a_good_request_id_is_kept_and_handed_on(given: str) -> None:
    inner = Inner(x_request_id="another")
    answer = ask(inner, headers=((b"X-Request-Id", given.encode()),))
    assert answer.headers["x-request-id"] == given
    assert [value for name, value in inner.scopes[0]["headers"] if name == b"x-request-id"] == [given.encode()]


@pytest.mark.parametrize(
    "given", [b"", b"0" * 65, b"a b", b'x"}\n{"level": "error"', "é".encode(), b"a\n", b"<script>"]
)
def test_a_bad_request_id_is_replaced(given: bytes) -> None:
    inner = Inner()
    answer = ask(inner, headers=((b"x-request-id", given),))
    assert answer.headers["x-request-id"] != given.decode("latin-1") and len(answer.headers["x-request-id"]) == 32
    assert given not in [value for _, value in inner.scopes[0]["headers"]]


SWITCHES = [
    "X-Request-Timeout-Seconds",
    "X-Request-Disconnect-Disabled",
    "Serve-Multiplexed-Model-Id",
    "X-Session-Id",
    "Serve-Session-Id",
    "Session-Id",
]


@given(name=st.sampled_from(SWITCHES), data=st.data())
def test_the_headers_that_switch_off_serves_limits_are_removed_in_every_spelling(name: str, data: Any) -> None:
    spelt = "".join(
        data.draw(st.sampled_from(["-", "_"] if letter == "-" else [letter.lower(), letter.upper()])) for letter in name
    )
    inner = Inner()
    ask(inner, headers=((b"accept", b"*/*"), (spelt.encode(), b"0"), (b"x-other", b"1"), (spelt.encode(), b"1")))
    assert [name for name, _ in inner.scopes[0]["headers"]] == [b"accept", b"x-other", b"x-request-id"]


def test_those_are_the_headers_that_serve_reads() -> None:
    """A new version of Ray may have others."""
    constants = importlib.import_module("ray.serve._private.constants")
    read = [
        constants.SERVE_HTTP_REQUEST_TIMEOUT_S_HEADER,
        constants.SERVE_HTTP_REQUEST_DISCONNECT_DISABLED_HEADER,
        constants.SERVE_MULTIPLEXED_MODEL_ID,
        constants.SERVE_SESSION_ID,
    ]
    for name in read:
        inner = Inner()
        ask(inner, headers=((name.encode(), b"0"),))
        assert [name for name, _ in inner.scopes[0]["headers"]] == [b"x-request-id"], name


def test_a_client_cannot_set_the_marks_of_the_guard() -> None:
    inner = Inner()
    forged = tuple(
        (form.encode(), b"client-0")
        for name in (CLIENT, NEEDS_KEY, BODY)
        for form in (name, name.replace(".", "-"), name.replace(".", "_"))
    )
    ask(inner, path="/v1/model", method="GET", headers=forged, access=access(KEY))
    assert inner.scopes[0][CLIENT] is None and inner.scopes[0][NEEDS_KEY] is True
    assert inner.scopes[0][BODY] == b"photo"


def test_marks_in_the_scope_from_before_are_overwritten() -> None:
    inner = Inner()
    guard = Guard(inner, access=access(KEY))
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": None, CLIENT: "me", BODY: b"forged"}
    messages = [{"type": "http.request", "body": b""}]

    async def receive() -> Message:
        return messages.pop()

    async def send(message: Message) -> None:
        pass

    asyncio.run(guard(scope, receive, send))
    assert inner.scopes[0][CLIENT] is None and inner.scopes[0][BODY] == b""


def test_a_websocket_is_closed() -> None:
    sent: Events = []

    async def send(message: Message) -> None:
        sent.append(dict(message))

    asyncio.run(Guard(broken)({"type": "websocket"}, None, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


# Bodies


@given(chunks=st.lists(st.binary(max_size=40), min_size=1, max_size=12), most=st.integers(0, 200))
def test_a_body_arrives_whole_in_any_chunks_or_is_refused_by_its_size(chunks: list[bytes], most: int) -> None:
    inner, body = Inner(), b"".join(chunks)
    answer = ask(inner, chunks=tuple(chunks), limits=Limits(max_bytes=most, max_buffered=10_000))
    if len(body) > most:
        assert (answer.status, answer.error(), inner.scopes) == (413, "too_large", [])
    else:
        assert answer.status == 200 and inner.scopes[0][BODY] == body
        assert inner.messages == [{"type": "http.request", "body": b"", "more_body": False}]


@given(chunks=st.lists(st.binary(max_size=40), max_size=6))
def test_the_app_never_sees_a_request_whose_client_left_midway(chunks: list[bytes]) -> None:
    inner = Inner()
    assert ask(inner, chunks=tuple(chunks), leaves=True).status == 0
    assert inner.scopes == []


@pytest.mark.parametrize("path", ["/v1/model", "/", "/v2/enhance", "/v1/enhance/x", "/v1/enhance\n"])
def test_only_photos_may_be_large(path: str) -> None:
    answer = ask(Inner(), path=path, chunks=(bytes(2001),), limits=QUICK)
    assert (answer.status, answer.error()) in [(413, "too_large"), (404, "not_found")]


def test_a_small_limit_is_not_called_0_mib() -> None:
    assert b"64 KiB" in ask(Inner(), path="/x", chunks=(bytes(2**16 + 1),)).body
    assert b"100 MiB" in ask(Inner(), headers=((b"content-length", b"999999999"),)).body


@pytest.mark.parametrize("length", [b"100001", b"9" * 18, b"9" * 19, b"9" * 5000])
def test_a_length_beyond_the_limit_is_refused_before_the_body(length: bytes) -> None:
    answer = ask(Inner(), chunks=(), headers=((b"content-length", length),), limits=QUICK)
    assert (answer.status, answer.error(), answer.headers["connection"]) == (413, "too_large", "close")


@pytest.mark.parametrize("length", [b"", b"-5", b"many", b"1e3", "²".encode(), b"5, 5"])
def test_a_length_that_is_none_is_left_to_the_counting(length: bytes) -> None:
    assert ask(Inner(), headers=((b"content-length", length),), limits=QUICK).status == 200


def test_all_bodies_together_have_a_limit() -> None:
    inner = Inner()
    guard = Guard(inner, limits=Limits(max_buffered=100))
    guard._buffered = 60
    incoming = [{"type": "http.request", "body": bytes(41), "more_body": True}, {"type": "http.disconnect"}]
    sent: Events = []

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(dict(message))

    asyncio.run(guard({"type": "http", "method": "POST", "path": "/v1/enhance", "headers": [],
                       "client": ("127.0.0.1", 1)}, receive, send))  # fmt: skip
    assert sent[0]["status"] == 503 and json.loads(sent[1]["body"])["error"] == "overloaded"
    assert (b"retry-after", b"1") in sent[0]["headers"]
    assert guard._buffered == 60 and inner.scopes == []


class Busy:
    """An app that answers a photo when the test says so, and never comes to the end of its answer."""

    def __init__(self) -> None:
        self.is_done = asyncio.Event()
        self.inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.inside += 1
        if scope["path"] == "/v1/enhance":
            await self.is_done.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"photo"})


def test_photos_beyond_the_places_are_refused_until_one_is_enhanced() -> None:
    async def scenario() -> None:
        app = Busy()
        guard = Guard(app, limits=Limits(most_inside=2))

        async def one(path: str, is_read: asyncio.Event | None = None) -> Events:
            incoming: Events = [{"type": "http.request", "body": b"photo", "more_body": False}]
            sent: Events = []

            async def receive() -> Message:
                return incoming.pop()

            async def send(message: Message) -> None:
                sent.append(dict(message))
                if is_read and message["type"] == "http.response.body":
                    await is_read.wait()

            scope = {"type": "http", "method": "POST", "path": path, "headers": [], "client": ("127.0.0.1", 1)}
            await guard(scope, receive, send)
            return sent

        is_read = asyncio.Event()
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            working = [tasks.create_task(one("/v1/enhance", is_read)) for _ in range(2)]
            while app.inside < 2:
                await asyncio.sleep(0)
            refused = await one("/v1/enhance")
            assert refused[0]["status"] == 503 and (b"retry-after", b"1") in refused[0]["headers"]
            assert json.loads(refused[1]["body"])["error"] == "overloaded"
            assert (await one("/readyz"))[0]["status"] == 200, "only photos need a place"
            app.is_done.set()
            while guard._inside:
                await asyncio.sleep(0)
            assert (await one("/v1/enhance"))[0]["status"] == 200, "two that read slowly keep no place"
            assert not any(each.done() for each in working)
            is_read.set()
        assert guard._inside == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("app", [silent, broken, breaks_midway, Inner(status=503, kind=b"text/plain")])
def test_a_photo_that_fails_gives_its_place_back(app: Any) -> None:
    guard = Guard(app, limits=Limits(most_inside=1))
    ask(guard)
    assert guard._inside == 0


# On a real socket


@pytest.fixture(scope="module")
def inner() -> Inner:
    return Inner()


@pytest.fixture(scope="module")
def quick(inner: Inner) -> Iterator[Server]:
    """A server with short times and small limits, before an app that remembers its requests."""
    with serving(Guard(inner, limits=QUICK)) as server:
        yield server


@pytest.fixture(autouse=True)
def forget(inner: Inner) -> None:
    inner.scopes.clear()


def test_a_stalled_body_is_408_and_takes_no_slot(quick: Server, inner: Inner) -> None:
    answer = quick.raw(HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 10)
    assert (answer.status, answer.error()) == (408, "timed_out")
    assert inner.scopes == []
    wait_until(lambda: value(metrics.UPLOADS) == 0 and value(metrics.BUFFERED) == 0)


def test_a_slow_body_gets_time_for_each_byte_but_not_for_ever(quick: Server, inner: Inner) -> None:
    """2000 bytes every 0.1 s are less than the least rate, but each piece buys a little time."""
    with quick.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 90000\r\n\r\n")
        connection.settimeout(0.1)
        begun, received = time.monotonic(), b""
        while not received:
            connection.sendall(b"x" * 2000)
            try:
                received = connection.recv(2**16)
            except TimeoutError:
                assert time.monotonic() - begun < 20
    assert received.startswith(b"HTTP/1.1 408 ") and inner.scopes == []


def test_a_body_at_the_least_rate_arrives(quick: Server, inner: Inner) -> None:
    with quick.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 60000\r\n\r\n")
        for _ in range(6):
            connection.sendall(b"x" * 10_000)
            time.sleep(0.1)  # together longer than `grace_seconds`
        answer = read_answer(connection)
    assert answer.status == 200 and inner.scopes[0][BODY] == b"x" * 60_000


def test_the_app_is_called_only_when_the_last_byte_is_there(quick: Server, inner: Inner) -> None:
    with quick.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 4\r\n\r\npho")
        wait_until(lambda: value(metrics.BUFFERED) == 3)
        assert inner.scopes == []
        connection.sendall(b"t")
        assert read_answer(connection).status == 200
    assert inner.scopes[0][BODY] == b"phot"
    wait_until(lambda: value(metrics.BUFFERED) == 0)


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_leaves_midway_leaves_nothing_behind(quick: Server, inner: Inner, reset: bool) -> None:
    connection = quick.connect()
    connection.sendall(HEAD + b"Content-Length: 50000\r\n\r\n" + b"x" * 20_000)
    wait_until(lambda: value(metrics.BUFFERED) == 20_000)
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    wait_until(lambda: value(metrics.BUFFERED) == 0 and value(metrics.UPLOADS) == 0)
    assert inner.scopes == []


def test_an_oversize_length_is_answered_before_a_byte_of_the_body(quick: Server, inner: Inner) -> None:
    answer = quick.raw(HEAD + b"Content-Length: 100001\r\n\r\n")
    assert (answer.status, answer.error(), answer.headers["connection"]) == (413, "too_large", "close")
    assert inner.scopes == []


def test_a_client_that_asks_first_does_not_have_to_send(quick: Server) -> None:
    answer = quick.raw(HEAD + b"Content-Length: 100001\r\nExpect: 100-continue\r\n\r\n")
    assert answer.status == 413


def test_a_client_that_sends_on_still_reads_the_answer(quick: Server) -> None:
    """Without the wait before the connection closes, the client would see a reset instead of the answer."""
    answer = quick.enhance(bytes(3_000_000))
    assert (answer.status, answer.error()) == (413, "too_large")


def test_an_endless_chunked_body_ends_at_the_limit(quick: Server, inner: Inner) -> None:
    answer = quick.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"4e20\r\n" + bytes(20_000) + b"\r\n"] * 6)
    assert (answer.status, answer.error()) == (413, "too_large")
    assert inner.scopes == []
    wait_until(lambda: value(metrics.BUFFERED) == 0)


def test_a_chunked_body_without_a_length_arrives(quick: Server, inner: Inner) -> None:
    answer = quick.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n")
    assert answer.status == 200 and inner.scopes[0][BODY] == b"abcde"


def test_a_length_that_is_too_long_never_arrives(quick: Server, inner: Inner) -> None:
    assert quick.raw(HEAD + b"Content-Length: 9\r\n\r\nabc").status == 408
    assert inner.scopes == []


def test_what_follows_a_length_that_is_too_short_does_not_belong_to_the_body(quick: Server, inner: Inner) -> None:
    quick.raw(HEAD + b"Content-Length: 3\r\nConnection: close\r\n\r\nabcdef")
    assert [scope[BODY] for scope in inner.scopes] == [b"abc"]


# Access


BAD_KEYS: list[tuple[tuple[bytes, bytes], ...]] = [
    (),
    ((b"authorization", b""),),
    ((b"authorization", b"Bearer"),),
    ((b"authorization", b"Bearer "),),
    ((b"authorization", KEY.encode()),),
    ((b"authorization", b"Basic " + KEY.encode()),),
    ((b"authorization", b"Bearer " + KEY.encode() + b"x"),),
    ((b"authorization", b"Bearer Bearer " + KEY.encode()),),
    ((b"authorization", b"Bearer " + KEY.upper().encode()),),
    ((b"authorization", "Bearer é€".encode()),),
    ((b"authorization", b"Bearer \xff\xfe\x00"),),
    ((b"authorization", b"Bearer " + b"k" * 60_000),),
    ((b"authorization", b"Bearer " + access(KEY).keys._keys[0].digest.hex().encode()),),  # type: ignore[union-attr]
    ((b"authorization", b"Bearer client-0"),),
    ((b"authorization", b"Bearer " + KEY.encode()), (b"authorization", b"Bearer wrong")),
    ((b"x-api-key", KEY.encode()),),
    ((b"cookie", b"authorization=Bearer " + KEY.encode()),),
]  # fmt: skip


@pytest.mark.parametrize("headers", BAD_KEYS, ids=range(len(BAD_KEYS)))
def test_a_bad_key_is_401_before_the_body_is_read(headers: tuple[tuple[bytes, bytes], ...]) -> None:
    inner, sent = Inner(), Events()
    guard = Guard(inner, access=access(KEY))
    answer = ask(guard, headers=headers)
    assert (answer.status, answer.error()) == (401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer") and inner.scopes == []
    assert KEY.encode() not in answer.body

    async def send(message: Message) -> None:
        sent.append(dict(message))

    async def receive() -> Message:
        assert sent, "the body was read before the answer"
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "path": "/v1/enhance", "headers": headers, "client": ("127.0.0.1", 1)}
    asyncio.run(guard(scope, receive, send))
    assert sent[0]["status"] == 401


@pytest.mark.parametrize("key", [KEY, "schlüssel €", "with spaces in it"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_right_key_enters(key: str, scheme: str) -> None:
    inner = Inner()
    assert ask(inner, headers=((b"Authorization", f"{scheme} {key}".encode()),), access=access("x", key)).status == 200
    assert inner.scopes[0][CLIENT] == "client-1"


@pytest.mark.parametrize("path", ["/v1/enhance\n", "/v1/enhance\r", "/v1/\0enhance", "/prefix/v1/enhance\n", "/\u2028"])
def test_no_control_character_in_the_path_leads_around_the_key(path: str) -> None:
    inner = Inner()
    answer = ask(inner, path=path, access=access(KEY))
    assert (answer.status, answer.error(), inner.scopes) == (404, "not_found", [])


def test_a_path_below_a_prefix_needs_the_key_too() -> None:
    assert ask(Inner(), path="/photos/v1/enhance", access=access(KEY)).status == 401


@pytest.mark.parametrize("path", ["/", "/v1/model", "/healthz", "/readyz", "/docs", "/openapi.json"])
def test_the_page_and_the_state_need_no_key(path: str) -> None:
    assert ask(Inner(), path=path, method="GET", access=access(KEY)).status == 200


@pytest.mark.parametrize("client", [("192.0.2.7", 1), ("::ffff:192.0.2.7", 1), ("2001:db8::1", 1), ("", 0), None])
def test_without_keys_other_machines_may_look_but_not_enhance(client: tuple[str, int] | None) -> None:
    answer = ask(Inner(), client=client)
    assert (answer.status, answer.error()) == (401, "unauthorized")
    assert settings.API_KEYS.encode() in answer.body and ask(Inner(), client=client, path="/v1/model").status == 200


def test_a_key_that_asks_too_often_gets_429_and_others_go_on() -> None:
    inner = Inner()
    guard = Guard(inner, access=access("a", "b", rate=RateLimit(2)))
    first, second = (((b"authorization", f"Bearer {key}".encode()),) for key in "ab")
    assert [ask(guard, headers=first).status for _ in range(3)] == [200, 200, 429]
    answer = ask(guard, headers=first)
    assert answer.error() == "rate_limited" and 0 < int(answer.headers["retry-after"]) <= 30
    assert ask(guard, headers=second).status == 200
    assert ask(guard, headers=first, path="/v1/model", method="GET").status == 200, "only photos count"
    assert ask(guard, headers=((b"authorization", b"Bearer c"),)).status == 401, "a wrong key uses up nothing"


# Log and figures


def test_each_request_is_one_line_of_json_without_secrets(service_log: Callable[[], list[dict[str, Any]]]) -> None:
    guard = Guard(Inner(x_model_version="m-1"), access=access(KEY))
    ask(guard, headers=((b"authorization", f"Bearer {KEY}".encode()), (b"x-request-id", b"mine")))
    ask(guard, headers=((b"authorization", b"Bearer wrong-secret"),))
    ask(guard, path='/x"\n{"level": "error"}', method="GET")
    first, second, third = service_log()
    assert {name: first[name] for name in ("level", "message", "request_id", "method", "path", "client", "status",
                                           "reason", "bytes", "model")} == {
        "level": "info", "message": "request", "request_id": "mine", "method": "POST", "path": "/v1/enhance",
        "client": "client-0", "status": 200, "reason": "", "bytes": 5, "model": "m-1",
    }  # fmt: skip
    assert (second["status"], second["reason"], second["client"]) == (401, "unauthorized", None)
    assert third["path"] == '/x"\n{"level": "error"}'
    text = json.dumps(service_log())
    assert KEY not in text and "wrong-secret" not in text


def test_a_bug_is_logged_with_the_id_that_the_client_got(service_log: Callable[[], list[dict[str, Any]]]) -> None:
    answer = ask(broken, headers=((b"authorization", b"Bearer hidden-key"),))
    trace = next(line for line in service_log() if "trace" in line)
    assert answer.headers["x-request-id"] in trace["message"] and "the secret of the bug" in trace["trace"]
    assert "hidden-key" not in json.dumps(service_log())


def test_requests_are_counted_by_path_status_and_reason_and_strange_paths_together() -> None:
    def count(*labels: str) -> float:
        return value(metrics.REQUESTS.labels(*labels))

    before = count("other", "200", ""), count("/v1/enhance", "401", "unauthorized")
    ask(Inner(), path="/made/up/1", method="GET")
    ask(Inner(), path="/made/up/2", method="GET")
    ask(Inner(), path="/below/v1/enhance", access=access(KEY))
    assert (count("other", "200", ""), count("/v1/enhance", "401", "unauthorized")) == (before[0] + 2, before[1] + 1)


def test_the_setting_for_serve_names_the_callback() -> None:
    module, _, name = settings.GUARD.partition(":")
    assert getattr(importlib.import_module(module), name) is middlewares


def test_serves_callback_reads_the_access_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, service_log: Callable[[], list[dict[str, Any]]]
) -> None:
    monkeypatch.delenv(settings.METRICS, raising=False)
    monkeypatch.setenv(settings.API_KEYS, "a" * 64)
    (middleware,) = middlewares()
    guard = middleware.cls(Inner(), *middleware.args, **middleware.kwargs)
    assert isinstance(guard, Guard) and ask(guard).status == 401
    monkeypatch.delenv(settings.API_KEYS)
    (middleware,) = middlewares()
    assert middleware.kwargs["access"] == Access()


def test_the_reasons_of_the_guard_have_the_status_that_they_are_sent_with() -> None:
    from naturaltone.serving.service import guard

    assert {status: reason.http_status for status, reason in guard._REASONS.items()} == {
        status: status for status in guard._REASONS
    }
    assert all(isinstance(reason, Reason) for reason in guard._REASONS.values())
