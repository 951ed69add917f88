"""The log over a generation: answers as plain Python gives them, of rows that come, change and go."""

from __future__ import annotations

import asyncio
import json
import shutil
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress, pairwise
from math import fsum, sqrt
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any
from unittest.mock import patch
from weakref import ref

import filters
import pytest
from doubles import Built, Get, Recorder
from filters import matching, random_filter, random_row

from build_index.bucket.log_store import StoreLog
from build_index.bucket.store import FolderStore
from vantage import indexes
from vantage.admission import BusyError
from vantage.cost import Budget, Limits
from vantage.errors import BehindError, InputError, NotFoundError
from vantage.follow import NEVER, Followed
from vantage.format import Current
from vantage.format.log import NO_KEY, Request, RowShape, segment_key
from vantage.http.access import Access
from vantage.http.routes import handle
from vantage.index import Index, Wanted
from vantage.indexes import Service, Wish
from vantage.log.commit import check_request, commit
from vantage.log.conditions import BaseRow, Write
from vantage.log.move import advance
from vantage.log.state import read_log, whole_state
from vantage.read import gather
from vantage.read.bucket import Folder
from vantage.read.cache import Cache
from vantage.read.deadline import Deadline
from vantage.receipt import Receipt
from vantage.search import facets, fresh, holes
from vantage.search.facets import FacetQuery
from vantage.search.listing import Listing, prepare_listing
from vantage.search.query import Answer, Query
from vantage.search.rank import decode

FIXTURES = Path(__file__).parent / "fixtures"
CODES = {"f16": "e", "f32": "f", "u8": "B", "i8": "b"}
Id = int | bytes


@dataclass
class Row:
    vector: list[float]
    attributes: dict[str, Any]


