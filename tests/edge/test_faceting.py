"""Facets in workerd: exact counts, bounds, histograms and prices are CPython's; and all that leaves dead rows out."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from filters import random_filter
from fixtures.answers import FILTERS

from build_index.bucket.open import open_index
from build_index.serve import ROOT, Server
from vantage.http.bodies import answer_body
from vantage.http.facets import facets_body, parse_facet_query, plan_body
from vantage.receipt import Receipt
from vantage.search.listing import Listing, prepare_listing
from vantage.search.query import Query

pytestmark = pytest.mark.edge

FACETS: dict[str, Any] = {
    "lang": {"top": 3}, "tags": {"top": 10}, "year": {"buckets": 7}, "price": {"edges": [-10, 0, 0.5, 20]},
    "stock": {"top": 2}, "at": {"buckets": 5},
}  # fmt: skip


EXPECTED = json.loads((ROOT / "tests" / "fixtures" / "expected.json").read_text())["flushed"]
COUNTED = ("gets", "bytes", "waves", "blocks", "rows")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an index that has filters, and the same after flushes."""
    folder = tmp_path_factory.mktemp("fixtures") / "bucket"
    for name in ("filters", "flushed"):
        shutil.copytree(ROOT / "tests" / "fixtures" / name, folder / name)
    return folder


def test_facets_are_those_of_cpython(worker: Callable[..., Server], bucket: Path) -> None:
    server = worker(bucket, PUBLIC_READ="1", VANTAGE_CACHE_BYTES="0", VANTAGE_WARM_BYTES="0")
    index, draw = open_index(bucket / "filters"), Random(4)
    filters = (value for value in iter(lambda: random_filter(draw), None) if "'refs'" not in str(value))  # it has none
    exact = set()
    with httpx.Client(base_url=f"{server.url}/v1/indexes/filters", timeout=60, trust_env=False) as http:
        for turn in range(24):
            body: dict[str, Any] = {"facets": FACETS} | ({"filter": next(filters)} if turn else {})
            body |= {"budget": {"bytes": 0}} if turn % 3 == 2 else {}
            if turn % 6 == 4:
                body["within"] = {"id": draw.randrange(180) * 5, "top_k": 40}
            asked, receipt = parse_facet_query(body), Receipt()
            plan = index.plan_facets(asked)
            if "within" not in body:
                assert http.post("/facets", json=body | {"explain": True}).json() == plan_body(index, plan)
            want = facets_body(asyncio.run(index.facets(plan, receipt)))
            got = http.post("/facets", json=body).json()
            assert {name: got[name] for name in want} == want
            assert [got["receipt"][k] for k in COUNTED] == [receipt.as_dict()[k] for k in COUNTED]
            exact.update(one["exact"] for one in want["facets"].values())
    assert exact == {True, False}


def test_dead_rows_are_left_out_as_in_cpython(worker: Callable[..., Server], bucket: Path) -> None:
    server = worker(bucket, PUBLIC_READ="1", VANTAGE_CACHE_BYTES="0", VANTAGE_WARM_BYTES="0")
    index = open_index(bucket / "flushed")
    with httpx.Client(base_url=f"{server.url}/v1/indexes/flushed", timeout=60, trust_env=False) as http:
        assert http.get(f"{server.url}/v1/indexes/flushed").json()["rows"] == index.root.live_rows == 120
        for vector in EXPECTED["vectors"]:
            for value in (None, *FILTERS):
                asked: dict[str, Any] = {"vector": vector, "top_k": 30, "include": ["receipt"], "filter": value}
                got = http.post("/query", json={name: own for name, own in asked.items() if own is not None}).json()
                want = answer_body(asyncio.run(index.query(Query(vector, 30, filter=value))), ["receipt"])
                assert got["matches"] == want["matches"]
                assert [got["receipt"][k] for k in COUNTED] == [want["receipt"][k] for k in COUNTED]
        every = [i * 5 for i in range(180)]
        listed = http.post("/rows", json={"limit": 1000, "order_by": {"year": "asc"}}).json()["rows"]
        prepared = prepare_listing(index.segment, Listing(limit=1000, order_by={"year": "asc"}))
        page = asyncio.run(index.list_rows(prepared))
        assert [row["id"] for row in listed] == [row.id for row in page.rows] and len(listed) == 120
        found = http.post("/vectors", json={"ids": every}).json()
        assert {row["id"] for row in found["rows"]} == {row["id"] for row in listed} and len(found["missing"]) == 60
        body = {"facets": {"lang": {"top": 3}, "year": {"buckets": 7}}, "filter": {"stock": True}}
        counted = facets_body(asyncio.run(index.facets(index.plan_facets(parse_facet_query(body)), Receipt())))
        assert http.post("/facets", json=body).json()["facets"] == counted["facets"]
