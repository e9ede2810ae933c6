"""The service without Ray: the app behind its guard, on a real port, in a thread of this process."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from starlette.types import ASGIApp

from naturaltone.infra import local
from naturaltone.pipeline import caches
from naturaltone.pipeline.reasons import Reason
from naturaltone.serving.service.access import Access, Keys
from naturaltone.serving.service.api import create_api
from naturaltone.serving.service.guard import Guard, Limits
from naturaltone.serving.service.log import log_to
from naturaltone.serving.service.models import Models
from naturaltone.serving.service.service import Service
from naturaltone.training.checkpoint import save_bundle
from naturaltone.training.config import smoke
from naturaltone.training.networks import ToneEnhancer

KEY = "a key of the tests"
LONGEST = 30.0  # seconds; no test comes near it


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def error(self) -> str:
        """The reason of an error, after a look at its form."""
        assert self.headers["content-type"] == "application/json", self
        document = json.loads(self.body)
        assert set(document) == {"error", "detail"} and document["detail"], document
        assert self.status >= 400 and Reason(document["error"]), document
        return str(document["error"])


@dataclass
class Server:
    """A server that runs. Its address, and short ways to ask it."""

    host: str
    port: int
    prefix: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"http://{self.host}:{self.port}{self.prefix}"

    def ask(self, path: str, *, method: str = "GET", data: bytes | None = None, **headers: str) -> Answer:
        named = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.address + path, data=data, headers=named, method=method)
        try:
            with urllib.request.urlopen(request, timeout=LONGEST) as response:
                return Answer(response.status, _lower(response.headers), response.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, _lower(error.headers), error.read())

    def enhance(self, data: bytes, query: str = "", **headers: str) -> Answer:
        headers.setdefault("content_type", "image/jpeg")
        return self.ask(f"/v1/enhance{query}", method="POST", data=data, **headers)

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=LONGEST)

    def raw(self, *pieces: bytes) -> Answer:
        """Send bytes as they are; returns the answer, which is read until the connection ends or the body is whole."""
        with self.connect() as connection:
            for piece in pieces:
                connection.sendall(piece)
            return read_answer(connection)


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def read_answer(connection: socket.socket) -> Answer:
    received = b""
    while b"\r\n\r\n" not in received:
        received += _some(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += _some(connection)
    return Answer(int(first.split()[1]), headers, body)


def _some(connection: socket.socket) -> bytes:
    received = connection.recv(2**16)
    assert received, "the connection ended within the answer"
    return received


@contextlib.contextmanager
def serving(app: ASGIApp, *, root_path: str = "") -> Iterator[Server]:
    """Serve an ASGI app on a free port of this machine while the context lasts."""
    config = uvicorn.Config(app, log_config=None, lifespan="off", server_header=True, root_path=root_path)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), name="uvicorn")
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield Server("127.0.0.1", listener.getsockname()[1])
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(LONGEST)
        assert not thread.is_alive()
        listener.close()


def wait_until(happened: Callable[[], object], *, what: str = "") -> None:
    deadline = time.monotonic() + LONGEST
    while not happened():
        assert time.monotonic() < deadline, what or "it never happened"
        time.sleep(0.01)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def access(*keys: str, **options: Any) -> Access:
    """Access for these keys."""
    return Access(keys=Keys(",".join(f"{sha256(key)} client-{n}" for n, key in enumerate(keys))), **options)


def save_model(folder: Path, *, seed: int, bias: float = 0.1) -> Path:
    """Write the bundle of a tiny model; each seed has other weights."""
    torch.manual_seed(seed)
    config = smoke()
    generator = ToneEnhancer(**config.architecture)
    torch.nn.init.constant_(generator.decoder[-1].bias, bias)
    save_bundle(folder, generator, config, working_resolution=96, lineage={"algorithm": "test", "seed": seed})
    return folder


def replace(folder: Path, new: Path) -> None:
    """Put the files of a bundle in the place of another's: each whole, one after the other."""
    for name in sorted(path.name for path in new.iterdir()):
        shutil.copy(new / name, folder / f"{name}.new")
        os.replace(folder / f"{name}.new", folder / name)


def models(uri: str, compare: str = "", *, look_seconds: float = 0.05) -> Models:
    """Models that serve."""
    followed = Models(look_seconds=look_seconds)
    followed.follow(model=uri, compare=compare)
    followed.wait(LONGEST)
    assert followed.choose("model")
    if compare:
        wait_until(lambda: "challenger" in followed.serving)
    return followed


@contextlib.contextmanager
def guarded(service: Service, *, access: Access | None = None, limits: Limits | None = None) -> Iterator[Server]:
    with serving(Guard(create_api(service), access=access, limits=limits)) as server:
        yield server


@pytest.fixture(scope="module", autouse=True)
def module_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The fixtures of a whole module keep their models here, not in the user's cache."""
    with local.environment({caches.VARIABLE: str(tmp_path_factory.mktemp("cache"))}):
        yield


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of kept models: a new one for each test, so that no test starts from the model of another."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv(caches.VARIABLE, str(folder))
    return folder


@pytest.fixture(scope="module")
def service(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The tiny model, and another one as its challenger."""
    other = save_model(tmp_path_factory.mktemp("challenger") / "other", seed=8)
    running = Service(models(str(bundle_folder), str(other)), slots=2)
    yield running
    running.close()


@pytest.fixture(scope="module")
def server(service: Service) -> Iterator[Server]:
    """The service with the key `KEY`; `ask` sends it."""
    with guarded(service, access=access(KEY)) as running:
        running.headers = {"authorization": f"Bearer {KEY}"}
        yield running


@pytest.fixture
def service_log(tmp_path: Path) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Sends the service's log to a file; a call returns its lines so far."""
    ours = logging.getLogger("naturaltone")
    before = ours.handlers, ours.level, ours.propagate
    path = tmp_path / "service.jsonl"
    log_to(str(path))
    yield lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for handler in ours.handlers:
        handler.close()
    ours.handlers, ours.level, ours.propagate = before
