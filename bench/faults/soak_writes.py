"""A closed loop of writers and readers against workerd while its bucket fails and commands compact: is all as written?

    python -m bench.faults.soak_writes BUCKET/INDEX [--minutes 5] [--clients 16] [--seed 0] [--every 30]
        [--owner category] [--number num]

Half of the clients write rows of their own and step counters, one of them straight to the bucket; the others look rows
up, query, list and count. Each answer is held against an oracle of acknowledged writes (bench/faults/writers.py), and
at the end, without faults, every row. `vantage compact` runs beside them each so many seconds. --owner and --number
name a text and an integer of the index that filters take. Exit 1 where an answer is wrong or the Wasm heap grows past
90 MiB.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

from bench.common import HEAP_MAX, percentiles, project_with
from build_index.bucket.open import open_index
from build_index.serve import load, serve

from .open_bucket import OpenBucket
from .service_kills import TOKEN, Line, beside, compactions, through
from .soak import TIMEOUT_S
from .writers import COUNTERS, Ask, Fields, Oracle, Reader, Row, Writer, settled

# A bucket may fail, be slow or send wrong bytes, but what it has acknowledged is there.
RATES = {"error": 0.01, "hang": 0.001, "slow": 0.02, "cut": 0.005, "long": 0.005, "size": 0.002, "flip": 0.005}
HELD = 96  # rows of the generation that are written too
TRIES = 10  # before it begins


def timed(ask: Ask, took: list[float]) -> Ask:
    """The same, whose seconds are noted."""

    async def run(path: str, body: Fields, key: str) -> tuple[int, Fields]:
        began = time.perf_counter()
        answer = await ask(path, body, key)
        took.append(time.perf_counter() - began)
        return answer

    return run


async def begun(oracle: Oracle, ask: Ask) -> list[str]:
    """Holds some rows of the generation, and makes the counters; ids of the rows."""

    async def answer(path: str, body: Fields, key: str) -> Fields:
        for _ in range(TRIES):
            status, found = await ask(path, body, key)
            if status == 200:
                return found
        raise SystemExit(f"{path}: {status} {found}")

    rows = (await answer("rows", {"limit": HELD, "include": ["attributes", "vector"]}, ""))["rows"]
    for row in rows:
        oracle.hold(row["id"], Row(row["vector"], row["attributes"]))
    counters = [
        {"id": identifier, "vector": row["vector"], "attributes": {oracle.number: 0}}
        for identifier, row in zip(COUNTERS, rows, strict=False)
    ]
    await answer("write", {"upsert": counters}, "counters")
    return list(oracle.versions)


def soak(
    index: Path, owner: str, number: str, seconds: float, clients: int, every: float, seed: int
) -> tuple[Oracle, int, list[float]]:
    """(what was seen, bytes of the heap at most, seconds of each answer)."""
    root, name = open_index(index).root, index.name
    oracle = Oracle(root.names, owner, number, root.index.dimension)
    line, ended, heap, took = Line(), threading.Event(), [0], list[float]()
    with tempfile.TemporaryDirectory() as folder:
        project_with(Path(folder, "project"), "open_entry.py", "tests/edge/faulty_entry.py", "tests/faults.py")
        load(index.parent, Path(folder, "state"), only=name)
        variables = {"VANTAGE_WRITE_TOKEN": TOKEN, "PUBLIC_READ": "1"}
        with serve(Path(folder, "state"), variables=variables, project=Path(folder, "project")) as server:
            line.url[0] = server.url
            line.up.set()
            bucket = OpenBucket(line.url)
            asks = [timed(through(line, name, seed * 100 + i), took) for i in range(clients - 1)]
            asks.insert(0, beside(line, bucket, name, seed * 100 + 99))

            async def faults(rates: dict[str, float]) -> None:
                wanted = {"seed": seed, "rates": rates, "generations": [], "timeout_s": TIMEOUT_S, "ttl_s": 30.0,
                          "cache_bytes": 20 << 20, "switch": False}  # fmt: skip
                async with httpx.AsyncClient(trust_env=False) as http:
                    (await http.post(f"{line.url[0]}/faults", json=wanted, timeout=60)).raise_for_status()

            async def watch() -> None:
                async with httpx.AsyncClient(trust_env=False) as http:
                    while True:
                        told = await http.get(f"{line.url[0]}/v1/health", timeout=60)
                        heap[0] = max(heap[0], told.json()["heap_bytes"])
                        await asyncio.sleep(1)

            async def run() -> None:
                held, half = await begun(oracle, asks[1]), clients // 2
                writers = [
                    Writer(f"writer-{i}", oracle, asks[i], seed * 100 + i, held[i::half], i == 0) for i in range(half)
                ]
                readers = [Reader(oracle, writers, ask, seed * 100 + 50 + i) for i, ask in enumerate(asks[half:])]
                watching = asyncio.ensure_future(watch())
                await faults(RATES)
                command = threading.Thread(
                    target=compactions, args=(line, bucket, name, oracle, ended, every), daemon=True
                )
                command.start()
                end = time.monotonic() + seconds
                await asyncio.gather(*(one.run(lambda: time.monotonic() > end) for one in (*writers, *readers)))
                ended.set()
                await faults({})
                await settled(oracle, writers, asks[1])
                watching.cancel()

            asyncio.run(run())
    return oracle, heap[0], took


def main() -> int:
    """Prints what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, default=30, help="seconds from a compaction to the next one")
    parser.add_argument("--owner", default="category", help="a text that filters take")
    parser.add_argument("--number", default="num", help="an integer that filters take")
    given = parser.parse_args()
    seconds = 60 * given.minutes
    oracle, heap, took = soak(given.index, given.owner, given.number, seconds, given.clients, given.every, given.seed)
    print(f"asked: {len(took)} in {seconds:.0f} s by {given.clients} clients; took {percentiles(took)}")
    print(f"seen: {dict(sorted(oracle.count.items()))}")
    print(f"wrong: {oracle.wrong.total()}{''.join(f'; {n} x {what}' for what, n in oracle.wrong.items())}")
    print(f"Wasm heap at most: {heap / 2**20:.1f} MiB")
    return 1 if oracle.wrong or heap > HEAP_MAX else 0


if __name__ == "__main__":
    sys.exit(main())