@dataclass
class Living:
    """A copy of a fixture with a log, the rows that it is to have, and what of them the log has."""

    folder: Path
    name: str
    index: Index
    followed: Followed
    rows: dict[Id, Row]
    written: set[Id] = field(default_factory=set)

    @property
    def shape(self) -> RowShape:
        index = self.index.root.index
        return RowShape(index.dimension, index.id_kind, index.vector_kind)

    def write(
        self, upserts: Mapping[Id, Row] = {}, patches: Mapping[Id, dict[str, Any]] = {}, deletes: Sequence[Id] = ()
    ) -> None:
        """One request, done to the rows too; what was read of the log stays behind."""
        kind, names = CODES[self.shape.vector_kind], self.index.root.names
        if kind in "Bb":
            upserts = {i: Row(list(map(round, r.vector)), r.attributes) for i, r in upserts.items()}
        vectors = b"".join(struct.pack(f"<{len(r.vector)}{kind}", *r.vector) for r in upserts.values())
        texts = [json.dumps(r.attributes).encode() if r.attributes else b"" for r in upserts.values()]
        changes = [json.dumps(members).encode() for members in patches.values()]
        request = Request(NO_KEY, 0, list(upserts), vectors, texts, list(patches), changes, list(deletes))
        check_request(request, self.shape)

        async def write() -> None:
            store = StoreLog(FolderStore(self.folder / self.name))
            state = await read_log(store, monotonic)
            _, [seq] = await commit(store, state, [Write(request)], self.shape, nothing, monotonic)
            assert isinstance(seq, int)

        asyncio.run(write())
        for identifier, row in upserts.items():
            own = [
                float(v)
                for (v,) in struct.iter_unpack(f"<{kind}", struct.pack(f"<{len(row.vector)}{kind}", *row.vector))
            ]
            self.rows[identifier] = Row(own, dict.fromkeys(names) | row.attributes)
        for identifier, members in patches.items():
            if identifier in self.rows:
                self.rows[identifier] = Row(self.rows[identifier].vector, self.rows[identifier].attributes | members)
        for identifier in deletes:
            self.rows.pop(identifier, None)
        self.written |= {*upserts, *patches, *deletes}

    def read_on(self) -> Receipt:
        """Follows the log to its end."""
        receipt = Receipt()
        assert asyncio.run(self.followed.follow(receipt))
        self.index = self.followed.index
        return receipt

    def ask(self, vector: Sequence[float], top_k: int, **options: Any) -> Answer:
        return asyncio.run(self.index.query(Query(list(vector), top_k, **options)))

    def score(self, query: Sequence[float], identifier: Id) -> float:
        """Exact, as real numbers are."""
        v, metric = self.rows[identifier].vector, self.index.root.index.metric
        if metric == "l2":
            return fsum((a - b) ** 2 for a, b in zip(query, v, strict=True))
        dot = fsum(a * b for a, b in zip(query, v, strict=True))
        return dot if metric == "dot" else dot / sqrt(fsum(a * a for a in query) * fsum(b * b for b in v))

    def change(self, draw: Random, attributes: Any, size: int) -> None:
        """A request of random writes, of ids that are there and of some that are not."""
        every = [*self.rows, *self.written]
        text = self.shape.id_kind == "bytes"
        new: list[Id] = [
            f"new {draw.randrange(999)}".encode() if text else 10_000 + draw.randrange(999) for _ in range(size)
        ]
        ids = list(dict.fromkeys(draw.sample(new, size) + [draw.choice(every) for _ in range(size)]))
        draw.shuffle(ids)
        some = list(self.rows.values())
        upserts, patches = dict[Id, Row](), dict[Id, dict[str, Any]]()
        while len(ids) > size and len(upserts) < size:
            near = draw.choice(some).vector
            vector = [v if draw.random() < 0.8 else draw.choice(some).vector[i] for i, v in enumerate(near)]
            upserts[ids.pop()] = Row(vector, {n: v for n, v in attributes(draw).items() if draw.random() < 0.8})
        while len(ids) > size // 2 and self.index.root.names:
            members = attributes(draw)
            patches[ids.pop()] = {n: members[n] for n in draw.sample(list(members), min(2, len(members)))}
        self.write(upserts, patches, ids[: max(1, size // 3)])


async def nothing(_: Current, __: Sequence[Id]) -> Mapping[Id, BaseRow | None]:
    return {}


def living(tmp_path: Path, name: str) -> Living:
    shutil.copytree(FIXTURES / name, tmp_path / name)
    index = asyncio.run(Index.open(Folder(tmp_path), name, Cache(0), Receipt()))
    query = Query([1.0] * index.root.index.dimension, 1000, attributes=True, vectors=True)
    found = asyncio.run(index.query(query)).matches
    rows = {m.id: Row(m.vector or [], m.attributes or {}) for m in found}
    assert len(rows) == index.root.live_rows
    return Living(tmp_path, name, index, Followed(index), rows)


def made_of(it: Living) -> Any:
    """What draws attributes as the rows of an index have them."""
    names = it.index.root.names
    if "lang" in names:
        return lambda draw: {n: v for n, v in random_row(draw).items() if n in names} | {"note": "written"}
    some = [row.attributes for row in it.rows.values()]
    return lambda draw: dict(draw.choice(some))


def test_a_row_that_is_written_is_found_and_one_that_is_deleted_is_not(tmp_path: Path) -> None:
    it = living(tmp_path, "words")
    some = next(iter(it.rows))
    before = it.ask(it.rows[some].vector, 5, rerank=5)
    assert before.matches[0].id == some
    it.write({b"new": Row(it.rows[some].vector, {"gloss": "a new one"})}, deletes=[some])
    assert [m.id for m in it.ask(it.rows[b"new"].vector, 5, rerank=5).matches] == [m.id for m in before.matches]
    it.read_on()
    after = it.ask(it.rows[b"new"].vector, 5, rerank=5, attributes=True, vectors=True)
    assert [m.id for m in after.matches] == [b"new", *(m.id for m in before.matches[1:])]
    first = after.matches[0]
    assert first.attributes == {"gloss": "a new one", "rank": None, "tags": None}
    assert first.vector == it.rows[b"new"].vector and first.score == pytest.approx(1.0)
    assert (after.receipt.seq, after.receipt.fresh, after.receipt.superseded) == (1, 1, 2)


@pytest.mark.parametrize(
    "name", ["words", "proofs", "inline", "numbers", "long", "leaves", "paged", "filters", "texts", "flushed"]
)
def test_answers_are_those_of_the_rows_as_they_are_now(tmp_path: Path, name: str) -> None:
    draw, it = Random(name), living(tmp_path, name)
    queries = [[v + draw.gauss(0, 0.1) for v in draw.choice(list(it.rows.values())).vector] for _ in range(3)]
    known = [{m.id: m.score for m in it.ask(q, 1000).matches} for q in queries]
    assert all(len(scores) == len(it.rows) for scores in known)
    attributes = made_of(it)
    for size in (1, 12, 40):
        it.change(draw, attributes, size)
        it.read_on()
        for query, base in zip(queries, known, strict=True):
            check_answers(it, query, base, draw)
        check_lookups(it, draw)


def check_answers(it: Living, query: list[float], base: dict[Id, float], draw: Random) -> None:
    sign = 1 if it.index.root.index.metric == "l2" else -1
    expected = {i: it.score(query, i) if i in it.written else base[i] for i in it.rows}
    every = it.ask(query, 1000, attributes=True, vectors=True)
    assert every.complete and sorted(m.id for m in every.matches) == sorted(it.rows)
    for match in every.matches:
        row = it.rows[match.id]
        assert match.score == pytest.approx(expected[match.id], rel=1e-4, abs=1e-6)
        assert match.vector == row.vector and match.attributes == row.attributes
    order = [(sign * m.score, m.row) for m in every.matches]
    assert order == sorted(order)
    few = it.ask(query, 5)
    assert len(few.matches) == 5 and few.complete
    worst = sign * few.matches[-1].score
    assert {m.id for m in every.matches if m.id in it.written and sign * m.score < worst} <= {m.id for m in few.matches}
    ranked = it.ask(query, 5, rerank=100)
    assert ranked.exact
    for match in ranked.matches:
        assert match.score == pytest.approx(it.score(query, match.id), rel=1e-4, abs=1e-6)
    if it.index.root.bounds is not None:
        proven = it.ask(query, 7, exact=True)
        best = sorted(it.rows, key=lambda i: sign * it.score(query, i))[:7]
        assert proven.complete and proven.receipt.proof and proven.receipt.proof["proven"]
        assert [m.score for m in proven.matches] == pytest.approx([it.score(query, i) for i in best], abs=1e-6)
    other = draw.choice(list(it.rows))
    by_id = asyncio.run(it.index.query(Query(None, 1000, id=other)))
    assert sorted(m.id for m in by_id.matches) == sorted(it.rows.keys() - {other})
    if gone := sorted(it.written - it.rows.keys()):
        with pytest.raises(NotFoundError):
            asyncio.run(it.index.query(Query(None, 5, id=gone[0])))
    batch = asyncio.run(it.index.answer([Query(query, 5), Query(it.rows[other].vector, 5)], Receipt()))
    assert [m.id for m in batch[0].matches] == [m.id for m in few.matches]


def check_lookups(it: Living, draw: Random) -> None:
    ids = draw.sample(sorted(it.written | it.rows.keys()), min(60, len(it.rows)))

    async def rows() -> Any:
        return await it.index.rows(ids, Wanted(True, True, Budget(1000, 1 << 30)), Receipt(), Deadline())

    answer = asyncio.run(rows())
    assert answer.complete and answer.missing == [i for i in ids if i not in it.rows]
    assert [(r.id, r.vector, r.attributes) for r in answer.rows] == [
        (i, it.rows[i].vector, it.rows[i].attributes) for i in ids if i in it.rows
    ]
    for identifier in ids[:3]:
        if identifier in it.rows:
            vector, attributes = asyncio.run(it.index.row(identifier, Receipt()))
            assert (vector, attributes) == (it.rows[identifier].vector, it.rows[identifier].attributes)
        else:
            with pytest.raises(NotFoundError):
                asyncio.run(it.index.row(identifier, Receipt()))


def key(it: Living, name: str, identifier: Id) -> Any:
    """What rows are ordered by."""
    value = it.rows[identifier].attributes[name]
    return None if value is None else filters.key_of(value, filters.KINDS[name])


@pytest.mark.parametrize("name", ["filters", "paged", "flushed", "compacted"])
def test_filters_lists_and_facets_see_the_rows_as_they_are_now(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(filters.KINDS, "refs")
    draw, it = Random(7), living(tmp_path, name)
    query = [v + draw.gauss(0, 0.1) for v in draw.choice(list(it.rows.values())).vector]
    for size in (10, 40):
        it.change(draw, made_of(it), size)
        it.read_on()
        for turn in range(12):
            with patch.object(facets, "FREE_BYTES", 0 if turn % 3 == 2 else facets.FREE_BYTES):
                check_filter(it, query, random_filter(draw) if turn else {})
        check_distinct(it, query)
        if name not in ("paged", "compacted"):
            check_pages(it, draw)


def taken_of(it: Living, filter: dict[str, Any]) -> list[Any]:
    """The ids of the rows that a filter takes."""
    return list(compress(it.rows, matching(filter, [row.attributes for row in it.rows.values()])))


def check_filter(it: Living, query: list[float], filter: dict[str, Any]) -> None:
    right = set(taken_of(it, filter))
    try:
        answer = it.ask(query, 1000, filter=filter)
    except InputError:  # too many conditions
        return
    assert {m.id for m in answer.matches} <= right
    if answer.complete:
        assert {m.id for m in answer.matches} == right, filter
    if not filter:
        assert answer.matched is None
        return check_facets(it, filter, right)
    assert answer.matched is not None
    assert not answer.matched.exact or answer.matched.rows == len(right)
    few = it.ask(query, 3, filter=filter)
    assert len(few.matches) == min(3, len(right)) or not few.complete
    check_facets(it, filter, right)
    within = Query(query, 40, attributes=True, filter=filter)
    near = it.ask(query, 40, filter=filter)
    plan = it.index.plan_facets(FacetQuery({"lang": {"top": 1000}}, filter, within=within))
    counts = asyncio.run(it.index.facets(plan, Receipt()))
    field = counts.fields[plan.facets[0].field]
    values = Counter(it.rows[m.id].attributes["lang"] for m in near.matches)
    assert {field.text(at).decode(): count.rows for at, count in counts.facets[0].values} == {
        value: rows for value, rows in values.items() if value is not None
    }


def check_facets(it: Living, filter: dict[str, Any], right: set[Id]) -> None:
    asked = {"lang": {"top": 4}, "year": {"edges": [-10, 0, 2000, 2020]}, "tags": {"top": 1000}}
    try:
        plan = it.index.plan_facets(FacetQuery(asked, filter))
    except InputError:  # of an index whose counts are in pages
        return
    answer = asyncio.run(it.index.facets(plan, Receipt()))
    assert not answer.matched.exact or answer.matched.rows == len(right)
    for counted in answer.facets:
        name, field = counted.facet.name, answer.fields[counted.facet.field]
        own = {i: it.rows[i].attributes[name] for i in right}
        values = {i: v if isinstance(v, list) else [] if v is None else [v] for i, v in own.items()}
        assert holds(counted.missing, sum(not v for v in values.values()))
        for at, count in counted.values:
            if counted.facet.top:
                text = field.text(at).decode()
                true = sum(text in v for v in values.values())
            else:
                edges = counted.facet.edges
                last = at == len(edges) - 2
                true = sum(
                    edges[at] <= y < edges[at + 1] or (last and y == edges[-1]) for v in values.values() for y in v
                )
            assert holds(count, true), (name, at, filter)
        if counted.exact and counted.facet.top and counted.other.rows == 0:
            assert {field.text(at).decode() for at, _ in counted.values} == {
                v for some in values.values() for v in some
            }


def holds(count: Any, true: int) -> bool:
    return bool(count.low <= true <= count.high)


def check_distinct(it: Living, query: list[float]) -> None:
    """One row of each value, the best one."""
    answer = it.ask(query, 100, distinct="lang", attributes=True)
    every = it.ask(query, 1000)
    best: dict[Any, Id] = {}
    for match in every.matches:
        best.setdefault(it.rows[match.id].attributes["lang"], match.id)
    found = [m.id for m in answer.matches]
    assert set(found) <= set(best.values())
    if answer.complete:
        assert sorted(found) == sorted(best.values())


def check_pages(it: Living, draw: Random) -> None:
    for asked in (
        {}, {"order_by": {"year": "asc"}}, {"order_by": {"year": "desc"}}, {"order_by": {"lang": "asc"}},
        {"order_by": {"lang": "desc"}}, {"order_by": {"at": "desc"}}, {"distinct": "lang"},
        {"distinct": "year", "order_by": {"year": "desc"}}, {"filter": {"stock": True}},
        {"filter": {"lang": {"$gte": "d"}}, "order_by": {"lang": "desc"}}, {"filter": {"tags": {"$exists": True}}},
    ):  # fmt: skip
        filter = asked.get("filter", {})
        right = taken_of(it, filter)
        listed, cursor = list[Any](), None
        while not listed or cursor is not None:
            listing = Listing(limit=draw.choice((7, 50, 1000)), cursor=cursor, **asked)  # type: ignore[arg-type]
            page = asyncio.run(it.index.list_rows(prepare_listing(it.index.segment, listing)))
            listed, cursor = listed + page.rows, page.cursor
        ids = [row.id for row in listed]
        assert all(row.attributes == it.rows[row.id].attributes for row in listed)
        name = next(iter(asked.get("order_by", {})), asked.get("distinct"))
        if "distinct" in asked:
            own = [key(it, name, i) for i in ids]
            assert len(own) == len(set(own)) and set(own) == {key(it, name, i) for i in right}, asked
        else:
            assert sorted(ids) == sorted(right), asked
        if name is not None:
            keys = [key(it, name, i) for i in ids]
            there = [k for k in keys if k is not None]
            assert keys == there + [None] * (len(keys) - len(there))
            assert there == sorted(there, reverse="desc" in asked.get("order_by", {}).values()), asked


def test_four_thousand_tombstones_push_nothing_out(tmp_path: Path) -> None:
    """Ids that no row has, and nearly all rows near the query."""
    it = living(tmp_path, "words")
    query = next(iter(it.rows.values())).vector
    near = [m.id for m in it.ask(query, 150).matches]
    gone = [*near[:120], *(f"nowhere {i}".encode() for i in range(4096))]
    for first in range(0, len(gone), 1000):
        it.write(deletes=gone[first : first + 1000])
    receipt = it.read_on()
    assert receipt.log_gets <= 10
    answer = it.ask(query, 20)
    assert len(answer.matches) == 20 and not {m.id for m in answer.matches} & set(gone)
    assert {m.id for m in answer.matches} >= set(near[120:125])
    assert answer.receipt.superseded == len(gone)
    assert sorted(m.id for m in it.ask(query, 1000).matches) == sorted(it.rows)


def test_a_query_asks_for_more_where_rows_near_it_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For as many more as lie before the last that is answered; not where other versions of them take their places."""
    depths, told = list[int](), holes.depth_of

    def depth_of(*args: Any) -> int:
        depths.append(told(*args))
        return depths[-1]

    it = living(tmp_path, "words")
    monkeypatch.setattr(holes, "depth_of", depth_of)
    query = next(iter(it.rows.values())).vector
    near = [m.id for m in it.ask(query, 150).matches]
    it.write(upserts={i: it.rows[i] for i in near[:100]})
    it.read_on()
    assert len({m.id for m in it.ask(query, 20).matches} & set(near[:20])) > 16  # codes and exact scores
    assert depths == [150, 20]
    it.write(deletes=near[:60])
    it.read_on()
    answer = it.ask(query, 20)
    assert len({m.id for m in answer.matches} & set(near[60:80])) > 16 and answer.complete
    assert answer.recall_estimate is None and 40 < depths[-1] < 100


def test_patched_rows_are_looked_up_in_steps_of_a_request(tmp_path: Path) -> None:
    """Each call reads no more than a request may, goes on where the last one ended, and the rows are as they were."""
    it = living(tmp_path, "texts")
    names, ids = it.index.root.names, sorted(it.rows, key=str)
    it.write(patches={i: {names[0]: None} for i in ids})
    it.followed.index.limits = Limits(gets=6)
    steps = list[int]()
    while len(steps) < 100:
        receipt = Receipt()
        try:
            it.index, whole = it.followed.index, asyncio.run(it.followed.follow(receipt))
            break
        except BehindError as error:
            assert "were patched" in error.message
        finally:
            steps.append(receipt.log_gets)
    assert whole and 1 < len(steps) < 100 and max(steps) <= 8, steps
    it.index = it.followed.index
    found = asyncio.run(it.index.rows(ids, Wanted(True, False, Budget()), Receipt(), Deadline())).rows
    assert {row.id: row.attributes for row in found} == {i: it.rows[i].attributes for i in ids}


def check_apart(gets: list[Get]) -> None:
    """No byte was read twice."""
    read = sorted((get.key, get.offset, get.offset + get.served) for get in gets)
    assert all(a[0] != b[0] or a[2] <= b[1] for a, b in pairwise(read))


@pytest.mark.parametrize(
    ("rows", "gap", "gets", "nbytes"),
    [(1, None, 3, 84_608), (100, None, 3, 953_351), (2000, None, 5, 955_682), (100, 0, 195, 112_646)],
)
def test_patched_rows_are_read_once_however_many(
    words: Built, rows: int, gap: int | None, gets: int, nbytes: int
) -> None:
    """One page of ids has all of them, and here rows lie so near each other that a step reads whole objects.

    When 256 were looked up at a time, in the order in which they were patched, one took 3 GETs and 84,608 bytes, 100
    took 13 and 773,582, and 2,000 took 104 and 6,976,300.
    """
    bucket = Recorder(Folder(words.bucket))
    index, receipt = words.open(bucket=bucket), Receipt()
    bucket.forget()
    numbers = Random(rows).sample(range(len(words.ids)), rows)
    with patch.object(gather, "NEAR_GAP", gather.NEAR_GAP if gap is None else gap):
        base = asyncio.run(index.base_rows([*(words.ids[i] for i in numbers), b"nowhere"], receipt, entries := {}))
    assert base.pop(b"nowhere") is None and not entries and len(base) == rows
    for i in numbers:
        row = base[words.ids[i]]
        assert row is not None and decode(row.vector, "f16") == words.vectors[i].tolist()
        assert row.attributes == words.attributes[i]
    assert (receipt.gets, receipt.bytes) == (len(bucket.gets), bucket.bytes)
    assert (receipt.gets, receipt.bytes) == pytest.approx(
        (gets, nbytes), rel=0.02
    )  # rows lie as a machine clusters them
    check_apart(bucket.gets)


@pytest.mark.parametrize("gets", [2, 3, 4, 5])
def test_a_request_goes_on_where_the_one_before_ended(words: Built, gets: int) -> None:
    """With what it knows of the ids already; together they read what one would that may read all."""
    bucket = Recorder(Folder(words.bucket))
    index, base, entries, turns = words.open(bucket=bucket), dict[Id, Any](), dict[Id, Any](), 0
    bucket.forget()
    ids = Random(1).sample(words.ids, 1500)
    index.limits = Limits(gets=gets)
    with patch.object(gather, "RANGE_BYTES_MAX", 100_000):
        while len(base) < len(ids):
            base |= asyncio.run(index.base_rows([i for i in ids if i not in base], receipt := Receipt(), entries))
            assert receipt.gets <= gets and base.keys() | entries.keys() == set(ids)
            turns += 1
    check_apart(bucket.gets)
    assert 2 < turns < 12 and not entries and sum("ids" in get.key for get in bucket.gets) == 1
    bucket.forget()
    index.limits = Limits()
    with patch("vantage.index.BASE_BYTES", 2000):  # a row or some at a time
        again = asyncio.run(index.base_rows(ids[:99], receipt := Receipt(), {}))
    check_apart(bucket.gets)
    assert again == {i: base[i] for i in ids[:99]} and receipt.waves > 5


def test_rows_that_are_written_again_and_again_do_not_pile_up(tmp_path: Path) -> None:
    it = living(tmp_path, "numbers")
    some = list(it.rows.values())
    for turn in range(6):
        it.write({10_000 + i: Row(some[(i + turn) % len(some)].vector, {}) for i in range(700)})
        it.read_on()
        assert (
            it.index.fresh is not None
            and 2 * it.index.fresh.rows.dead_bytes <= it.index.fresh.nbytes + (1 << 20)
            and it.index.fresh.live_rows == 700
        )
    every = it.ask(some[0].vector, 1000, vectors=True)
    assert {m.id: m.vector for m in every.matches} == {i: row.vector for i, row in it.rows.items()}


def test_logs_of_several_indexes_are_in_memory_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """However many ask for them at once: a log waits until those before it are let go of, and who waits holds none."""
    it, names, rows, most = living(tmp_path, "words"), ["a", "b", "c"], list[Any](), 0
    some = next(iter(it.rows.values()))
    it.write({b"new %d" % i: Row(some.vector, {}) for i in range(50)})
    for name in names:
        shutil.copytree(tmp_path / "words", tmp_path / name)
    monkeypatch.setattr(indexes, "INDEXES_BYTES", 1000)  # each log is more

    class Seen(fresh._Rows):
        def __init__(self, root: Any) -> None:
            super().__init__(root)
            rows.append(ref(self))

    monkeypatch.setattr(fresh, "_Rows", Seen)
    service = Service(Folder(tmp_path), 1 << 20)

    async def one(name: str) -> int:
        async def work(index: Index) -> int:
            nonlocal most
            assert index.name == name and index.fresh is not None
            for _ in range(3):
                most = max(most, sum(len(own.ids) > 0 for get in rows if (own := get()) is not None))
                await asyncio.sleep(0.01)
            return index.fresh.count

        return await service.live(name, Receipt(), work, wish=Wish(stale_s=0.0))

    async def client(number: int) -> None:
        for turn in range(3):
            assert await one(names[(number + turn) % 3]) == 50

    async def all_at_once() -> None:
        await asyncio.gather(*map(client, range(12)))

    asyncio.run(all_at_once())
    assert most == 1 and len(service.open) == 1

    async def gone() -> None:
        """One that never ends is waited for, and then told of."""

        async def work(index: Index) -> None:
            with pytest.raises(BusyError, match="requests on other indexes"):
                await service.current("b", Receipt(), Wish(stale_s=0.0))

        await service.live("a", Receipt(), work, wish=Wish(stale_s=0.0))
        monkeypatch.setattr(indexes, "GONE_S", 0.0)
        await service.live("a", Receipt(), lambda index: service.current("b", Receipt(), Wish(stale_s=0.0)),
                           wish=Wish(stale_s=0.0))  # fmt: skip

    monkeypatch.setattr(indexes, "WAIT_S", 0.2)
    asyncio.run(gone())


def test_a_service_sees_what_was_written_when_it_is_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = living(tmp_path, "words")
    query, service = next(iter(it.rows.values())).vector, Service(Folder(tmp_path), 0)

    async def seen(wish: Wish, ms: int | None = None) -> tuple[int, Receipt]:
        receipt = Receipt()
        deadline = Deadline.after(ms) if ms else None
        answer = await service.live(
            "words", receipt, lambda index: index.query(Query(query, 3), receipt), deadline, wish
        )
        return answer.receipt.seq, receipt

    async def run() -> None:
        seq, receipt = await seen(Wish())
        assert (seq, receipt.log_gets) == (0, 0)  # logs are not read unless somebody says so
        service.stale_s = 1000.0
        seq, receipt = await seen(Wish())
        assert (seq, receipt.log_gets, receipt.gets > 0) == (0, 1, True)
        await asyncio.to_thread(it.write, deletes=[next(iter(it.rows))])
        assert (await seen(Wish()))[0] == 0
        seq, receipt = await seen(Wish(stale_s=0.0))
        assert (seq, receipt.log_gets) == (1, 3)  # the segment, and two that are not there
        assert (await seen(Wish(after=1)))[1].log_gets == 0
        with patch.object(indexes, "LOG_WAIT_S", 0.1), pytest.raises(BehindError, match="at seq 1, not at 2"):
            await seen(Wish(after=2))
        monkeypatch.setattr(indexes, "LOG_WAIT_S", 60.0)
        waiting = asyncio.ensure_future(seen(Wish(after=2), 60_000))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(it.write, deletes=[next(iter(it.rows))])
        assert (await waiting)[0] == 2
        assert service.open["words"].seq == 2

    asyncio.run(run())


def test_a_write_in_the_same_tick_of_the_clock_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = living(tmp_path, "words")
    query, service = next(iter(it.rows.values())).vector, Service(Folder(tmp_path), 0)
    service.stale_s = 0.0
    for module in ("indexes", "follow", "index"):
        monkeypatch.setattr(f"vantage.{module}.monotonic", lambda: 5.0)

    async def run() -> None:
        for seq in range(3):
            assert (await service.query("words", Query(query, 3))).receipt.seq == seq
            await asyncio.to_thread(it.write, deletes=[next(iter(it.rows))])

    asyncio.run(run())


def test_a_new_generation_takes_over_and_no_row_is_missed(tmp_path: Path) -> None:
    """It has the first segment, which changes nothing; the second one is read behind it, and the third."""
    it = living(tmp_path, "words")
    query, service = next(iter(it.rows.values())).vector, Service(Folder(tmp_path), 0)
    service.stale_s = 0.0
    it.write(deletes=[b"nowhere"])
    it.write({b"second": Row(query, {})})

    async def ids(stale_s: float) -> tuple[list[Id], str]:
        wish, query_ = Wish(stale_s=stale_s), Query(query, 3, rerank=50)
        answer = await service.live("words", Receipt(), lambda index: index.query(query_), None, wish)
        return [m.id for m in answer.matches], answer.receipt.generation

    async def compact() -> None:
        store = StoreLog(FolderStore(tmp_path / "words"))
        state = await whole_state(store, await read_log(store, monotonic), monotonic)
        old = state.current
        shutil.copytree(tmp_path / "words" / old.generation, tmp_path / "words" / "newer")
        root, manifest = (replace(o, key=o.key.replace(old.generation, "newer")) for o in (old.root, old.manifest))
        assert await advance(store, state, "newer", root, manifest, 2, 0.0)

    async def run() -> None:
        found, old = await ids(0.0)
        assert found[0] == b"second" or found[1] == b"second"
        await compact()
        await asyncio.to_thread(it.write, {b"third": Row(query, {})})
        for _ in range(2):
            assert {b"second", b"third"} <= set((await ids(0.0))[0])
        assert (await ids(0.0))[1] == old
        service._followed["words"].state.read_at = NEVER  # as it is after ten seconds
        assert {b"second", b"third"} <= set((await ids(0.0))[0])
        assert service.is_stale("words") and await service.revalidate("words")
        found, generation = await ids(1000.0)
        assert {b"second", b"third"} <= set(found) and generation == "newer"
        late = Service(Folder(tmp_path), 0)
        late.stale_s = 0.0
        await late.live("words", Receipt(), lambda index: index.query(Query(query, 3)))
        assert late.open["words"].seq == 3 and set(late.open["words"].fresh.places) == {b"second", b"third"}

    asyncio.run(run())


def test_a_log_that_went_away_is_read_anew(tmp_path: Path) -> None:
    """A reader that was away while a gc took what it had still to read."""
    it = living(tmp_path, "words")
    query, service = next(iter(it.rows.values())).vector, Service(Folder(tmp_path), 0)

    async def run() -> None:
        await service.current("words", Receipt(), Wish(stale_s=0.0))
        for _ in range(3):
            await asyncio.to_thread(it.write, deletes=[b"nowhere"])
        await asyncio.to_thread(it.write, {b"new": Row(query, {})})
        store = StoreLog(FolderStore(tmp_path / "words"))
        state = await whole_state(store, await read_log(store, monotonic), monotonic)
        old = state.current
        shutil.copytree(tmp_path / "words" / old.generation, tmp_path / "words" / "newer")
        root, manifest = (replace(o, key=o.key.replace(old.generation, "newer")) for o in (old.root, old.manifest))
        assert await advance(store, state, "newer", root, manifest, 4, 0.0)
        await store.delete([segment_key(old.log.id, seq) for seq in (1, 2, 3)])
        service._followed["words"].state.read_at = NEVER
        index = await service.current("words", Receipt(), Wish(stale_s=0.0))
        assert index.current.generation == "newer" and index.seq == 4
        assert index.fresh is not None and set(index.fresh.places) == {b"new"}

    asyncio.run(run())


def test_what_a_request_says_of_its_freshness(tmp_path: Path) -> None:
    it = living(tmp_path, "words")
    vector, service = next(iter(it.rows.values())).vector, Service(Folder(tmp_path), 0)

    def send(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async def read(*_: object) -> bytes:
            return json.dumps(body).encode()

        reply = asyncio.run(handle(method, f"/v1/indexes/words{path}", {}, read, service, Access(public=True), {}))
        return reply.status, json.loads(reply.sent)

    ask = {"vector": vector, "top_k": 2}
    status, body = send("GET", "")
    assert (status, body["rows"], body["seq"], body["fresh"], body["superseded"]) == (200, 200, 0, 0, 0)
    it.write({b"new": Row(vector, {"gloss": "new"})}, deletes=[b"nowhere"])
    assert send("POST", "/query", ask)[1]["receipt"]["seq"] == 0
    status, body = send("POST", "/query", ask | {"consistency": "bucket"})
    assert (status, body["receipt"]["seq"], body["receipt"]["fresh"], body["receipt"]["superseded"]) == (200, 1, 1, 2)
    assert body["receipt"]["log_gets"] >= 2 and b"new".decode() in [m["id"] for m in body["matches"]]
    status, body = send("GET", "?max_stale_ms=0&after=1")
    assert (status, body["seq"], body["fresh"], body["superseded"]) == (200, 1, 1, 2)
    for path, fields in (("/vectors", {"ids": ["new"]}), ("/rows", {"limit": 1000})):
        status, body = send("POST", path, fields | {"max_stale_ms": 1000, "include": ["attributes", "receipt"]})
        assert status == 200 and body["rows"][-1]["attributes"]["gloss"] == "new" and body["receipt"]["seq"] == 1
    assert send("GET", "/vectors/new?consistency=bucket")[1]["attributes"]["gloss"] == "new"
    with patch.object(indexes, "LOG_WAIT_S", 0.1):
        status, body = send("POST", "/query", ask | {"after": 9})
    assert (status, body["code"], body["param"]) == (503, "behind", "after")
    for name, value in (
        ("consistency", "strong"), ("max_stale_ms", -1), ("max_stale_ms", "1"), ("after", True), ("after", 1 << 70),
    ):  # fmt: skip
        status, body = send("POST", "/query", ask | {name: value})
        assert (status, body["param"]) == (400, name)
    assert send("POST", "/query", ask | {"consistency": "bucket", "max_stale_ms": 5})[0] == 400
    assert send("GET", "/vectors/new?after=x")[1]["param"] == "after"
