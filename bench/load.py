"""Queries a second and time to an answer at 1, 4 and 16 clients: workerd over local R2, and this process over a folder.

    python -m bench.load BUCKET/INDEX QUERIES [--seconds 10]

QUERIES is a Parquet or .npy file. A closed loop of queries as bodies of HTTP, top_k 10, the default cache, the same
bodies in both, one after the other in the same run. In-process they pass through the same API without HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from pathlib import Path
from random import Random

import httpx

from bench.common import ACCESS, CACHE_BYTES, loop, percentiles
from build_index.ingest.queries import read_queries
from build_index.serve import load, serve
from vantage.http import routes
from vantage.indexes import Service
from vantage.read.bucket import Folder

CLIENTS = (1, 4, 16)
QUERIES_MAX = 500


def in_process(index: Path, bodies: list[bytes], clients: int, seconds: float) -> list[float]:
    """Seconds of each answer of the library."""
    service = Service(Folder(index.parent), CACHE_BYTES)

    async def ask(draw: Random) -> None:
        async def body(*_: object) -> bytes:
            return draw.choice(bodies)

        reply = await routes.handle("POST", f"/v1/indexes/{index.name}/query", {}, body, service, ACCESS, {})
        assert reply.status == 200, reply.body
        reply.text()

    return asyncio.run(loop(clients, seconds, ask))


def over_http(url: str, name: str, bodies: list[bytes], clients: int, seconds: float) -> list[float]:
    """Seconds of each answer of the Worker."""

    async def run() -> list[float]:
        async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:

            async def ask(draw: Random) -> None:
                (await http.post(f"/v1/indexes/{name}/query", content=draw.choice(bodies))).raise_for_status()

            return await loop(clients, seconds, ask)

    return asyncio.run(run())


def main() -> None:
    """Prints two lines a number of clients, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path, metavar="BUCKET/INDEX")
    parser.add_argument("queries", type=Path)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    vectors = read_queries(options.queries, QUERIES_MAX).vectors.tolist()
    bodies = [json.dumps({"vector": v, "top_k": 10}).encode() for v in vectors]
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(options.index, Path(scratch, "bucket", options.index.name))
        load(Path(scratch, "bucket"), Path(scratch, "state"))
        with serve(Path(scratch, "state"), variables={"PUBLIC_READ": "1"}) as server:
            over_http(server.url, options.index.name, bodies, 1, options.seconds)  # fills the cache
            for clients in CLIENTS:
                began = time.perf_counter()
                there = over_http(server.url, options.index.name, bodies, clients, options.seconds)
                between = time.perf_counter()
                here = in_process(options.index, bodies, clients, options.seconds)
                rates = len(there) / (between - began), len(here) / (time.perf_counter() - between)
                for name, took, rate in zip(("workerd", "in-process"), (there, here), rates, strict=True):
                    print(f"{clients:2} clients, {name:10}: {rate:6.1f} queries a second; {percentiles(took)}")
                print(f"{clients:2} clients, ratio     : {rates[0] / rates[1]:6.2f} of in-process")


if __name__ == "__main__":
    main()
