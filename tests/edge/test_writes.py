"""Writes in workerd: through the object of an index, and through the bucket where there is none."""

from __future__ import annotations

import asyncio
import json
import shutil
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from doubles import Built

from build_index.bucket.open import open_written
from build_index.serve import load, serve
from build_index.worker import write_worker
from build_index.writes import create_index, log_of, sender, write_rows
from vantage.errors import ExistsError, LogFullError
from vantage.search.query import Query as QueryOf

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
    assert load(words.bucket, tmp_path, only="words", prune=True)["deleted"] == 0
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


def nearest(url: str, vector: list[float], **fields: Any) -> dict[str, Any]:
    body = {"vector": vector, "top_k": 1, **fields}
    headers = {"authorization": "Bearer write-3"}
    with urlopen(Request(f"{url}/v1/indexes/words/query", json.dumps(body).encode(), headers), timeout=60) as answer:
        return dict(json.load(answer))


def test_what_is_acknowledged_is_seen_by_the_next_query(words: Built, tmp_path: Path) -> None:
    """Without a GET of the log: the sequencer tells. The bucket is asked where that is wished."""
    load(words.bucket, tmp_path, only="words")
    with serve(tmp_path, variables=TOKENS) as server:
        gets = []
        for i, query in enumerate(words.queries[:12]):
            vector = query.tolist()
            nearest(server.url, vector)
            assert post(server.url, {"upsert": [{"id": f"n{i}", "vector": vector}]})[0] == 200
            found = nearest(server.url, vector)
            assert (found["matches"][0]["id"], found["receipt"]["seq"]) == (f"n{i}", 2 * i + 1)
            gets.append(found["receipt"]["log_gets"])
            assert post(server.url, {"delete": [f"n{i}"]})[0] == 200
            assert nearest(server.url, vector)["matches"][0]["id"] != f"n{i}"
        assert sum(gets) <= 2  # of the first, before an isolate knows its objects
        assert nearest(server.url, vector, consistency="bucket")["receipt"]["log_gets"] >= 1


GOOD = [0.5] * 96
BAD: list[tuple[bytes, int, str, str | None]] = [
    (b'{"upsert": [{"id": "a", "vector": [0.5]}]}', 400, "limit_exceeded", "upsert[0].vector"),
    (b'{"upsert": [{"id": "a", "vector": [%s1]}]}' % (b"NaN," * 95), 400, "invalid_input", "upsert[0].vector"),
    (b'{"upsert": [{"id": "a", "vector": [%s0]}]}' % (b"0," * 95), 400, "invalid_input", "upsert[0].vector"),
    (b'{"delete": ["a", "a"]}', 400, "invalid_input", "delete[1].id"),
    (b'{"patch": [{"id": "a", "attributes": {"pos": 1}}]}', 400, "invalid_input", "patch[0].attributes.pos"),
    (b'{"patch": [{"id": "a", "attributes": {"color": 1}}]}', 400, "invalid_input", "patch[0].attributes.color"),
    (b'{"delete": [{"id": "a", "if_seq": 5}]}', 409, "condition_failed", "delete[0]"),
    (b"{", 400, "invalid_input", None),
    (b"[" * 100_000, 400, "invalid_input", None),
]


