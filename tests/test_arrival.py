"""Bodies on their way: one that stalls keeps nobody waiting, whatever it announced, and is given up in time."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from doubles import Built

from vantage import arrival
from vantage.admission import BusyError
from vantage.arrival import Arriving, Bodies, RequestTimeoutError
from vantage.http.access import Access
from vantage.http.reply import Reply
from vantage.http.routes import handle
from vantage.indexes import Service
from vantage.read.bucket import Folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SILENT_S", 0.2), ("BODY_S", 0.3), ("GIVES_WAY_S", 0.02), ("POLL_S_MAX", 0.01)):
        monkeypatch.setattr(arrival, name, value)


async def never() -> None:
    await asyncio.Event().wait()


async def after(delay_s: float) -> None:
    await asyncio.sleep(delay_s)


async def upload(bodies: Bodies, sizes: list[int], stalls: bool = False, delay_s: float = 0.0) -> int:
    """Receives pieces of so many bytes; what was held in the end."""
    async with bodies.enter() as one:
        for size in sizes:
            await one.next(after(delay_s))
            await one.take(size)
        if stalls:
            await one.next(never())
        return one.held


async def ask(service: Service, method: str, path: str, body: Any, headers: dict[str, str]) -> Reply:
    return await handle(method, path, headers, body, service, Access(public=True), {})


STALLED = {
    "announced": {"content-length": "2000000"},
    "chunked": {"transfer-encoding": "chunked"},
    "packed": {"content-length": "9", "content-encoding": "gzip"},
    "bytes": {"content-length": "4194320", "content-type": "application/octet-stream"},
    "small": {"content-length": "100"},
}


@pytest.mark.parametrize("kind", STALLED)
@pytest.mark.parametrize("came", [0, 1, 1_900_000])
def test_who_asks_beside_stalled_uploads_is_answered_at_once(words: Built, kind: str, came: int) -> None:
    async def stalled(arriving: Arriving) -> bytes:
        if came:
            await arriving.next(after(0))
            await arriving.take(came)
        await arriving.next(never())
        raise AssertionError

    async def whole(arriving: Arriving) -> bytes:
        await arriving.next(after(0))
        data = json.dumps({"vector": words.queries[0].tolist()}).encode()
        await arriving.take(len(data))
        return data

    async def run() -> None:
        service, index = Service(Folder(words.bucket), 0), f"/v1/indexes/{words.name}"
        await ask(service, "GET", index, whole, {})
        uploads = [
            asyncio.ensure_future(ask(service, "POST", f"{index}/query", stalled, STALLED[kind])) for _ in range(5)
        ]
        await asyncio.sleep(0.01)
        asked = [ask(service, m, p, whole, {}) for m, p in (("GET", index), ("POST", f"{index}/query"))]
        replies = await asyncio.gather(*asked, ask(service, "GET", "/v1/indexes", whole, {}))
        assert [r.status for r in replies] == [200] * 3
        assert not any(u.done() for u in uploads)
        ends = {(408, "request_timeout", "body")}
        if 5 * came > arrival.ROOM_BYTES:  # some give way to the bytes of others before they are out of time
            ends.add((503, "busy", None))
        replies = await asyncio.wait_for(asyncio.gather(*uploads), 5)
        assert {(r.status, r.body["code"], r.body["param"]) for r in replies} == ends
        assert not service.bodies.arriving and not service.reading._working and not service.reading._waiting

    asyncio.run(run())


def test_a_body_that_moves_is_waited_for_and_one_that_trickles_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrival, "BODY_BYTES_S", 1000)

    async def run() -> None:
        assert await upload(Bodies(), [100] * 10, delay_s=0.05) == 1000  # 0.5 s, of which 0.3 are everybody's
        with pytest.raises(RequestTimeoutError, match=r"the body stopped after \d+ bytes"):
            await upload(Bodies(), [1] * 100, delay_s=0.05)

    asyncio.run(run())


def test_time_in_which_the_isolate_was_busy_is_not_the_clients() -> None:
    """The bytes are there, and the others of a crowd keep the loop from looking for longer than a body may stand."""

    async def in_turns(count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    async def busy() -> None:
        while True:
            time.sleep(0.05)
            await asyncio.sleep(0)

    async def run() -> None:
        others = asyncio.ensure_future(busy())
        async with Bodies().enter() as one:
            await one.next(in_turns(12))
        others.cancel()

    asyncio.run(run())


def test_one_that_stands_still_gives_way_to_bytes_that_came() -> None:
    """The room is full of what stalled clients sent: the others take it, and never hold more than it and one body."""
    most = 0

    async def watch(bodies: Bodies) -> None:
        nonlocal most
        while True:
            most = max(most, sum(a.held for a in bodies.arriving))
            await asyncio.sleep(0)

    async def run() -> None:
        bodies, large = Bodies(1 << 20), [1 << 18] * 3
        stalled = [asyncio.ensure_future(upload(bodies, large, stalls=True)) for _ in range(4)]
        watching = asyncio.ensure_future(watch(bodies))
        await asyncio.sleep(0.05)
        began = asyncio.get_running_loop().time()
        assert await asyncio.gather(*(upload(bodies, large) for _ in range(5))) == [sum(large)] * 5
        assert asyncio.get_running_loop().time() - began < 2
        gone = {type(e) for e in await asyncio.gather(*stalled, return_exceptions=True)}
        assert BusyError in gone and gone <= {BusyError, RequestTimeoutError}
        watching.cancel()
        assert (1 << 20) < most <= (1 << 20) + sum(large)
        assert not bodies.arriving

    asyncio.run(run())


def test_places_are_given_to_those_who_come_after_ones_that_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrival, "BODIES_MAX", 3)

    async def run() -> None:
        bodies = Bodies()
        stalled = [asyncio.ensure_future(upload(bodies, [], stalls=True)) for _ in range(3)]
        await asyncio.sleep(0.005)
        with pytest.raises(BusyError, match="3 bodies are on their way already"):
            await upload(bodies, [1])
        await asyncio.sleep(0.03)
        for _ in range(5):
            assert await upload(bodies, [1]) == 1
        assert sum(s.done() for s in stalled) <= 1  # one had to go
        gone = [type(e) for e in await asyncio.gather(*stalled, return_exceptions=True)]
        assert (gone.count(BusyError), gone.count(RequestTimeoutError)) == (1, 2)

    asyncio.run(run())


def test_who_gives_way_is_told_to_come_back(words: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a crowd headers come long before their bodies: clients that did nothing wrong may try again."""
    monkeypatch.setattr(arrival, "BODIES_MAX", 3)

    async def late(arriving: Arriving) -> bytes:
        await arriving.next(after(0.15))
        return json.dumps({"vector": words.queries[0].tolist()}).encode()

    async def run() -> None:
        service, path = Service(Folder(words.bucket), 0), f"/v1/indexes/{words.name}/query"
        crowd = []
        for _ in range(8):
            crowd.append(asyncio.ensure_future(ask(service, "POST", path, late, {})))
            await asyncio.sleep(0.03)
        replies = await asyncio.gather(*crowd)
        assert {r.status for r in replies} == {200, 503}
        assert all(r.headers["retry-after"] for r in replies if r.status == 503)

    asyncio.run(run())


