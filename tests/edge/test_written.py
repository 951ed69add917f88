"""The log over a generation in workerd: answers, lists and facets are CPython's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import filters
import httpx
import pytest
from filters import random_filter, random_row
from test_fresh import Living, living

from build_index.serve import Server
from vantage.http.bodies import answer_body, row_body
from vantage.http.facets import facets_body
from vantage.receipt import Receipt
from vantage.search.facets import FacetQuery
from vantage.search.listing import Listing, prepare_listing

pytestmark = pytest.mark.edge


def test_what_was_written_is_seen_as_in_cpython(
    worker: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(filters.KINDS, "refs")
    draw, it = Random(3), living(tmp_path, "filters")
    for size in (5, 40, 80):
        it.change(draw, lambda draw: {n: v for n, v in random_row(draw).items() if n in it.index.root.names}, size)
    it.read_on()
    server = worker(tmp_path, PUBLIC_READ="1", VANTAGE_CACHE_BYTES="0", VANTAGE_WARM_BYTES="0")
    with httpx.Client(base_url=f"{server.url}/v1/indexes/filters", timeout=60, trust_env=False) as http:
        assert http.get(f"{server.url}/v1/indexes/filters").json()["seq"] == 3
        for turn in range(12):
            check(it, http, draw, {"filter": random_filter(draw)} if turn % 2 else {})


def check(it: Living, http: httpx.Client, draw: Random, asked: dict[str, Any]) -> None:
    vector = [v + draw.gauss(0, 0.1) for v in draw.choice(list(it.rows.values())).vector]
    got = http.post(
        "/query", json={"vector": vector, "top_k": 50, "include": ["attributes", "receipt"], **asked}
    ).json()
    want = answer_body(it.ask(vector, 50, attributes=True, **asked), ["attributes", "receipt"])
    assert got["matches"] == want["matches"] and got["complete"] == want["complete"]
    assert {k: got["receipt"][k] for k in ("gets", "bytes", "rows", "fresh", "superseded", "seq")} == {
        k: want["receipt"][k] for k in ("gets", "bytes", "rows", "fresh", "superseded", "seq")
    }
    exact = http.post("/query", json={"vector": vector, "rerank": 20, **asked}).json()
    assert exact["matches"] == answer_body(it.ask(vector, 10, rerank=20, **asked), [])["matches"]
    order = {"order_by": {"lang": "desc"}, **asked}
    page = asyncio.run(it.index.list_rows(prepare_listing(it.index.segment, Listing(**order))))
    listed = http.post("/rows", json=order).json()
    assert listed["rows"] == [row_body(row, ["attributes"]) for row in page.rows] and listed["cursor"] == page.cursor
    plan = it.index.plan_facets(FacetQuery({"lang": {"top": 10}, "tags": {"top": 10}}, asked.get("filter")))
    counted = http.post("/facets", json={"facets": {"lang": {"top": 10}, "tags": {"top": 10}}, **asked}).json()
    facets = facets_body(asyncio.run(it.index.facets(plan, Receipt())))
    assert {name: counted[name] for name in facets} == facets
