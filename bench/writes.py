"""Upserts a second through one index of a local Worker.

    python -m bench.writes BUCKET/INDEX [--seconds 10] [--sustained 0]

A copy of the index is served by workerd, over a local R2 of its own. Clients write rows drawn at random: 8 with 1,000
rows a request, as bytes; then 64 with one row each. Prints of each: requests and rows a second, the median and the 99th
percentile of what a request took in ms, and how many requests each segment had. With --sustained, the first ones write
for so many seconds more, beside `vantage compact`, one after another; where the log is full, or there is no room, a
client tries again a second later. Then also: compactions by what they did, and seconds that clients waited.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import project_with
from bench.faults.open_bucket import OpenBucket, OpenStore
from build_index.bucket.open import open_index
from build_index.compact import compact
from build_index.serve import load, serve
from build_index.writes import sender
from vantage.errors import LogFullError, StoreError

TOKEN = "bench"
WAIT_S = 1.0  # where the log is full


def measured(
    url: str, name: str, dimension: int, number: bool, clients: int, rows: int, seconds: float, *, waits: bool = False
) -> dict[str, Any]:
    """Clients that write so many rows a request, one request after another, for so long, or until the log is full where
    none waits for room.
    """
    send = sender(f"{url}/{name}", {"VANTAGE_WRITE_TOKEN": TOKEN})
    took, seqs, full, waited = list[float](), list[int](), threading.Event(), list[float]()
    end = time.monotonic() + seconds

    def client(own: int) -> None:
        draw, done = np.random.default_rng(own), 0
        vectors = [array("f", v.tobytes()) for v in draw.normal(size=(rows, dimension)).astype("<f4")]
        while time.monotonic() < end and not full.is_set():
            first = (own << 32) + done
            batch = [{"id": first + i if number else f"bench {first + i}", "vector": v} for i, v in enumerate(vectors)]
            began = time.monotonic()
            try:
                seqs.append(send({"upsert": batch}, f"{own}-{rows}-{done}").seq)
            except (LogFullError, StoreError) as error:
                if waits:
                    waited.append(WAIT_S)
                    time.sleep(WAIT_S)
                    continue
                if isinstance(error, LogFullError):
                    full.set()
                    break
                raise
            took.append(1000 * (time.monotonic() - began))
            done += rows

    began = time.monotonic()
    threads = [threading.Thread(target=client, args=(i + 1,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.monotonic() - began
    took.sort()
    return {
        "clients": clients, "rows_a_request": rows, "seconds": round(spent, 1), "requests": len(took),
        "requests_s": round(len(took) / spent, 1), "rows_s": round(len(took) * rows / spent),
        "median_ms": round(statistics.median(took), 1) if took else None,
        "p99_ms": round(took[int(0.99 * (len(took) - 1))], 1) if took else None,
        "requests_a_segment": round(len(took) / max(1, len(set(seqs))), 1), "log_full": full.is_set(),
        **({"waited_s": sum(waited)} if waits else {}),
    }  # fmt: skip


def sustained(index: Path, seconds: float) -> None:
    """Prints what clients write beside compactions, the last of which it waits for then."""
    root, hows, line = open_index(index).root.index, Counter[str](), [""]
    ended, bucket = threading.Event(), OpenBucket(line)

    def compactions() -> None:
        while not ended.is_set():
            try:
                hows[compact(OpenStore(bucket, index.name)).how] += 1
            except StoreError:  # the next one goes on
                hows["failed"] += 1

    with tempfile.TemporaryDirectory() as folder:
        project_with(Path(folder, "project"), "open_entry.py", "tests/edge/faulty_entry.py", "tests/faults.py")
        load(index.parent, Path(folder, "state"), only=index.name)
        variables = {"VANTAGE_WRITE_TOKEN": TOKEN, "PUBLIC_READ": "1"}
        with serve(Path(folder, "state"), variables=variables, project=Path(folder, "project")) as server:
            line[0] = server.url
            beside = threading.Thread(target=compactions)
            beside.start()
            try:
                args = server.url, index.name, root.dimension, root.id_kind == "i64"
                told = measured(*args, 8, 1000, seconds, waits=True)
                print(json.dumps(told | {"compactions": dict(hows)}), flush=True)
            finally:
                ended.set()
                beside.join()


def main() -> None:
    """Prints one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--sustained", type=float, default=0.0, help="seconds beside compactions")
    given = parser.parse_args()
    root = open_index(given.index).root.index
    for clients, rows in ((8, 1000), (64, 1)):
        with tempfile.TemporaryDirectory() as state:  # a log of its own each
            load(given.index.parent, Path(state), only=given.index.name)
            with serve(Path(state), variables={"VANTAGE_WRITE_TOKEN": TOKEN, "PUBLIC_READ": "1"}) as server:
                args = server.url, given.index.name, root.dimension, root.id_kind == "i64"
                measured(*args, 1, rows, 1.0)  # opens the index, and starts its object
                print(json.dumps(measured(*args, clients, rows, given.seconds)), flush=True)
    if given.sustained:
        sustained(given.index, given.sustained)


if __name__ == "__main__":
    main()
