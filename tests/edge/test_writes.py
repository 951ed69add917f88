"""Writes in workerd: through the object of an index, and through the bucket where there is none."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from doubles import Built

from build_index.serve import load, serve

pytestmark = pytest.mark.edge
TOKENS = {"VANTAGE_TOKEN": "read-3", "VANTAGE_WRITE_TOKEN": "write-3"}


def post(url: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    sent = {"authorization": "Bearer write-3", **{name.replace("_", "-"): value for name, value in headers.items()}}
    try:
        with urlopen(Request(f"{url}/v1/indexes/words/write", json.dumps(body).encode(), sent), timeout=60) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def test_writes_are_grouped_and_outlive_the_worker(words: Built, tmp_path: Path) -> None:
    vector = words.queries[0].tolist()
    load(words.bucket, tmp_path, only="words")
    with serve(tmp_path, variables=TOKENS) as server:
        assert post(server.url, {"delete": ["a"]}, authorization="Bearer read-3")[0] == 403
        assert post(server.url, {"upsert": [{"id": "a", "vector": vector}]}, idempotency_key="k") == (
            200, {"seq": 1, "retried": False}
        )  # fmt: skip
        with ThreadPoolExecutor(24) as pool:
            bodies = [{"upsert": [{"id": f"n{i}", "vector": vector, "if_absent": True}]} for i in range(48)]
            answers = list(pool.map(lambda body: post(server.url, body), bodies))
        assert {status for status, _ in answers} == {200}
        seqs = {answer["seq"] for _, answer in answers}
        assert max(seqs) == 1 + len(seqs) and len(seqs) < 48  # nothing came between, and several went together
    with serve(tmp_path, variables=TOKENS) as server:
        assert post(server.url, {"delete": []}, idempotency_key="k")[0] == 400
        again = post(server.url, {"upsert": [{"id": "a", "vector": vector}]}, idempotency_key="k")
        assert again == (200, {"seq": 1, "retried": True})
        for i in range(0, 48, 7):
            status, problem = post(server.url, {"upsert": [{"id": f"n{i}", "vector": vector, "if_absent": True}]})
            assert (status, problem["code"], problem["seq"]) == (409, "condition_failed", answers[i][1]["seq"])
        assert post(server.url, {"delete": ["a"], "if_seq": max(seqs)}) == (
            200, {"seq": max(seqs) + 1, "retried": False}
        )  # fmt: skip
