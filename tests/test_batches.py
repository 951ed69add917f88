"""Batches: the answers of single queries, for fewer reads; and bodies of bytes, both ways."""

from __future__ import annotations

import asyncio
import json
import re
import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from doubles import Built, Failing, Recorder, nth

from vantage import indexes
from vantage.cost import LANES, Budget, Limits
from vantage.errors import DamagedError, InputError
from vantage.http.access import Access
from vantage.http.handlers import MATCHES_MAX, VALUES_MAX
from vantage.http.reply import Reply
from vantage.http.request import BINARY, BODY_BYTES_MAX
from vantage.http.routes import handle
from vantage.indexes import Service
from vantage.kernels import crc32c
from vantage.read.bucket import Bytes, Folder
from vantage.read.gather import RANGE_BYTES_MAX, SHARED_GAP, SPLIT_BYTES, plan_shared, span_of
from vantage.read.reader import Reader
from vantage.read.waves import Item, Wave, run_together
from vantage.receipt import Receipt
from vantage.search import memory
from vantage.search.memory import answers_bytes
from vantage.search.query import Answer, Query


@pytest.fixture(params=["words", "points", "dots"])
def built(request: pytest.FixtureRequest) -> Built:
    found: Built = request.getfixturevalue(request.param)
    return found


def queries(built: Built, count: int = 20) -> list[Query]:
    """Of several kinds: plain, dressed, exact scores, a bounded one, one by id."""
    vectors = [q.tolist() for q in built.queries[:count]]
    ways: list[dict[str, Any]] = [
        {}, {"attributes": True}, {"rerank": 30}, {"vectors": True, "top_k": 3}, {"budget": Budget(3, 60_000, 1)},
    ]  # fmt: skip
    asked = [Query(v, **ways[i % len(ways)]) for i, v in enumerate(vectors)]
    return [*asked, Query(None, id=built.ids[7]), Query(None, id=built.ids[7], rerank=20, attributes=True)]


def told(answer: Answer) -> tuple[Any, ...]:
    r = answer.receipt
    return (
        [vars(m) for m in answer.matches], answer.exact, answer.complete, answer.recall_estimate,
        (r.gets, r.bytes, r.waves, r.blocks, r.rows, r.rows_ranked),
    )  # fmt: skip


def test_a_batch_answers_as_single_queries_do_and_reads_less(built: Built) -> None:
    bucket = Recorder(Folder(built.bucket))
    index, receipt = built.open(bucket=bucket), Receipt()
    bucket.forget()
    together = asyncio.run(index.answer(queries(built), receipt))
    assert (receipt.gets, receipt.bytes) == (len(bucket.gets), bucket.bytes)
    assert bucket.running_max <= LANES
    alone = [asyncio.run(index.query(q)) for q in queries(built)]
    assert [told(a) for a in together] == [told(a) for a in alone]
    assert receipt.waves <= max(a.receipt.waves for a in alone)
    assert receipt.rows == sum(a.receipt.rows for a in alone)


def test_blocks_that_several_want_are_read_once(built: Built) -> None:
    bucket = Recorder(Folder(built.bucket))
    index, receipt = built.open(bucket=bucket), Receipt()
    bucket.forget()
    answers = asyncio.run(index.answer([Query(q.tolist()) for q in built.queries], receipt))
    assert receipt.waves == 1 and len(bucket.gets) <= LANES
    reads = sorted((g.key, g.offset, g.offset + (g.length or 0)) for g in bucket.gets)
    assert all(a[0] != b[0] or a[2] <= b[1] for a, b in pairwise(reads))
    assert receipt.bytes < 0.5 * sum(a.receipt.bytes for a in answers)


