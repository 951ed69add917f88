"""An index, in-process: recall, reads as planned, cache, exact scores, budgets, ids, and what it refuses."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import Built, Failing, Recorder, always, explained, first_plan, never, nth

from vantage.cost import Budget
from vantage.errors import DamagedError, InputError, LimitError, NotFoundError, StoreError, VantageError
from vantage.format import Directory, IndexSection, Rendition
from vantage.index import Index
from vantage.indexes import Service
from vantage.read.bucket import Folder
from vantage.read.cache import Cache
from vantage.read.reader import Reader
from vantage.read.waves import run_together
from vantage.receipt import Receipt
from vantage.search.plan import Plan, range_of
from vantage.search.prepare import prepare
from vantage.search.query import Answer, Query
from vantage.search.rank import exact_score
from vantage.search.run import Run

LARGE = 1 << 30
NAMES = ["words", "points", "dots"]


@pytest.fixture(params=NAMES)
def built(request: pytest.FixtureRequest) -> Built:
    """Each of the small indexes."""
    found: Built = request.getfixturevalue(request.param)
    return found


def ask(index: Index, vector: Any, top_k: int = 10, **options: Any) -> Answer:
    return asyncio.run(index.query(Query(list(map(float, vector)), top_k, **options)))


def ids(answer: Answer) -> list[Any]:
    return [m.id for m in answer.matches]


def told(answer: Answer) -> list[tuple[Any, float]]:
    return [(m.id, m.score) for m in answer.matches]


def scanned(index: Index, plan: Plan, query: Query) -> list[tuple[int, int]]:
    """(row, integer score) of the best rows in the blocks of a plan, read here by hand and scanned in file order."""
    blocks = sorted({b for r in plan.ranges for b in range(r.first, r.last)} | set(plan.cached))
    scan = index.segment.scan_of(index.root, resident(index), 0, prepare(query.vector, index.root.index), 300)
    assert isinstance(index.bucket, Folder)
    for b in blocks:
        r = range_of(resident(index), 0, b, b + 1)
        shard = index.bucket.path / index.segment.keys[r.object]
        scan.block(b, shard.read_bytes()[r.offset : r.offset + r.size], keep=True)
    return [(c.row, c.score) for c in scan.contenders(query.top_k)]


def resident(index: Index) -> Directory:
    """Of all blocks, each of one extent."""
    directory = index.segment.resident
    assert directory is not None and directory.single
    return directory


def cached(index: Index) -> list[int]:
    """Blocks that are in memory."""
    return [b for b, flag in enumerate(index.segment.flags(resident(index), (0, 0))) if flag & 2]


def block_key(index: Index, rendition: int = 0) -> str:
    """The object of the first blocks of a rendition."""
    return index.segment.keys[resident(index).places[rendition].object[0]]


def damaged_copy(built: Built, tmp_path: Path, key: Callable[[Index], str], at: Callable[[Index], int]) -> Index:
    """The index, opened from a copy in which one bit of an object is flipped."""
    shutil.copytree(built.bucket / built.name, tmp_path / built.name)
    index = asyncio.run(Index.open(Folder(tmp_path), built.name, Cache(0), Receipt()))
    with (tmp_path / key(index)).open("r+b") as file:
        file.seek(at(index))
        (byte,) = file.read(1)
        file.seek(at(index))
        file.write(bytes([byte ^ 1]))
    return index


# Answers


def test_recall_reaches_the_target_on_queries_that_are_not_rows(built: Built) -> None:
    """Within two standard errors: there are 60 queries, and the contract was measured on some 70 rows."""
    index = built.open()
    recalls = [len(set(ids(ask(index, q))) & set(built.nearest(q, 10))) / 10 for q in built.queries]
    error = np.std(recalls) / np.sqrt(len(recalls))
    assert np.mean(recalls) + 2 * error >= index.root.contract.target


def test_estimated_scores_are_near_the_exact_ones(built: Built) -> None:
    index, where = built.open(), {i: n for n, i in enumerate(built.ids)}
    for q in built.queries[:10]:
        answer, exact = ask(index, q), built.scores(q)
        assert not answer.exact
        assert answer.complete
        assert answer.recall_estimate is not None and 0.5 < answer.recall_estimate <= 1
        for m in answer.matches:
            assert abs(m.score - exact[where[m.id]]) < 0.3 * exact.std()


def test_answers_are_in_order_and_rows_come_once(built: Built) -> None:
    index = built.open()
    assert index.root.index.slots > index.root.index.rows  # there are copies
    sign = 1 if built.metric == "l2" else -1
    for q in built.queries[:10]:
        answer = ask(index, q, 100, recall=index.root.contract.points[-1].recall)
        assert len(answer.matches) == len({m.row for m in answer.matches}) == len(set(ids(answer))) == 100
        assert answer.receipt.rows > 100
        assert all((sign * a.score, a.row) <= (sign * b.score, b.row) for a, b in pairwise(answer.matches))


def test_a_large_top_k(words: Built) -> None:
    """The price that reads enough for 10 neighbours does not for 1,000; as many come as were asked for."""
    for index in (words.open(), words.open(LARGE)):
        for q in words.queries[:3]:
            answer = ask(index, q, 1000)
            assert len(set(ids(answer))) == 1000
            assert answer.complete
            assert len(set(ids(answer)) & set(words.nearest(q, 1000))) > 500
            assert answer.recall_estimate is None  # nothing was measured there


def test_every_row_can_be_asked_for(dots: Built) -> None:
    index = dots.open()
    rows = index.root.index.rows
    assert set(ids(ask(index, dots.queries[0], rows))) == set(dots.ids)
    more = ask(index, dots.queries[0], rows + 1)  # all there are
    assert more.complete and ids(more) == ids(ask(index, dots.queries[0], rows))


def test_no_query_is_left_without_an_answer(built: Built) -> None:
    """One price serves all queries, and is too dear for some; still they get what they asked for."""
    index = built.open()
    draw = np.random.default_rng(0)
    for q in [*built.queries, *draw.normal(size=(20, built.vectors.shape[1])), built.vectors.mean(0)]:
        answer = ask(index, q)
        assert len(answer.matches) == 10
        assert answer.complete


def test_a_higher_recall_reads_more(words: Built) -> None:
    index = words.open()
    points = [p for p in index.root.contract.points if p.k == index.root.contract.k]
    cheap, dear = points[0].recall, points[-1].recall
    read = [sum(ask(index, q, recall=r).receipt.bytes for q in words.queries[:20]) for r in (cheap, None, dear)]
    assert read == sorted(read) and read[0] < read[2]
    with pytest.raises(LimitError, match=r"recall is 0\.9999") as caught:
        ask(index, words.queries[0], recall=0.9999)
    assert caught.value.param == "recall"
    assert ask(index, words.queries[0], recall=float(str(caught.value.limit))).complete  # what it names is answered


def test_the_query_itself_is_left_out(points: Built) -> None:
    index = points.open()
    row, vector = asyncio.run(index.find(points.ids[5], Receipt()))
    assert vector == points.vectors[5].tolist()
    assert index.root.promises is not None
    most = index.root.promises.by_recall[-1].recall
    with_it, without = (ask(index, vector, rerank=20, recall=most, **more) for more in ({}, {"without": row}))
    assert with_it.matches[0].id == points.ids[5] and with_it.matches[0].score == 0
    assert ids(without)[:9] == ids(with_it)[1:]
    assert len(without.matches) == 10


# Reads


def test_opening_is_two_dependent_gets(words: Built) -> None:
    bucket, receipt = Recorder(Folder(words.bucket)), Receipt()
    index = asyncio.run(Index.open(bucket, "words", Cache(0), receipt))
    assert [g.key for g in bucket.gets] == ["words/CURRENT", f"words/{index.current.root.key}"]
    assert bucket.running_max == 1
    assert (receipt.gets, receipt.bytes) == (2, bucket.bytes)


def test_no_such_index(bucket: Path) -> None:
    for name in ("none", "words/none"):
        with pytest.raises(NotFoundError, match="there is no index"):
            asyncio.run(Index.open(Folder(bucket), name, Cache(0), Receipt()))


def test_receipt_bucket_and_plan_agree(built: Built) -> None:
    bucket = Recorder(Folder(built.bucket))
    index = built.open(bucket=bucket)
    directory = resident(index)
    for q in built.queries[:20]:
        query = Query(q.tolist())
        plan, shown = first_plan(index, query), explained(index, query)
        bucket.forget()
        receipt = asyncio.run(index.query(query)).receipt
        wanted = [(index.segment.keys[r.object], r.offset, r.size) for r in plan.ranges]
        assert sorted((g.key, g.offset, g.length) for g in bucket.gets) == sorted(wanted)
        assert receipt.gets == len(bucket.gets) == shown["gets"] <= index.root.contract.gets
        assert receipt.bytes == bucket.bytes == shown["bytes"] == plan.bytes
        assert receipt.waves == shown["waves"] == 1
        assert round(receipt.modelled_ms, 2) == shown["modelled_ms"]
        blocks = [b for r in plan.ranges for b in range(r.first, r.last)]
        assert receipt.blocks == len(blocks)
        assert receipt.rows == sum(directory.rows[b] for b in blocks)
        assert (receipt.blocks_cached, receipt.retries, receipt.opened_gets) == (0, 0, 0)
        assert receipt.generation == shown["generation"] == index.current.generation


def test_explain_reads_nothing(words: Built) -> None:
    bucket = Recorder(Folder(words.bucket))
    index = words.open(bucket=bucket)
    bucket.forget()
    explained(index, Query(words.queries[0].tolist()))
    assert not bucket.gets


def test_etags_of_the_first_answers_are_sent(words: Built) -> None:
    bucket = Recorder(Folder(words.bucket))
    index = words.open(bucket=bucket)
    bucket.forget()
    for _ in range(2):
        ask(index, words.queries[0], rerank=10)
    shards = [g.etag for g in bucket.gets if "shard" in g.key]
    assert shards[0] is None and shards[-1] is not None


def test_the_order_of_arrival_changes_nothing(words: Built) -> None:
    class Shuffled:
        """Each get takes a drawn time."""

        async def get(self, *asked: Any) -> Any:
            await asyncio.sleep(random.random() / 500)
            return await Folder(words.bucket).get(*asked)

        async def list(self, prefix: str, after: str, limit: int) -> tuple[list[str], str | None]:
            return [], None

    calm, shuffled = words.open(), words.open(bucket=Shuffled())
    many = sorted(words.queries, key=lambda q: -len(first_plan(calm, Query(q.tolist())).ranges))
    for q in many[:5]:
        assert told(ask(calm, q, 50)) == told(ask(shuffled, q, 50))


def test_queries_at_once_do_not_mix(words: Built) -> None:
    index = words.open(bucket=Recorder(Folder(words.bucket), delay_s=0.001))

    async def all_of_them() -> list[Answer]:
        return await asyncio.gather(*(index.query(Query(q.tolist())) for q in words.queries[:12]))

    together = asyncio.run(all_of_them())
    assert [told(a) for a in together] == [told(ask(words.open(), q)) for q in words.queries[:12]]


# Cache


def test_a_cold_cache_changes_nothing(built: Built) -> None:
    for q in built.queries[:5]:
        off, on = ask(built.open(), q), ask(built.open(LARGE), q)
        assert told(off) == told(on)
        assert off.receipt == on.receipt


def test_a_warm_cache_needs_no_reads(built: Built) -> None:
    index = built.open(LARGE)
    cold = [ask(index, q) for q in built.queries]
    warm = [ask(index, q) for q in built.queries]
    assert all((a.receipt.gets, a.receipt.bytes, a.receipt.waves, a.receipt.modelled_ms) == (0, 0, 0, 0) for a in warm)
    assert all(a.receipt.blocks == a.receipt.blocks_cached > 0 and a.complete for a in warm)
    recalls = [
        [len(set(ids(a)) & set(built.nearest(q, 10))) for a, q in zip(answers, built.queries, strict=True)]
        for answers in (cold, warm)
    ]
    assert np.mean(recalls[1]) >= np.mean(recalls[0]) - 0.1


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_cached_or_read_the_same_blocks_give_the_same_answers(words: Built, share: float) -> None:
    total = sum(resident(words.open()).places[0].whole)
    index = words.open(int(share * total))
    read_with_cached = 0
    for q in [*words.queries[:15], *words.queries[:15]]:
        query = Query(q.tolist(), 20)
        plan = first_plan(index, query)
        answer = asyncio.run(index.query(query))
        hand = scanned(index, plan, query)
        unit = prepare(query.vector, index.root.index).unit
        assert [(m.row, m.score) for m in answer.matches] == [
            (row, round(max(-1.0, min(1.0, score / unit)), 7)) for row, score in hand
        ]
        assert answer.receipt.blocks_cached == len(plan.cached)
        read_with_cached += bool(plan.cached and plan.ranges)
        assert index.cache.held <= index.cache.budget
    assert read_with_cached > 0 or share in (0, 1)


def test_the_cache_budget_is_kept_and_the_oldest_go(words: Built) -> None:
    sizes = resident(words.open()).places[0].whole
    index = words.open(3 * max(sizes))
    seen = set()
    for q in words.queries:
        ask(index, q)
        flagged = cached(index)
        assert index.cache.held == sum(sizes[b] for b in flagged) <= index.cache.budget
        seen |= set(flagged)
    assert len(seen) > len(flagged)
    assert words.open(min(sizes) - 1).cache.held == 0


def test_a_cache_gives_way_where_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """To keep a block must not cost the answer that read it."""
    cache, part = Cache(30), memoryview(bytes(10))
    cache.register(["a"])
    cache.put("a", 0, part)

    def full(_: memoryview) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("vantage.read.cache.bytes", full, raising=False)
        cache.put("a", 10, part)
    assert cache.held == 0 and not cache.offsets("a")
    cache.put("a", 10, part)
    assert cache.held == 10


def test_a_request_that_needs_much_has_the_room_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept while it works; and again where its context ended and nobody says that it has."""
    service, part = Service(Folder(Path()), 30), memoryview(bytes(10))
    service.cache.register(["a"])

    async def kept_during(nbytes: int) -> int:
        service.cache.put("a", 0, part)
        async with service.room(nbytes, 0, asyncio.get_running_loop().time()):
            service.cache.put("a", 10, part)
            return service.cache.held

    assert asyncio.run(kept_during(1 << 20)) == 20
    assert asyncio.run(kept_during(9 << 20)) == 0
    service.cache.put("a", 10, part)
    assert service.cache.held == 10
    service.cache.lend(60.0)
    service.cache.put("a", 20, part)
    assert service.cache.held == 0
    later = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later)
    service.cache.put("a", 20, part)
    assert service.cache.held == 10


