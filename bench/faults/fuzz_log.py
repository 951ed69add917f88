"""Cases of bench/faults/fuzz.py for the log: segments with wrong contents, and bodies of writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from vantage.errors import DamagedError
from vantage.follow import Followed
from vantage.format import VECTOR_BYTES, Root
from vantage.format import layout as L
from vantage.format.log import (
    LOG_MAGIC,
    NO_KEY,
    Id,
    Request,
    RowShape,
    pack_request,
    pack_seal,
    pack_segment,
    segment_key,
)
from vantage.http import routes
from vantage.http.access import Access
from vantage.index import Index
from vantage.indexes import Service
from vantage.log.client import WriteClient
from vantage.log.store import LogStore
from vantage.read.bucket import Bucket
from vantage.read.cache import Cache
from vantage.receipt import Receipt
from vantage.search.query import Query

Mutate = Callable[[bytes, Random], bytes]
TOKEN = "write-fuzz"


def segments(root: Root, current: bytes, mutate: Mutate, draw: Random) -> dict[str, bytes]:
    """One to three segments behind a generation, most of them changed under their checksums; one may be a seal."""
    own, generation = root.index, json.loads(current)["generation"]
    shape, width = RowShape(own.dimension, own.id_kind, own.vector_kind), VECTOR_BYTES[own.vector_kind] * own.dimension
    out = {}
    for seq in range(1, draw.randint(1, 3) + 1):
        requests = []
        for _ in range(draw.randint(1, 3)):
            ids: list[Id] = [
                i if own.id_kind == "i64" else b"id %d" % i for i in draw.sample(range(12), draw.randint(1, 5))
            ]
            u = draw.randint(0, len(ids))
            p = draw.randint(0, len(ids) - u)
            texts = [draw.choice((b"", b"{}", b'{"tags":["a",null]}', b'{"rank":%d}' % seq)) for _ in range(u)]
            changes = [draw.choice((b"{}", b'{"gloss":"g"}', b'{"rank":null}')) for _ in range(p)]
            vectors = draw.choice((bytes(u * width), draw.randbytes(u * width), b"\x3c" * (u * width)))
            requests.append(
                pack_request(Request(NO_KEY, 0, ids[:u], vectors, texts, ids[u : u + p], changes, ids[u + p :]), shape)
            )
        data = pack_seal(bytes(16), current) if draw.random() < 0.1 else pack_segment(bytes(16), shape, requests)
        if draw.random() < 0.7:
            at = L.HEADER.size + L.SECTION.size
            length = L.SECTION.unpack_from(data, L.HEADER.size)[3]
            data = L.pack_object(LOG_MAGIC, [(L.LOG_SEGMENT, mutate(data[at : at + length], draw))])
        out[segment_key(generation, seq)] = data
    return out


async def read(bucket: Bucket, name: str, vector: list[float], filters: list[Any]) -> None:
    """Follows a log, and asks. Raises AssertionError for an answer that no rows can give."""
    index = await Index.open(bucket, name, Cache(0), Receipt())
    followed = Followed(index)
    if not await followed.follow(Receipt()):
        return
    index = followed.index
    for where in filters:
        answer = await index.query(Query(vector, 20, rerank=20, filter=where, attributes=True))
        ids = [match.id for match in answer.matches]
        assert len(set(ids)) == len(ids), "an id comes twice"
        fresh = index.fresh
        assert fresh is None or all(fresh.places.get(i, 0) >= 0 for i in ids), "a deleted row is answered"


async def write(bucket: Bucket, store: LogStore, name: str, data: bytes, binary: bool) -> None:
    """A body of a write. Raises AssertionError where it is done in part, or ends as none may."""
    service = Service(bucket, 0)
    service.write_client = WriteClient(lambda _: store, lambda: 0.0)

    async def body(*_: object) -> bytes:
        return data

    headers = {"authorization": f"Bearer {TOKEN}"} | ({"content-type": "application/octet-stream"} if binary else {})
    access = Access("read-fuzz", write_token=TOKEN)
    reply = await routes.handle("POST", f"/v1/indexes/{name}/write", headers, body, service, access, {})
    reply.text().encode()
    assert reply.status < 500, f"{reply.status}: {reply.body['detail']}"
    try:
        await read(bucket, name, [0.5] * service.open[name].root.index.dimension if name in service.open else [], [])
    except DamagedError as error:
        raise AssertionError(f"a write made a log that cannot be read: {error}") from None
