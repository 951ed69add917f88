"""A warm place: what it keeps under its budget, and that a cold isolate answers the same from it, for fewer GETs."""

from __future__ import annotations

import asyncio
import json
import weakref
from typing import Any

import numpy as np
import pytest
from doubles import Built, Recorder

from vantage.cost import Budget
from vantage.http.access import Access
from vantage.http.routes import handle
from vantage.indexes import Service
from vantage.read import warm as warm_module
from vantage.read.bucket import Folder
from vantage.read.warm import CALL_BYTES_MAX, WarmBlocks, WarmClient
from vantage.search.query import Answer, Query


class Place:
    """The object behind two calls, as RPC carries them: text and bytes. how: "late" or "broken" answers."""

    def __init__(self, budget: int = 1 << 24, how: str = "") -> None:
        self.kept, self.how = WarmBlocks(budget), how
        self.calls: list[tuple[str, int]] = []

    async def ask(self, name: str, places: str) -> tuple[str, memoryview]:
        self.calls.append((name, 0))
        if self.how == "late":
            await asyncio.sleep(3600)
        if self.how == "broken":
            raise RuntimeError("the object is gone")
        said, data = self.kept.answer(places)
        assert len(data) <= CALL_BYTES_MAX
        if self.how == "flipped":
            data = bytes(b ^ 1 for b in data)
        if self.how == "short":
            data = data[:-1]
        return said, memoryview(data)

    async def give(self, name: str, places: str, parts: list[bytes]) -> None:
        data = b"".join(parts)
        assert len(data) <= CALL_BYTES_MAX
        self.calls.append((name, len(data)))
        self.kept.take(places, data)


def cold(built: Built, place: Place | None) -> tuple[Service, Recorder]:
    """A new isolate."""
    bucket = Recorder(Folder(built.bucket))
    service = Service(bucket, 1 << 24)
    service.warm_client = WarmClient(place.ask, place.give) if place else None
    return service, bucket


async def asked(service: Service, built: Built, query: Query) -> Answer:
    """As a request: what is kept for the place is sent afterwards."""
    answer = await service.query(built.name, query)
    if service.warm_client is not None and service.warm_client.full:
        await service.warm_client.send()
    return answer


def bare(answer: Answer) -> Any:
    return [vars(m) for m in answer.matches], answer.exact, answer.complete, answer.recall_estimate


@pytest.fixture(params=["words", "points", "dots"])
def built(request: pytest.FixtureRequest) -> Built:
    found: Built = request.getfixturevalue(request.param)
    return found


def test_a_second_cold_isolate_reads_no_block(built: Built) -> None:
    query, place = Query(built.queries[0].tolist(), 10), Place()
    service, first_bucket = cold(built, place)
    first = asyncio.run(asked(service, built, query))
    assert (first.receipt.warm_bytes, first.receipt.bytes > 0) == (0, True)
    assert place.calls[-1] == (built.name, place.kept.held) and place.kept.held > 0
    service, bucket = cold(built, place)
    second = asyncio.run(asked(service, built, query))
    assert bare(second) == bare(first)
    receipt = second.receipt
    assert receipt.warm_bytes == place.kept.held and receipt.warm_rpc >= 1
    opened = receipt.opened_gets
    assert (receipt.gets, receipt.bytes) == (len(bucket.gets) - opened, bucket.bytes - receipt.opened_bytes)
    assert receipt.gets < first.receipt.gets
    third = asyncio.run(asked(service, built, query))  # the isolate is warm itself by now
    assert (third.receipt.warm_rpc, third.receipt.warm_bytes) == (0, 0) and third.receipt.blocks_cached


def test_what_it_lacks_is_read_in_shorter_ranges(words: Built) -> None:
    """Half of the blocks are held: the answer is the same, and each byte came from one place."""
    query, place = Query(words.queries[1].tolist(), 10), Place()
    service, _ = cold(words, place)
    first = asyncio.run(asked(service, words, query))
    kept = [key for key, item in place.kept._counted.items() if item.data]
    for key in kept[::2]:
        place.kept.held -= len(place.kept._counted[key].data)
        place.kept._counted[key].data = b""
    half = place.kept.held
    service, bucket = cold(words, place)
    second = asyncio.run(asked(service, words, query))
    assert bare(second) == bare(first)
    assert second.receipt.warm_bytes == half
    assert second.receipt.bytes == bucket.bytes - second.receipt.opened_bytes <= first.receipt.bytes
    assert second.receipt.blocks == first.receipt.blocks
    assert place.kept.held == sum(len(i.data) for i in place.kept._counted.values()) > half  # given again