def test_a_cache_leaves_to_others_what_they_need() -> None:
    cache = Cache(30)
    cache.register(["g/a"])
    for at in (0, 10, 20):
        cache.put("g/a", at, memoryview(bytes(10)))
    cache.leave(15)
    assert set(cache.offsets("g/a")) == {20}
    cache.put("g/a", 0, memoryview(bytes(5)))
    assert cache.held == 15
    cache.leave(99)
    cache.put("g/a", 0, memoryview(bytes(1)))
    assert cache.held == 0
    cache.leave(0)
    cache.put("g/a", 0, memoryview(bytes(30)))
    assert cache.held == 30


def test_a_cache_evicts_the_least_recently_used() -> None:
    cache = Cache(30)
    cache.register(["g/a", "g/b"])
    for at in (0, 10, 20):
        cache.put("g/a", at, memoryview(bytes([at] * 10)))
    assert cache.get("g/a", 0) == bytes(10) and cache.get("g/b", 0) is None
    cache.put("g/b", 0, memoryview(bytes([7] * 10)))
    assert (set(cache.offsets("g/a")), set(cache.offsets("g/b"))) == ({0, 20}, {0})
    cache.put("g/b", 0, memoryview(bytes(10)))  # what is there stays as it is
    assert cache.get("g/b", 0) == bytes([7] * 10) and cache.held == 30
    cache.put("g/b", 40, memoryview(bytes(31)))  # larger than all: not kept, and nothing goes for it
    assert (cache.held, set(cache.offsets("g/b"))) == (30, {0})
    cache.put("g/b", 40, memoryview(bytes(25)))
    assert (set(cache.offsets("g/a")), set(cache.offsets("g/b"))) == (set(), {40})
    cache.register(["g/b", "h/a"])  # of another generation that names it too: it keeps what it has
    assert cache.get("g/b", 40) == bytes(25)
    cache.forget(["g/b"])
    assert cache.held == 0 and not cache.offsets("g/b")
    cache.put("g/b", 1, memoryview(bytes(5)))  # a query that began before: it ends, and keeps nothing
    assert cache.held == 0
    cache.put("h/a", 1, memoryview(bytes(5)))
    cache.clear()
    assert cache.held == 0 and cache.get("h/a", 1) is None
    cache.put("h/a", 1, memoryview(bytes(5)))
    assert cache.held == 5


