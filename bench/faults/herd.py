"""Crowds at the Worker: 1, 8, 64, 256 and 1,000 queries at once, cold and warm, and requests as large as may be; then
crowds that filter, count and list.

    python -m bench.faults.herd BUCKET INDEX=QUERIES.parquet [INDEX=QUERIES.parquet ...] [--without-warm]

All indexes are asked of one isolate, one after another and the first one again, at the settings of wrangler.toml.
Every request must get an answer or a 503 within 30 s, none be refused (4xx), the isolate must live, and its heap must
stay within 90 MiB: exit status 1 where not. `ended` counts requests whose connection broke or that got a 500.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq

from bench.common import HEAP_MAX
from build_index.serve import load, serve

CROWDS = (1, 8, 64, 8, 64, 256, 1000, 8)
FILTERED = (1, 8, 64, 256)
COUNTED_MAX = 1 << 15  # distinct values of an attribute that a facet may rank
LATE_S = 30.0
LARGE: dict[str, dict[str, Any]] = {
    "256 vectors, rerank 200": {"vectors": 256, "top_k": 100, "recall": 0.99, "rerank": 200},
    "32 vectors, top_k 1,000, attributes": {"vectors": 32, "top_k": 1000, "include": ["attributes"]},
    "32 vectors, top_k 1,000": {"vectors": 32, "top_k": 1000},
    "1 vector, top_k 1,000, vectors": {"vectors": 1, "top_k": 1000, "include": ["vector"]},
    "1 vector, top_k 1,000, attributes": {"vectors": 1, "top_k": 1000, "include": ["attributes"]},
}


async def ask(http: httpx.AsyncClient, path: str, body: Any) -> tuple[int, float]:
    """(status, 0 where the connection broke; seconds). Says what ended a request."""
    began = time.perf_counter()
    try:
        reply = await http.post(path, json=body)
        status, ended = reply.status_code, reply.text[:300] if reply.status_code in (500, 502) else ""
    except httpx.HTTPError as error:
        status, ended = 0, repr(error)
    if ended:
        print(f"{path}: {ended}", file=sys.stderr, flush=True)
    return status, time.perf_counter() - began


def filters_of(attributes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of one value, all values but it, a range, and pairs of those, by what an index says of its attributes."""
    out = list[dict[str, Any]]()
    for name, told in ((a["name"], a["filter"]) for a in attributes if a["filter"] is not None):
        if told["min"] is not None:
            out += [{name: told["min"]}, {name: {"$ne": told["min"]}}]
            if told["kind"] != "boolean":
                out.append({name: {"$gte": told["min"], "$lt": told["max"]}})
    return out + [{"$or": [one, two]} for one, two in pairwise(out)] + [{"$and": [a, b]} for a, b in pairwise(out)]


def asked_under(filters: list[dict[str, Any]], attributes: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """By route: bodies that go around in a crowd."""
    counted = [a["name"] for a in attributes if a["filter"] is not None and a["filter"]["distinct"] <= COUNTED_MAX]
    some = {name: {"top": 10} for name in counted[:4]}
    return {
        "query": [{"filter": one} for one in filters],
        "facets": [{"filter": one, "facets": some} for one in filters if some],
        "rows": [{"filter": one, "limit": 1000, "include": ["attributes"]} for one in filters],
    }


async def herd(url: str, asked: dict[str, list[list[float]]]) -> bool:
    """Whether all went well; prints a line a crowd."""
    well = True
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)  # as strangers come
    async with httpx.AsyncClient(base_url=url, timeout=4 * LATE_S, limits=limits, trust_env=False) as http:

        async def told(what: str, path: str, bodies: list[Any]) -> None:
            nonlocal well
            began = time.perf_counter()
            seen = await asyncio.gather(*(ask(http, path, body) for body in bodies))
            elapsed, count = time.perf_counter() - began, Counter(status for status, _ in seen)
            try:
                heap = (await http.get("/v1/health")).json().get("heap_bytes", 0)
            except (httpx.HTTPError, ValueError):
                heap = 0
            ended = count[0] + sum(n for status, n in count.items() if status >= 500 and status != 503)
            slowest = max(seconds for _, seconds in seen)
            refused = sum(n for status, n in count.items() if 400 <= status < 500)
            well &= not ended and not refused and slowest <= LATE_S and 0 < heap <= HEAP_MAX
            print(
                f"{what:<44} {count[200]:>5} {refused:>5} {count[503]:>5} "
                f"{ended:>5} {slowest:>8.1f} {count[200] / elapsed:>9.0f} {heap / 2**20:>9.1f}", flush=True,
            )  # fmt: skip

        print(f"{'':<44} {'200':>5} {'4xx':>5} {'503':>5} {'ended':>5} {'slowest':>8} {'a second':>9} {'heap MiB':>9}")
        for name, vectors in [*asked.items(), next(iter(asked.items()))]:
            path, at = f"/v1/indexes/{name}/query", 0
            for crowd in CROWDS:
                bodies = [{"vector": vectors[(at + i) % len(vectors)]} for i in range(crowd)]
                await told(f"{name}, {crowd} at once", path, bodies)
                at += crowd
            for what, fields in LARGE.items():
                body = fields | {"vectors": vectors[: fields["vectors"]]}
                if fields["vectors"] == 1:
                    body["vector"] = body.pop("vectors")[0]
                await told(f"{name}, {what}", path, [body])
                await told(f"{name}, 8 of them", path, [body] * 8)
                await told(f"{name}, 1 after it", path, [{"vector": vectors[0]}])
            attributes = (await http.get(f"/v1/indexes/{name}")).json()["attributes"]
            filters = filters_of(attributes)
            for route, bodies in asked_under(filters, attributes).items():
                for crowd in FILTERED if bodies else ():
                    some = [dict(bodies[i % len(bodies)]) for i in range(crowd)]
                    if route == "query":
                        some = [one | {"vector": vectors[i % len(vectors)]} for i, one in enumerate(some)]
                    await told(f"{name}, {route} under filters, {crowd} at once", f"/v1/indexes/{name}/{route}", some)
            if filters:
                body = {"vectors": vectors[:32], "top_k": 1000, "filter": filters[1], "include": ["attributes"]}
                await told(f"{name}, 32 filtered vectors, top_k 1,000", path, [body])
                await told(f"{name}, 8 of them", path, [body] * 8)
    return well


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bucket", type=Path)
    parser.add_argument("indexes", nargs="+", metavar="INDEX=QUERIES")
    parser.add_argument("--without-warm", action="store_true")
    args = parser.parse_args()
    asked = {}
    for pair in args.indexes:
        name, _, path = pair.partition("=")
        asked[name] = pq.read_table(path)["vector"].to_pylist()
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        load(args.bucket, state)
        variables = {"PUBLIC_READ": "1"} | ({"VANTAGE_WARM_BYTES": "0"} if args.without_warm else {})
        with serve(state, variables=variables) as server:
            if not asyncio.run(herd(server.url, asked)):
                sys.exit(1)


if __name__ == "__main__":
    main()