def test_bytes_of_a_warm_place_are_let_go_before_the_bucket_is_waited_for(words: Built) -> None:
    """They are megabytes, and many requests wait at once."""

    class Data(bytearray):
        pass

    class Watching(Place):
        data: Any = None

        async def ask(self, name: str, places: str) -> tuple[str, memoryview]:
            said, view = await super().ask(name, places)
            data = Data(view)
            self.data = weakref.ref(data)
            return said, memoryview(data)

    class Held(Folder):
        alive = list[bool]()

        async def get(self, key: str, offset: int, length: int | None, etag: str | None) -> Any:
            if place.data is not None:
                self.alive.append(place.data() is not None)
            return await super().get(key, offset, length, etag)

    query, place = Query(words.queries[1].tolist(), 10), Watching()
    asyncio.run(asked(cold(words, place)[0], words, query))
    for item in list(place.kept._counted.values())[::2]:
        item.data = b""
    service, _ = cold(words, place)
    place.data, service.bucket = None, Held(words.bucket)
    answer = asyncio.run(asked(service, words, query))
    assert answer.receipt.warm_bytes and Held.alive and not any(Held.alive)


@pytest.mark.parametrize("how", ["late", "broken", "flipped", "short"])
def test_the_bucket_has_the_last_word(
    words: Built, widest: list[np.ndarray], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_module, "ASK_TIMEOUT_S", 0.005)
    query, place = Query(widest[-1].tolist(), 10), Place()
    service, _ = cold(words, place)
    first = asyncio.run(asked(service, words, query))
    place.how = how
    service, _ = cold(words, place)

    async def twice() -> list[Answer]:
        return [await asked(service, words, query), await asked(service, words, Query(widest[0].tolist(), 10))]

    second, _ = asyncio.run(twice())
    assert bare(second) == bare(first)
    assert second.receipt.gets == first.receipt.gets or how == "short"  # but for the last, all were whole
    asks = [call for call in place.calls if not call[1]]
    assert len(asks) == (2 if how in ("late", "broken") else 3)  # after a failure it is left alone for a while
    if how == "flipped":
        place.how = ""
        service, _ = cold(words, place)
        assert asyncio.run(asked(service, words, query)).receipt.warm_bytes > 0  # what was wrong was replaced


def test_time_that_is_up_ends_the_asking(words: Built) -> None:
    place = Place(how="late")
    service, _ = cold(words, place)

    async def scenario() -> Answer:
        await service.index(words.name, (await service.query(words.name, Query(words.queries[0].tolist()))).receipt)
        service.warm_client._rest = 0.0  # type: ignore[union-attr]
        return await service.query(words.name, Query(words.queries[5].tolist(), budget=Budget(ms=5)))

    answer = asyncio.run(scenario())
    assert (answer.complete, answer.receipt.warm_rpc, answer.receipt.warm_bytes) == (False, 1, 0)


def test_a_batch_asks_once_a_wave(words: Built) -> None:
    queries, place = [Query(v.tolist(), 10) for v in words.queries[:8]], Place()

    async def batch(service: Service) -> list[Answer]:
        from vantage.receipt import Receipt

        receipt = Receipt()
        answers = await (await service.index(words.name, receipt)).answer(queries, receipt)
        if service.warm_client is not None and service.warm_client.full:
            await service.warm_client.send()
        return answers

    want = asyncio.run(batch(cold(words, None)[0]))
    asyncio.run(batch(cold(words, place)[0]))
    asks = len([call for call in place.calls if not call[1]])
    service, bucket = cold(words, place)
    assert [bare(a) for a in asyncio.run(batch(service))] == [bare(a) for a in want]
    assert asks <= 2 and not [g for g in bucket.gets if "shard" in g.key]


def test_a_request_gives_after_its_answer(words: Built) -> None:
    place = Place()
    service, _ = cold(words, place)

    async def scenario() -> None:
        async def body(*_: object) -> bytes:
            return json.dumps({"vector": words.queries[0].tolist()}).encode()

        path = f"/v1/indexes/{words.name}/query"
        reply = await handle("POST", path, {}, body, service, Access(public=True), {})
        assert reply.status == 200 and reply.body["receipt"]["warm_bytes"] == 0 and not place.kept.held
        assert len(reply.after) == 1
        await reply.after[0]
        assert place.kept.held > 0

    asyncio.run(scenario())


