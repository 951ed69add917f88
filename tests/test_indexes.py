"""The open indexes of an isolate: revalidation, new generations, replaced and missing objects, the warm hook."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from doubles import Built, Failing, Recorder, always, never, nth

from vantage import indexes as service_module
from vantage.errors import ChangedError, DamagedError, InputError, NotFoundError, StoreError
from vantage.http.access import Access
from vantage.http.routes import handle
from vantage.indexes import REVALIDATE_S, Service
from vantage.read import reader
from vantage.read.bucket import LIST_MAX, Bucket, Folder
from vantage.receipt import Receipt
from vantage.reserve import Reserve
from vantage.search.query import Answer, Query

LARGE = 1 << 30
FIXTURES = Path(__file__).parent / "fixtures"
Generations = tuple[Built, Built]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The service's clock: set `now`."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(service_module, "time", SimpleNamespace(time=lambda: clock.now))
    return clock


def publish(built: Built, bucket: Path) -> None:
    """Puts a generation into the bucket, and CURRENT last."""
    source, target = built.bucket / "live", bucket / "live"
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("CURRENT"))
    shutil.copy(source / "CURRENT", target / "CURRENT.new")
    (target / "CURRENT.new").replace(target / "CURRENT")


def generation(built: Built) -> str:
    return built.open().current.generation


def remove(built: Built, bucket: Path) -> None:
    shutil.rmtree(bucket / "live" / generation(built))


def query(built: Built, i: int = 0) -> Query:
    return Query(built.queries[i].tolist())


def told(answer: Answer) -> list[tuple[Any, float]]:
    return [(m.id, m.score) for m in answer.matches]


def right(built: Built, i: int = 0) -> list[tuple[Any, float]]:
    return told(asyncio.run(built.open().query(query(built, i))))


# Opening


def test_opening_is_counted_apart_and_once(generations: Generations) -> None:
    bucket = Recorder(Folder(generations[0].bucket))
    service = Service(bucket, 0)
    first, second = (asyncio.run(service.query("live", query(generations[0]))).receipt for _ in range(2))
    assert (first.opened_gets, first.opened_bytes, first.opened_rpc) == (2, sum(g.served for g in bucket.gets[:2]), 0)
    assert (second.opened_gets, second.opened_bytes, second.opened_rpc) == (0, 0, 0)
    assert (first.gets, first.bytes) == (second.gets, second.bytes)
    assert len(bucket.gets) == 2 + first.gets + second.gets


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a b", "ä", "x" * 65, "../live", "live\n"])
def test_names_that_no_index_has(generations: Generations, name: str) -> None:
    bucket = Recorder(Folder(generations[0].bucket))
    with pytest.raises(InputError, match="is not a name of an index") as caught:
        asyncio.run(Service(bucket, 0).query(name, query(generations[0])))
    assert caught.value.param == "index"
    assert not bucket.gets


def test_an_unknown_index_is_asked_for_each_time(generations: Generations, tmp_path: Path) -> None:
    service = Service(Folder(tmp_path), 0)
    with pytest.raises(NotFoundError, match="there is no index 'live'"):
        asyncio.run(service.query("live", query(generations[0])))
    publish(generations[0], tmp_path)
    assert told(asyncio.run(service.query("live", query(generations[0])))) == right(generations[0])


def test_a_failed_opening_is_tried_again_by_the_next_query(generations: Generations) -> None:
    bucket = Failing(Folder(generations[0].bucket), always("error"))
    service = Service(bucket, 0)
    with pytest.raises(StoreError, match="live/CURRENT: "):
        asyncio.run(service.query("live", query(generations[0])))
    bucket.plan = always("flip", of="root.bin")
    with pytest.raises(DamagedError, match="root.bin: SHA-256 differs"):
        asyncio.run(service.query("live", query(generations[0])))
    assert not service.open
    bucket.plan = never
    assert told(asyncio.run(service.query("live", query(generations[0])))) == right(generations[0])


def listed(bucket: Bucket, prefix: str = "", after: str = "", limit: int = LIST_MAX) -> tuple[list[str], str | None]:
    return asyncio.run(Service(bucket, 0).names(prefix, after, limit))


def test_names_are_those_of_folders_and_nothing_in_them_is_read(tmp_path: Path) -> None:
    for name in ("b-index", "live", ".hidden", "a name", "x" * 65, os.fsdecode(b"z\xff")):
        (tmp_path / name).mkdir()
    (tmp_path / "live" / "CURRENT").write_bytes(b"damaged")
    (tmp_path / "notes.txt").write_text("no folder")
    bucket = Recorder(Folder(tmp_path))
    assert listed(bucket) == (["b-index", "live"], None)
    assert not bucket.gets


def test_names_come_in_the_order_of_keys(tmp_path: Path) -> None:
    names = ["a-b", "a.b", "a", "a0", "aa"]  # "-" and "." come before the slash that ends a folder's name in its keys
    for name in names:
        (tmp_path / name).mkdir()
    walked, after = [], ""
    while True:
        page, end = listed(Folder(tmp_path), after=after, limit=1)
        walked += page
        if end is None:
            break
        after = end
    assert walked == names


def test_a_listing_is_tried_again_and_then_fails_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "an-index").mkdir()
    assert listed(Failing(Folder(tmp_path), nth(0))) == (["an-index"], None)
    with pytest.raises(StoreError, match=r"^the list of indexes: RuntimeError"):
        listed(Failing(Folder(tmp_path), always("error")))
    monkeypatch.setattr(reader, "TIMEOUT_S", 0.01)
    with pytest.raises(StoreError, match=r"^the list of indexes: no answer in"):
        listed(Failing(Folder(tmp_path), always("hang")))


# Generations


def test_current_is_read_again_after_30_seconds(generations: Generations, clock: SimpleNamespace) -> None:
    bucket = Recorder(Folder(generations[0].bucket))
    service = Service(bucket, 0)
    assert not service.is_stale("live")
    asyncio.run(service.query("live", query(generations[0])))
    for passed, stale in ((0, False), (30, False), (30.1, True)):
        clock.now = 1000 + passed
        assert service.is_stale("live") == stale
    assert REVALIDATE_S == 30
    bucket.forget()
    assert asyncio.run(service.revalidate("live")) is False
    assert [g.key for g in bucket.gets] == ["live/CURRENT"]
    assert not service.is_stale("live")


def test_a_new_generation_is_picked_up(generations: Generations, clock: SimpleNamespace, tmp_path: Path) -> None:
    first, second = generations
    publish(first, tmp_path)
    service = Service(Folder(tmp_path), LARGE)
    assert told(asyncio.run(service.query("live", query(first)))) == right(first)
    held = service.cache.held
    publish(second, tmp_path)
    assert asyncio.run(service.query("live", query(first))).receipt.generation == generation(first)
    assert asyncio.run(service.revalidate("live")) is True
    assert held > service.cache.held == 0  # blocks of the old generation are gone
    answer = asyncio.run(service.query("live", query(second)))
    assert answer.receipt.generation == generation(second) != generation(first)
    assert told(answer) == right(second)
    assert asyncio.run(service.revalidate("live")) is False


@pytest.mark.parametrize("cache_bytes", [0, LARGE])
def test_a_query_in_flight_ends_on_the_generation_it_began_on(
    generations: Generations, tmp_path: Path, cache_bytes: int
) -> None:
    first, second = generations
    publish(first, tmp_path)
    bucket = Recorder(Folder(tmp_path))
    service = Service(bucket, cache_bytes)

    async def run() -> tuple[Answer, Answer]:
        await service.index("live", Receipt())
        bucket.delay_s = 0.05
        began = asyncio.ensure_future(service.query("live", query(first, 1)))
        await asyncio.sleep(0.01)
        bucket.delay_s = 0
        publish(second, tmp_path)
        assert await service.revalidate("live")
        assert not began.done()
        return await began, await service.query("live", query(second, 1))

    old, new = asyncio.run(run())
    assert (old.receipt.generation, told(old)) == (generation(first), right(first, 1))
    assert (new.receipt.generation, told(new)) == (generation(second), right(second, 1))
    assert service.cache.held == _cached_bytes(service)  # nothing of the old one


def _cached_bytes(service: Service) -> int:
    """Of the live generation, by its flags."""
    segment = service.open["live"].segment
    assert segment.resident is not None and segment.resident.single
    flags = segment.flags(segment.resident, (0, 0))
    return sum(size for size, flag in zip(segment.resident.places[0].whole, flags, strict=True) if flag & 2)


def test_objects_of_a_replaced_generation_are_gone(generations: Generations, tmp_path: Path) -> None:
    """Nobody told this isolate: the query finds out by a missing object, and answers from the successor."""
    first, second = generations
    publish(first, tmp_path)
    service = Service(Folder(tmp_path), 0)
    asyncio.run(service.query("live", query(first)))
    publish(second, tmp_path)
    remove(first, tmp_path)

    async def at_once() -> list[Answer]:
        return await asyncio.gather(*(service.query("live", query(first, i)) for i in range(8)))

    for i, answer in enumerate(asyncio.run(at_once())):
        assert answer.receipt.generation == generation(second)
        assert told(answer) == right(second, i)


def test_no_query_fails_while_generations_change(generations: Generations, tmp_path: Path) -> None:
    publish(generations[0], tmp_path)
    service = Service(Recorder(Folder(tmp_path), delay_s=0.001), LARGE)

    async def run() -> list[Answer]:
        asked = []
        for i in range(60):
            asked.append(asyncio.ensure_future(service.query("live", query(generations[0], i))))
            await asyncio.sleep(0.0005)
            if i % 10 == 5:
                publish(generations[i // 10 % 2], tmp_path)
                asked.append(asyncio.ensure_future(service.revalidate("live")))
        return [a for a in await asyncio.gather(*asked) if isinstance(a, Answer)]

    answers = asyncio.run(run())
    assert len(answers) == 60
    assert all(a.complete and len(a.matches) == 10 for a in answers)
    assert {a.receipt.generation for a in answers} == {generation(g) for g in generations}
    assert service.cache.held == _cached_bytes(service)


def test_a_missing_object_of_the_live_generation(generations: Generations, tmp_path: Path) -> None:
    publish(generations[0], tmp_path)
    service = Service(Folder(tmp_path), 0)
    asyncio.run(service.query("live", query(generations[0])))
    remove(generations[0], tmp_path)
    for _ in range(2):
        with pytest.raises(DamagedError, match=r"live/.*/shard-00000.bin: no such object"):
            asyncio.run(service.query("live", query(generations[0])))
    publish(generations[0], tmp_path)
    assert told(asyncio.run(service.query("live", query(generations[0])))) == right(generations[0])


def test_an_object_put_again_is_read_by_its_new_etag(generations: Generations, tmp_path: Path) -> None:
    """The same bytes, another time: publishing again must not need a new isolate."""
    publish(generations[0], tmp_path)
    service = Service(Folder(tmp_path), 0)
    before = asyncio.run(service.query("live", query(generations[0])))
    for path in (tmp_path / "live" / generation(generations[0])).glob("shard*"):
        path.write_bytes(path.read_bytes())
    after = asyncio.run(service.query("live", query(generations[0])))
    assert told(after) == told(before) and after.complete


def test_an_object_that_always_changes_is_an_error(generations: Generations) -> None:
    bucket = Failing(Folder(generations[0].bucket), never)
    service = Service(bucket, 0)
    asyncio.run(service.query("live", query(generations[0])))
    bucket.plan = always("changed", of="shard")
    with pytest.raises(ChangedError, match="shard-00000.bin: changed under its name"):
        asyncio.run(service.query("live", query(generations[0])))
    bucket.plan = never
    assert told(asyncio.run(service.query("live", query(generations[0])))) == right(generations[0])


def test_an_index_that_is_removed(generations: Generations, tmp_path: Path) -> None:
    publish(generations[0], tmp_path)
    for told_first in (True, False):
        service = Service(Folder(tmp_path), LARGE)
        asyncio.run(service.query("live", query(generations[0])))
        shutil.rmtree(tmp_path / "live")
        if told_first:
            assert asyncio.run(service.revalidate("live")) is False
            assert not service.open
        with pytest.raises(NotFoundError, match="there is no index 'live'"):
            asyncio.run(service.query("live", query(generations[0], 3)))
        assert not service.open
        assert service.cache.held == 0
        publish(generations[0], tmp_path)
        assert told(asyncio.run(service.query("live", query(generations[0])))) == right(generations[0])


@pytest.mark.parametrize("fault", ["error", "short", "size"])
def test_a_failed_revalidation_harms_no_query(generations: Generations, clock: SimpleNamespace, fault: str) -> None:
    bucket = Failing(Folder(generations[0].bucket), never)
    service = Service(bucket, 0)
    asyncio.run(service.query("live", query(generations[0])))
    bucket.plan = always(fault, of="CURRENT")
    clock.now += 31
    with pytest.raises((StoreError, DamagedError), match="live/CURRENT: "):
        asyncio.run(service.revalidate("live"))
    assert not service.is_stale("live")  # the next try is 30 s away
    assert told(asyncio.run(service.query("live", query(generations[0])))) == right(generations[0])


def test_a_new_generation_that_is_damaged_is_not_taken(generations: Generations, tmp_path: Path) -> None:
    first, second = generations
    publish(first, tmp_path)
    service = Service(Folder(tmp_path), 0)
    asyncio.run(service.query("live", query(first)))
    publish(second, tmp_path)
    (tmp_path / "live" / generation(second) / "root.bin").write_bytes(b"")
    with pytest.raises(DamagedError):
        asyncio.run(service.revalidate("live"))
    assert told(asyncio.run(service.query("live", query(first)))) == right(first)


def test_indexes_share_one_cache(words: Built, points: Built, bucket: Path) -> None:
    service = Service(Folder(bucket), LARGE)
    both = {b.name: sum(b.open().segment.resident.places[0].whole) for b in (words, points)}
    for built in (words, points):
        for vector in built.queries:
            asyncio.run(service.query(built.name, Query(vector.tolist())))
    assert max(both.values()) / 2 < service.cache.held <= sum(both.values())
    assert set(service.open) == {"words", "points"}


# The warm hook

Held = tuple[bytes, bytes]


def held(built: Built) -> Held:
    return (built.bucket / "live" / "CURRENT").read_bytes(), (
        built.bucket / "live" / generation(built) / "root.bin"
    ).read_bytes()


def hook(given: Held | None, delay_s: float = 0.0) -> Callable[[str], Awaitable[Held | None]]:
    async def warm(_: str) -> Held | None:
        await asyncio.sleep(delay_s)
        return given

    return warm


def test_the_warm_hook_opens_without_reading(generations: Generations) -> None:
    bucket = Recorder(Folder(generations[0].bucket))
    answer = asyncio.run(Service(bucket, 0, hook(held(generations[0]))).query("live", query(generations[0])))
    receipt = answer.receipt
    assert (receipt.opened_gets, receipt.opened_bytes, receipt.opened_rpc) == (0, 0, 1)
    assert receipt.gets == len(bucket.gets)
    assert told(answer) == right(generations[0])


def broken(current: bytes, root: bytes) -> list[Held | None]:
    return [
        None,
        (b"", root),
        (b"{}", root),
        (current[:-40], root),
        (current, b""),
        (current, root[:-1]),
        (current, root[:100] + b"\xff" + root[101:]),
    ]


@pytest.mark.parametrize("case", range(7))
def test_without_or_with_a_broken_hook_the_bucket_answers(generations: Generations, case: int) -> None:
    given = broken(*held(generations[0]))[case]
    answer = asyncio.run(Service(Folder(generations[0].bucket), 0, hook(given)).query("live", query(generations[0])))
    assert (answer.receipt.opened_gets, answer.receipt.opened_rpc) == (2, 1)
    assert told(answer) == right(generations[0])


def test_a_late_hook_gives_way_to_the_bucket(generations: Generations) -> None:
    """As the Worker's does: it waits 25 ms for the Durable Object, then says None."""
    slow = hook(held(generations[0]), delay_s=60)

    async def warm(name: str) -> Held | None:
        try:
            return await asyncio.wait_for(slow(name), 0.005)
        except TimeoutError:
            return None

    answer = asyncio.run(Service(Folder(generations[0].bucket), 0, warm).query("live", query(generations[0])))
    assert (answer.receipt.opened_gets, answer.receipt.opened_rpc) == (2, 1)


