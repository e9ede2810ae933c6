"""The load generator counts what it sends and what comes back."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import Executor

import pytest

from naturaltone.infra.bench.load import closed_loop, load_generator, open_loop


class _Handler(http.server.BaseHTTPRequestHandler):
    """Enhances every third photo, has no room for the next one, and fails with the one after."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        number = type(self).asked
        type(self).asked += 1
        self.send_response((200, 503, 500)[number % 3])
        if number % 3 == 1 and number != 4:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    _Handler.asked = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def generator() -> Iterator[Executor]:
    with load_generator() as process:
        yield process


def test_an_open_loop_sends_what_it_was_told_and_counts_each_answer(generator: Executor, address: str) -> None:
    load = open_loop(generator, address, [b"a", b"b"], rate=60, seconds=0.5)
    assert (len(load.accepted), len(load.refused), load.failed) == (10, 10, {"500": 10})
    assert load.without_retry == 1 and load.seconds > 0.4 and load.cpu_seconds > 0


def test_a_closed_loop_keeps_its_clients_busy(generator: Executor, address: str) -> None:
    load = closed_loop(generator, address, [b"a"], concurrency=2, seconds=0.3)
    assert len(load.accepted) + len(load.refused) + sum(load.failed.values()) == _Handler.asked >= 6


def test_a_service_that_is_away_is_counted_as_failures(generator: Executor) -> None:
    load = open_loop(generator, "http://127.0.0.1:1", [b"a"], rate=20, seconds=0.2)
    assert load.failed == {"ClientConnectorError": 4} and not load.accepted
