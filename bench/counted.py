"""A small S3 server of a folder, which counts what is read: for databases that read from object storage."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

WAIT_S = 0.2  # before each answer: a busy machine makes no waves of its own


class Reads(BaseHTTPRequestHandler):
    """S3's reads of the folder `root`: HEAD, GET with ranges, and lists; each waits, and is noted in `log`."""

    root: Path
    log: list[tuple[float, float, int]]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        began = time.monotonic()
        time.sleep(WAIT_S)
        url = urlsplit(self.path)
        key = unquote(url.path).removeprefix("/bucket").strip("/")
        body = self._list(parse_qs(url.query)) if "list-type" in url.query else self._read(key)
        if self.command == "GET":
            self.wfile.write(body)
        self.log.append((began, time.monotonic(), len(body) if self.command == "GET" else 0))

    do_HEAD = do_GET

    def _read(self, key: str) -> bytes:
        path = self.root / key
        if not path.is_file():
            return self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        size, (low, high) = path.stat().st_size, (0, path.stat().st_size)
        wanted = self.headers.get("range", "")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            low = int(first) if first else size - int(last)
            high = min(size, int(last) + 1) if first and last else size
        with path.open("rb") as file:
            file.seek(low)
            data = file.read(high - low)
        return self._answer(206 if wanted else 200, data, {"content-range": f"bytes {low}-{high - 1}/{size}"})

    def _list(self, query: dict[str, list[str]]) -> bytes:
        prefix = query.get("prefix", [""])[0]
        under = self.root / prefix.rpartition("/")[0]
        files = sorted(p for p in under.rglob("*") if p.is_file()) if under.is_dir() else []
        keys = [(str(p.relative_to(self.root)), p.stat().st_size) for p in files]
        keys = [(key, size) for key, size in keys if key.startswith(prefix)]
        shared = (
            {prefix + key.removeprefix(prefix).partition("/")[0] + "/" for key, _ in keys}
            if "delimiter" in query
            else ()
        )
        items = [
            f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>1</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, size in keys
            if not ("delimiter" in query and "/" in key.removeprefix(prefix))
        ]
        folders = [
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            for name in sorted(shared)
            if any(key.startswith(name) for key, _ in keys)
        ]
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(items + folders)}</ListBucketResult>"
        return self._answer(200, text.encode())

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> bytes:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("etag", '"1"')
        self.send_header("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        return body

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


class Server(ThreadingHTTPServer):
    """One that refuses none of many connections at once."""

    request_queue_size = 1024
    daemon_threads = True


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[tuple[float, float, int]]]]:
    """(endpoint, log) of a server of the folder."""
    log = list[tuple[float, float, int]]()
    handler = type("Handler", (Reads,), {"root": folder, "log": log})
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", log
    finally:
        server.shutdown()


def waves(log: list[tuple[float, float, int]]) -> int:
    """The longest chain of reads, each begun after the one before had ended."""
    count, free = 0, float("-inf")
    for began, ended, _ in sorted(log, key=lambda read: read[1]):
        if began >= free:
            count, free = count + 1, ended
    return count


def of_bucket(endpoint: str) -> dict[str, str]:
    """Options with which LanceDB reads "s3://bucket" from an endpoint."""
    return {
        "aws_endpoint": endpoint, "allow_http": "true", "aws_access_key_id": "a", "aws_secret_access_key": "b",
        "aws_region": "us-east-1", "aws_virtual_hosted_style_request": "false",
    }  # fmt: skip
