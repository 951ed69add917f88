"""What the same queries cost LanceDB on object storage: its reads are counted by a small S3 server on this machine.

    pip install lancedb
    python -m bench.peers DATA [--queries 50] [--table FOLDER]

DATA holds wordnet/ (Parquet with vectors and exact neighbours). Builds an IVF_PQ table, looks for the fewest probes to
reach recall@100 0.95 on every second query, and counts reads on the others: with the whole index in memory, and cold,
where each fifth query has a new connection. Waves are the longest chain of reads of which each began after the one
before had ended; the server waits WAIT_S before it answers, so long that a busy machine makes no waves of its own.
Connections are not limited, so `ms` is 40 for each wave and nothing for bytes; dollars are of R2's reads alone. How
many reads LanceDB has under way when cold may depend on the processors, and the waves of that line with it. --table
keeps the table, which takes minutes to build.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vantage.cost import CLASS_B_USD, ROUND_MS

K, GOAL = 100, 0.95
WAIT_S = 0.2
COLD_STEP = 5  # each cold query opens the table again, which takes many waves
PARTITIONS, SUB_VECTORS = 340, 96  # about sqrt(rows); 96 bytes a row
PROBES, REFINES = (20, 30, 40, 44, 48, 52, 56, 64, 80, 120), (2, 3)


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


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    """f32 (n, d) of a column of lists."""
    return np.stack(column.to_numpy(zero_copy_only=False)).astype(np.float32)


def table(lancedb: Any, folder: Path, vectors: np.ndarray) -> None:
    """Builds the table, unless it is there."""
    db = lancedb.connect(folder)
    if (folder / "words.lance").exists():
        return
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    made = db.create_table("words", pa.table({"row": np.arange(len(vectors)), "vector": column}))
    config = lancedb.index.IvfPq(distance_type="cosine", num_partitions=PARTITIONS, num_sub_vectors=SUB_VECTORS)
    made.create_index("vector", config=config)


def ask(opened: Any, vector: np.ndarray, probes: int, refine: int) -> set[int]:
    """Rows that it finds."""
    query = opened.search(vector).distance_type("cosine").nprobes(probes).refine_factor(refine).limit(K)
    return set(query.select(["row", "_distance"]).to_arrow()["row"].to_pylist())


def main() -> None:
    """Prints a line for each state of its caches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("LANCE_LOG", "error")
    logging.disable(logging.WARNING)
    import lancedb
    import lancedb.index

    words = options.data / "wordnet"
    base = pa.concat_tables([pq.read_table(words / f"part-{i}.parquet", columns=["vector"]) for i in (0, 1)])
    asked = pq.read_table(words / "queries.parquet", columns=["vector", "neighbors"])
    asked = asked.take(np.unique(np.linspace(0, len(asked) - 1, 2 * options.queries).astype(int)))
    queries, truth = matrix(asked["vector"]), [set(near[:K]) for near in asked["neighbors"].to_pylist()]
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.table or Path(scratch)
        table(lancedb, folder, matrix(base["vector"]))
        local = lancedb.connect(folder).open_table("words")

        def recall(opened: Any, numbers: range, probes: int, refine: int) -> float:
            return statistics.mean(len(ask(opened, queries[i], probes, refine) & truth[i]) / K for i in numbers)

        tuning, counted = range(0, len(queries), 2), range(1, len(queries), 2)
        reaching = (p for p in itertools.product(PROBES, REFINES) if recall(local, tuning, *p) >= GOAL)
        probes, refine = next(reaching)
        with served(folder) as (endpoint, log):
            store = {
                "aws_endpoint": endpoint, "allow_http": "true", "aws_access_key_id": "a", "aws_secret_access_key": "b",
                "aws_region": "us-east-1", "aws_virtual_hosted_style_request": "false",
            }  # fmt: skip

            def opened() -> Any:
                return lancedb.connect("s3://bucket", storage_options=store).open_table("words")

            print(
                f"lancedb {lancedb.__version__}, {len(base):,} rows, {PARTITIONS} partitions, "
                f"{SUB_VECTORS} bytes a code, {probes} probes, refine {refine}, {len(counted)} queries"
            )
            print("state                  recall    GETs      MB   waves  ms at least  $ a million, reads")
            warm = opened()
            ask(warm, queries[0], PARTITIONS, refine)  # reads the whole index into its cache
            for state in ("index in memory", "cold"):
                hits, gets, nbytes, chains = list[float](), list[int](), list[int](), list[int]()
                for i in counted[:: COLD_STEP if state == "cold" else 1]:
                    log.clear()
                    rows = ask(warm if state != "cold" else opened(), queries[i], probes, refine)
                    hits.append(len(rows & truth[i]) / K)
                    gets.append(len(log))
                    nbytes.append(sum(size for *_, size in log))
                    chains.append(waves(log))
                mean = statistics.mean
                print(
                    f"{state:<20}{mean(hits):>9.4f}{mean(gets):>8.1f}{mean(nbytes) / 1e6:>8.2f}{mean(chains):>8.1f}"
                    f"{ROUND_MS * mean(chains):>13.0f}{1e6 * CLASS_B_USD * mean(gets):>20.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
