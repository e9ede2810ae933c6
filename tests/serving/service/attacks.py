"""Seeded garbage for the service: damaged photos, wrong types and lengths, bombs, polyglots, injections, stalled bodies."""

from __future__ import annotations

import io
import random
import re
import socket
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tests.mutations import mutations, samples

_TYPES = (
    "image/jpeg",
    "image/png",
    "text/html",
    "application/json",
    "application/x-www-form-urlencoded",
    "",
    "\x00",
    "a" * 2000,
)
_NAMES = ("../../etc/passwd", 'a"; filename="b', "a\r\nX-Evil: 1", "\x00.jpg", "ü.jpg", "con", "%2e%2e%2f", "a" * 5000)
_PATHS = (
    "//evil/v1/enhance",
    "/v1/enhance/..",
    "/page/../../app.py",
    "/page/%2e%2e%2fapp.py",
    "/v1/enhance\t",
    "/%00",
    "/-/nothing",
)
_QUERIES = (
    "",
    "?strength=nan",
    "?strength=-1",
    "?strength=1e999",
    "?format=exe",
    "?quality=0",
    "?model=../x",
    "?" + "a=b&" * 500,
)


@dataclass(frozen=True)
class Attack:
    """One request as bytes. closes: the client closes its side afterwards, in the middle of the body."""

    name: str
    request: bytes
    closes: bool = False


def attacks(photo: np.ndarray, count: int, seed: int) -> Iterator[Attack]:
    """Yield `count` requests. The same arguments give the same requests."""
    chance = random.Random(seed)
    files = samples(photo)
    damaged = mutations(files, count, seed)
    others = _other_files(files)
    for number in range(count):
        name, data = next(damaged)
        if number % 4 == 3:
            name = chance.choice(list(others))
            data = others[name]
        make = _KINDS[number % len(_KINDS)]
        yield Attack(f"{number}-{make.__name__}-{name}", *make(data, chance))


def insist(address: str, attack: Attack) -> int:
    """Send a request until it is not refused for lack of room; returns the status of the answer."""
    while (status := send(address, attack)) == 503:
        time.sleep(0.1)
    return status


def send(address: str, attack: Attack, *, seconds: float = 60.0) -> int:
    """Send one request; returns the status of the answer, 0 if the connection ended without one."""
    host, port = address.removeprefix("http://").split(":")
    answer = b""
    try:
        with socket.create_connection((host, int(port)), timeout=seconds) as connection:
            try:
                connection.sendall(attack.request)
                if attack.closes:
                    connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # refused before the end of the body; the answer can be read all the same
            while b"\r\n\r\n" not in answer and (part := connection.recv(4096)):
                answer += part
    except OSError:
        pass
    found = re.match(rb"HTTP/1\.1 (\d{3})", answer)
    assert found or not answer, answer
    assert b"x-evil" not in answer.lower(), "a header was injected"
    return int(found[1]) if found else 0


def _head(path: str = "/v1/enhance", method: str = "POST", **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _plain(data: bytes, chance: random.Random) -> tuple[bytes]:
    kind = chance.choice(_TYPES)
    return (_head("/v1/enhance" + chance.choice(_QUERIES), Content_Length=str(len(data)), Content_Type=kind) + data,)


def _form(data: bytes, chance: random.Random) -> tuple[bytes]:
    name = chance.choice(_NAMES).encode()
    field = chance.choice((b"photo", b"other", b"", b'photo"; x="'))
    body = b'--x\r\nContent-Disposition: form-data; name="' + field + b'"; filename="' + name + b'"\r\n\r\n' + data
    body += chance.choice((b"\r\n--x--\r\n", b"", b"\r\n--y--\r\n", b"--x" * 50))
    boundary = chance.choice(("x", "y", "", "x; boundary=y", "a" * 300))
    kind = f"multipart/form-data; boundary={boundary}"
    return (_head(Content_Length=str(len(body)), Content_Type=kind) + body,)


def _false_length(data: bytes, chance: random.Random) -> tuple[bytes, bool]:
    length = chance.choice((str(len(data) // 2), str(len(data) + 100), "-1", "9" * 30, "1e3", "0x10", "", "200000000"))
    return _head(Content_Length=length) + data, True


def _chunked(data: bytes, chance: random.Random) -> tuple[bytes, bool]:
    body = b""
    while data:
        size = chance.randint(1, 2**14)
        body += b"%x\r\n" % len(data[:size]) + data[:size] + b"\r\n"
        data = data[size:]
    end = chance.choice((b"0\r\n\r\n", b"", b"zz\r\n", b"ffffffffffffffff\r\n"))
    return _head(Transfer_Encoding="chunked") + body + end, not end.startswith(b"0")


def _other_path(data: bytes, chance: random.Random) -> tuple[bytes]:
    method = chance.choice(("POST", "GET", "PUT", "DELETE", "OPTIONS", "TRACE", "HEAD"))
    return (_head(chance.choice(_PATHS), method, Content_Length=str(len(data))) + data,)


def _evil_headers(data: bytes, chance: random.Random) -> tuple[bytes]:
    headers = {
        "X_Request_Timeout_Seconds": chance.choice(("0", "-1", "1e-9", "x")),
        "X_Request_Disconnect_Disabled": "?1",
        "X_Request_Id": chance.choice(("../../x", "a" * 5000, "{}", "é")),
        "Authorization": chance.choice(("Bearer", "Basic x", "Bearer \xff", "a" * 4000)),
        "Content_Length": str(len(data)),
    }
    return (_head(**headers) + data,)


def _stalled(data: bytes, chance: random.Random) -> tuple[bytes]:
    return (_head(Content_Length=str(len(data) + 1000)) + data[: chance.randrange(len(data) + 1)],)


_KINDS: tuple[Callable[[bytes, random.Random], tuple[bytes] | tuple[bytes, bool]], ...] = (
    *(_plain, _form, _plain, _false_length, _plain, _chunked, _form, _other_path, _plain, _evil_headers, _plain, _form),
)


def stalled_attacks(photo: np.ndarray, count: int, seed: int) -> Iterator[Attack]:
    """Yield requests whose body never ends."""
    chance = random.Random(seed)
    data = samples(photo)["jpeg-baseline"]
    for number in range(count):
        yield Attack(f"{number}-stalled", *_stalled(data, chance))


def _other_files(files: dict[str, bytes]) -> dict[str, bytes]:
    """Files that are no photos, or more than one thing at once."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as into:
        into.writestr("zeros", bytes(10**7))
    jpeg = files["jpeg-baseline"]
    return {
        "zip": archive.getvalue(),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "svg-entities": b'<!DOCTYPE svg [<!ENTITY a "' + b"x" * 1000 + b'">]><svg>' + b"&a;" * 1000 + b"</svg>",
        "html": b"<html><script>alert(1)</script></html>",
        "jpeg-and-zip": jpeg + archive.getvalue(),
        "gif-and-script": b"GIF89a/*" + bytes(6) + b"*/=1;alert(1)//",
        "png-bomb": _png_bomb(60_000, 60_000),
        "png-bomb-in-limits": _png_bomb(14_000, 14_000),
        "empty": b"",
        "zeros": bytes(100_000),
        "pickle": b"\x80\x04\x95cos\nsystem\n(S'true'\ntR.",
    }


def _png_bomb(width: int, height: int) -> bytes:
    """A small file with a huge picture of one colour, cut short after its first rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(3 * width * 10))) + chunk(b"IEND", b"")