def test_a_hook_that_is_behind_is_overruled_by_the_bucket(generations: Generations, tmp_path: Path) -> None:
    first, second = generations
    publish(second, tmp_path)
    service = Service(Folder(tmp_path), 0, hook(held(first)))
    answer = asyncio.run(service.query("live", query(first)))
    assert answer.receipt.generation == generation(second)
    assert told(answer) == right(second)


def test_a_hook_for_an_index_that_is_gone(generations: Generations, tmp_path: Path) -> None:
    service = Service(Folder(tmp_path), 0, hook(held(generations[0])))
    with pytest.raises((DamagedError, NotFoundError)):
        asyncio.run(service.query("live", query(generations[0])))


def test_an_error_from_an_old_generation_revalidates_too(words: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time to live a request that the old generation refuses still looks at CURRENT."""
    service = Service(Folder(words.bucket), 0)
    asyncio.run(service.index("words", Receipt()))
    now = time.time()
    monkeypatch.setattr(service_module.time, "time", lambda: now + service_module.REVALIDATE_S + 1)

    async def body(*_: object) -> bytes:
        return b'{"vector": [1.0]}'

    reply = asyncio.run(handle("POST", "/v1/indexes/words/query", {}, body, service, Access(public=True), {}))
    assert reply.status == 400
    assert len(reply.after) == 1
    for work in reply.after:
        work.close()


def copies(folder: Path, names: list[str]) -> Service:
    """The same index under several names."""
    for name in names:
        shutil.copytree(FIXTURES / "words", folder / name)
    return Service(Folder(folder), 1 << 20)


def test_the_index_used_longest_ago_is_closed_when_roots_take_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = copies(tmp_path, ["a", "b", "c"])

    async def run() -> list[list[str]]:
        seen = []
        first = await service.index("a", Receipt())
        monkeypatch.setattr(service_module, "INDEXES_BYTES", 2 * service_module._index_bytes(first))
        for name in ("b", "a", "c", "b"):
            await service.index(name, Receipt())
            seen.append(list(service.open))
        return seen

    assert asyncio.run(run()) == [["a", "b"], ["b", "a"], ["a", "c"], ["c", "b"]]


@pytest.mark.parametrize("index", sorted(p.name for p in FIXTURES.iterdir() if (p / "CURRENT").is_file()))
def test_an_open_index_holds_no_more_than_is_counted(index: str, tmp_path: Path) -> None:
    """However small it is: of those there are many."""
    names = [f"copy-{n}" for n in range(9)]
    for name in names:
        (tmp_path / name).symlink_to(FIXTURES / index)
    service = Service(Folder(tmp_path), 1 << 20)

    async def run() -> int:
        await service.index(names[0], Receipt())  # what is made once
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for name in names[1:]:
            await service.index(name, Receipt())
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before

    tracemalloc.start()
    try:
        held = asyncio.run(run())
    finally:
        tracemalloc.stop()
    assert len(service.open) == len(names)
    assert held <= sum(service_module._index_bytes(service.open[name]) for name in names[1:])


def test_one_index_alone_may_hold_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "INDEXES_BYTES", 1)
    service = copies(tmp_path, ["a", "b"])

    async def run() -> list[str]:
        await service.index("a", Receipt())
        await service.index("b", Receipt())
        return list(service.open)

    assert asyncio.run(run()) == ["b"]


def test_many_at_once_open_an_index_once(tmp_path: Path) -> None:
    service, receipts = copies(tmp_path, ["a"]), [Receipt() for _ in range(9)]

    async def run() -> set[int]:
        return {id(i) for i in await asyncio.gather(*(service.index("a", r) for r in receipts))}

    assert len(asyncio.run(run())) == 1
    assert sorted(r.opened_gets for r in receipts) == [0] * 8 + [2]


def test_unknown_names_make_no_warm_objects(tmp_path: Path) -> None:
    service, asked = copies(tmp_path, ["a"]), list[str]()

    async def warm(name: str) -> None:
        asked.append(name)

    service.warm_root = warm

    async def run() -> None:
        for n in range(20):
            with pytest.raises(NotFoundError):
                await service.index(f"none-{n}", Receipt())
        await service.index("a", Receipt())

    asyncio.run(run())
    assert asked == ["none-0"]


def test_what_is_shed_is_read_again(tmp_path: Path) -> None:
    service = copies(tmp_path, ["a", "b"])
    query = Query([0.1] * 16, 3)

    async def run() -> None:
        dimension = (await service.index("a", Receipt())).root.index.dimension
        query_of = replace(query, vector=[0.1] * dimension)
        before = [(m.id, m.score) for m in (await service.query("a", query_of)).matches]
        await service.index("b", Receipt())
        await service.query("a", query_of)
        assert service.cache.held
        service.shed()
        assert not service.cache.held and list(service.open) == ["a"]
        assert [(m.id, m.score) for m in (await service.query("a", query_of)).matches] == before

    asyncio.run(run())


def test_what_logs_and_bodies_need_the_cache_leaves_to_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(service_module, "SHARED_BYTES", 1000)
    service, logs, gone = Service(Folder(tmp_path), 300), [0], list[bool]()
    service.beside, service.give_back = lambda: logs[0], gone.append
    service.reserve = Reserve(1 << 20)
    monkeypatch.setattr(service_module, "SHARED_BYTES", service.reserve.held + 1000)
    service.cache.register(["a"])

    async def kept(nbytes: int, logged: int) -> tuple[int, int]:
        """Of three parts of a hundred bytes, while a body is held, and before."""
        logs[0] = logged
        service._fit_cache()
        for at in range(3):
            service.cache.put("a", at, memoryview(bytes(100)))
        before = service.cache.held
        async with service.body_room(nbytes, asyncio.get_running_loop().time() + 1):
            return before, service.cache.held

    assert asyncio.run(kept(1000, 0)) == (300, 300)
    assert asyncio.run(kept(1100, 0)) == (300, 200)
    assert asyncio.run(kept(100, 1000)) == (300, 200) and not gone
    assert asyncio.run(kept(1, 1150)) == (100, 100) and not gone
    assert asyncio.run(kept(1, 1400)) == (0, 0) and gone and not any(gone)  # logs stay
    service.shed()
    assert gone[-1]
    assert asyncio.run(kept(0, 0)) == (300, 300)


def test_the_reserve_is_free_while_a_large_body_is_held(tmp_path: Path) -> None:
    service = Service(Folder(tmp_path), 0)
    service.reserve = Reserve(1 << 20)

    async def held(nbytes: int) -> int:
        async with service.body_room(nbytes, asyncio.get_running_loop().time() + 1):
            return service.reserve.held

    assert asyncio.run(held(service_module.READING_BYTES)) == service.reserve.held == 1 << 20
    assert asyncio.run(held(service_module.READING_BYTES + 1)) == 0
    assert service.reserve.held == 1 << 20
