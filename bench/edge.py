"""The Worker in workerd against the same library in CPython: answers, heap, and CPU a query by thread time.

    python -m bench.edge BUCKET INDEX=QUERIES [INDEX=QUERIES ...] [--compare 500] [--mixed 2000]

BUCKET is a folder of indexes; QUERIES a Parquet or .npy file. Three Workers run in turn: one without a cache for the
first query and the comparison of ids and scores (scores are the integers, scaled), one with the default cache for the
heap, and one an index for warm CPU: thread time holds the local R2, too, so the same query is asked twice in a row, the
second time with what it read in the cache.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from pathlib import Path
from typing import Any

import httpx

from build_index.bucket.open import open_index
from build_index.ingest.queries import read_queries
from build_index.serve import Server, load, serve
from vantage.http.bodies import answer_body
from vantage.index import Index
from vantage.search.query import Query


def ask(http: httpx.Client, index: str, vector: list[float], **more: Any) -> dict[str, Any]:
    """One query over HTTP."""
    body = {"vector": vector, "top_k": 100, **more}
    answer: dict[str, Any] = http.post(f"/v1/indexes/{index}/query", json=body).raise_for_status().json()
    return answer


def connect(server: Server) -> httpx.Client:
    """A client that no proxy comes between."""
    return httpx.Client(base_url=server.url, timeout=120, trust_env=False)


def compare(http: httpx.Client, index: Index, vectors: list[list[float]]) -> int:
    """Queries whose ids or scores differ between the Worker and CPython."""

    async def local() -> list[Any]:
        return [answer_body(await index.query(Query(v, 100)), [])["matches"] for v in vectors]

    return sum(
        ask(http, index.name, v)["matches"] != want for v, want in zip(vectors, asyncio.run(local()), strict=True)
    )


def main() -> None:
    """Prints one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bucket", type=Path)
    parser.add_argument("indexes", nargs="+", metavar="INDEX=QUERIES")
    parser.add_argument("--compare", type=int, default=500)
    parser.add_argument("--mixed", type=int, default=2000)
    options = parser.parse_args()
    asked = {
        name: [v.tolist() for v in read_queries(Path(path), max(options.compare, options.mixed)).vectors]
        for name, path in (pair.split("=", 1) for pair in options.indexes)
    }
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        load(options.bucket, state)
        first = next(iter(asked))
        with (
            serve(
                state, variables={"PUBLIC_READ": "1", "VANTAGE_CACHE_BYTES": "0", "VANTAGE_WARM_BYTES": "0"}
            ) as server,
            connect(server) as http,
        ):
            before = server.cpu_seconds()
            receipt = ask(http, first, asked[first][0])["receipt"]
            print(f"first query of a fresh Worker, {first}: {1000 * (server.cpu_seconds() - before):.0f} ms CPU")
            print(f"cold open: {receipt['opened_gets']} GETs, then {receipt['gets']} GETs in {receipt['waves']} wave")
            for name, vectors in asked.items():
                some = vectors[: options.compare]
                wrong = compare(http, open_index(options.bucket / name), some)
                print(f"same ids and scores as CPython, {name}: {len(some) - wrong} of {len(some)} queries")
        with serve(state, variables={"PUBLIC_READ": "1"}) as server, connect(server) as http:
            names = list(asked)
            kinds = ({}, {"top_k": 10, "include": ["attributes", "receipt"]}, {"rerank": 150}, {"recall": 0.9})
            for i in range(options.mixed):
                name = names[i % len(names)]
                vector = asked[name][i // len(names) % len(asked[name])]
                more = kinds[i // len(names) % len(kinds)]
                ask(http, name, vector, **more)
            heap = http.get("/v1/health").json()["heap_bytes"]
            print(f"Wasm heap after {options.mixed} mixed queries: {heap / 2**20:.1f} MiB")
        for name, vectors in asked.items():
            with serve(state, variables={"PUBLIC_READ": "1"}) as server, connect(server) as http:
                for vector in vectors[:300]:
                    ask(http, name, vector)
                spent: dict[str, list[float]] = {"second pass": [], "asked again at once": []}
                gets = dict.fromkeys(spent, 0)
                for vector in vectors[:300]:
                    for what, seconds in spent.items():
                        before = server.cpu_seconds()
                        gets[what] += ask(http, name, vector)["receipt"]["gets"]
                        seconds.append(1000 * (server.cpu_seconds() - before))
                for what, seconds in spent.items():
                    cuts = statistics.quantiles(seconds, n=100)
                    print(
                        f"CPU a query in workerd, {what}, {name}: p50 {cuts[49]:.1f} ms, p90 {cuts[89]:.1f} ms, "
                        f"{gets[what] / len(seconds):.2f} GETs"
                    )


if __name__ == "__main__":
    main()
