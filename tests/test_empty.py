"""An empty index: made over HTTP or beside others, written to at once, and answered as plain Python answers."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import filters
import pytest
from doubles import MemoryLog
from filters import random_filter, random_row
from fixtures.reader import Reader
from test_fresh import Living, Row, check_answers, check_distinct, check_filter, check_lookups, check_pages
from test_routes import RUNTIME, TOKEN, body_of
from test_write_routes import ACCESS, WRITE_TOKEN

from build_index.bucket.log_store import StoreLog
from build_index.bucket.store import FolderStore
from vantage.errors import DamagedError, InputError, LimitError, StoreError
from vantage.follow import Followed
from vantage.format import FIELD_KINDS, METRICS, Current, FilterField, IndexSection, Root, objects_of
from vantage.http.create import parse_new
from vantage.http.reply import Reply
from vantage.http.routes import handle
from vantage.index import Index
from vantage.indexes import Service
from vantage.log import create as create_module
from vantage.log.client import WriteClient
from vantage.log.create import NewIndex, create, empty_generation, new_of, root_of
from vantage.read.bucket import Folder
from vantage.read.cache import Cache
from vantage.receipt import Receipt
from vantage.search import log_facets
from vantage.search.facets import FacetQuery
from vantage.search.fresh import VALUES_MAX
from vantage.search.listing import Listing, prepare_listing
from vantage.search.memory import answers_bytes
from vantage.search.query import Query
from vantage.search.rows import ATTRIBUTES_BYTES_MAX

ATTRIBUTES = [
    {"name": "lang", "type": "text"}, {"name": "note", "type": "text", "filter": False},
    {"name": "tags", "type": "text", "list": True}, {"name": "year", "type": "integer"},
    {"name": "price", "type": "number"}, {"name": "stock", "type": "boolean"}, {"name": "at", "type": "time"},
]  # fmt: skip
NEW = {"dimension": 8, "attributes": ATTRIBUTES, "model": "m"}


def made(folder: Path, fields: dict[str, Any], name: str = "new") -> Living:
    """An empty index in a bucket folder."""
    assert asyncio.run(create(StoreLog(FolderStore(folder / name)), parse_new(fields), time.time()))
    index = asyncio.run(Index.open(Folder(folder), name, Cache(0), Receipt()))
    return Living(folder, name, index, Followed(index), {})


def begun(draw: Random, it: Living, rows: int) -> None:
    """Its first rows."""
    text, d = it.shape.id_kind == "bytes", it.shape.dimension
    scale = 60.0 if it.shape.vector_kind in ("u8", "i8") else 1.0
    for first in range(0, rows, 100):
        ids = [f"r{i}".encode() if text else i for i in range(first, min(rows, first + 100))]
        it.write({i: Row([scale * draw.random() for _ in range(d)], attributes(it, draw)) for i in ids})


def attributes(it: Living, draw: Random) -> dict[str, Any]:
    """Of a row, as it is stored."""
    names = it.index.root.names
    own = {n: v for n, v in random_row(draw).items() if n in names} | ({"note": "n"} if names else {})
    return own | ({"at": filters_time(own["at"])} if own.get("at") else {})


def filters_time(text: str) -> str:
    """A time as an index stores it."""
    from vantage.log.rows import stored_attributes

    fields = {"at": FilterField(0, "time", False, True, 0, 0, 0, 0)}
    stored: str = json.loads(stored_attributes({"at": text}, {"at": "timestamp[us, tz=UTC]"}, fields, "row"))["at"]
    return stored


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("vectors", "ids"), [("f16", "text"), ("f32", "integer"), ("u8", "text"), ("i8", "integer")])
def test_answers_are_those_of_the_rows_in_the_log(tmp_path: Path, metric: str, vectors: str, ids: str) -> None:
    draw, it = Random(metric + vectors), made(
        tmp_path, {"dimension": 12, "metric": metric, "vectors": vectors, "ids": ids, "attributes": ATTRIBUTES}
    )  # fmt: skip
    begun(draw, it, 350)
    it.read_on()
    for size in (0, 40):
        if size:
            it.change(draw, lambda draw: attributes(it, draw), size)
            it.read_on()
        query = [v + draw.random() for v in draw.choice(list(it.rows.values())).vector]
        check_answers(it, query, {}, draw)
        check_lookups(it, draw)
    every = it.ask(query, 1000)
    assert every.exact and every.complete and every.recall_estimate == 1.0 and every.receipt.gets == 0
    proven = it.ask(query, 7, exact=True)
    assert proven.receipt.proof and proven.receipt.proof["proven"] and proven.matches == every.matches[:7]
    for k in (1, 20, 349):  # few are found by fewer scores
        assert it.ask(query, k).matches == every.matches[:k]


def test_filters_lists_and_facets_are_those_of_the_rows_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("refs", "code"):
        monkeypatch.delitem(filters.KINDS, name)
    draw, it = Random(5), made(tmp_path, NEW)
    begun(draw, it, 300)
    for size in (0, 60):
        if size:
            it.change(draw, lambda draw: attributes(it, draw), size)
        it.read_on()
        query = [draw.random() for _ in range(8)]
        for turn in range(12):
            check_filter(it, query, random_filter(draw) if turn else {})
        check_distinct(it, query)
        check_pages(it, draw)
        every = {m.id: m.row for m in it.ask(query, 1000).matches}
        for k in (1, 3, 5):  # the best of the values that are nearest
            found = it.ask(query, k, distinct="lang").matches
            first: dict[Any, Any] = {}
            for identifier in every:
                first.setdefault(it.rows[identifier].attributes["lang"], identifier)
            assert [m.id for m in found] == list(first.values())[:k]
    plan = it.index.plan_facets(FacetQuery({"year": {"buckets": 3}, "price": {"buckets": 2}}))
    counted = asyncio.run(it.index.facets(plan, Receipt()))
    for one, name in zip(counted.facets, ("year", "price"), strict=True):
        have = sum(row.attributes[name] is not None for row in it.rows.values())
        assert one.exact and one.other.rows == 0 and sum(c.rows for _, c in one.values) == have
        assert one.missing.rows == len(it.rows) - have
    [explained] = asyncio.run(it.index.explain([Query(query, 5, filter={"lang": "de"})]))
    assert (explained["gets"], explained["ranges"], explained["complete"]) == (0, [], True)


def test_columns_of_many_attributes_are_in_short_chunks(tmp_path: Path) -> None:
    """A row has a value or none in each: so many are objects while a chunk is packed."""
    fields = [{"name": f"n{i}", "type": "integer"} for i in range(1000)]
    it = made(tmp_path, {"dimension": 2, "attributes": fields, "ids": "integer"})
    for first in range(0, 150, 3):  # chunks are packed together as rows come
        it.write({i: Row([1.0, i], {f"n{i}": i, "n7": 1}) for i in range(first, first + 3)})
        it.read_on()
        found = it.ask([1.0, 1.0], 200, filter={f"n{first + 1}": {"$gt": -1}})
        assert [m.id for m in found.matches] == [first + 1] or first + 1 == 7
    assert it.index.fresh is not None
    chunks = it.index.fresh.rows.columns(150)
    assert sum(chunk.n for chunk in chunks) == 150 and 1 < len(chunks) < 15
    assert max(chunk.n for chunk in chunks) * 1000 <= VALUES_MAX
    assert sum(it.index.fresh.field_values(7, (1 << 150) - 1), []) == [1] * 150


@pytest.mark.parametrize("name", ["tags", "year"])
def test_facets_count_no_more_values_of_the_log_than_of_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Lists of texts may have two million in a log: more than an isolate counts."""
    monkeypatch.setattr(log_facets, "DISTINCT_MAX", 40)
    it = made(tmp_path, NEW | {"ids": "integer"})
    for i in range(41 if name == "year" else 21):
        own = {"tags": [f"{i} a", f"{i} b"]} if name == "tags" else {"year": i}
        it.write({i: Row([1.0] * 8, own), 1000 + i: Row([1.0] * 8, own)})
        it.read_on()
        counting = it.index.facets(it.index.plan_facets(FacetQuery({name: {"top": 5}})), Receipt())
        values = (2 if name == "tags" else 1) * (i + 1)
        if values <= 40:
            assert [count.rows for _, count in asyncio.run(counting).facets[0].values] == [2] * min(5, values)
            continue
        with pytest.raises(LimitError, match="with those in the log, is over 40"):
            asyncio.run(counting)


