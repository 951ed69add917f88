"""Rows listed by a filter: all pages together are what plain Python takes, each row once and in order."""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
from filters import HASHED, KINDS, LISTS, key_of, matching, random_filter
from small import vantage
from test_filtered import NAMES, ROWS, made_up, table_of

from build_index.bucket.open import open_index
from build_index.build import build
from build_index.context import BuildContext
from build_index.ingest.open import open_source
from build_index.tune import renditions
from build_index.tune.options import Options
from build_index.vector_index import VectorIndex
from vantage.cost import Budget
from vantage.errors import InputError
from vantage.http import routes
from vantage.http.access import Access
from vantage.index import Index
from vantage.indexes import Service
from vantage.read.bucket import Folder
from vantage.read.deadline import Deadline
from vantage.receipt import Receipt
from vantage.search import scan
from vantage.search.listing import Listing, Page, prepare_listing
from vantage.search.query import Query

Made = tuple[Path, np.ndarray, list[dict[str, Any]]]
SMALL = Budget(gets=2, bytes=50_000)
SCALARS = tuple(name for name in NAMES if name not in LISTS)


@pytest.fixture(scope="module", params=["inline", "apart"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Blocks in the root, or in objects of their own beside projections."""
    folder = tmp_path_factory.mktemp(request.param)
    x, rows = made_up(11)
    pq.write_table(table_of(x, rows), folder / "rows.parquet")
    with patch.object(renditions, "INLINE_BYTES", 0 if request.param == "apart" else 1 << 20):
        options = Options(0.9, 10, fast=True, filters=NAMES)
        build(open_source([folder / "rows.parquet"]), BuildContext(folder / "bucket" / "index", "cosine", options))
    return folder / "bucket" / "index", x, rows


def ask(index: Index, listing: Listing) -> Page:
    return asyncio.run(index.list_rows(prepare_listing(index.segment, listing)))


def walked(index: Index, draw: Random, small: Budget = SMALL, **asked: Any) -> list[int]:
    """The ids of all pages, of limits and budgets at random, some of them small."""
    out, cursor = list[int](), None
    while True:
        limit = draw.choice((1, 7, 100, 1000)) if len(out) < 30 else 1000
        budget = draw.choice((Budget(), small))
        page = ask(index, Listing(limit=limit, cursor=cursor, budget=budget, **asked))
        assert len(page.rows) <= limit and (page.complete or page.cursor)
        assert not page.complete or page.cursor is None or len(page.rows) == limit
        out += [int(row.id) for row in page.rows]
        cursor = page.cursor
        if cursor is None:
            return out


def key(row: Mapping[str, Any], name: str) -> Any:
    return None if row[name] is None else key_of(row[name], KINDS[name])


def check(got: list[int], rows: list[dict[str, Any]], asked: Mapping[str, Any]) -> None:
    """Against plain Python: the rows that are to come, and their order."""
    want = np.flatnonzero(matching(asked.get("filter") or {}, rows)).tolist()
    if asked.get("distinct"):
        values = {key(rows[i], asked["distinct"]) for i in want}
        assert {key(rows[i], asked["distinct"]) for i in got} == values and len(got) == len(values)
        assert set(got) <= set(want)
    else:
        assert sorted(got) == want
    if asked.get("order_by"):
        [(name, way)] = asked["order_by"].items()
        keys = [key(rows[i], name) for i in got]
        known = [k for k in keys if k is not None]
        assert keys == sorted(known, reverse=way == "desc") + [None] * (len(keys) - len(known))


@pytest.mark.parametrize("seed", range(2))
def test_all_pages_are_what_plain_python_takes(made: Made, seed: int) -> None:
    path, _, rows = made
    index, draw = open_index(path), Random(seed)
    for _ in range(25):
        asked: dict[str, Any] = {"attributes": False}
        if draw.random() < 0.8:
            asked["filter"] = random_filter(draw)
        name = draw.choice(SCALARS)
        if draw.random() < 0.5 and name not in HASHED:
            asked["order_by"] = {name: draw.choice(("asc", "desc"))}
        if draw.random() < 0.3:
            asked["distinct"] = name
        check(walked(index, draw, **asked), rows, asked)


def test_ties_come_by_row_order_whatever_the_pages(made: Made) -> None:
    index, draw = open_index(made[0]), Random(5)
    for asked in ({"order_by": {"year": "desc"}}, {"order_by": {"stock": "asc"}}, {"filter": {"tags": "a"}}, {}):
        assert walked(index, draw, attributes=False, **asked) == walked(index, draw, attributes=False, **asked)


def test_what_is_attached(made: Made) -> None:
    path, x, rows = made
    index = open_index(path)
    for asked in ({"filter": {"year": 1955}}, {"order_by": {"at": "asc"}}, {}):
        page = ask(index, Listing(limit=50, vectors=True, **asked))
        assert page.complete and page.rows and page.receipt.waves <= 5
        for row in page.rows:
            assert np.allclose(row.vector, x[int(row.id)], atol=1e-2)
            assert row.attributes is not None and row.attributes["note"] == {"x": 1}
            assert row.attributes["year"] == rows[int(row.id)]["year"]


def test_a_filter_reads_what_it_takes_alone(made: Made) -> None:
    index = open_index(made[0])
    few = ask(index, Listing({"year": 1955}, attributes=False))
    assert few.receipt.gets <= 2 and few.receipt.rows <= (ROWS if not index.root.projections else 512)
    if index.root.projections:  # put in order, what the filter takes is less than what the order is kept in
        few = ask(index, Listing({"year": 1955}, order_by={"price": "desc"}, attributes=False))
        assert few.receipt.gets == 1 and few.receipt.rows < ROWS / 4
    nothing = ask(index, Listing({"year": {"$gt": 3000}}))
    assert (nothing.rows, nothing.cursor, nothing.complete, nothing.receipt.gets) == ([], None, True, 0)


def test_a_budget_cuts_a_page_and_the_cursor_goes_on(made: Made) -> None:
    path, _, rows = made
    index = open_index(path)
    if not index.root.projections:
        return
    asked = {"filter": {"stock": True}, "order_by": {"price": "desc"}, "attributes": False}
    out, cursor, pages = list[int](), None, 0
    while True:
        page = ask(index, Listing(limit=1000, cursor=cursor, budget=Budget(2, 40_000, 2), **asked))
        out, cursor, pages = out + [int(row.id) for row in page.rows], page.cursor, pages + 1
        assert page.receipt.gets <= 2 and page.receipt.bytes <= 40_000
        if cursor is None:
            break
        assert not page.complete
    assert pages > 3
    check(out, rows, asked)
    with pytest.raises(InputError, match="too small for one row") as error:
        ask(index, Listing(budget=Budget(gets=0)))
    assert error.value.param == "budget"

    async def late() -> Page:
        deadline = Deadline()
        deadline.end()
        return await index.list_rows(prepare_listing(index.segment, Listing()), None, deadline)

    page = asyncio.run(late())
    assert (page.rows, page.complete) == ([], False)
    assert ask(index, Listing(cursor=page.cursor)).rows == ask(index, Listing()).rows


def test_over_http(made: Made) -> None:
    path, _, rows = made

    def post(body: dict[str, Any], route: str = "rows") -> Any:
        async def read(*_: object) -> bytes:
            return json.dumps(body).encode()

        where, service = f"/v1/indexes/{path.name}/{route}", Service(Folder(path.parent), 0)
        reply = asyncio.run(routes.handle("POST", where, {}, read, service, Access(public=True), {}))
        return reply.status, json.loads(reply.text())

    asked = {"filter": {"lang": "de"}, "limit": 5, "order_by": {"year": "desc"}}
    status, first = post(asked)
    assert status == 200 and set(first) == {"rows", "cursor", "complete", "receipt"} and len(first["rows"]) == 5
    assert all(set(row) == {"id", "attributes"} and row["attributes"]["lang"] == "de" for row in first["rows"])
    status, second = post(asked | {"cursor": first["cursor"], "include": ["vector"], "numbers": "string"})
    assert status == 200 and set(second) == {"rows", "cursor", "complete"} and len(second["rows"][0]["vector"]) == 16
    years = [rows[int(row["id"])]["year"] for row in first["rows"] + second["rows"]]
    assert years == sorted(years, reverse=True)
    status, best = post({"id": 3, "top_k": 3, "distinct": "lang", "include": ["attributes"]}, "query")
    assert status == 200 and len({match["attributes"]["lang"] for match in best["matches"]}) == 3
    status, problem = post({"id": 3, "distinct": ["lang"]}, "query")
    assert status == 400 and problem["param"] == "distinct"
    cursor = first["cursor"]
    data = urlsafe_b64decode(cursor + "=")
    forged = urlsafe_b64encode(data[:17] + b"\xff" * 4 + data[21:]).decode().rstrip("=")  # of a group that is not there
    for wrong, param in (
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"limit": "5"}, "limit"),
        ({"order_by": "year"}, "order_by"),
        ({"order_by": {"year": "desc", "at": "asc"}}, "order_by"),
        ({"order_by": {"year": -1}}, "order_by.year"),
        ({"order_by": {"tags": "asc"}}, "order_by"),
        ({"order_by": {"code": "asc"}}, "order_by"),
        ({"order_by": {"note": "asc"}}, "order_by"),
        ({"distinct": "nope"}, "distinct"),
        ({"distinct": 3}, "distinct"),
        ({"distinct": "year", "order_by": {"at": "asc"}}, "distinct"),
        ({"filter": {"year": "x"}}, "filter.year"),
        ({"include": ["score"]}, "include"),
        ({"page": 3}, "page"),
        ({"cursor": cursor}, "cursor"),
        ({**asked, "cursor": cursor, "filter": {"lang": "fr"}}, "cursor"),
        ({**asked, "cursor": cursor[:-1]}, "cursor"),
        ({**asked, "cursor": "B" + cursor[1:]}, "cursor"),
        ({**asked, "cursor": cursor[:12] + "AAA" + cursor[15:]}, "cursor"),
        ({**asked, "cursor": forged}, "cursor"),
        ({**asked, "cursor": "é"}, "cursor"),
        ({**asked, "cursor": 3}, "cursor"),
    ):
        status, problem = post(wrong)
        assert status == 400 and problem["param"] == param and problem["hint"], (wrong, problem)


def test_the_command_line_and_the_library(made: Made) -> None:
    path, _, rows = made
    value, order = {"stock": True, "lang": {"$ne": "fr"}}, ("--order-by", "year", "--desc")
    told = vantage("rows", path, "--filter", json.dumps(value), *order, "--limit", 1500, "--json").json()
    index = VectorIndex.load(path)
    listed = index.rows(value, order_by={"year": "desc"})
    assert sorted(row.id for row in listed) == sorted(row["id"] for row in told["rows"])
    assert [row.attributes["year"] for row in listed] == [row["attributes"]["year"] for row in told["rows"]]
    check([row["id"] for row in told["rows"]], rows, {"filter": value, "order_by": {"year": "desc"}})
    assert told["cursor"] is None and told["receipt"]["generation"]
    assert len(index.rows()) == ROWS and len(index.rows(limit=1001)) == 1001
    langs = [row.attributes["lang"] for row in index.rows(distinct="lang")]
    assert len(langs) == len(set(langs)) == len({row["lang"] for row in rows})
    found = index.search(made[1][:2], 3, distinct="lang")
    assert all(len({rows[i]["lang"] for i in ids}) == 3 for ids in found.ids.tolist())
    shown = vantage("rows", path, "--limit", 2)
    assert shown.code == 0 and "there are more rows" in shown.out and "rows ..." in shown.err
    best = vantage("query", path, "--id", 3, "--top-k", 3, "--distinct", "lang", "--json").json()
    assert len({rows[m["id"]]["lang"] for m in best["matches"]}) == 3
    assert "has nothing to order by" in vantage("rows", path, "--desc").refusal()
    assert "these can: lang" in vantage("rows", path, "--order-by", "note").refusal()
    assert "no rows in a limit of 0" in vantage("rows", path, "--limit", 0).refusal()


def distinct_by_hand(x: np.ndarray, rows: list[dict[str, Any]], q: np.ndarray, name: str, value: Any) -> list[Any]:
    """The values of the best rows, one each, best first."""
    near = np.argsort(-(x @ q) / np.linalg.norm(x, axis=1), kind="stable")
    match = matching(value, rows)
    return list(dict.fromkeys(key(rows[i], name) for i in near if match[i]))


@pytest.mark.parametrize("k", [3, 30])
def test_the_best_row_of_each_value(made: Made, k: int) -> None:
    path, x, rows = made
    index, draw, found, wanted = open_index(path), Random(k), 0, 0
    able = [index.root.names[f.attribute] for f in index.root.filters if f.in_blocks and not f.many]
    for turn in range(40):
        value, name = (random_filter(draw) if turn % 3 else {}), draw.choice(able)
        q = x[draw.randrange(ROWS)]
        got = asyncio.run(index.query(Query(q.tolist(), k, filter=value or None, distinct=name)))
        ids = [int(m.id) for m in got.matches]
        values, every = [key(rows[i], name) for i in ids], distinct_by_hand(x, rows, q, name, value)
        assert len(set(values)) == len(ids) <= k and all(matching(value, [rows[i] for i in ids]))
        assert got.recall_estimate is None
        if got.complete:
            assert len(ids) == min(k, len(every)), (value, name, len(ids), len(every))
        found, wanted = found + len(set(values) & set(every[:k])), wanted + min(k, len(every))
    assert found > 0.9 * wanted
    own = Query(None, 5, id=7, distinct="year")
    assert 7 not in [m.id for m in asyncio.run(index.query(own)).matches]
    together = asyncio.run(index.answer([Query(q.tolist(), 5, distinct="year") for q in x[:5]], Receipt()))
    alone = [asyncio.run(index.query(Query(q.tolist(), 5, distinct="year"))) for q in x[:5]]
    assert [a.matches for a in together] == [a.matches for a in alone]
    for wrong in ("tags", "note", "nope"):
        with pytest.raises(InputError, match="these can: lang, year") as error:
            asyncio.run(index.query(Query(x[0].tolist(), 5, distinct=wrong)))
        assert error.value.param == "distinct"


def test_a_value_that_has_all_that_is_near_leaves_an_answer_incomplete(made: Made) -> None:
    path, x, _ = made
    index = open_index(path)
    with patch.object(scan, "DISTINCT_MIN", 20), patch.object(scan, "DISTINCT_ROWS", 1):
        got = asyncio.run(index.query(Query(x[0].tolist(), 9, distinct="year", filter={"stock": {"$exists": True}})))
        assert not got.complete or len(got.matches) == 9
        few = asyncio.run(index.query(Query(x[0].tolist(), 20, distinct="lang")))
        assert not few.complete and 0 < len(few.matches) < 20
    every = asyncio.run(index.query(Query(x[0].tolist(), 20, distinct="lang")))
    assert every.complete and len(every.matches) == len(set(row["lang"] for row in made[2]))


def test_a_cursor_of_another_generation_is_refused(made: Made) -> None:
    index = open_index(made[0])
    cursor = ask(index, Listing(limit=3)).cursor
    index.segment.generation = "0" * 16
    with pytest.raises(InputError, match="changed since the page before"):
        ask(index, Listing(limit=3, cursor=cursor))