def test_bad_writes_are_refused_and_the_worker_goes_on(words: Built, tmp_path: Path) -> None:
    """A log that is full, and one of another version, too; nothing of a bad one is done."""
    bucket = tmp_path / "bucket"
    for name in ("words", "full", "later"):
        shutil.copytree(words.bucket / "words", bucket / name)
    batches = [[f"{i} {j}" for j in range(1000)] for i in range(131)]
    with pytest.raises(LogFullError, match="50,000 rows before it are written, up to seq 50"):
        write_rows(sender(str(bucket / "full"), {}), "delete", batches, lambda n: None)
    current = bucket / "later" / "CURRENT"
    current.write_text(json.dumps(json.loads(current.read_text()) | {"format": 99}))
    load(bucket, tmp_path / "state")
    with serve(tmp_path / "state", variables=TOKENS) as server:

        def sent(name: str, body: bytes) -> tuple[int, dict[str, Any], Any]:
            request = Request(f"{server.url}/v1/indexes/{name}/write", body, {"authorization": "Bearer write-3"})
            try:
                with urlopen(request, timeout=60) as answer:
                    return answer.status, json.load(answer), answer.headers
            except HTTPError as error:
                return error.code, json.load(error), error.headers

        for body, status, code, param in BAD:
            found, problem, _ = sent("words", body)
            assert (found, problem["code"], problem["param"]) == (status, code, param), body[:60]
            assert problem["hint"] and problem["detail"]
        assert (problem := sent("words", BAD[6][0])[1])["id"] == "a" and problem["seq"] is None
        status, problem, headers = sent("full", b'{"delete": [%s"y"]}' % b"".join(b'"%d",' % i for i in range(999)))
        assert (status, problem["code"], headers["retry-after"]) == (429, "log_full", "10"), problem
        assert sent("full", b'{"delete": ["x"]}')[1]["seq"] == 51  # what fits still does
        status, problem, _ = sent("later", b'{"delete": ["x"]}')
        assert (status, problem["code"]) == (500, "damaged_index") and "99" in problem["detail"]
        assert sent("words", json.dumps({"upsert": [{"id": "a", "vector": GOOD}]}).encode())[1]["seq"] == 1


DEAF_ENTRY = """
import real_entry
from real_entry import Default, WarmIndex  # noqa: F401


class IndexLog(real_entry.IndexLog):
    times = 0

    async def submit(self, name, data):
        IndexLog.times += 1
        if IndexLog.times % 3:  # before it has written, or after
            await super().submit(name, data)
        raise RuntimeError("the object is gone")
"""


