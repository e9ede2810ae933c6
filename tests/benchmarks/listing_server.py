"""An S3 server with a bucket of as many photos as wanted, which exist only when they are asked for.

It speaks S3's protocol: `ListObjectsV2` with pages, prefixes and `start-after`, `HeadBucket`, HEAD and GET with ranges. It
refuses writes. The photos are a few real ones. A comment in each makes its bytes and its size its own, so no two are equal.

    python -m tests.benchmarks.listing_server 10_000_000 --port 9100
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from PIL import Image

BUCKET = "photos"
KEYS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}
_PHOTOS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")
_LEAST_BYTES, _SIZES = 100_000, 100_000  # neighbours in the listing have different sizes
_COMMENT = 65_000  # bytes of the longest comment; JPEG allows a few more
_DATE = "2026-11-27T08:00:00.000Z"


@dataclass(frozen=True)
class Bucket:
    """count objects named by their numbers, in the order of their names."""

    count: int
    photos: tuple[bytes, ...]

    def key(self, number: int) -> str:
        return f"albums/{number // 1000:06}/IMG_{number:09}.jpg"

    def number(self, key: str) -> int | None:
        found = re.fullmatch(r"albums/\d{6}/IMG_(\d{9})\.jpg", key)
        number = int(found[1]) if found else self.count
        return number if number < self.count and self.key(number) == key else None

    def size(self, number: int) -> int:
        return _LEAST_BYTES + number % _SIZES

    def photo(self, number: int) -> bytes:
        plain = self.photos[number % len(self.photos)]
        lengths, missing = [], self.size(number) - len(plain)
        while missing:
            lengths.append(missing if missing <= _COMMENT else min(_COMMENT, missing - 100))
            missing -= lengths[-1]
        comments = [b"\xff\xfe" + (n - 2).to_bytes(2, "big") + (b"%09d" % number).ljust(n - 4) for n in lengths]
        return plain[:2] + b"".join(comments) + plain[2:]

    def etag(self, number: int) -> str:
        return f"{number:032x}"

    def page(self, query: dict[str, str]) -> str:
        """The answer to one ListObjectsV2. All keys lie in folders, so a delimiter changes nothing that is asked here."""
        prefix, most = query.get("prefix", ""), min(1000, int(query.get("max-keys", 1000)))
        first = bisect_left(range(self.count), prefix, key=self.key)
        after = query.get("continuation-token") or query.get("start-after")
        if after:
            first = max(first, bisect_right(range(self.count), after, key=self.key))
        end = bisect_left(range(self.count), True, lo=first, key=lambda n: self.key(n)[: len(prefix)] > prefix)
        last = min(first + most, end)
        contents = "".join(
            f"<Contents><Key>{self.key(n)}</Key><LastModified>{_DATE}</LastModified><ETag>&quot;{self.etag(n)}&quot;</ETag>"
            f"<Size>{self.size(n)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for n in range(first, last)
        )
        more = f"<NextContinuationToken>{self.key(last - 1)}</NextContinuationToken>" if last < end else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><Prefix>{prefix}</Prefix><KeyCount>{last - first}</KeyCount><MaxKeys>{most}</MaxKeys>"
            f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{more}{contents}</ListBucketResult>"
        )


def real_photos() -> tuple[bytes, ...]:
    """The real photos that are installed with scikit-image, as JPEGs."""
    made = []
    for name in _PHOTOS:
        if (file := files("skimage.data").joinpath(name)).is_file():
            buffer = io.BytesIO()
            Image.open(io.BytesIO(file.read_bytes())).convert("RGB").save(buffer, "JPEG", quality=90)
            made.append(buffer.getvalue())
    return tuple(made)


def make_server(count: int, port: int = 0) -> ThreadingHTTPServer:
    """The server, which does not serve yet. Its attribute `pages` counts the pages that it has sent."""
    bucket = Bucket(count, real_photos())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet an answer

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            name, _, key = unquote(url.path).lstrip("/").partition("/")
            number = bucket.number(key)
            if name != BUCKET:
                self._send(404, b"<Error><Code>NoSuchBucket</Code></Error>")
            elif not key and self.command == "GET":
                query = {name: values[0] for name, values in parse_qs(url.query).items()}
                self._send(200, bucket.page(query).encode())
                self.server.pages += 1  # type: ignore[attr-defined]
            elif not key:
                self._send(200, b"")
            elif number is None:
                self._send(404, b"<Error><Code>NoSuchKey</Code></Error>")
            else:
                data = bucket.photo(number)
                span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                chosen = data[int(span[1]) : int(span[2] or len(data)) + 1] if span else data
                self._send(206 if span else 200, chosen, number)

        do_HEAD = do_GET

        def do_PUT(self) -> None:
            self.close_connection = True
            self._send(403, b"<Error><Code>AccessDenied</Code></Error>")

        do_POST = do_DELETE = do_PUT

        def _send(self, status: int, body: bytes, number: int | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/xml" if number is None else "image/jpeg")
            if number is not None:
                self.send_header("ETag", f'"{bucket.etag(number)}"')
                self.send_header("Last-Modified", "Fri, 27 Nov 2026 08:00:00 GMT")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.pages = 0  # type: ignore[attr-defined]
    return server


@contextlib.contextmanager
def serving(count: int) -> Iterator[ThreadingHTTPServer]:
    """Serve from a thread of this process while the context lasts."""
    server = make_server(count)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--port", type=int, default=9100)
    options = parser.parse_args()
    make_server(options.count, options.port).serve_forever()


if __name__ == "__main__":
    main()
