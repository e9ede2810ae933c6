"""A TCP proxy in front of an S3 server. It breaks a seeded share of the requests in the ways that networks and servers do."""

from __future__ import annotations

import contextlib
import random
import socket
import socketserver
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedIOBase
from typing import Any
from urllib.parse import urlsplit

_UPSTREAM_SECONDS = 60.0
_NO_LINGER = struct.pack("ii", 1, 0)  # close() then sends RST at once
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_WRITES = ("PUT", "POST")


@dataclass(frozen=True, kw_only=True)
class Faults:
    """The faults, and the share of the requests that get one.

    reset: the proxy sends RST, and the server never sees the request. slow_down: the proxy answers 503 SlowDown. truncate: the
    server does its work, but half of the answer's body is lost, or the whole answer if it has no body. stall: the answer is
    `stall_seconds` late. refuse_write: the proxy answers 403 AccessDenied to PUT and POST; other methods pass.
    """

    share: float = 0.05
    kinds: tuple[str, ...] = ("reset", "slow_down", "truncate", "stall")
    seed: int = 0
    stall_seconds: float = 2.0


@dataclass(kw_only=True)
class Proxy:
    """A running proxy. url: its own. requests, injected: how many requests it has seen, and how many faults of each kind."""

    url: str
    requests: int = 0
    injected: Counter[str] = field(default_factory=Counter)


@contextlib.contextmanager
def fault_proxy(upstream: str, faults: Faults) -> Iterator[Proxy]:
    """Run a proxy in front of `upstream` (http://host:port). When the context ends, it has closed its port and connections."""
    with _Server(upstream, faults) as server:
        loop = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        loop.start()
        try:
            yield server.proxy
        finally:
            server.shutdown()
            loop.join()
            server.hang_up()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str, faults: Faults) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname, parts.port)
        self.faults = faults
        self.proxy = Proxy(url=f"http://127.0.0.1:{self.server_address[1]}")
        self.ended = threading.Event()
        self._random = random.Random(faults.seed)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def draw(self, method: str) -> str | None:
        """Draw the fault of the next request; None for no fault."""
        with self._lock:
            self.proxy.requests += 1
            if self._random.random() >= self.faults.share:
                return None
            kind = self._random.choice(self.faults.kinds)
            if kind == "refuse_write" and method not in _WRITES:
                return None
            self.proxy.injected[kind] += 1
            return kind

    def hang_up(self) -> None:
        """Wake every thread that waits for a client or stalls an answer."""
        self.ended.set()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        request.close()  # not shutdown() as in the parent: its FIN would arrive before our RST

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Called in an except block. The parent only prints the exception, but a mistake in this file must fail the test.
        raise


class _Connection(socketserver.StreamRequestHandler):
    server: _Server
    connection: socket.socket
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with contextlib.suppress(OSError, EOFError):  # the client or the server hung up
            while self._answer_one():
                pass

    def _answer_one(self) -> bool:
        """Answer one request; returns whether the connection can take another request."""
        head, headers = _read_head(self.rfile)
        method = head.split(b" ", 1)[0].decode()
        if headers.get("expect", "").lower() == "100-continue":
            self.wfile.write(_CONTINUE)
        body = _read_body(self.rfile, headers) if "content-length" in headers or _chunked(headers) else b""
        fault = self.server.draw(method)
        if fault == "reset":
            return self._reset()
        if fault == "slow_down":
            return self._refuse(method, "503 Service Unavailable", "SlowDown", "Please reduce your request rate.")
        if fault == "refuse_write":
            return self._refuse(method, "403 Forbidden", "AccessDenied", "Access Denied")
        if fault == "stall" and self.server.ended.wait(self.server.faults.stall_seconds):
            return False
        answer_head, answer_body, keep = self._ask_upstream(method, head + body)
        if fault == "truncate":
            if not answer_body:
                return self._reset()
            self.wfile.write(answer_head + answer_body[: len(answer_body) // 2])
            return False
        self.wfile.write(answer_head + answer_body)
        return keep and headers.get("connection", "").lower() != "close"

    def _ask_upstream(self, method: str, request: bytes) -> tuple[bytes, bytes, bool]:
        """Head and body of the server's answer, unchanged, and whether the connection can take another request.

        It can if the head says where the body ends and the server keeps the connection open.
        """
        # A new connection for each request: the server may close an idle one, which would be a fault that was not drawn.
        with socket.create_connection(self.server.upstream, timeout=_UPSTREAM_SECONDS) as upstream:
            upstream.sendall(request)
            with upstream.makefile("rb") as stream:
                status = 100
                while status < 200:  # 100 Continue: the proxy has sent it already
                    head, headers = _read_head(stream)
                    status = int(head.split(b" ", 2)[1])
                bodiless = method == "HEAD" or status in (204, 304)
                framed = bodiless or "content-length" in headers or _chunked(headers)
                body = b"" if bodiless else _read_body(stream, headers)
        return head, body, framed and headers.get("connection", "").lower() != "close"

    def _reset(self) -> bool:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        return False

    def _refuse(self, method: str, status: str, code: str, message: str) -> bool:
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>fault-proxy</RequestId></Error>"
        ).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        self.wfile.write(head if method == "HEAD" else head + body)
        return True


def _read_head(stream: BufferedIOBase) -> tuple[bytes, dict[str, str]]:
    """The bytes of the first line and the headers, and the headers by lower-case name; `EOFError` if the stream ends."""
    head = _read_line(stream)
    headers = {}
    while (line := _read_line(stream)) != b"\r\n":
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
        head += line
    return head + line, headers


def _read_body(stream: BufferedIOBase, headers: dict[str, str]) -> bytes:
    """The bytes of the body, including chunk headers. Without a length, the body ends with the connection."""
    if not _chunked(headers):
        return _read_exactly(stream, int(headers["content-length"])) if "content-length" in headers else stream.read()
    body = b""
    size = 1
    while size:
        line = _read_line(stream)
        size = int(line.split(b";")[0], 16)
        body += line + (_read_exactly(stream, size + 2) if size else b"")
    while (line := _read_line(stream)) != b"\r\n":  # trailers: the SDKs put checksums here
        body += line
    return body + line


def _chunked(headers: dict[str, str]) -> bool:
    return headers.get("transfer-encoding", "").lower() == "chunked"


def _read_line(stream: BufferedIOBase) -> bytes:
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise EOFError
    return line


def _read_exactly(stream: BufferedIOBase, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data