def test_a_bridged_block_is_not_cached_unverified(words: Built, tmp_path: Path) -> None:
    """Cached when the plan was made, thrown out while it ran: its bytes in the range were not looked at."""
    b = 9
    index = damaged_copy(words, tmp_path, key=block_key, at=lambda index: resident(index).places[0].offset[b] + 100)
    directory, key = resident(index), block_key(index)
    index.cache.budget = 2 * max(directory.places[0].whole)
    extent = directory.extent(b, 0)
    block = (words.bucket / key).read_bytes()[extent.offset : extent.offset + extent.whole]
    index.cache.put(key, extent.offset, memoryview(block))
    plan = Plan([range_of(directory, 0, 0, 6), range_of(directory, 0, b - 1, b + 1)], [b], 0, True)
    query = Query(words.queries[0].tolist())
    run = Run(query, prepare(query.vector, index.root.index), index.segment, query.budget, Receipt(), {})
    scan = index.segment.scan_of(index.root, directory, 0, run.prepared, 300)
    steps = index.segment.scan(run, plan, scan, 0)
    asyncio.run(run_together([(steps, Receipt())], Reader(index.bucket, {}, Receipt())))
    assert b not in cached(index) or index.cache.get(key, extent.offset) == block


# Exact scores, vectors, attributes


