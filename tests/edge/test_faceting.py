"""Facets in workerd: exact counts, bounds, histograms and prices are CPython's."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from filters import random_filter

from build_index.bucket.open import open_index
from build_index.serve import ROOT, Server
from vantage.http.facets import facets_body, parse_facet_query, plan_body
from vantage.receipt import Receipt

pytestmark = pytest.mark.edge

FACETS: dict[str, Any] = {
    "lang": {"top": 3}, "tags": {"top": 10}, "year": {"buckets": 7}, "price": {"edges": [-10, 0, 0.5, 20]},
    "stock": {"top": 2}, "at": {"buckets": 5},
}  # fmt: skip


def test_facets_are_those_of_cpython(worker: Callable[..., Server], tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests" / "fixtures" / "filters", tmp_path / "bucket" / "filters")
    server = worker(tmp_path / "bucket", PUBLIC_READ="1", VANTAGE_CACHE_BYTES="0", VANTAGE_WARM_BYTES="0")
    index, draw = open_index(tmp_path / "bucket" / "filters"), Random(4)
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
            counted = ("gets", "bytes", "waves", "blocks", "rows")
            assert [got["receipt"][k] for k in counted] == [receipt.as_dict()[k] for k in counted]
            exact.update(one["exact"] for one in want["facets"].values())
    assert exact == {True, False}