def test_names_without_values_count_as_what_they_take_in_a_reply(tmp_path: Path) -> None:
    """Of 4,096 attributes a row takes 86 kB of JSON, and hardly a byte in the log."""
    names = [f"attribute {i:05}" for i in range(4096)]
    some = [{"name": name, "type": "integer", "filter": False} for name in names]
    it = made(tmp_path, {"dimension": 2, "attributes": some, "ids": "integer"})
    it.write({i: Row([1.0, i], {names[i]: i}) for i in range(100)})
    it.read_on()
    answer = it.ask([0.0, 1.0], 100, attributes=True)
    held = [m.attributes for m in answer.matches if m.attributes is not None]
    length = len(json.dumps(held[0], separators=(",", ":")))
    assert not answer.complete and len(answer.matches) == 100
    assert 0.7 * ATTRIBUTES_BYTES_MAX < len(held) * length < 1.3 * ATTRIBUTES_BYTES_MAX
    assert [m.attributes is not None for m in answer.matches] == [True] * len(held) + [False] * (100 - len(held))
    assert answers_bytes(it.index.segment, [Query([0.0, 1.0], 100, attributes=True)]) > 4 * ATTRIBUTES_BYTES_MAX

    rows, cursor = list[Any](), None
    while True:  # pages have as many as there is room for
        listing = Listing(limit=100, cursor=cursor, attributes=True)
        page = asyncio.run(it.index.list_rows(prepare_listing(it.index.segment, listing)))
        rows += [(row.id, row.attributes) for row in page.rows]
        cursor = page.cursor
        if cursor is None:
            break
        assert len(page.rows) == len(held)
    assert sorted(i for i, _ in rows) == list(range(100))
    assert all(own == dict.fromkeys(names) | {names[i]: i} for i, own in rows)


