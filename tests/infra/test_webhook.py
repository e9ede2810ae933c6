"""The receiver of a report can check who sent it; a receiver that is away does not stop a slot for long."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from naturaltone.infra import local, webhook
from naturaltone.infra.webhook import SIGNATURE, WebhookFailed, send


class Receiver(HTTPServer):
    """Answers with the statuses in `answers`, then with 204. taken: the bodies and signatures."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.taken: list[tuple[bytes, str | None]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken.append((body, self.headers[SIGNATURE]))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(webhook.time, "sleep", lambda _: None)
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_the_signature_is_that_of_the_body(receiver: Receiver) -> None:
    send(receiver.url, {"name": "nightly"}, secret="key")
    [(body, signature)] = receiver.taken
    assert json.loads(body) == {"name": "nightly"}
    assert signature == f"sha256={hmac.new(b'key', body, hashlib.sha256).hexdigest()}"
    send(receiver.url, {}, secret=None)
    assert receiver.taken[-1][1] is None


def test_a_receiver_that_fails_is_tried_again_and_then_given_up(receiver: Receiver) -> None:
    receiver.answers = [500, 503]
    send(receiver.url, {}, secret=None)
    receiver.answers = [500, 500, 500]
    with pytest.raises(WebhookFailed, match="500"):
        send(receiver.url, {}, secret=None)
    assert len(receiver.taken) == 6
    with pytest.raises(WebhookFailed, match="refused"):
        send(f"http://127.0.0.1:{local.free_port()}/", {}, secret=None)