def test_reranked_scores_are_exact(built: Built) -> None:
    bucket = Recorder(Folder(built.bucket))
    index, where = built.open(bucket=bucket), {i: n for n, i in enumerate(built.ids)}
    for q in built.queries[:8]:
        bucket.forget()
        answer = ask(index, q, rerank=30)
        assert answer.exact and answer.complete
        exact = built.scores(q)
        assert [m.score for m in answer.matches] == pytest.approx([exact[where[i]] for i in ids(answer)], rel=1e-5)
        plain = ask(built.open(), q, 30)
        order = sorted(ids(plain), key=lambda i: exact[where[i]] * (1 if built.metric == "l2" else -1))
        assert answer.matches[0].id == order[0]
        assert {i for i in ids(answer)} <= set(ids(plain))
        receipt = answer.receipt
        assert (receipt.rows_ranked, receipt.waves) == (30, 2)
        assert (receipt.gets, receipt.bytes) == (len(bucket.gets), bucket.bytes)


def test_all_of_200_are_reranked(words: Built) -> None:
    answer = ask(words.open(), words.queries[0], 200, rerank=200)
    assert answer.exact and answer.receipt.rows_ranked == 200 == len(answer.matches)


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
@pytest.mark.parametrize(("kind", "dtype"), [("f16", "e"), ("f32", "f"), ("u8", "B"), ("i8", "b")])
@pytest.mark.parametrize("size", [1e-25, 1.0, 1e4])
def test_exact_score_of_every_kind(metric: str, kind: str, dtype: str, size: float) -> None:
    d = 37
    draw = np.random.default_rng(d)
    q = draw.normal(size=d).astype(np.float32) * np.float32(size)
    low = -100 if kind != "u8" else 0
    x = draw.integers(low, 100, d).astype({"e": np.float16, "f": np.float32, "B": np.uint8, "b": np.int8}[dtype])
    index = IndexSection(metric, d, 1, 1, "i64", kind, "lrsq", "lse", 1.0, 1)
    wide, query = x.astype(np.float64), q.astype(np.float64)
    wanted = {
        "cosine": wide @ query / (np.linalg.norm(wide) * np.linalg.norm(query)),
        "l2": ((wide - query) ** 2).sum(),
        "dot": wide @ query,
    }[metric]
    scale = np.linalg.norm(wide) * np.linalg.norm(query) if metric == "dot" else 1.0
    assert exact_score(x.tobytes(), prepare(q.tolist(), index), index) == pytest.approx(wanted, 1e-5, abs=1e-5 * scale)


