"""Writers and readers of bench/faults/writers.py in one process: what they are told is right, and a lie is noticed."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from bench.faults import service_kills
from bench.faults.writers import Ask, Fields, Oracle, Reader, Writer, settled, told
from build_index.bucket.log_store import StoreLog
from build_index.bucket.store import FolderStore, store_at
from build_index.compact import compact
from vantage.http.access import Access
from vantage.http.routes import handle
from vantage.indexes import Service
from vantage.log.client import WriteClient
from vantage.read.bucket import Folder

STEPS = 20


def asking(folder: Path) -> Ask:
    """A service over a folder."""
    service = Service(Folder(folder), 0)
    service.stale_s = 0.0
    service.write_client = WriteClient(lambda name: StoreLog(FolderStore(folder / name)), time.monotonic)

    async def ask(path: str, body: Fields, key: str) -> tuple[int, Fields]:
        async def content(*_: object) -> bytes:
            return json.dumps(body).encode()

        headers = {"authorization": "Bearer w"} | ({"idempotency-key": key} if key else {})
        path = f"/v1/indexes/{service_kills.NAME}/{path}"
        reply = await handle("POST", path, headers, content, service, Access("r", write_token="w"), {})
        for work in reply.after:
            await work
        return told(reply.status, reply.text())

    return ask


def written(folder: Path, lie: tuple[int, Fields] | None = None) -> Oracle:
    """Three writers, each through a service of its own, and two readers, with a compaction between. lie: an answer to
    one write, which is not done.
    """
    oracle = service_kills.small_index(folder)
    asks, held, lies = [asking(folder) for _ in range(3)], sorted(oracle.versions), [lie]

    async def first(path: str, body: Fields, key: str) -> tuple[int, Fields]:
        if path == "write" and "upsert" in body and len(body["upsert"]) > 2 and lies[0]:
            answer, lies[0] = lies[0], None
            return answer
        return await asks[0](path, body, key)

    writers = [Writer(f"writer-{i}", oracle, [first, *asks[1:]][i], i, held[i::3]) for i in range(3)]
    readers = [Reader(oracle, writers, ask, 9 + i) for i, ask in enumerate(asks[:2])]

    async def some(one: Writer | Reader) -> None:
        for _ in range(STEPS):
            await one.step()

    async def run() -> None:
        for _ in range(2):
            await asyncio.gather(*map(some, [*writers, *readers]))
            await asyncio.to_thread(compact, store_at(str(folder / service_kills.NAME)))
        await settled(oracle, writers, asks[0])

    asyncio.run(run())
    return oracle


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_kills, "ROWS", 150)


def test_what_many_write_is_what_they_read(tmp_path: Path) -> None:
    timeout = 408, {"code": "request_timeout"}
    oracle = written(tmp_path, timeout)
    assert not oracle.wrong
    assert all(
        oracle.count[w] for w in ("writes", "steps", "vectors", "query", "rows", "facets", "408 request_timeout")
    )


def test_a_write_that_was_not_done_is_noticed(tmp_path: Path) -> None:
    assert written(tmp_path, (200, {"seq": 1, "retried": False})).wrong


def test_a_write_that_was_refused_is_told_once(tmp_path: Path) -> None:
    assert written(tmp_path, (400, {"code": "bad_request"})).wrong.total() == 1
