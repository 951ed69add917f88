"""CPU of filters, natively and in workerd: to compile and evaluate one of four terms over 20,000 rows, and what the
columns in the blocks cost queries without a filter.

    python -m bench.filter_cpu [BUCKET WITH WITHOUT QUERIES]

The rows lie in a hundred blocks; the terms are of strings, integers, float64 that are all distinct, and booleans. Times
are of a thread: in workerd that of the Worker, between a request that does it TIMES times and one that does it once.
WITH and WITHOUT: indexes in the folder BUCKET of the same rows, with all attributes filterable and with none (`vantage
build --filter ''`). Each query of the file QUERIES is asked of both, twice in a row, so that the second finds its
blocks in the cache; that one is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from base64 import b64encode
from pathlib import Path
from random import Random
from typing import Any

import httpx

from bench.common import project_with
from build_index.bucket.open import open_index
from build_index.ingest.queries import read_queries
from build_index.serve import ROOT, load, serve
from vantage.search.query import Query

sys.path.append(str(ROOT / "tests"))
from filter_work import rows_taken  # noqa: E402
from filters import NAMES, columns_of, fields_of, matching, random_row  # noqa: E402

from vantage.format import pack_columns, pack_filters  # noqa: E402

BLOCKS, BLOCK_ROWS, TIMES, RUNS = 100, 200, 200, 5
ASKED = 200
FILTER = {"lang": {"$in": ["de", "fr", "zz"]}, "year": {"$gte": 1000}, "price": {"$lt": 50.0}, "stock": False}
WHAT = ("compile", "compile and evaluate")


def given() -> tuple[dict[str, Any], dict[str, Any]]:
    """What `rows_taken` takes, without blocks and with all."""
    draw = Random(0)
    rows = [random_row(draw) | {"price": draw.gauss(0, 100)} for _ in range(BLOCKS * BLOCK_ROWS)]
    fields, every = fields_of(rows), range(0, len(rows), BLOCK_ROWS)
    planes = [pack_columns(columns_of(rows[i : i + BLOCK_ROWS], fields)) for i in every]
    work: dict[str, Any] = {
        "filter": FILTER, "names": NAMES, "rows": len(rows), "sizes": [BLOCK_ROWS] * BLOCKS,
        "fields": b64encode(pack_filters(fields)).decode(), "planes": [b64encode(p).decode() for p in planes],
    }  # fmt: skip
    assert rows_taken(work, 1) == sum(matching(FILTER, rows))
    return work | {"planes": []}, work


def evaluated() -> None:
    """Prints milliseconds here and in workerd."""
    with tempfile.TemporaryDirectory() as scratch:
        project = project_with(Path(scratch, "project"), "filter_entry.py", "tests/filter_work.py")
        state = Path(scratch, "state")
        with serve(state, variables={"PUBLIC_READ": "1"}, project=project) as server, connected(server.url) as http:

            def there(work: dict[str, Any], times: int) -> float:
                before = server.cpu_seconds()
                found = http.post(f"/filter?times={times}", json=work).raise_for_status()
                assert int(found.text) == rows_taken(work, 1)
                return server.cpu_seconds() - before

            def here(work: dict[str, Any], times: int) -> float:
                before = time.thread_time()
                rows_taken(work, times)
                return time.thread_time() - before

            for what, work in zip(WHAT, given(), strict=True):
                for where, took in (("natively", here), ("in workerd", there)):
                    took(work, TIMES)
                    each = [(took(work, TIMES + 1) - took(work, 1)) / TIMES for _ in range(RUNS)]
                    print(f"{what}, {where}: {1e3 * statistics.median(each):.3f} ms a query", flush=True)


def connected(url: str) -> httpx.Client:
    """A client that no proxy comes between."""
    return httpx.Client(base_url=url, timeout=120, trust_env=False)


def unfiltered(bucket: Path, names: tuple[str, str], vectors: list[list[float]]) -> None:
    """Prints milliseconds of queries without a filter, of both indexes, here and in workerd."""
    indexes = {name: open_index(bucket / name, cache_bytes=64 << 20) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        for name in names:
            load(bucket, state, only=name)
        with serve(state, variables={"PUBLIC_READ": "1"}) as server, connected(server.url) as http:

            def here(name: str, vector: list[float]) -> float:
                before = time.thread_time()
                asyncio.run(indexes[name].query(Query(vector, 100)))
                return time.thread_time() - before

            def there(name: str, vector: list[float]) -> float:
                before = server.cpu_seconds()
                body = {"vector": vector, "top_k": 100}
                http.post(f"/v1/indexes/{name}/query", json=body).raise_for_status()
                return server.cpu_seconds() - before

            for where, took in (("natively", here), ("in workerd", there)):
                spent: dict[str, list[float]] = {name: [] for name in names}
                for vector in vectors:
                    for name, seconds in spent.items():
                        took(name, vector)
                        seconds.append(took(name, vector))
                each = [f"{name} {1e3 * statistics.median(seconds):.2f} ms" for name, seconds in spent.items()]
                more = statistics.median(a - b for a, b in zip(*spent.values(), strict=True))
                print(f"a query without a filter, {where}: {', '.join(each)}, {1e3 * more:+.2f} ms")


def main() -> None:
    """Prints one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("indexes", nargs="*", metavar="BUCKET WITH WITHOUT QUERIES")
    options = parser.parse_args()
    if len(options.indexes) not in (0, 4):
        parser.error("name a bucket, two indexes of it and a file of queries, or nothing")
    evaluated()
    if options.indexes:
        bucket, *names, queries = options.indexes
        vectors = [v.tolist() for v in read_queries(Path(queries), ASKED).vectors]
        unfiltered(Path(bucket), (names[0], names[1]), vectors)


if __name__ == "__main__":
    main()