def test_a_damaged_vector_is_an_error(words: Built, tmp_path: Path) -> None:
    index = damaged_copy(
        words,
        tmp_path,
        key=lambda index: index.segment.keys[index.root.rows.vector_object[0]],
        at=lambda index: index.root.rows.vector_offset[0] + 3 * 2 * 96,
    )
    vector = words.vectors[words.ids.index(id_of(words, 3))]
    assert ask(index, vector).matches  # the estimate does not need it
    with pytest.raises(DamagedError, match=r"words/.*/vectors/part-00000.parquet: checksum of the vector of row 3 "):
        ask(index, vector, rerank=50)
    with pytest.raises(DamagedError, match="of the vector of row 3 "):
        asyncio.run(index.find(id_of(words, 3), Receipt()))


def id_of(built: Built, row: int) -> Any:
    """The id of a row number, by asking for everything."""
    index = built.open()
    for vector in built.vectors:
        for m in ask(index, vector, 1).matches:
            if m.row == row:
                return m.id
    raise AssertionError("not found")


def test_attributes_and_vectors_are_those_of_the_source(words: Built) -> None:
    index, where = words.open(), {i: n for n, i in enumerate(words.ids)}
    for q in words.queries[:5]:
        answer = ask(index, q, attributes=True, vectors=True)
        assert answer.complete
        for m in answer.matches:
            assert m.attributes == words.attributes[where[m.id]]
            assert m.vector == words.vectors[where[m.id]].tolist()
        assert answer.receipt.waves == 2