# What is kept


def told(held: WarmBlocks, *places: tuple[str, int, int]) -> tuple[list[int], list[int], bytes]:
    said, data = held.answer(json.dumps(places))
    return json.loads(said)["held"], json.loads(said)["wanted"], data


def put(held: WarmBlocks, *places: tuple[str, int, int]) -> None:
    held.take(json.dumps(places), b"".join(bytes([offset % 251]) * size for _, offset, size in places))


def test_it_keeps_what_is_asked_for_most_for_a_byte() -> None:
    held = WarmBlocks(100)
    often, seldom, large = ("i/g/s", 0, 40), ("i/g/s", 40, 40), ("i/g/s", 80, 80)
    for _ in range(5):
        told(held, often)
    assert told(held, often, seldom) == ([], [0, 1], b"")
    put(held, often, seldom)
    assert told(held, often, seldom) == ([0, 1], [], bytes(40) + bytes([40]) * 40)
    told(held, large)
    put(held, large)  # asked for once, and twice as long as the seldom one
    assert (held.held, told(held, often, seldom, large)[0]) == (80, [0, 1])
    for _ in range(20):
        wanted = told(held, large)[1]
    assert wanted == [0]
    put(held, large)
    assert (held.held, told(held, often, seldom, large)[0]) == (80, [2])
    assert told(held, ("i/g/s", 999, 101))[1] == []  # more than all of the budget


def test_older_hits_fade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_module, "HALF_LIFE", 2)
    held = WarmBlocks(10)
    old, new = ("i/g/s", 0, 10), ("i/g/s", 10, 10)
    for _ in range(700):  # past where the numbers are scaled down
        told(held, old)
    put(held, old)
    for _ in range(4):
        told(held, new)
    put(held, new)
    assert told(held, old, new)[0] == [1]


def test_a_call_stays_within_its_limit() -> None:
    held, size = WarmBlocks(1 << 30), CALL_BYTES_MAX // 2
    places = [("i/g/s", i * size, size) for i in range(3)]
    put(held, *places[:2])
    put(held, places[2])
    found, wanted, data = told(held, *places)
    assert (found, wanted, len(data)) == ([0, 1], [], CALL_BYTES_MAX)

    async def scenario() -> None:
        place = Place()
        warm_client = WarmClient(place.ask, place.give)
        for p in places:
            warm_client.keep(p, memoryview(bytes(size)))
        await warm_client.send()
        assert (place.calls, warm_client.full) == ([("i", CALL_BYTES_MAX)], False)

    asyncio.run(scenario())


def test_an_older_generation_is_forgotten() -> None:
    held = WarmBlocks(100)
    put(held, ("i/old/s", 0, 10), ("i/new/s", 0, 10), ("ij/old/s", 0, 10))
    held.forget_blocks("i", {"i/new/s"}.__contains__)
    assert told(held, ("i/old/s", 0, 10), ("i/new/s", 0, 10), ("ij/old/s", 0, 10))[0] == [1, 2]
    assert held.held == 20


def test_roots_that_were_asked_for_longest_ago_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vantage.read.warm.ROOTS_BYTES", 10)
    held = WarmBlocks(100)
    for name in "abc":
        held.keep_root(name, b"current", b"root")
    assert [held.root(name) for name in "abc"] == [None, (b"current", b"root"), (b"current", b"root")]
    assert held.root("b")
    held.keep_root("d", b"current", b"roots")
    assert [name for name in "abcd" if held.root(name)] == ["b", "d"]
    held.keep_root("e", b"current", b"more than all may take")  # alone
    assert [name for name in "abcde" if held.root(name)] == ["e"]
    held.keep_root("e", b"new", b"root")
    assert held.root("e") == (b"new", b"root")
    held.forget_root("e")
    assert held.root("e") is None
    held.keep_root("a", b"current", b"root")
    held.clear()
    assert held.root("a") is None


def test_counts_of_what_is_not_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_module, "COUNTED_MAX", 16)
    held = WarmBlocks(100)
    put(held, ("i/g/s", 0, 10))
    for i in range(1, 200):
        told(held, ("i/g/s", 10 * i, 10))
    assert len(held._counted) <= 17 and told(held, ("i/g/s", 0, 10))[0] == [0]
