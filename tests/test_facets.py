"""Facets over HTTP: what is refused, by name; and what an answer and its price look like."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from vantage.http.access import Access
from vantage.http.routes import handle
from vantage.index import Index
from vantage.indexes import Service
from vantage.read.bucket import Folder
from vantage.read.cache import Cache
from vantage.receipt import Receipt
from vantage.search import facets
from vantage.search.facets import FacetAnswer, FacetQuery

FIXTURES = Path(__file__).parent / "fixtures"
LANG = {"lang": {"top": 3}}


def post(body: Any) -> Any:
    async def read(*_: object) -> bytes:
        return json.dumps(body).encode()

    service = Service(Folder(FIXTURES), 0)
    reply = asyncio.run(handle("POST", "/v1/indexes/filters/facets", {}, read, service, Access(public=True), {}))
    return reply.status, json.loads(reply.sent)


@pytest.fixture
def dear() -> Iterator[None]:
    """Nothing is read that nobody asked for."""
    with patch.object(facets, "FREE_BYTES", 0):
        yield


def test_an_answer() -> None:
    status, body = post({"facets": LANG | {"year": {"edges": [1990, 2000, 2010]}}, "filter": {"stock": True}})
    rows = [i for i in range(180) if i % 3 == 0]
    langs = [(None, "de", "fr", "", "zürich")[(i * i + i // 5) % 5] for i in rows]
    years = [1990 + i % 37 for i in rows if i % 11]
    assert status == 200 and (body["matched"], body["matched_exact"], body["complete"]) == (60, True, True)
    lang, year = body["facets"]["lang"], body["facets"]["year"]
    assert lang["exact"] and lang["missing"] == {"count": langs.count(None)}
    assert all(langs.count(one["value"]) == one["count"] for one in lang["values"]) and len(lang["values"]) == 3
    assert lang["other"]["count"] == 60 - langs.count(None) - sum(one["count"] for one in lang["values"])
    assert year["buckets"] == [
        {"from": 1990, "to": 2000, "count": sum(1990 <= y < 2000 for y in years)},
        {"from": 2000, "to": 2010, "count": sum(2000 <= y <= 2010 for y in years)},
    ]
    assert year["other"]["count"] == sum(y > 2010 for y in years) and year["missing"]["count"] == 60 - len(years)
    assert body["receipt"]["gets"] >= 1 and body["receipt"]["waves"] == 1


def test_without_a_filter_texts_take_no_read() -> None:
    status, body = post({"facets": LANG | {"tags": {"top": 5}, "stock": {"top": 2}}, "include": ["receipt"]})
    assert status == 200 and body["receipt"]["gets"] == 0 and body["matched"] == 180
    assert body["facets"]["stock"]["values"] == [{"value": False, "count": 120}, {"value": True, "count": 60}]
    tags = [["a", "b", "çé"][: i % 4] for i in range(180)]
    assert body["facets"]["tags"]["values"][0] == {"value": "a", "count": sum("a" in own for own in tags)}
    assert body["facets"]["tags"]["missing"] == {"count": sum(not own for own in tags)}


def test_blocks_that_left_the_cache_while_a_request_waited_are_read_again() -> None:
    async def counted(cache: Cache) -> FacetAnswer:
        index = await Index.open(Folder(FIXTURES), "filters", cache, Receipt())
        asked = FacetQuery(LANG, {"year": {"$gt": 2000}})
        await index.facets(index.plan_facets(asked), Receipt())
        plan = index.plan_facets(asked)  # from what the first one left
        assert bool(cache.held) == any(reading.plan.cached for reading in plan.readings)
        cache.clear()
        return await index.facets(plan, Receipt())

    plain, emptied = (asyncio.run(counted(Cache(budget))) for budget in (0, 1 << 20))
    assert emptied.receipt.gets == plain.receipt.gets > 0
    assert (emptied.facets, emptied.matched, emptied.complete) == (plain.facets, plain.matched, True)


@pytest.mark.usefixtures("dear")
def test_prices_and_bounds() -> None:
    body = {"facets": LANG | {"at": {"buckets": 3}}, "filter": {"year": {"$gt": 2000}}}
    _, plan = post(body | {"explain": True})
    assert plan["facets"]["lang"] == {"exact": False, "source": "counts", "projection": None} and plan["gets"] == 0
    _, about = post(body)
    assert not about["facets"]["lang"]["exact"] and about["receipt"]["gets"] == 0 and not about["matched_exact"]
    _, priced = post(body | {"explain": True, "exact": True})
    assert (priced["gets"], priced["bytes"]) == (plan["exact"]["gets"], plan["exact"]["bytes"])
    _, exact = post(body | {"exact": True})
    assert (exact["receipt"]["gets"], exact["receipt"]["bytes"]) == (priced["gets"], priced["bytes"])
    for name, key in (("lang", "values"), ("at", "buckets")):
        sure = {json.dumps(one.get("value", one.get("from"))): one["count"] for one in exact["facets"][name][key]}
        for one in about["facets"][name][key]:
            count = sure.get(json.dumps(one.get("value", one.get("from"))))
            assert count is None or one["low"] <= count <= one["high"]
    status, refused = post(body | {"exact": True, "budget": {"bytes": 100}})
    assert status == 400 and refused["code"] == "limit_exceeded" and refused["param"] == "exact"
    assert f"{priced['bytes']} bytes in {priced['gets']} GETs" in refused["detail"]


def test_of_the_nearest() -> None:
    status, body = post({"facets": LANG | {"at": {"buckets": 2}}, "within": {"id": 25, "top_k": 30}})
    assert status == 200 and body["matched"] == 30 and body["facets"]["lang"]["exact"]
    assert sum(one["count"] for one in body["facets"]["at"]["buckets"]) == 30


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "facets"),
        ({"facets": []}, "facets"),
        ({"facets": {}}, "facets"),
        ({"facets": {f"a{i}": {"top": 1} for i in range(17)}}, "facets"),
        ({"facets": {"nope": {"top": 1}}}, "facets.nope"),
        ({"facets": {"note": {"top": 1}}}, "facets.note"),
        ({"facets": {"lang": 3}}, "facets.lang"),
        ({"facets": {"lang": {}}}, "facets.lang"),
        ({"facets": {"lang": {"top": 1, "buckets": 2}}}, "facets.lang"),
        ({"facets": {"lang": {"most": 1}}}, "facets.lang"),
        ({"facets": {"lang": {"top": 0}}}, "facets.lang.top"),
        ({"facets": {"lang": {"top": 1001}}}, "facets.lang.top"),
        ({"facets": {"lang": {"top": 1 << 100}}}, "facets.lang.top"),
        ({"facets": {"lang": {"top": True}}}, "facets.lang.top"),
        ({"facets": {"lang": {"buckets": 3}}}, "facets.lang.buckets"),
        ({"facets": {"stock": {"edges": [0, 1]}}}, "facets.stock.edges"),
        ({"facets": {"year": {"buckets": 101}}}, "facets.year.buckets"),
        ({"facets": {"year": {"edges": 3}}}, "facets.year.edges"),
        ({"facets": {"year": {"edges": [1]}}}, "facets.year.edges"),
        ({"facets": {"year": {"edges": [1, "x"]}}}, "facets.year.edges[1]"),
        ({"facets": {"year": {"edges": [1, None]}}}, "facets.year.edges[1]"),
        ({"facets": {"year": {"edges": [2, 1]}}}, "facets.year.edges[1]"),
        ({"facets": {"price": {"edges": [1, 1.0]}}}, "facets.price.edges[1]"),
        ({"facets": {"at": {"edges": ["2020-01-01", "never"]}}}, "facets.at.edges[1]"),
        ({"facets": LANG, "filter": {"nope": 1}}, "filter.nope"),
        ({"facets": LANG, "filter": None}, "filter"),
        ({"facets": LANG, "exact": 1}, "exact"),
        ({"facets": LANG, "explain": "yes"}, "explain"),
        ({"facets": LANG, "include": ["vector"]}, "include"),
        ({"facets": LANG, "top_k": 3}, "top_k"),
        ({"facets": LANG, "budget": {"gets": -1}}, "budget.gets"),
        ({"facets": LANG, "within": 3}, "within"),
        ({"facets": LANG, "within": {}}, "within.vector"),
        ({"facets": LANG, "within": {"vectors": [[1]]}}, "within.vectors"),
        ({"facets": LANG, "within": {"vector": [1.0]}}, "within.vector"),
        ({"facets": LANG, "within": {"id": 5, "top_k": 0}}, "within.top_k"),
        ({"facets": LANG, "within": {"id": 5}, "exact": True}, "exact"),
        ({"facets": LANG, "within": {"id": 5}, "explain": True}, "explain"),
    ],
)
def test_refused(body: Any, param: str) -> None:
    status, problem = post(body)
    assert status == 400 and problem["param"] == param and problem["hint"], problem