@pytest.mark.parametrize("top_k", [1, 10, 300])
def test_attributes_come_with_the_codes(words: Built, top_k: int) -> None:
    """Of a rendition that has them: the same blocks in the same GETs, the same answers, and no wave more."""
    bucket = Recorder(Folder(words.bucket))
    index = words.open(bucket=bucket)
    number = index.root.renditions.index(Rendition(0, True))
    key = block_key(index, number)
    for q in words.queries[:8]:
        plain = ask(index, q, top_k)
        bucket.forget()
        answer = ask(index, q, top_k, attributes=True)
        receipt, without = answer.receipt, plain.receipt
        assert told(answer) == told(plain) and answer.recall_estimate == plain.recall_estimate
        assert (receipt.waves, receipt.gets, receipt.blocks) == (without.waves, without.gets, without.blocks)
        assert (receipt.gets, receipt.bytes) == (len(bucket.gets), bucket.bytes)
        assert {get.key for get in bucket.gets} == {key} and receipt.bytes > without.bytes


def test_what_is_cached_of_a_rendition_serves_that_one(words: Built) -> None:
    index, q = words.open(LARGE), words.queries[0]
    plain, with_attributes = ask(index, q), ask(index, q, attributes=True)
    assert with_attributes.receipt.gets == plain.receipt.gets > 0
    assert all(ask(index, q, attributes=a).receipt.gets == 0 for a in (False, True))
    again = ask(index, q, attributes=True)
    assert told(again) == told(with_attributes) and again.receipt.blocks_cached == again.receipt.blocks > 0
    assert [m.attributes for m in again.matches] == [m.attributes for m in with_attributes.matches]


def test_room_for_attributes_holds_the_first_ones(words: Built) -> None:
    """Of 300 rows in many blocks, which arrive in any order, the best ones have attributes."""
    index, where = words.open(), {i: n for n, i in enumerate(words.ids)}
    answer = ask(index, words.queries[0], 300, attributes=True, room=9000)
    given = [m for m in answer.matches if m.attributes is not None]
    assert not answer.complete and answer.matches[: len(given)] == given and 10 < len(given) < 60
    assert all(m.attributes == words.attributes[where[m.id]] for m in given)