def test_nothing_is_found_before_the_first_row_and_after_the_last(tmp_path: Path) -> None:
    it = made(tmp_path, NEW)
    for step in range(3):
        answer = it.ask([1.0] * 8, 5)
        assert (answer.matches, answer.complete, answer.exact) == ([], True, True)
        assert it.ask([1.0] * 8, 5, filter={"lang": "de"}, distinct="lang").matches == []
        check_filter(it, [1.0] * 8, {})
        check_lookups(it, Random(1))
        assert it.index.live_rows == 0
        if step == 0:
            it.write({b"a": Row([1.0] * 8, {"lang": "de"})})
        it.write(deletes=[b"a"])
        it.read_on()


class Place:
    """A bucket folder, and a service that writes to it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.service = folder, Service(Folder(folder), 0)
        self.service.stale_s = 0.0
        self.service.write_client = WriteClient(lambda name: StoreLog(FolderStore(folder / name)), time.monotonic)

    def send(self, method: str, path: str, body: Any = None, token: str = WRITE_TOKEN) -> Reply:
        sent, raw = {"authorization": f"Bearer {token}"}, b"" if body is None else json.dumps(body).encode()
        path = f"/v1/indexes/{path}"
        reply = asyncio.run(handle(method, path, sent, body_of(raw), self.service, ACCESS, RUNTIME))
        for work in reply.after:
            asyncio.run(work)  # type: ignore[arg-type]
        return reply


def test_an_index_is_made_written_to_and_asked_at_once(tmp_path: Path) -> None:
    place = Place(tmp_path)
    reply = place.send("PUT", "new", NEW)
    assert (reply.status, reply.body["created"], reply.body["seq"]) == (201, True, 0)
    again = place.send("PUT", "new", NEW)
    assert (again.status, again.body) == (200, reply.body | {"created": False})
    rows = [{"id": "a", "vector": [1] + [0] * 7, "attributes": {"lang": "de"}}, {"id": "b", "vector": [1] * 8}]
    assert place.send("POST", "new/write", {"upsert": rows}).body["seq"] == 1
    asked = {"vector": [1] + [0] * 7, "top_k": 5, "exact": True, "include": ["attributes"]}
    found = place.send("POST", "new/query", asked, TOKEN).body
    assert [m["id"] for m in found["matches"]] == ["a", "b"] and found["scores"] == "exact" and found["complete"]
    assert found["matches"][0]["attributes"] | {"lang": None} == dict.fromkeys(one["name"] for one in ATTRIBUTES)
    told = place.send("GET", "new", token=TOKEN).body
    assert (told["rows"], told["fresh"], told["blocks"], told["exact"]) == (0, 2, 0, True)
    assert told["contract"]["recall"] == 1.0 and told["model"] == "m"
    assert place.send("PUT", "new", NEW).body["seq"] == 1
    for param, other in (
        ("dimension", {"dimension": 9}), ("metric", {"metric": "l2"}), ("vectors", {"vectors": "f32"}),
        ("ids", {"ids": "integer"}), ("attributes", {"attributes": ATTRIBUTES[::-1]}), ("model", {"model": "n"}),
        ("attributes", {"attributes": [*ATTRIBUTES[1:2], {"name": "note", "type": "text"}, *ATTRIBUTES[2:]][1:]}),
    ):  # fmt: skip
        refused = place.send("PUT", "new", NEW | other)
        assert (refused.status, refused.body["code"], refused.body["param"]) == (409, "index_exists", param)


def test_what_is_no_index_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for param, body in (
        ("dimension", {}), ("dimension", {"dimension": 0}), ("dimension", {"dimension": 4097}),
        ("dimension", {"dimension": "8"}), ("dimension", {"dimension": True}), ("metric", {"metric": "l3"}),
        ("metric", {"metric": ["l2"]}), ("vectors", {"vectors": "f64"}), ("ids", {"ids": "bytes"}),
        ("model", {"model": ""}), ("model", {"model": "m" * 201}),
        ("attributes", {"attributes": {}}), ("attributes[0]", {"attributes": ["lang"]}),
        ("attributes", {"attributes": [{"name": f"a{i}", "type": "text"} for i in range(4097)]}),
        ("attributes", {"attributes": [{"name": f"{i:05}" + "a" * 500, "type": "text"} for i in range(600)]}),
        ("attributes[0].name", {"attributes": [{"type": "text"}]}),
        ("attributes[0].name", {"attributes": [{"name": "", "type": "text"}]}),
        ("attributes[0].name", {"attributes": [{"name": "a" * 513, "type": "text"}]}),
        ("attributes[0].name", {"attributes": [{"name": "$and", "type": "text"}]}),
        ("attributes[1].name", {"attributes": [{"name": "a", "type": "text"}, {"name": "a", "type": "time"}]}),
        ("attributes[0].type", {"attributes": [{"name": "a"}]}),
        ("attributes[0].type", {"attributes": [{"name": "a", "type": "string"}]}),
        ("attributes[0].list", {"attributes": [{"name": "a", "type": "integer", "list": True}]}),
        ("attributes[0].list", {"attributes": [{"name": "a", "type": "text", "list": 1}]}),
        ("attributes[0].filter", {"attributes": [{"name": "a", "type": "json", "filter": True}]}),
        ("attributes[0].kind", {"attributes": [{"name": "a", "type": "text", "kind": 1}]}),
        ("rows", {"rows": 5}),
    ):  # fmt: skip
        reply = place.send("PUT", "new", ({"dimension": 8} if body and "dimension" not in body else {}) | body)
        assert (reply.status, reply.body["param"]) == (400, param) and reply.body["hint"], (body, reply.body)
    for fields in ({"model": "\ud800"}, {"attributes": [{"name": "\ud800", "type": "text"}]}):  # of a command line
        with pytest.raises(InputError, match="is not a"):
            parse_new({"dimension": 8} | fields)
    assert place.send("PUT", "new", [1]).status == 400
    assert place.send("PUT", "-new", NEW).body["param"] == "index"
    assert place.send("PUT", "new?x=1", NEW).status == 400
    assert place.send("PUT", "new", NEW, TOKEN).status == 403
    assert [*tmp_path.iterdir()] == []
    assert place.send("PUT", "new", {"dimension": 4096, "vectors": "f32"}).status == 201
    wide = [{"name": f"{i:04}" + "a" * 40, "type": "text"} for i in range(2000)]
    assert place.send("PUT", "wide", {"dimension": 1, "attributes": wide}).status == 201


def test_a_deleted_index_gives_its_name_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path)
    for _ in range(2):
        assert place.send("PUT", "new", NEW).status == 201
        assert place.send("POST", "new/write", {"upsert": [{"id": "old", "vector": [1] * 8}]}).body["seq"] == 1
        assert place.send("DELETE", "new?name=new").status == 200
        assert place.send("GET", "new", token=TOKEN).status == 404
        with monkeypatch.context() as now:
            now.setattr(create_module, "DELETED_S", 1e9)
            refused = place.send("PUT", "new", NEW)
            assert (refused.status, refused.body["code"]) == (503, "busy")
        monkeypatch.setattr(create_module, "DELETED_S", 0.0)
    assert place.send("PUT", "new", NEW).status == 201
    assert place.send("POST", "new/query", {"vector": [1] * 8}, TOKEN).body["matches"] == []
    current = Current.unpack((tmp_path / "new" / "CURRENT").read_bytes(), "CURRENT")
    assert current.previous and (tmp_path / "new" / current.previous / "root.bin").exists()


def test_of_several_that_make_an_index_one_does() -> None:
    """Over a bucket that fails and loses answers."""

    async def make(store: Stepwise, i: int) -> NewIndex | None:
        new = parse_new(NEW | {"dimension": 8 + i})
        try:
            return new if await create(store, new, 0.0) else None
        except StoreError:
            return None

    async def run(store: Stepwise) -> list[NewIndex | None]:
        return await asyncio.gather(*(make(store, i) for i in range(5)))

    made = 0
    for seed in range(200):
        store = Stepwise(seed)
        won = [one for one in asyncio.run(run(store)) if one is not None]
        assert len(won) <= 1, seed
        if (data := store.objects.get("CURRENT")) is not None:
            current = Current.unpack(data, "CURRENT")
            there = new_of(Root.unpack(store.objects[current.root.key], "root"))
            assert current.manifest.key in store.objects and (not won or there == won[0]), seed
        made += len(won)
    assert made > 100


class Stepwise(MemoryLog):
    """Without an index, its calls in a drawn order; some fail, or lose their answers."""

    def __init__(self, seed: int) -> None:
        self.draw = Random(seed)
        lost, failed = (tuple(self.draw.sample(range(16), 3)) for _ in range(2))
        super().__init__(b"", lost, failed)
        del self.objects["CURRENT"]

    async def get(self, key: str, most: int) -> tuple[bytes, str] | None:
        await self._wait()
        return await super().get(key, most)

    async def create(self, key: str, data: bytes) -> bool:
        await self._wait()
        return await super().create(key, data)

    async def _wait(self) -> None:
        for _ in range(self.draw.randrange(4)):
            await asyncio.sleep(0)


def test_the_root_says_what_is_declared_and_is_checked() -> None:
    for metric in METRICS:
        new = parse_new(NEW | {"metric": metric})
        data = root_of(new).pack()
        root = Root.unpack(data, "root.bin")
        assert root.is_empty and root.proves and new_of(root) == new and root.pack() == data
        assert objects_of(data, "root.bin").keys == ()  # so that a warm object keeps it too
        made = empty_generation(new, "nonce")
        other = Reader({"CURRENT": made.current.pack(), made.current.root.key: made.root})
        assert (METRICS[other.metric], other.d, other.names) == (metric, 8, root.names)
        assert other.fields == [
            (f.attribute, FIELD_KINDS.index(f.kind), 1 + 2 * f.many, 0, 0, 0, 0) for f in root.filters
        ]
        with pytest.raises(DamagedError, match="more than an empty index has"):
            Root.unpack(replace(root, filters=(replace(root.filters[0], low=-1), *root.filters[1:])).pack(), "root.bin")
    for rows, blocks, slots in ((0, 1, 0), (1, 0, 1), (0, 0, 1)):
        index = IndexSection("dot", 8, rows, blocks, "i64", "f16", "lrsq", "lse", 1.0, slots)
        with pytest.raises(DamagedError):
            IndexSection.unpack(memoryview(index.pack()), "index")