def test_writes_go_to_the_bucket_where_the_object_fails(
    words: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it had written or not: each is there once, in order, and seen by who asks the object once it is
    acknowledged; and rows that a command sends as bytes.
    """
    project = tmp_path / "project"
    write_worker(project, "vantage", "words")
    (project / "src" / "entry.py").rename(project / "src" / "real_entry.py")
    (project / "src" / "entry.py").write_text(DEAF_ENTRY)
    load(words.bucket, tmp_path / "state", only="words")
    rows = [{"id": f"b{i}", "vector": array("f", vector.tobytes())} for i, vector in enumerate(words.queries[:30])]
    with serve(tmp_path / "state", variables=TOKENS, project=project) as server:
        for i in range(1, 4):
            status, answer = post(server.url, {"delete": [f"a{i}"]})
            assert (status, answer["seq"]) == (200, i), answer
        send = sender(f"{server.url}/words", TOKENS)
        report = write_rows(send, "upsert", [rows[:15], rows[15:]], lambda n: None)
        assert report == {"requests": 2, "rows": 30, "seq": 5}
        told = log_of(f"{server.url}/words", {"VANTAGE_TOKEN": "read-3"})
        assert (told["seq"], told["fresh"], told["superseded"]) == (5, 30, 33)
        query = urlopen(
            Request(
                f"{server.url}/v1/indexes/words/query",
                json.dumps({"vector": words.queries[29].tolist(), "top_k": 1}).encode(),
                {"authorization": "Bearer write-3"},
            ),
            timeout=60,
        )
        assert json.load(query)["matches"][0]["id"] == "b29"


def test_an_empty_index_is_made_and_asked_at_once(words: Built, tmp_path: Path) -> None:
    """As in CPython; and it stays where the folder that is served has no such index, until it is deleted."""
    fields = {"dimension": 96, "attributes": [{"name": "lang", "type": "text"}, {"name": "n", "type": "integer"}]}
    vectors = words.queries[:40]
    rows = [
        {"id": f"e{i}", "vector": array("f", v.tobytes()), "attributes": {"lang": "de" if i % 3 else "fr", "n": i}}
        for i, v in enumerate(vectors)
    ]
    asked: list[dict[str, Any]] = [
        {},
        {"filter": {"lang": "fr"}},
        {"distinct": "lang"},
        {"exact": True},
        {"filter": {"n": {"$gte": 20}}},
    ]

    def answers(url: str) -> list[Any]:
        return [told(url, "POST", "/query", {"vector": vectors[1].tolist(), "top_k": 7, **one}) for one in asked]

    def told(url: str, method: str, path: str = "", body: Any = None) -> Any:
        sent, data = {"authorization": "Bearer write-3"}, None if body is None else json.dumps(body).encode()
        try:
            with urlopen(Request(f"{url}/v1/indexes/empty{path}", data, sent, method=method), timeout=60) as answer:
                return {"status": answer.status} | json.load(answer)
        except HTTPError as error:
            return {"status": error.code} | json.load(error)

    served, state = tmp_path / "served", tmp_path / "state"
    served.mkdir()
    load(served, state)
    with serve(state, variables=TOKENS) as server:
        assert told(server.url, "GET")["status"] == 404
        assert told(server.url, "PUT", "", fields)["status"] == 201
        assert create_index(f"{server.url}/empty", fields, TOKENS) is False
        with pytest.raises(ExistsError, match="dimension"):
            create_index(f"{server.url}/empty", {"dimension": 95}, TOKENS)
        assert answers(server.url)[0]["matches"] == []
        send = sender(f"{server.url}/empty", TOKENS)
        write_rows(send, "upsert", [rows[:25], rows[25:]], lambda n: None)
        found = answers(server.url)
        assert load(served, state, prune=True)["deleted"] == 0
        write_rows(send, "delete", [[found[0]["matches"][0]["id"]]], lambda n: None)
        assert [m["id"] for m in answers(server.url)[0]["matches"]][:6] == [m["id"] for m in found[0]["matches"]][1:]
        assert told(server.url, "DELETE", "?name=empty")["seq"] == 3
        assert told(server.url, "PUT", "", fields)["status"] == 503
        assert load(served, state, prune=True)["deleted"] > 0
    here = str(tmp_path / "bucket" / "empty")
    assert create_index(here, fields) and not create_index(here, fields)
    write_rows(sender(here, {}), "upsert", [rows], lambda n: None)
    for one, got in zip(asked, found, strict=True):
        own = asyncio.run(open_written(here).query(QueryOf(vectors[1].tolist(), 7, **one)))
        assert [(m["id"], m["score"]) for m in got["matches"]] == [(str(m.id, "utf-8"), m.score) for m in own.matches]  # type: ignore[arg-type]
        assert got["complete"] and got["scores"] == "exact" and got["receipt"]["gets"] == 0
    assert found[3]["receipt"]["proof"]["proven"]


def test_requests_as_large_as_may_be_are_answered_beside_a_long_log(sample_bucket: Path, tmp_path: Path) -> None:
    """Or told that memory has ended; the isolate goes on: the log is as it was written, and what it has is found.

    Its rows are replaced as often as they are written again, so the log grows by less than the room that it has.
    """
    bucket, random = tmp_path / "bucket", Random(5)
    shutil.copytree(sample_bucket, bucket)
    rows = [
        {"id": f"fresh {i}", "vector": [round(random.gauss(0, 1), 3) for _ in range(384)], "attributes": {"pos": "n"}}
        for i in range(1000)
    ]
    stored = [row | {"vector": array("f", row["vector"])} for row in rows]  # type: ignore[arg-type]
    again = ([row | {"id": f"{row['id']} {n}"} for row in stored] for n in range(8))
    write_rows(sender(str(bucket / "wordnet"), {}), "upsert", again, lambda n: None)
    load(bucket, tmp_path / "state")
    vectors = [row["vector"] for row in rows]
    asked = [
        ("query", {"vector": vectors[0], "top_k": 1000, "include": ["attributes"]}),
        ("write", {"upsert": rows}),
        ("query", {"vector": vectors[1], "top_k": 100, "rerank": 200}),
        ("query", {"vector": vectors[2], "top_k": 50, "distinct": "category"}),
        ("facets", {"facets": {"category": {"top": 1000}}, "exact": True}),
        ("write", {"upsert": [rows[0] | {"attributes": {"gloss": "x" * ((1 << 20) - 300)}}]}),
        ("query", {"vectors": vectors[:16], "top_k": 128}),
        ("write", {"upsert": rows[:500]}),
        ("query", {"vector": vectors[3], "filter": {"pos": "n"}, "top_k": 100, "include": ["attributes"]}),
    ]
    with serve(tmp_path / "state", variables=TOKENS) as server:

        def sent(path: str, body: Any) -> tuple[int, dict[str, Any]]:
            head = {"authorization": f"Bearer {TOKENS['VANTAGE_WRITE_TOKEN' if path == 'write' else 'VANTAGE_TOKEN']}"}
            url = f"{server.url}/v1/indexes/wordnet/{path}"
            try:
                with urlopen(Request(url, json.dumps(body).encode(), head), timeout=60) as answer:
                    return answer.status, json.load(answer)
            except HTTPError as error:
                return error.code, json.load(error)

        seq, refused = 8, 0
        for path, body in asked * 3:
            status, answer = sent(path, body)
            if status == 200 and path == "write":
                assert answer["seq"] > seq
                seq = answer["seq"]
            elif status != 200:
                assert (status, answer["code"]) in ((503, "store_unavailable"), (429, "log_full")), answer
                refused += 1
        assert refused <= 3
        found = sent("query", {"vector": vectors[7], "top_k": 3, "after": seq})[1]
        assert found["matches"][0]["score"] > 0.999 and found["receipt"]["seq"] >= seq


def test_a_full_log_of_small_rows_leaves_room_for_requests(tmp_path: Path) -> None:
    """Rows whose values are many, and all others, take more beside their bytes than within them."""
    names, random = [f"n{i}" for i in range(16)], Random(2)
    where = tmp_path / "bucket" / "full"
    create_index(str(where), {"dimension": 2, "attributes": [{"name": name, "type": "integer"} for name in names]})

    def batches() -> Iterator[list[Any]]:
        for first in range(0, 64_000, 1000):
            yield [
                {
                    "id": f"row {i}", "vector": array("f", [1, random.random()]),
                    "attributes": {name: random.randrange(10**15) for name in names},
                }
                for i in range(first, first + 1000)
            ]  # fmt: skip

    with pytest.raises(LogFullError):
        write_rows(sender(str(where), {}), "upsert", batches(), lambda n: None)
    load(tmp_path / "bucket", tmp_path / "state")
    asked: list[tuple[str, dict[str, Any]]] = [
        ("query", {"vector": [1, 0.5], "top_k": 1000, "include": ["attributes"]}),
        ("query", {"vector": [1, 0.5], "top_k": 100, "filter": {"n3": {"$lt": 10**14}}}),
        ("query", {"vector": [1, 0.5], "top_k": 50, "distinct": "n5"}),
        ("facets", {"facets": {"n7": {"top": 1000}}}),
        ("facets", {"facets": {"n8": {"buckets": 20}}}),
        ("rows", {"limit": 1000, "order_by": {"n9": "desc"}, "filter": {"n2": {"$gte": 5}}}),
    ]
    with serve(tmp_path / "state", variables=TOKENS) as server:
        for path, body in asked * 2:
            head = {"authorization": f"Bearer {TOKENS['VANTAGE_TOKEN']}"}
            url = f"{server.url}/v1/indexes/full/{path}"
            with urlopen(Request(url, json.dumps(body).encode(), head), timeout=60) as answer:
                assert json.load(answer).get("complete", True)
        with urlopen(Request(f"{server.url}/v1/health", headers=head), timeout=60) as answer:
            assert json.load(answer)["heap_bytes"] <= 90 << 20