def test_a_batch_reads_one_rendition_once(words: Built) -> None:
    index, receipt = words.open(), Receipt()
    queries = [Query(q.tolist(), 10, attributes=True) for q in words.queries[:6]]
    answers = asyncio.run(index.answer(queries, receipt))
    alone = [ask(index, q.vector, attributes=True) for q in queries]
    assert [told(a) for a in answers] == [told(a) for a in alone]
    assert [[m.attributes for m in a.matches] for a in answers] == [[m.attributes for m in a.matches] for a in alone]
    assert receipt.waves == 1 and receipt.gets < sum(a.receipt.gets for a in alone)


def test_reranked_vectors_are_not_read_again(words: Built) -> None:
    index = words.open()
    plain, more = ask(index, words.queries[0], rerank=20), ask(index, words.queries[0], rerank=20, vectors=True)
    assert plain.receipt == more.receipt
    assert all(m.vector is not None for m in more.matches)


def test_an_index_without_attributes_gives_none_and_reads_none(points: Built) -> None:
    index = points.open()
    answer = ask(index, points.queries[0], attributes=True)
    assert [m.attributes for m in answer.matches] == [{}] * 10
    assert answer.complete and answer.receipt.waves == 1


def test_damaged_attributes_are_an_error(words: Built, tmp_path: Path) -> None:
    def rendition(index: Index) -> int:
        return index.root.renditions.index(Rendition(0, True))

    def at(index: Index) -> int:
        extent = resident(index).extent(0, rendition(index))
        return extent.offset + extent.whole - 40

    index = damaged_copy(words, tmp_path, lambda index: block_key(index, rendition(index)), at)
    vector = words.vectors[words.ids.index(id_of(words, 0))]
    assert ask(index, vector).complete
    with pytest.raises(DamagedError, match=r"rendition-[12]-00000.bin: checksum of block 0 at byte 64 differs"):
        ask(index, vector, attributes=True)


# Budgets


def test_a_budget_cuts_and_says_so(words: Built) -> None:
    index = words.open()
    whole = {q: ask(index, words.queries[q]) for q in range(len(words.queries))}
    q = max(whole, key=lambda i: whole[i].receipt.gets)
    spent = whole[q].receipt
    assert spent.gets > 1
    for budget in (Budget(gets=spent.gets - 1), Budget(bytes=spent.bytes - 1), Budget(gets=1), Budget(bytes=60_000)):
        answer = ask(index, words.queries[q], budget=budget)
        assert not answer.complete
        assert answer.recall_estimate is None
        assert 0 < answer.receipt.gets <= budget.gets and answer.receipt.bytes <= budget.bytes
        assert answer.matches
    for budget in (Budget(gets=0), Budget(bytes=0), Budget(bytes=1), Budget(waves=0)):
        answer = ask(index, words.queries[q], budget=budget, attributes=True, vectors=True)
        assert (answer.matches, answer.complete, answer.receipt.gets) == ([], False, 0)
        assert not explained(index, Query(words.queries[q].tolist(), budget=budget))["complete"]
    assert ask(index, words.queries[q], budget=Budget(spent.gets, spent.bytes, 1)).complete


def test_a_budget_that_ends_after_the_scan(words: Built) -> None:
    index, q = words.open(), words.queries[0]
    for attributes in (False, True):
        plain = ask(index, q, attributes=attributes)
        for budget in (Budget(waves=1), Budget(gets=plain.receipt.gets), Budget(bytes=plain.receipt.bytes)):
            answer = ask(index, q, rerank=20, attributes=attributes, vectors=True, budget=budget)
            assert not answer.exact and not answer.complete
            assert told(answer) == told(plain)
            assert [m.attributes for m in answer.matches] == [m.attributes for m in plain.matches]
            assert all(m.vector is None for m in answer.matches)
            assert answer.receipt.gets == plain.receipt.gets
    two = ask(index, q, rerank=20, attributes=True, vectors=True, budget=Budget(waves=2))
    assert two.exact and two.complete and two.receipt.waves == 2


