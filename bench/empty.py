"""Empty indexes in a local Worker, filled until their logs are full: python -m bench.empty [--share 1.0]

Each is made over HTTP, with an attribute to filter by or 16, and takes rows drawn at random. Prints of each: the rows
that it took, rows a second, the answer that ends it, and the CPU of workerd a query in ms: of the ten nearest, with a
filter that takes a tenth, of one row of each of a thousand values, and of a hundred exact ones; then the heap of the
isolate.

--several N asks N such indexes of 384 dimensions in one Worker instead, in turns and from 16 clients at once, and
prints how many answers had each status, their seconds, and the heap.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from build_index.serve import Server, serve
from build_index.writes import create_index, sender, write_rows
from vantage.errors import LogFullError
from vantage.format import VECTOR_BYTES
from vantage.format.log import OPERATIONS_MAX as OPERATIONS
from vantage.log.state import BYTES_MAX, OPERATIONS_MAX

TOKENS = {"VANTAGE_TOKEN": "bench", "VANTAGE_WRITE_TOKEN": "bench-w"}
BODY_BYTES = 3 << 20
QUERIES = 10
CASES = ((2, "f16", 1), (8, "f16", 16), (96, "f16", 1), (384, "f16", 1), (1536, "f32", 1), (4096, "f32", 1))
ASKED: dict[str, dict[str, Any]] = {
    "nearest": {}, "filtered": {"filter": {"n": {"$lt": 100}}}, "distinct": {"distinct": "n"},
    "exact": {"exact": True, "top_k": 100},
}  # fmt: skip


def filled(server: Server, name: str, dimension: int, kind: str, attributes: int, share: float) -> dict[str, Any]:
    """Makes an index and writes to it until its log is full, or has this share of what one may have."""
    others = [f"n{i}" for i in range(1, attributes)]
    fields = {
        "dimension": dimension, "vectors": kind,
        "attributes": [{"name": name, "type": "integer"} for name in ("n", *others)],
    }  # fmt: skip
    create_index(f"{server.url}/{name}", fields, TOKENS)
    draw, rows, ended = np.random.default_rng(0), 0, "share"
    width = dimension * VECTOR_BYTES[kind]
    batch = min(OPERATIONS, BODY_BYTES // (4 * dimension))

    def batches() -> Iterator[list[Any]]:
        for first in range(0, round(share * min(OPERATIONS_MAX, BYTES_MAX // width)), batch):
            vectors = draw.normal(size=(batch, dimension)).astype("<f4")
            values = draw.integers(10**15, size=(batch, len(others))).tolist()
            yield [
                {
                    "id": f"row {i}", "vector": array("f", v.tobytes()),
                    "attributes": {"n": int(draw.integers(1000)), **dict(zip(others, own, strict=True))},
                }
                for i, (v, own) in enumerate(zip(vectors, values, strict=True), first)
            ]  # fmt: skip

    def written(count: int) -> None:
        nonlocal rows
        rows = count

    began = time.monotonic()
    try:
        write_rows(sender(f"{server.url}/{name}", TOKENS), "upsert", batches(), written)
    except LogFullError as error:
        ended = str(error)
    spent = time.monotonic() - began
    shape = {"dimension": dimension, "vectors": kind, "attributes": attributes}
    return shape | {"rows": rows, "rows_s": round(rows / spent), "ended": ended}


def asked(server: Server, name: str, dimension: int) -> dict[str, Any]:
    """Milliseconds of CPU a query of each kind, the first one apart; and the heap."""
    draw, out = np.random.default_rng(1), dict[str, Any]()
    headers = {"authorization": f"Bearer {TOKENS['VANTAGE_TOKEN']}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=120, trust_env=False) as http:

        def one(body: dict[str, Any]) -> float:
            before = server.cpu_seconds()
            vector = draw.normal(size=dimension).round(4).tolist()
            answer = http.post(f"/v1/indexes/{name}/query", json={"vector": vector, **body})
            assert answer.status_code == 200 and answer.json()["complete"], answer.text
            return 1000 * (server.cpu_seconds() - before)

        out["first_ms"] = round(one({}), 1)  # the log is read and held
        for what, body in ASKED.items():
            first = one(body)
            out[f"{what}_ms"] = round(sum(one(body) for _ in range(QUERIES)) / QUERIES, 1)
            out[f"{what}_first_ms"] = round(first, 1)
        out["heap_mib"] = round(http.get("/v1/health").json()["heap_bytes"] / (1 << 20))
    return out


def crowded(server: Server, names: list[str], dimension: int, clients: int) -> dict[str, Any]:
    """Statuses and seconds of requests of each kind to each index in turn, by so many clients at once."""
    headers = {"authorization": f"Bearer {TOKENS['VANTAGE_TOKEN']}"}
    vector = np.random.default_rng(1).normal(size=dimension).round(4).tolist()
    bodies = [
        *(("query", {"vector": vector, **body}) for body in ASKED.values()),
        ("facets", {"facets": {"n": {"top": 10}}}), ("rows", {"limit": 100, "order_by": {"n": "desc"}}),
    ]  # fmt: skip

    def ask(client: int) -> list[tuple[int, float]]:
        out = []
        with httpx.Client(base_url=server.url, headers=headers, timeout=120, trust_env=False) as http:
            for at in range(len(names) * len(bodies)):
                path, body = bodies[(at // len(names) + client) % len(bodies)]
                began = time.monotonic()
                answer = http.post(f"/v1/indexes/{names[at % len(names)]}/{path}", json=body)
                out.append((answer.status_code, time.monotonic() - began))
        return out

    with ThreadPoolExecutor(clients) as pool:
        seen = [one for each in pool.map(ask, range(clients)) for one in each]
    seconds = sorted(spent for _, spent in seen)
    heap = httpx.get(f"{server.url}/v1/health", headers=headers, trust_env=False).json()["heap_bytes"]
    return {
        "clients": clients, "statuses": Counter(status for status, _ in seen),
        "p50_s": round(seconds[len(seconds) // 2], 2), "longest_s": round(seconds[-1], 2),
        "heap_mib": round(heap / (1 << 20)),
    }  # fmt: skip


def several(count: int, share: float) -> None:
    """Prints one JSON object a line: of each index, and of each number of clients."""
    dimension, names = 384, [f"several{i}" for i in range(count)]
    with tempfile.TemporaryDirectory() as state:
        with serve(Path(state), variables=TOKENS) as server:
            for name in names:
                print(json.dumps(filled(server, name, dimension, "f16", 1, share)), flush=True)
        with serve(Path(state), variables=TOKENS) as server:
            for clients in (1, 16, 1):
                print(json.dumps(crowded(server, names, dimension, clients)), flush=True)


def main() -> None:
    """Prints one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=1.0, help="of what a log may have")
    parser.add_argument("--only", type=int, help="a dimension")
    parser.add_argument("--several", type=int, help="indexes, in one Worker")
    given = parser.parse_args()
    if given.several:
        several(given.several, given.share)
        return
    for dimension, kind, attributes in CASES:
        if given.only not in (None, dimension):
            continue
        with tempfile.TemporaryDirectory() as state:
            name = f"d{dimension}"
            with serve(Path(state), variables=TOKENS) as server:
                told = filled(server, name, dimension, kind, attributes, given.share)
                told |= {f"writer_{what}": n for what, n in asked(server, name, dimension).items()}
            with serve(Path(state), variables=TOKENS) as server:  # which reads the log anew
                print(json.dumps(told | asked(server, name, dimension)), flush=True)


if __name__ == "__main__":
    main()
