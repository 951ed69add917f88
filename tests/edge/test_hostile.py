"""Crafted indexes with right checksums in workerd: each is an error of its own, and a good one beside answers on."""

import asyncio
import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
from fixtures.damage import DAMAGES, load

from build_index.bucket.open import open_index
from build_index.serve import load as load_bucket
from build_index.serve import serve
from vantage.search.query import Query

pytestmark = pytest.mark.edge

FIXTURES = Path(__file__).parent.parent / "fixtures"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text())
DAMAGE = json.loads((FIXTURES / "damage.json").read_text())
# What took the isolate, its memory, or seconds, or gave an answer that was none.
HOSTILE = [
    "CURRENT is deeply nested", "CURRENT has a version of 10,000 digits", "schema is deeply nested", "schema is large",
    "schema has many members", "schema has too many attributes", "there are more blocks than rows",
    "a block is over the limit", "there are many objects", "there are many pages of rows",
    "objects has a count without bounds", "a key leads elsewhere", "directory has a count without bounds",
    "a page is over the limit", "a query reads too many pages", "a page has more blocks than there are",
    "a block has planes without bounds", "attributes of a block are a bomb",
    "attributes of a block are over the limit", "attributes of a row are over the limit",
    "attributes are deeply nested", "the codec has more fields than its axes can be in", "the tree is deep",
    "factors that saturate the scores", "the factors of a block are out of all proportion", "vectors of NaN",
    "vectors of infinity", "vectors whose norm float32 cannot hold", "attributes are not finite",
    "attributes by row are deeply nested", "places of attributes are over the limit",
    "places of attributes are outside", "root is of the first version",
    "pages of chunks have counts without bounds", "pages of chunks are zeros",
    "pages of a segment call its objects by other numbers",
]  # fmt: skip
FILTERS: list[dict[str, Any]] = [
    {"lang": "de"}, {"price": {"$lt": -100}, "stock": True}, {"$or": [{"year": 1999}, {"tags": "a"}]},
    {"year": {"$ne": 2000}},
]  # fmt: skip
LARGE = ("paged", "compacted")  # what filters read of them is in pages; the other one has segments
SECONDS_MAX = 5.0  # of an error; opening and answering takes well below one


def write(bucket: Path, name: str, objects: dict[str, bytes]) -> None:
    for key, data in objects.items():
        path = bucket / name / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def test_a_good_index_answers_beside_crafted_ones(tmp_path: Path) -> None:
    write(tmp_path / "bucket", "good", load("texts"))
    for name in LARGE:
        write(tmp_path / "bucket", name, load(name))
    for i, name in enumerate(HOSTILE):
        write(tmp_path / "bucket", f"bad-{i}", DAMAGES[name](load(DAMAGE[name]["index"])))
    load_bucket(tmp_path / "bucket", tmp_path / "state")
    with (
        serve(tmp_path / "state", variables={"PUBLIC_READ": "1", "VANTAGE_CACHE_BYTES": "1000000"}) as server,
        httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http,
    ):
        options = {"rerank": 30, "include": ["attributes", "vector"], "budget": {"gets": 1000}}

        def ask(index: str, vector: list[float], value: Any = None) -> httpx.Response:
            more = options if value is None else {"filter": value}
            return http.post(f"/v1/indexes/{index}/query", json={"vector": vector, "top_k": 10} | more)

        for name, vector, value in product(LARGE, EXPECTED["paged"]["vectors"][:3], FILTERS):
            large = open_index(tmp_path / "bucket" / name)
            reply, want = ask(name, vector, value).json(), asyncio.run(large.query(Query(vector, 10, filter=value)))
            assert [(m["id"], m["score"]) for m in reply["matches"]] == [(m.id, m.score) for m in want.matches]
            assert want.matched is not None and reply["matched"] == want.matched.rows

        vector = EXPECTED["texts"]["vectors"][0]
        first = ask("good", vector)
        assert first.status_code == 200 and first.json()["complete"]
        assert [m["attributes"] for m in first.json()["matches"]] == EXPECTED["texts"]["queries"][0]["attributes"]
        for i, name in enumerate(HOSTILE):
            began = time.perf_counter()
            value = FILTERS[0] if DAMAGE[name]["index"] in LARGE else None
            reply = ask(f"bad-{i}", EXPECTED[DAMAGE[name]["index"]]["vectors"][0], value)
            assert time.perf_counter() - began < SECONDS_MAX, name
            assert (reply.status_code, reply.json()["code"]) == (500, "damaged_index"), f"{name}: {reply.text[:300]}"
            again = ask("good", vector)
            assert again.status_code == 200 and again.json()["matches"] == first.json()["matches"], name
        for at in EXPECTED["texts"]["ids"]:
            row = http.get(f"/v1/indexes/good/vectors/{at}")
            assert row.status_code == 200 and set(row.json()["attributes"]) == {"text", "page"}
