"""The log in a folder and on a real S3 server: writers that race, a generation that overtakes them, and a switch."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from build_index.bucket.log_store import StoreLog
from build_index.bucket.store import FolderStore, ObjectStore, store_at
from vantage.format import Current, ObjectName
from vantage.format.log import NO_KEY, Id, Request, RowShape
from vantage.log.collect import collect
from vantage.log.commit import commit
from vantage.log.conditions import BaseRow, Condition, Write
from vantage.log.move import advance, switch
from vantage.log.state import LogState, read_log, whole_state

GENERATION = "0123456789abcdef"
SHAPE = RowShape(1, "bytes", "f32")
WRITERS, WRITES = 3, 6


@pytest.fixture(scope="module")
def s3() -> Iterator[ObjectStore]:
    moto = ThreadedMotoServer(port=0, verbose=False)
    moto.start()
    url = "http://{}:{}".format(*moto.get_host_and_port()).replace("0.0.0.0", "127.0.0.1")
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "a-secret", "AWS_ENDPOINT_URL": url}
    boto3.client(
        "s3", endpoint_url=url, aws_access_key_id="key", aws_secret_access_key="a-secret", region_name="us-east-1"
    ).create_bucket(Bucket="bucket")
    yield store_at("s3://bucket/log", keys)
    moto.stop()


async def none(_: Current, ids: Sequence[Id]) -> dict[Id, BaseRow | None]:
    return dict.fromkeys(ids)


async def opened(store: StoreLog) -> LogState:
    return await whole_state(store, await read_log(store, time.monotonic), time.monotonic)


async def writer(store: StoreLog, me: int) -> list[int]:
    """Writes rows of its own, and counts a row of all up by one, as often as it takes."""
    state, told = await opened(store), list[int]()
    for i in range(WRITES):
        row = Request(NO_KEY, 5, [b"%d-%d" % (me, i)], struct.pack("<f", me), [b'{"by":%d}' % me])
        state, (seq,) = await commit(store, state, [Write(row)], SHAPE, none, time.monotonic)
        assert isinstance(seq, int)
        told.append(seq)
        counted = False
        while not counted:
            shared = state.tail.rows[b"shared"]
            n = json.loads(shared.attributes)["n"] + 1
            step = Request(NO_KEY, 5, [b"shared"], struct.pack("<f", n), [b'{"n":%d}' % n])
            write = Write(step, [Condition(b"shared", seq=shared.seq)])
            state, (outcome,) = await commit(store, state, [write], SHAPE, none, time.monotonic)
            counted = isinstance(outcome, int)
            told += [outcome] if isinstance(outcome, int) else []
    return told


async def race(store: StoreLog) -> None:
    first = Request(NO_KEY, 5, [b"shared"], struct.pack("<f", 0), [b'{"n":0}'])
    state, outcomes = await commit(store, await opened(store), [Write(first)], SHAPE, none, time.monotonic)
    assert outcomes == [1]
    told = await asyncio.gather(*(writer(store, me) for me in range(WRITERS)))
    seqs = sorted(seq for one in told for seq in one)
    assert seqs == list(range(2, 2 + 2 * WRITERS * WRITES))  # each segment is one write's
    state = await opened(store)
    assert json.loads(state.tail.rows[b"shared"].attributes) == {"n": WRITERS * WRITES}
    assert len(state.tail.rows) == 1 + WRITERS * WRITES
    old = state.current
    args = old.generation, old.root, old.manifest, state.tail.next
    assert await advance(store, state, *args, now=time.time())
    assert not await advance(store, state, *args, now=time.time())

    async def make(_: LogState) -> Current:
        return old

    moved = await switch(store, await opened(store), make, time.monotonic)
    again, (seq,) = await commit(store, moved, [Write(first)], SHAPE, none, time.monotonic)
    assert seq == 2 * WRITERS * WRITES + 3 and again.current.log.id != old.log.id
    assert await advance(store, await opened(store), *args[:3], seq + 1, now=time.time())
    assert await collect(store, time.monotonic, time.time() + 7200) >= 2 * WRITERS * WRITES
    assert (await opened(store)).seq == seq


def current() -> bytes:
    names = (ObjectName(f"{GENERATION}/{name}", 1, "00") for name in ("root.bin", "manifest.json"))
    return Current(GENERATION, *names).pack()


def test_writers_race_in_a_folder(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("CURRENT", current())
    asyncio.run(race(StoreLog(store)))


def test_writers_race_on_s3(s3: ObjectStore) -> None:
    s3.put("CURRENT", current())
    asyncio.run(race(StoreLog(s3)))