def test_a_body_whose_context_ended_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a Worker no `finally` runs then: what it holds must run out by itself, whole or not."""
    monkeypatch.setattr(arrival, "GONE_S", 0.05)
    monkeypatch.setattr(arrival, "BODIES_MAX", 2)

    async def run() -> None:
        bodies = Bodies(1)
        for _ in range(2):
            gone = Arriving(bodies, asyncio.get_running_loop().time())
            gone.held, gone.whole = 1 << 20, True
            bodies.arriving.append(gone)
        await asyncio.sleep(0.06)
        assert await upload(bodies, [1 << 20]) == 1 << 20
        assert not bodies.arriving

    asyncio.run(run())


def test_for_a_body_without_room_for_long_it_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrival, "WAIT_S", 0.1)

    async def run() -> None:
        bodies = Bodies(1)
        whole = Arriving(bodies, asyncio.get_running_loop().time())  # which waits at a door
        whole.held, whole.whole = 1, True
        bodies.arriving.append(whole)
        with pytest.raises(BusyError, match="there was no room for this body in time"):
            await upload(bodies, [1 << 20])
        assert await upload(bodies, [1000]) == 1000  # a small one waits for none

    asyncio.run(run())


def test_what_others_compute_counts_against_a_request_and_not_against_its_client(
    monkeypatch: pytest.MonkeyPatch, words: Built
) -> None:
    """A body that is there and waits until the loop is free has waited: past WAIT_S its request has to come back."""
    monkeypatch.setattr("vantage.http.routes.WAIT_S", 0.1)
    service = Service(Folder(words.bucket), 0)

    async def ask(busy_s: float) -> Reply:
        async def body(arriving: Arriving) -> bytes:
            async def piece() -> bytes:
                await asyncio.sleep(0)
                time.sleep(busy_s)  # as another request would
                return json.dumps({"vector": words.queries[0].tolist()}).encode()

            return await arriving.next(piece())

        return await handle("POST", f"/v1/indexes/{words.name}/query", {}, body, service, Access(public=True), {})

    assert asyncio.run(ask(0.0)).status == 200
    late = asyncio.run(ask(0.3))
    assert (late.status, json.loads(b"".join(late.parts))["code"]) == (503, "busy")


def test_a_request_of_the_most_vectors_works_alone(words: Built) -> None:
    service = Service(Folder(words.bucket), 0)

    async def beside(first: float, second: float) -> bool:
        """Whether there is room for the second while the first works."""
        clock = asyncio.get_running_loop().time
        async with service.room(1, 0, clock(), first):
            try:
                async with service.room(1, 0, clock(), second):
                    return True
            except BusyError:
                return False

    assert asyncio.run(beside(1 / 256, 1 / 256)) and asyncio.run(beside(0.5, 0.5))
    assert not asyncio.run(beside(1.0, 1 / 256)) and not asyncio.run(beside(1 / 256, 1.0))
