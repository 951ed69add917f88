"""Rows by their id: as a query, and to read; each for so many GETs, over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest
from doubles import Built, Recorder, explained

from vantage.http.access import Access
from vantage.http.reply import Reply
from vantage.http.request import BINARY
from vantage.http.routes import handle
from vantage.index import Index
from vantage.indexes import Service
from vantage.read.bucket import Folder
from vantage.search.query import Answer, Query
from vantage.search.rank import Match

AT = (0, 5, 100, 600)


@pytest.fixture(params=["words", "points", "dots"])
def built(request: pytest.FixtureRequest) -> Built:
    found: Built = request.getfixturevalue(request.param)
    return found


def send(built: Built, path: str, body: dict[str, Any] | None = None, method: str = "", accept: str = "") -> Reply:
    async def read(*_: object) -> bytes:
        return json.dumps(body).encode()

    method = method or ("GET" if body is None else "POST")
    path = f"/v1/indexes/{built.name}/{path}"
    reply = asyncio.run(
        handle(method, path, {"accept": accept}, read, Service(Folder(built.bucket), 0), Access(public=True), {})
    )
    if not isinstance(reply.body, bytes):
        reply.body = json.loads(reply.sent)  # as a client sees it
    return reply


def plain(identifier: int | bytes) -> int | str:
    return identifier if isinstance(identifier, int) else identifier.decode()


def test_a_query_by_id_leaves_its_row_out(built: Built) -> None:
    """It is the query by the row's vector, without the row; and two GETs more, in two waves."""
    for at in AT:
        vector = built.vectors[at].tolist()
        want = send(built, "query", {"vector": vector, "top_k": 11, "rerank": 20}).body
        got = send(built, "query", {"id": plain(built.ids[at]), "top_k": 10, "rerank": 20}).body
        assert plain(built.ids[at]) not in [m["id"] for m in got["matches"]]
        left = [m for m in want["matches"] if m["id"] != plain(built.ids[at])]
        assert got["matches"] == left[:10]
        assert got["receipt"]["waves"] == want["receipt"]["waves"] + 2


def test_what_a_query_by_id_reads_is_counted(built: Built) -> None:
    bucket = Recorder(Folder(built.bucket))
    index = built.open(bucket=bucket)
    bucket.forget()
    answer = asyncio.run(index.query(Query(None, id=built.ids[9])))
    assert (answer.receipt.gets, answer.receipt.bytes) == (len(bucket.gets), bucket.bytes)
    assert bucket.gets[0].key.endswith("ids.bin") and "vectors" in bucket.gets[1].key


def test_a_budget_bounds_what_comes_after_the_lookup(words: Built) -> None:
    body = send(words, "query", {"id": plain(words.ids[3]), "budget": {"gets": 1}}).body
    assert body["receipt"]["gets"] == 3
    assert not body["complete"]
    body = send(words, "query", {"id": plain(words.ids[3]), "budget": {"gets": 0}}).body
    assert (body["matches"], body["receipt"]["gets"]) == ([], 2)


def test_explain_and_include_with_an_id(words: Built) -> None:
    index, vector = words.open(), words.vectors[5].tolist()
    row, _ = asyncio.run(index.find(words.ids[5], index_receipt()))
    got = send(words, "query", {"id": plain(words.ids[5]), "explain": True}).body
    assert got == explained(index, Query(vector, without=row))
    body = send(words, "query", {"id": plain(words.ids[5]), "include": ["attributes", "vector"]}).body
    assert all(len(m["vector"]) == 96 and m["attributes"] for m in body["matches"])


def index_receipt() -> Any:
    from vantage.receipt import Receipt

    return Receipt()


def test_a_row_by_its_id(built: Built) -> None:
    for at in AT:
        reply = send(built, f"vectors/{quote(str(plain(built.ids[at])), safe='')}")
        assert reply.status == 200, reply.body
        assert reply.body["id"] == plain(built.ids[at])
        assert reply.body["vector"] == built.vectors[at].tolist()
        assert reply.body["attributes"] == built.attributes[at]
        attributes = bool(built.attributes[at])
        receipt = reply.body["receipt"]
        assert (receipt["gets"], receipt["waves"]) == (2 + attributes, 2)


def test_a_row_by_an_id_that_a_path_cannot_hold(built: Built) -> None:
    """URLs are normalised on their way: `vectors/..` arrives as the index with a slash behind it."""
    at = quote(str(plain(built.ids[5])), safe="")
    assert send(built, f"vectors?id={at}").body == send(built, f"vectors/{at}").body
    for path in ("vectors?id=.", "vectors?id=..", "vectors?id=%2e%2e", "vectors?id=", "vectors?id=%FF%FE"):
        assert send(built, path).status in (400, 404)
    for path in ("vectors/", "vectors", "vectors?ids=string", ""):
        reply = send(built, path)
        assert (reply.status, reply.body["code"]) == (404, "not_found")
        assert "vectors?id=" in reply.body["hint"]