def test_groups_answer_as_one(words: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory has room for two or three scans at a time; never for none."""
    whole = [told(a) for a in asyncio.run(words.open().answer(queries(words), Receipt()))]
    for most in (1, 400_000):
        monkeypatch.setattr(memory, "SCANS_BYTES_MAX", most)
        assert [told(a) for a in asyncio.run(words.open().answer(queries(words), Receipt()))] == whole


def test_nothing_is_read_when_one_query_is_wrong(words: Built) -> None:
    bucket = Recorder(Folder(words.bucket))
    index = words.open(bucket=bucket)
    bucket.forget()
    wrong = Query([0.0] * 96, param="vectors[2]")
    with pytest.raises(InputError, match=re.escape("vectors[2] is zero")):
        asyncio.run(index.answer([*queries(words), wrong], Receipt()))
    assert not bucket.gets


def test_damage_fails_the_batch(words: Built) -> None:
    index = words.open(bucket=Failing(Folder(words.bucket), nth(0, fault="flip", of="shard")))
    with pytest.raises(DamagedError, match="checksum of block"):
        asyncio.run(index.answer(queries(words), Receipt()))


def test_a_batch_across_a_switch_of_generation(generations: tuple[Built, Built], tmp_path: Path) -> None:
    """The first generation is gone when its blocks are wanted: all are answered by the second, by one alone."""
    first, second = generations
    live = Failing(Folder(first.bucket), lambda _, __: None)
    service = Service(live, 0)
    asyncio.run(service.index("live", Receipt()))
    live.bucket = Folder(second.bucket)
    asked = [Query(q.tolist()) for q in first.queries[:5]]
    answers = asyncio.run(service.live("live", Receipt(), lambda index: index.answer(asked, Receipt())))
    right = [asyncio.run(second.open().query(q)) for q in asked]
    assert [told(a) for a in answers] == [told(a) for a in right]
    assert {a.receipt.generation for a in answers} == {second.open().current.generation}


# Spans


def test_shared_spans_hold_every_item_once_within_the_limits() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        at = 0
        items = []
        for _ in range(int(draw.integers(1, 400))):
            at += int(draw.choice([0, 64, SHARED_GAP, SHARED_GAP + 1, 10 * SHARED_GAP]))
            size = int(draw.integers(1, 60_000))
            items.append((f"shard-{at >> 24}", at, size))
            at += size
        draw.shuffle(items)
        spans = plan_shared(items)
        assert sorted(i for s in spans for i in s.items) == list(range(len(items)))
        for s in spans:
            assert s.size <= RANGE_BYTES_MAX
            assert all(items[i][0] == s.key for i in s.items)
            assert all(s.offset <= items[i][1] and items[i][1] + items[i][2] <= s.offset + s.size for i in s.items)


def test_shared_spans_bridge_small_gaps_alone_and_use_all_lanes() -> None:
    near = [("a", 0, 10), ("a", 10 + SHARED_GAP, 10)]
    assert len(plan_shared(near)) == 1
    assert len(plan_shared([near[0], ("a", 11 + SHARED_GAP, 10)])) == 2
    assert len(plan_shared([near[0], ("b", 10, 10)])) == 2
    assert len(plan_shared([("a", i * SPLIT_BYTES, SPLIT_BYTES) for i in range(12)])) == LANES
    assert plan_shared([]) == []


# HTTP


def post(built: Built, body: bytes, query: str = "", **headers: str) -> Reply:
    async def read(*_: object) -> bytes:
        return body

    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    path = f"/v1/indexes/{built.name}/query{query}"
    service = Service(Folder(built.bucket), 0)
    reply = asyncio.run(handle("POST", path, sent, read, service, Access(public=True), {}))
    if not isinstance(reply.body, bytes):
        reply.body = json.loads(reply.sent)  # as a client sees it
    return reply


def examples() -> Iterator[str]:
    text = (Path(__file__).parent.parent / "docs" / "http.md").read_text()
    yield from re.findall(r"```python\n(.*?)```", text, re.S)


def test_bytes_in_and_out_as_the_documentation_shows(built: Built) -> None:
    """Both examples of docs/http.md, run as they stand."""
    write, read = examples()
    names: dict[str, Any] = {"vectors": built.queries[:9]}
    exec(write, names)
    reply = post(built, names["body"], "?top_k=7&recall=0.85", content_type=BINARY, accept=BINARY)
    assert reply.status == 200 and reply.headers["content-type"] == BINARY
    names["reply"] = reply.body
    exec(read, names)
    plain = post(built, json.dumps({"vectors": built.queries[:9].tolist(), "top_k": 7, "recall": 0.85}).encode())
    results = plain.body["results"]
    for ids, scores, result in zip(names["ids"], names["scores"], results, strict=True):
        assert [i.decode() if isinstance(i, bytes) else int(i) for i in ids] == [m["id"] for m in result["matches"]]
        assert scores.tolist() == [np.float32(m["score"]) for m in result["matches"]]
    assert names["rest"]["receipt"] == plain.body["receipt"]
    assert names["rest"]["results"] == [{k: v for k, v in r.items() if k != "matches"} for r in results]


def test_receipts_of_a_batch(words: Built) -> None:
    body = post(words, json.dumps({"vectors": words.queries[:8].tolist()}).encode()).body
    alone = [post(words, json.dumps({"vector": q}).encode()).body for q in words.queries[:8].tolist()]
    assert [r["matches"] for r in body["results"]] == [r["matches"] for r in alone]
    assert body["receipt"]["bytes"] < sum(r["receipt"]["bytes"] for r in body["results"])
    assert [r["receipt"]["bytes"] for r in body["results"]] == [r["receipt"]["bytes"] for r in alone]
    quiet = post(words, json.dumps({"vectors": words.queries[:2].tolist(), "include": []}).encode()).body
    assert "receipt" not in quiet and "receipt" not in quiet["results"][0]


HEAD: Callable[..., bytes] = struct.Struct("<4sIII").pack


@pytest.mark.parametrize(
    ("body", "query", "detail"),
    [
        (b"", "", "does not begin with the header"),
        (b"VANZ" + bytes(12), "", "does not begin with the header"),
        (HEAD(b"VANQ", 2, 1, 96) + bytes(384), "", "of version 2"),
        (HEAD(b"VANQ", 1, 0, 96), "", "number of vectors is 0"),
        (HEAD(b"VANQ", 1, 257, 96), "", "number of vectors is 257"),
        (HEAD(b"VANQ", 1, 1, 96) + bytes(383), "", "has 399 bytes, its header says 400"),
        (HEAD(b"VANQ", 1, 1, 95) + bytes(380), "", "the length of vectors[0] is 95"),
        (HEAD(b"VANQ", 1, 1, 96) + b"\0\0\xc0\x7f" * 96, "", "vectors[0][0] is not finite"),
        (HEAD(b"VANQ", 1, 1, 96) + b"\0\0\x80\x3f" * 96, "?top_q=3", "unknown field 'top_q'"),
        (HEAD(b"VANQ", 1, 1, 96) + b"\0\0\x80\x3f" * 96, "?top_k=x", "top_k is not a number"),
        (HEAD(b"VANQ", 1, 1, 96) + b"\0\0\x80\x3f" * 96, "?include=receipt,words", "unknown field 'words'"),
        (HEAD(b"VANQ", 1, 1, 96) + b"\0\0\x80\x3f" * 96, "?include=attributes", "holds ids, scores and receipts"),
    ],
)
def test_wrong_bytes(words: Built, body: bytes, query: str, detail: str) -> None:
    reply = post(words, body, query, content_type=BINARY, accept=BINARY)
    assert reply.status == 400
    assert detail in reply.body["detail"]


def test_limits_of_what_comes_back(words: Built) -> None:
    assert BODY_BYTES_MAX == 16 + 256 * 4096 * 4
    vectors = words.queries[:1].tolist()
    for body, value, limit in (
        ({"vectors": 33 * vectors, "top_k": 1000}, 33_000, MATCHES_MAX),
        ({"vectors": 11 * vectors, "top_k": 1000, "include": ["vector"]}, 11_000 * 96, VALUES_MAX),
    ):
        reply = post(words, json.dumps(body).encode())
        assert reply.status == 400, reply.body
        assert (reply.body["value"], reply.body["limit"]) == (value, limit)


@pytest.mark.parametrize("seed", range(8))
def test_a_batch_never_sends_more_than_its_queries_would_alone(seed: int) -> None:
    """Scattered wants that each bridge with few long reads: reading what is wanted alone would be a GET an item."""
    rng = np.random.default_rng(seed)
    data = rng.bytes(4 << 20)
    size, count = 512, int(rng.integers(2, 6))
    wants, got = [], [dict[int, bytes]() for _ in range(count)]
    for w in range(count):
        starts = sorted((rng.choice(60, int(rng.integers(2, 30)), replace=False) * 65_536).tolist())
        items = [Item("o", at, size, len(data), crc32c(data[at : at + size]), f"{at}") for at in starts]
        cuts = sorted({0, len(items), *rng.integers(0, len(items), 2).tolist()})
        spans = [span_of([i[:3] for i in items], list(range(a, b))) for a, b in pairwise(cuts)]

        def use(numbers: list[int], views: list[memoryview], w: int = w, items: list[Item] = items) -> None:
            got[w].update((items[n].offset, bytes(v)) for n, v in zip(numbers, views, strict=True))

        wants.append(Wave(items, spans, use))

    class Whole:
        async def get(self, key: str, offset: int, length: int | None, etag: str | None) -> Bytes:
            return Bytes(data[offset : offset + (length or 0)], len(data), "e")

        async def list(self, prefix: str, after: str, limit: int) -> tuple[list[str], str | None]:
            return [], None

    def steps(want: Wave) -> Iterator[Any]:
        yield want

    receipt, alone = Receipt(), [Receipt() for _ in wants]
    reader = Reader(Whole(), {}, receipt)  # type: ignore[arg-type]
    pairs: Any = [(steps(want), own) for want, own in zip(wants, alone, strict=True)]
    asyncio.run(run_together(pairs, reader))
    assert receipt.gets <= sum(own.gets for own in alone)
    assert receipt.bytes <= sum(own.bytes for own in alone)
    assert got == [{i.offset: data[i.offset : i.offset + size] for i in want.items} for want in wants]


@pytest.mark.parametrize(
    "fields", [{}, {"rerank": 20}, {"attributes": True}, {"budget": Budget(gets=1000)}, {"id": True}]
)
def test_a_query_answers_with_what_a_limit_below_its_plan_lets_it_read(
    words: Built, widest: list[np.ndarray], fields: dict[str, Any]
) -> None:
    index, by_id = words.open(), "id" in fields
    query = Query(None, 10, id=words.ids[0]) if by_id else Query(widest[0].tolist(), 10, **fields)
    whole = asyncio.run(index.query(query))
    gets, nbytes = whole.receipt.gets, whole.receipt.bytes
    for limits in (Limits(gets=1 + 2 * by_id), Limits(gets=gets - 1), Limits(gets=gets), Limits(bytes=nbytes - 1)):
        index.limits = limits
        answer = asyncio.run(index.query(query))
        assert len(answer.matches) == 10
        assert answer.receipt.gets <= limits.gets and answer.receipt.bytes <= limits.bytes
        if answer.complete:  # fewer reads of more bytes, or what was asked for
            assert [m.row for m in answer.matches] == [m.row for m in whole.matches]
        assert not answer.complete or limits.gets > 1 + 2 * by_id


def test_a_request_reads_no_more_than_its_limits(words: Built) -> None:
    index = words.open()
    asked = [Query(q.tolist()) for q in words.queries[:12]]
    whole = Receipt()
    asyncio.run(index.answer(asked, whole))
    for limits in (Limits(gets=0), Limits(bytes=1000), Limits(gets=whole.gets - 1)):
        index.limits, receipt = limits, Receipt()
        answers = asyncio.run(index.answer(asked, receipt))
        assert receipt.gets <= limits.gets and receipt.bytes <= limits.bytes
        assert not all(a.complete for a in answers)
    index.limits = Limits(gets=whole.gets)
    assert all(a.complete for a in asyncio.run(index.answer(asked, Receipt())))


def test_a_larger_request_has_a_larger_price(words: Built) -> None:
    index, vector = words.open(), words.queries[0].tolist()
    prices = [
        answers_bytes(index.segment, [Query(vector, **more)] * count)
        for count, more in [
            (1, {}), (1, {"top_k": 100}), (1, {"top_k": 100, "attributes": True}),
            (1, {"top_k": 100, "attributes": True, "vectors": True}), (16, {"top_k": 100, "vectors": True}),
        ]
    ]  # fmt: skip
    assert prices == sorted(set(prices))
    assert (
        answers_bytes(index.segment, [Query(vector, rerank=200)])
        > answers_bytes(index.segment, [Query(vector)]) + 200 * 96 * 2
    )


def test_a_batch_is_priced_by_the_tails_of_all_blocks_that_its_scans_may_share(words: Built) -> None:
    """With attributes those are most of an index; what groups set aside for them is bounded, what they hold is not."""
    index, vector = words.open(), words.queries[0].tolist()
    segment, asked = index.segment, [Query(vector, 1000, attributes=True)] * 8
    rows = segment.root.index.slots
    with patch.object(memory, "SCANS_BYTES_MAX", 1 << 10):
        assert memory.shared_bytes(segment, asked) == 1 << 9
        assert answers_bytes(segment, asked) > memory.tails_bytes(segment, asked)
    assert memory.tails_bytes(segment, asked) == rows * (memory.TAIL_BYTES + segment.root.index.attribute_bytes)


def test_an_answer_lets_go_of_what_its_scan_saw(words: Built) -> None:
    """A batch holds tens of thousands of matches until the last is written."""
    index = words.open()
    asked = [Query(q.tolist(), attributes=bool(i % 2), rerank=20 * (i % 3)) for i, q in enumerate(words.queries[:6])]
    answers = asyncio.run(index.answer(asked, Receipt()))
    assert all(m.contender is None for a in answers for m in a.matches)


def test_while_a_large_request_works_the_cache_stays_empty(words: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(Folder(words.bucket), 1 << 24)

    def ask(count: int) -> int:
        async def body(*_: object) -> bytes:
            return json.dumps({"vectors": [q.tolist() for q in words.queries[:count]]}).encode()

        path = f"/v1/indexes/{words.name}/query"
        assert asyncio.run(handle("POST", path, {}, body, service, Access(public=True), {})).status == 200
        return service.cache.held

    assert ask(1) > 0
    monkeypatch.setattr(indexes, "LARGE_BYTES", answers_bytes(words.open().segment, [Query([], 10)] * 4))
    assert ask(8) == 0
    assert ask(1) > 0


@pytest.mark.parametrize("name", ["vectors", "top_k", "rerank", "exact"])
def test_limits_that_a_service_sets(words: Built, name: str) -> None:
    service = Service(Folder(words.bucket), 0)
    service.limits = Limits(vectors=2, top_k=5, rerank=20, exact=False)
    vector = words.queries[0].tolist()
    fields: dict[str, Any] = {"vector": vector, "top_k": 5, "rerank": 20}

    def ask() -> Reply:
        async def body(*_: object) -> bytes:
            return json.dumps(fields).encode()

        path = f"/v1/indexes/{words.name}/query"
        return asyncio.run(handle("POST", path, {}, body, service, Access(public=True), {}))

    assert ask().status == 200
    fields |= {"vectors": {"vectors": [vector] * 3}, "top_k": {"top_k": 6}, "rerank": {"rerank": 21},
               "exact": {"exact": True, "rerank": 0}}[name]  # fmt: skip
    if name == "vectors":
        del fields["vector"]
    reply = ask()
    assert (reply.status, json.loads(reply.sent)["param"]) == (400, name)