def test_cached_blocks_are_scanned_whatever_the_budget(words: Built) -> None:
    index = words.open(LARGE)
    ask(index, words.queries[0])
    answer = ask(index, words.queries[0], budget=Budget(0, 0, 0))
    assert answer.complete and len(answer.matches) == 10 and answer.receipt.gets == 0


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"top_k": 0}, "top_k"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 1001}, "top_k"),
        ({"top_k": 10, "rerank": 9}, "rerank"),
        ({"top_k": 10, "rerank": 201}, "rerank"),
        ({"top_k": 201, "rerank": 200}, "rerank"),
        ({"recall": 0.99999}, "recall"),
    ],
)
def test_limits(words: Built, options: dict[str, Any], param: str) -> None:
    bucket = Recorder(Folder(words.bucket))
    index = words.open(bucket=bucket)
    bucket.forget()
    with pytest.raises(LimitError) as caught:
        ask(index, words.queries[0], **options)
    assert caught.value.param == param
    assert caught.value.value == options[param]
    assert caught.value.limit and caught.value.hint
    assert not bucket.gets
    assert ask(index, words.queries[0]).complete


# Ids


def test_every_id_is_found(built: Built) -> None:
    bucket = Recorder(Folder(built.bucket))
    index = built.open(bucket=bucket)
    rows = set()
    for at in range(0, len(built.ids), 37):
        bucket.forget()
        receipt = Receipt()
        row, vector = asyncio.run(index.find(built.ids[at], receipt))
        rows.add(row)
        assert vector == built.vectors[at].tolist()
        assert len(bucket.gets) == 2
    assert len(rows) == len(range(0, len(built.ids), 37))


@pytest.mark.parametrize(
    ("name", "missing", "other"),
    [
        ("words", [b"n99999999", b"", b"n" * 600, "ä".encode(), b"\xff"], 5),
        ("points", [5, -1, 2**63 - 1, -(2**63), 2**63, 10**30], b"5"),
    ],
)
def test_a_missing_id(request: pytest.FixtureRequest, name: str, missing: list[Any], other: Any) -> None:
    index = request.getfixturevalue(name).open()
    for identifier in missing:
        with pytest.raises(NotFoundError, match="there is no row with id"):
            asyncio.run(index.find(identifier, Receipt()))
    with pytest.raises(InputError, match=f"ids of '{name}' are"):
        asyncio.run(index.find(other, Receipt()))


def test_a_damaged_page_of_ids_is_an_error(points: Built, tmp_path: Path) -> None:
    index = damaged_copy(points, tmp_path, lambda i: i.segment.keys[i.root.id_pages[0].object], at=lambda i: 1000)
    with pytest.raises(DamagedError, match=r"points/.*/ids.bin: checksum of page 0 differs"):
        asyncio.run(index.find(points.ids[0], Receipt()))


# Failures


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("error", StoreError),
        ("short", StoreError),
        ("whole", StoreError),
        ("changed", StoreError),
        ("missing", DamagedError),
        ("size", DamagedError),
        ("flip", DamagedError),
    ],
)
@pytest.mark.parametrize("where", ["shard", "vectors"])
def test_an_index_stays_usable_after_a_failure(words: Built, fault: str, kind: type[VantageError], where: str) -> None:
    bucket = Failing(Folder(words.bucket), never)
    index, q = words.open(LARGE, bucket), words.queries[0]
    bucket.plan = always(fault, of=where)
    with pytest.raises(kind, match=rf"words/{index.current.generation}/.*{where}"):
        ask(index, q, rerank=20)
    bucket.plan = never
    again = ask(index, q, rerank=20)
    assert told(again) == told(ask(words.open(), q, rerank=20))
    assert again.complete


def test_one_failure_is_tried_again_and_counted(words: Built) -> None:
    bucket = Failing(Folder(words.bucket), never)
    index, q = words.open(bucket=bucket), words.queries[0]
    bucket.plan = nth(0)
    answer, calm = ask(index, q), ask(words.open(), q)
    assert told(answer) == told(calm)
    assert (answer.receipt.retries, answer.receipt.gets) == (1, calm.receipt.gets + 1)


def test_a_flipped_bit_in_a_block_is_never_cached(words: Built, tmp_path: Path) -> None:
    index = damaged_copy(words, tmp_path, block_key, lambda index: resident(index).places[0].offset[3] + 77)
    index.cache.budget = LARGE
    failed = 0
    for q in words.queries:
        try:
            ask(index, q)
        except DamagedError as error:
            failed += 1
            assert f"{block_key(index)}: checksum of block 3 at byte" in error.message
    assert failed
    assert 3 not in cached(index)
