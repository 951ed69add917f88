"""A Worker that takes writes, killed again and again: is anything lost, doubled or resurrected?

    python -m bench.faults.service_kills [--kills 200] [--seed 0]

A small index is served by workerd, over a local R2 of its own. Clients write through HTTP, others straight to the
bucket by our library, in a process that nobody kills, but whose calls are abandoned at random; commands compact beside
them. After a random while all processes of the Worker are killed (SIGKILL), and it is started anew. Requests whose
answer never came are sent again with their keys. Readers hold each answer, and at the end all rows, counters and
claims, against an oracle of acknowledged writes (bench/faults/writers.py). Prints a line now and then, and what was
wrong at once, with what clients were told of it and what the log has; exit 1 where anything was.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.common import project_with
from build_index.bucket.log_store import StoreLog
from build_index.build import build
from build_index.compact import compact
from build_index.context import BuildContext
from build_index.ingest.open import open_source
from build_index.serve import load, serve
from build_index.tune.options import Options
from vantage.errors import StoreError, VantageError
from vantage.format.log import SEGMENT_BYTES_MAX, SEGMENT_KEY, unpack_segment
from vantage.http.access import Access
from vantage.http.routes import handle
from vantage.indexes import Service
from vantage.log.client import WriteClient

from .open_bucket import OpenBucket, OpenReader, OpenStore
from .writers import COUNTERS, Ask, Fields, Oracle, Reader, Row, Writer, settled, told, vector_of

NAME, DIMENSION, ROWS = "killed", 16, 2000
TOKEN = "write-kills"
WRITERS, DIRECT, READERS = 4, 2, 2
LIFE = 30  # answers of a Worker, at most; each tenth one lives until something is compacted beside it
LIFE_S = 60.0
CALL_S = 20.0
COMPACT_S = 5.0
SLICE = 10  # kills, between lines that say how far it is


def small_index(bucket: Path) -> Oracle:
    """Builds an index with what writers need; an oracle that holds the rows `row-0` to `row-63` for them."""
    draw = Random(0)
    ids = [*COUNTERS, *(f"row-{i}" for i in range(ROWS))]
    vectors = [vector_of(draw, DIMENSION) for _ in ids]
    owners = [f"base-{i % 7}" for i in range(len(ids))]
    numbers = [0 if i < len(COUNTERS) else i for i in range(len(ids))]
    table = pa.table(
        {
            "id": ids, "vector": pa.array(vectors, pa.list_(pa.float32(), DIMENSION)),
            "owner": owners, "n": pa.array(numbers, pa.int64()),
        }
    )  # fmt: skip
    pq.write_table(table, bucket / "rows.parquet")
    build(open_source([bucket / "rows.parquet"]), BuildContext(bucket / NAME, "cosine", Options(fast=True)))
    (bucket / "rows.parquet").unlink()
    oracle = Oracle(["owner", "n"], "owner", "n", DIMENSION)
    for identifier, vector, owner, n in list(zip(ids, vectors, owners, numbers, strict=True))[len(COUNTERS) :][:64]:
        stored = np.array(vector, np.float16).astype(float).tolist()
        oracle.hold(identifier, Row(stored, {"owner": owner, "n": n}))
    return oracle


@dataclass
class Line:
    """Where the Worker is, while it is up; how many answers came from there."""

    url: list[str] = field(default_factory=lambda: [""])
    up: threading.Event = field(default_factory=threading.Event)
    answers: int = 0


def through(line: Line, name: str, seed: int) -> Ask:
    """HTTP; some requests are abandoned."""
    http, draw = httpx.AsyncClient(trust_env=False), Random(seed)

    async def ask(path: str, body: Fields, key: str) -> tuple[int, Fields]:
        await asyncio.to_thread(line.up.wait)
        sent = {"authorization": f"Bearer {TOKEN}"} | ({"idempotency-key": key} if key else {})
        patience = draw.choice((0.05, 0.3)) if path == "write" and draw.random() < 0.05 else CALL_S
        try:
            answer = await http.post(
                f"{line.url[0]}/v1/indexes/{name}/{path}", json=body, headers=sent, timeout=patience
            )
        except httpx.HTTPError:
            return 0, {}
        line.answers += 1
        return told(answer.status_code, answer.text)

    return ask


def beside(line: Line, bucket: OpenBucket, name: str, seed: int) -> Ask:
    """Our library, straight to the bucket; some calls are abandoned, and what they were about is begun anew."""
    draw, services = Random(seed), list[Service]()

    def opened() -> Service:
        service = Service(OpenReader(bucket, [name]), 0)
        service.write_client = WriteClient(lambda name: StoreLog(OpenStore(bucket, name)), time.monotonic)
        return service

    async def ask(path: str, body: Fields, key: str) -> tuple[int, Fields]:
        await asyncio.to_thread(line.up.wait)
        if not services:
            services.append(opened())
        headers = {"authorization": f"Bearer {TOKEN}"} | ({"idempotency-key": key} if key else {})

        async def content(*_: object) -> bytes:
            return httpx.Request("POST", "http://none/", json=body).content

        asked = handle("POST", f"/v1/indexes/{name}/{path}", headers, content, services[0],
                       Access("read", write_token=TOKEN), {})  # fmt: skip
        try:
            reply = await asyncio.wait_for(asked, draw.choice((0.05, 0.3)) if draw.random() < 0.05 else LIFE_S)
        except TimeoutError:
            services.clear()
            return 0, {}
        for work in reply.after:
            with suppress(VantageError):
                await work
        line.answers += 1
        return told(reply.status, reply.text())

    return ask


def log_of(bucket: OpenBucket, name: str, identifier: str) -> list[str]:
    """CURRENT, and each segment that names an id, compacted ones too, as text."""
    store, out = OpenStore(bucket, name), list[str]()
    try:
        current = store.get("CURRENT")
        out.append(" ".join(current[0].decode().split()) if current else "no CURRENT")
        for one in store.list("log/"):
            found = store.get(one.key, SEGMENT_BYTES_MAX) if SEGMENT_KEY.fullmatch(one.key) else None
            for request in unpack_segment(found[0], one.key).requests if found else ():
                texts = dict(zip(request.upserts, request.attributes, strict=True))
                texts |= dict(zip(request.patches, request.changes, strict=True)) | dict.fromkeys(request.deletes, b"-")
                if (text := texts.get(identifier.encode())) is not None:
                    out.append(f"{one.key} at {one.modified:.2f}: {text!r} of {request.key.hex()} at {request.ms}")
    except VantageError as error:
        out.append(error.message)
    return out


def compactions(
    line: Line, bucket: OpenBucket, name: str, oracle: Oracle, ended: threading.Event, every: float
) -> None:
    """`vantage compact`, again and again."""
    while not ended.wait(every):
        line.up.wait()
        try:
            compact(OpenStore(bucket, name))
            oracle.count["compactions"] += 1
        except VantageError as error:
            oracle.count[f"compactions that failed ({error.message[-40:]})"] += 1
            if not isinstance(error, StoreError):
                oracle.bad(f"a compaction: {error.code}: {error.message}")


def live(line: Line, oracle: Oracle, answers: int, compacted: bool, done: threading.Event) -> None:
    """Waits for so many answers, or until something was compacted too; not for ever."""
    first, seen, end = line.answers, oracle.count["compactions"], time.monotonic() + LIFE_S
    while time.monotonic() < end and not done.is_set():
        if line.answers - first >= answers and (not compacted or oracle.count["compactions"] > seen):
            break
        time.sleep(0.01)


def killed(kills: int, seed: int) -> Oracle:
    """So many kills, under the same clients."""
    draw, line, ended = Random(seed), Line(), threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        state, project = Path(folder, "state"), Path(folder, "project")
        Path(folder, "bucket").mkdir()
        oracle = small_index(Path(folder, "bucket"))
        load(Path(folder, "bucket"), state)
        project_with(project, "open_entry.py", "tests/edge/faulty_entry.py", "tests/faults.py")
        bucket = OpenBucket(line.url)
        oracle.log_of = lambda identifier: log_of(bucket, NAME, identifier)
        held = sorted(oracle.versions)
        asks = [through(line, NAME, seed * 100 + i) for i in range(WRITERS)]
        asks += [beside(line, bucket, NAME, seed * 100 + 50 + i) for i in range(DIRECT)]
        writers = [
            Writer(f"writer-{i}", oracle, ask, seed * 100 + i, held[i :: len(asks)], i >= WRITERS)
            for i, ask in enumerate(asks)
        ]
        readers = [Reader(oracle, writers, through(line, NAME, 99 + i), seed * 100 + 80 + i) for i in range(READERS)]

        async def clients() -> None:
            await asyncio.gather(*(one.run(ended.is_set) for one in (*writers, *readers)))
            await settled(oracle, writers, asks[0])

        done = threading.Event()

        def work() -> None:
            try:
                asyncio.run(clients())
            except BaseException as error:
                oracle.bad(f"a client ended: {error!r}")
                raise
            finally:
                done.set()

        threads = [
            threading.Thread(target=work, daemon=True),
            threading.Thread(target=compactions, args=(line, bucket, NAME, oracle, ended, COMPACT_S), daemon=True),
        ]
        for kill in range(kills + 1):
            with serve(state, variables={"VANTAGE_WRITE_TOKEN": TOKEN, "PUBLIC_READ": "1"}, project=project) as server:
                line.url[0] = server.url
                line.up.set()
                if kill == 0:
                    for thread in threads:
                        thread.start()
                if kill < kills:
                    live(line, oracle, draw.randint(1, LIFE), kill % 10 == 4, done)
                    line.up.clear()
                    os.killpg(os.getpgid(server.pid), signal.SIGKILL)
                    oracle.count["kills"] += 1
                else:
                    ended.set()
                    done.wait()
            if done.is_set():
                break
            if (kill + 1) % SLICE == 0:
                print(
                    f"{kill + 1} kills: {dict(sorted(oracle.count.items()))}; wrong: {oracle.wrong.total()}", flush=True
                )
    return oracle


def main() -> int:
    """Prints what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    oracle = killed(given.kills, given.seed)
    print(f"in all: {dict(sorted(oracle.count.items()))}")
    print(f"wrong: {oracle.wrong.total()}{''.join(f'; {n} x {what}' for what, n in oracle.wrong.items())}")
    return 1 if oracle.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
