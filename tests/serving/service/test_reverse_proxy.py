"""The service behind nginx and Caddy, set up as docs/serving.md shows: TLS, a prefix, and limits for headers."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from naturaltone.infra import local
from naturaltone.serving.service.service import Service
from tests.serving.service.conftest import KEY, LONGEST, access, guarded, wait_until
from tests.serving.service.test_serving_docs import blocks

HOST = "photos.example.org"
_PATH = f"{os.environ['PATH']}:/usr/sbin"  # where Debian has nginx


@dataclass(frozen=True)
class Proxy:
    port: int
    trusted: ssl.SSLContext

    def ask(self, path: str, data: bytes | None = None) -> tuple[int, bytes]:
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.port}{path}", data, {"Host": HOST, "Authorization": f"Bearer {KEY}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=LONGEST, context=self.trusted) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def raw(self, data: bytes) -> bytes:
        """Send bytes, and read until the proxy closes the connection."""
        received = b""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=LONGEST) as plain,
            self.trusted.wrap_socket(plain, server_hostname=HOST) as connection,
        ):
            connection.sendall(data)
            with contextlib.suppress(ConnectionResetError):
                while more := connection.recv(2**16):
                    received += more
        return received


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={HOST}"),
            *("-addext", f"subjectAltName=DNS:{HOST},IP:127.0.0.1", "-keyout", "key.pem", "-out", "photos.pem"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def _started(command: list[str], folder: Path, port: int, certificate: Path) -> Iterator[Proxy]:
    with open(folder / "printed", "wb") as printed:
        environment = {"HOME": str(folder), "PATH": _PATH}
        command[0] = shutil.which(command[0], path=_PATH) or command[0]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=printed, stderr=subprocess.STDOUT)
    trusted = ssl.create_default_context(cafile=certificate / "photos.pem")
    try:
        wait_until(lambda: process.poll() is not None or _listens(port))
        yield Proxy(port, trusted)
    finally:
        process.terminate()
        process.wait(LONGEST)
        print((folder / "printed").read_text())  # pytest shows it if the test fails


def _replaced(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, f"docs/serving.md no longer has {old!r}"
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def nginx(service: str, folder: Path, certificate: Path) -> Iterator[Proxy]:
    port = local.free_port()
    [server] = blocks("nginx")
    changes = {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/ssl/photos.pem": f"{certificate}/photos.pem",
        "/etc/ssl/photos.key": f"{certificate}/key.pem",
        "http://127.0.0.1:8000": service,
        "client_header_timeout 10s": "client_header_timeout 1s",
    }
    kept = [f"{name}_temp_path {folder};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")]
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{' '.join(kept)}\n{_replaced(server, changes)}\n}}\n"
    )
    command = ["nginx", "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]
    with _started(command, folder, port, certificate) as proxy:
        yield proxy


@contextlib.contextmanager
def caddy(service: str, folder: Path, certificate: Path) -> Iterator[Proxy]:
    port = local.free_port()
    [text] = blocks("caddyfile")
    changes = {
        "{\n    servers": "{\n    admin off\n    auto_https off\n    servers",
        f"{HOST} {{": f"https://{HOST}:{port} {{\n    bind 127.0.0.1\n    tls {certificate}/photos.pem {certificate}/key.pem",
        "127.0.0.1:8000": service.removeprefix("http://"),
        "read_header 10s": "read_header 1s",
    }
    (folder / "Caddyfile").write_text(_replaced(text, changes))
    command = ["caddy", "run", "--config", "Caddyfile", "--adapter", "caddyfile"]
    with _started(command, folder, port, certificate) as proxy:
        yield proxy


@pytest.mark.parametrize("start", [nginx, caddy], ids=["nginx", "caddy"])
def test_the_example_of_a_reverse_proxy_serves_below_its_prefix_and_ends_slow_headers(
    start: Callable[[str, Path, Path], contextlib.AbstractContextManager[Proxy]],
    service: Service,
    certificate: Path,
    tmp_path: Path,
    photo: np.ndarray,
    to_file: Callable[..., bytes],
) -> None:
    if not shutil.which(start.__name__, path=_PATH):
        pytest.skip(f"{start.__name__} is not installed")
    data = to_file(photo)
    with guarded(service, access=access(KEY)) as server, start(server.address, tmp_path, certificate) as proxy:
        server.headers = {"authorization": f"Bearer {KEY}"}
        assert proxy.ask("/tone/v1/enhance", data) == (200, server.enhance(data).body)
        assert proxy.ask("/tone/") == (200, server.ask("/").body)
        without_slash = proxy.raw(f"GET /tone HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        assert b"/tone/\r\n" in without_slash and without_slash.split(b" ", 2)[1] in (b"301", b"302")
        assert proxy.ask("/tone/page/page.css") == (200, server.ask("/page/page.css").body)
        status, answer = proxy.ask("/tone/v1/enhance", b"no photo")
        assert status == 400 and b"not_an_image" in answer, "the service's own errors come through"
        wide = f"GET /tone/ HTTP/1.1\r\nHost: {HOST}\r\nX-Wide: {'x' * 60_000}\r\n\r\n".encode()
        assert proxy.raw(wide).split(b" ", 2)[1] in (b"400", b"431")
        slow = proxy.raw(f"GET /tone/ HTTP/1.1\r\nHost: {HOST}\r\n".encode())
        assert not slow or slow.split(b" ", 2)[1] == b"408", "a head that never ends"
