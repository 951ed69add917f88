"""Crafted indexes with right checksums in workerd: each is an error of its own, and a good one beside answers on."""

import json
import time
from pathlib import Path

import httpx
import pytest
from fixtures.damage import DAMAGES, load

from build_index.serve import load as load_bucket
from build_index.serve import serve

pytestmark = pytest.mark.edge

FIXTURES = Path(__file__).parent.parent / "fixtures"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text())
DAMAGE = json.loads((FIXTURES / "damage.json").read_text())
# What took the isolate, its memory, or seconds, or gave an answer that was none.
HOSTILE = [
    "CURRENT is deeply nested", "CURRENT has a version of 10,000 digits", "schema is deeply nested", "schema is large",
    "schema has many members", "schema has too many attributes", "there are more blocks than rows",
    "a block is over the limit", "attributes of a block are a bomb", "there are many objects",
    "there are many pages of rows", "the codec has more fields than its axes can be in", "the tree is deep",
    "factors that saturate the scores", "the factors of a block are out of all proportion", "vectors of NaN",
    "vectors of infinity", "vectors whose norm float32 cannot hold", "attributes are not finite",
    "attributes by row are deeply nested", "places of attributes are over the limit",
    "places of attributes are outside",
    "root is of the first version",
]  # fmt: skip
SECONDS_MAX = 5.0  # of an error; opening and answering takes well below one


def write(bucket: Path, name: str, objects: dict[str, bytes]) -> None:
    for key, data in objects.items():
        path = bucket / name / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def test_a_good_index_answers_beside_crafted_ones(tmp_path: Path) -> None:
    write(tmp_path / "bucket", "good", load("texts"))
    for i, name in enumerate(HOSTILE):
        write(tmp_path / "bucket", f"bad-{i}", DAMAGES[name](load(DAMAGE[name]["index"])))
    load_bucket(tmp_path / "bucket", tmp_path / "state")
    with (
        serve(tmp_path / "state", variables={"PUBLIC_READ": "1", "VANTAGE_CACHE_BYTES": "1000000"}) as server,
        httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http,
    ):
        options = {"rerank": 30, "include": ["attributes", "vector"], "budget": {"gets": 1000}}

        def ask(index: str, vector: list[float]) -> httpx.Response:
            return http.post(f"/v1/indexes/{index}/query", json={"vector": vector, "top_k": 10} | options)

        vector = EXPECTED["texts"]["vectors"][0]
        first = ask("good", vector)
        assert first.status_code == 200 and first.json()["complete"]
        assert [m["attributes"] for m in first.json()["matches"]] == EXPECTED["texts"]["queries"][0]["attributes"]
        for i, name in enumerate(HOSTILE):
            began = time.perf_counter()
            reply = ask(f"bad-{i}", EXPECTED[DAMAGE[name]["index"]]["vectors"][0])
            assert time.perf_counter() - began < SECONDS_MAX, name
            assert (reply.status_code, reply.json()["code"]) == (500, "damaged_index"), f"{name}: {reply.text[:300]}"
            again = ask("good", vector)
            assert again.status_code == 200 and again.json()["matches"] == first.json()["matches"], name
        for at in EXPECTED["texts"]["ids"]:
            row = http.get(f"/v1/indexes/good/vectors/{at}")
            assert row.status_code == 200 and set(row.json()["attributes"]) == {"text", "page"}