def numbered(monkeypatch: pytest.MonkeyPatch, ids: list[int]) -> None:
    """Every answer has these ids."""

    async def answered(self: Any, queries: Any, receipt: Any, deadline: Any = None) -> list[Answer]:
        return [Answer([Match(i, 0, 0, 0.5) for i in ids], False, True, None, receipt) for _ in queries]

    async def query(self: Any, query: Any, receipt: Any, deadline: Any = None) -> Answer:
        return (await answered(self, [query], receipt))[0]

    async def row(self: Any, identifier: Any, receipt: Any) -> Any:
        return [1.0], {"id": identifier}

    for name, double in (("answer", answered), ("query", query), ("row", row)):
        monkeypatch.setattr(Index, name, double)


SAFE = 2**53 - 1


def test_no_client_rounds_an_id(points: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same id is written in the same way in every answer, and what is written can be sent back."""
    ids = [0, -5, SAFE, -SAFE, SAFE + 1, -SAFE - 1, 2**53 + 1, 2**63 - 1, -(2**63)]
    numbered(monkeypatch, ids)
    vector = points.queries[0].tolist()
    usual: list[int | str] = [i if abs(i) <= SAFE else str(i) for i in ids]
    wanted = {None: usual, "string": [str(i) for i in ids], "number": ids}
    for form, want in wanted.items():
        field = {} if form is None else {"ids": form}
        one = send(points, "query", {"vector": vector, **field}).body
        many = send(points, "query", {"vectors": [vector] * 2, **field}).body["results"]
        assert [m["id"] for m in one["matches"]] == [m["id"] for m in many[1]["matches"]] == want
        for identifier, shown in zip(ids, want, strict=True):
            option = "" if form is None else f"?ids={form}"
            row = send(points, f"vectors/{shown}{option}").body
            assert (row["id"], row["attributes"]) == (shown, {"id": identifier})


def test_a_string_of_digits_is_an_id(points: Built) -> None:
    identifier = points.ids[9]
    want = send(points, "query", {"id": identifier}).body
    assert send(points, "query", {"id": str(identifier)}).body == want
    assert send(points, "query", {"id": str(identifier), "explain": True}).status == 200


@pytest.mark.parametrize("ids", ["int", 1, True, [], {}, ""])
def test_wrong_forms_of_ids(points: Built, ids: Any) -> None:
    reply = send(points, "query", {"vector": points.queries[0].tolist(), "ids": ids})
    assert (reply.status, reply.body["param"]) == (400, "ids")


def test_forms_of_ids_where_they_say_nothing(words: Built, points: Built) -> None:
    vector = words.queries[0].tolist()
    assert send(words, "query", {"vector": vector, "ids": "string"}).status == 200
    for reply in (
        send(words, "query", {"vector": vector, "ids": "number"}),
        send(words, "vectors/a?ids=number"),
        send(points, "query", {"vector": points.queries[0].tolist(), "ids": "string"}, accept=BINARY),
    ):
        assert (reply.status, reply.body["param"]) == (400, "ids")


@pytest.mark.parametrize(
    ("name", "path", "status"),
    [
        ("words", "no-such-id", 404),
        ("words", "a%2Fb%3Fc%20d", 404),
        ("words", "%FF%FE", 404),
        ("words", "", 404),
        ("points", "999999", 404),
        ("points", "-" + "9" * 19, 404),
        ("points", "abc", 400),
        ("points", "1.5", 400),
        ("points", "9" * 500, 400),
        ("points", "?id=7", 404),
    ],
)
def test_rows_that_there_are_not(request: pytest.FixtureRequest, name: str, path: str, status: int) -> None:
    reply = send(request.getfixturevalue(name), f"vectors/{path}")
    assert (reply.status, reply.body["status"]) == (status, status)


@pytest.mark.parametrize(
    ("name", "identifier", "status", "detail"),
    [
        ("words", "no-such-id", 404, "there is no row with id 'no-such-id'"),
        ("words", 7, 400, "ids of 'words' are"),
        ("words", None, 400, "id is neither a string nor an integer"),
        ("words", True, 400, "id is neither a string nor an integer"),
        ("points", "abc", 400, "ids of 'points' are integers (i64)"),
        ("points", "", 400, "ids of 'points' are integers (i64)"),
        ("points", "1e3", 400, "ids of 'points' are integers (i64)"),
        ("points", "٧", 400, "ids of 'points' are integers (i64)"),
        ("points", 1.0, 400, "id is neither a string nor an integer"),
        ("points", "7", 404, "there is no row with id 7"),
        ("points", "9" * 20, 404, "there is no row with id 99999"),
        ("points", 10**60, 400, "id is not an integer of 64 bits"),
        ("points", 10**30, 404, "there is no row with id 10"),
        ("points", 3, 404, "there is no row with id 3"),
    ],
)
def test_queries_by_wrong_ids(
    request: pytest.FixtureRequest, name: str, identifier: Any, status: int, detail: str
) -> None:
    reply = send(request.getfixturevalue(name), "query", {"id": identifier})
    assert reply.status == status
    assert detail in reply.body["detail"]
    assert reply.body["param"] == "id"


def test_one_of_vector_vectors_and_id(words: Built) -> None:
    for body in ({}, {"id": "a", "vector": [1.0]}, {"id": "a", "vectors": [[1.0]]}):
        reply = send(words, "query", body)
        assert reply.status == 400
        assert "one of vector, vectors and id" in reply.body["detail"]


def test_a_row_is_only_read(words: Built) -> None:
    assert send(words, "vectors/a", method="POST").status == 405
