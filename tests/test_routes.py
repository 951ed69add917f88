"""The HTTP API without a server: every field, every error, and that nothing breaks by being asked wrongly."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import TRIED_AGAIN, Built, Failing, Recorder, always, never

from vantage import VERSION
from vantage import indexes as service_module
from vantage.errors import VantageError
from vantage.http import bodies
from vantage.http import reply as api
from vantage.http.access import Access
from vantage.http.reply import Reply
from vantage.http.request import BINARY, BODY_BYTES_MAX, INCLUDE, JSON, VECTORS_MAX, TooLargeError, negotiate
from vantage.http.routes import handle
from vantage.index import Index
from vantage.indexes import Service
from vantage.read import reader
from vantage.read.bucket import Folder

TOKEN = "tok-4f1d9c2e-do-not-tell"
RUNTIME = {"runtime": "Python 3 on test", "heap_bytes": None}
QUERY = "/v1/indexes/words/query"
LIMIT, INPUT = "limit_exceeded", "invalid_input"
PROBLEM = {"type", "title", "status", "detail", "code", "param", "hint", "request_id"}
RECEIPT = {
    "gets", "bytes", "waves", "blocks", "blocks_cached", "rows", "rows_ranked", "retries", "hedged", "warm_rpc",
    "warm_bytes", "log_gets", "log_bytes", "fresh", "superseded", "seq",
    "opened_gets", "opened_bytes", "opened_rpc", "generation", "modelled_ms",
}  # fmt: skip


@pytest.fixture(scope="module")
def service(words: Built, points: Built, dots: Built) -> Service:
    """One service for all tests: what one of them sends must not harm the next."""
    return Service(Folder(words.bucket), 0)


def send(
    service: Service,
    method: str,
    path: str,
    body: Any = b"",
    token: str | None = TOKEN,
    access: Access | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Sends a request; body as it is, or as JSON. The reply is valid JSON and never holds the token."""
    sent = {"x-request-id": "request-1", **(headers or {})}
    if token is not None:
        sent["authorization"] = f"Bearer {token}"
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    access = access or Access(TOKEN)
    reply = asyncio.run(handle(method, path, sent, body_of(raw), service, access, RUNTIME))
    plain = json.loads(json.dumps(reply.body, default=lambda one: one() if callable(one) else one.vector))
    assert json.loads(reply.text(), parse_constant=pytest.fail) == plain
    reply.body = plain
    assert TOKEN not in reply.text() + str(reply.headers)
    for work in reply.after:
        asyncio.run(_finish(work))
    return reply


def body_of(raw: bytes) -> Callable[..., Awaitable[bytes]]:
    """A body that comes when it is asked for, as far as the limit."""

    async def read(*_: object) -> bytes:
        if len(raw) > BODY_BYTES_MAX:
            raise TooLargeError(len(raw))
        return raw

    return read


async def _finish(work: Any) -> None:
    await work


def ask(service: Service, built: Built, **fields: Any) -> Any:
    """A query that must succeed."""
    reply = send(service, "POST", f"/v1/indexes/{built.name}/query", {"vector": built.queries[0].tolist(), **fields})
    assert reply.status == 200, reply.text()
    assert reply.headers["content-type"] == "application/json"
    return reply.body


def problem(reply: Reply, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """Checks the shape of problem details (RFC 9457), and gives them."""
    body: dict[str, Any] = reply.body
    assert (reply.status, body["status"], body["code"]) == (status, status, code), body
    assert body["param"] == param, body
    assert reply.headers["content-type"] == "application/problem+json"
    assert set(body) == PROBLEM | ({"value", "limit"} if code == "limit_exceeded" else set())
    assert body["type"] == f"docs/problems.md#{code}"
    assert body["title"] and body["detail"] and body["request_id"] == "request-1"
    assert body["hint"] and len(reply.text()) < 2000
    return body


# Who may ask


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "there is no bearer token"),
        ({"authorization": ""}, "there is no bearer token"),
        ({"authorization": "Bearer"}, "there is no bearer token"),
        ({"authorization": "Bearer wrong"}, "the bearer token is wrong"),
        ({"authorization": f"Bearer {TOKEN}x"}, "the bearer token is wrong"),
        ({"authorization": f"Bearer {TOKEN[:-1]}"}, "the bearer token is wrong"),
        ({"authorization": f"Basic {TOKEN}"}, "the bearer token is wrong"),
        ({"authorization": "Bearer \u00e4"}, "the bearer token is wrong"),
    ],
)
def test_without_the_token_nothing_is_answered(
    service: Service, capfd: pytest.CaptureFixture[str], headers: dict[str, str], said: str
) -> None:
    for method, path in (("GET", "/v1/indexes"), ("GET", "/v1/indexes/words"), ("POST", QUERY), ("GET", "/none")):
        reply = send(service, method, path, b"{}", token=None, access=Access(TOKEN), headers=headers)
        assert problem(reply, 401, "unauthorized")["detail"] == said
        assert reply.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in "".join(capfd.readouterr())


def test_the_right_token(service: Service) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        headers = {"authorization": f"{scheme} {TOKEN}"}
        assert send(service, "GET", "/v1/indexes", token=None, headers=headers).status == 200


def test_a_service_without_a_token_answers_nothing_but_health(service: Service) -> None:
    for access in (Access(), Access("")):
        reply = send(service, "GET", "/v1/indexes", access=access)
        assert "no token yet" in problem(reply, 401, "unauthorized")["detail"]
        assert "PUBLIC_READ" in reply.body["hint"]
        assert send(service, "GET", "/v1/health", token=None, access=access).status == 200


def test_public_read_needs_no_token(service: Service, words: Built) -> None:
    """Beside a token too; and one that is sent, wrong or not, changes nothing."""
    body = {"vector": words.queries[0].tolist()}
    for access in (Access(public=True), Access(TOKEN, public=True)):
        for token in (None, "wrong", TOKEN):
            assert send(service, "GET", "/v1/indexes", token=token, access=access).status == 200
            assert send(service, "POST", QUERY, body, token=token, access=access).status == 200


@pytest.mark.parametrize(
    "host", ["evil.com", "evil.com:8787", "localhost.evil.com", "[::2]:80", "", "127.0.0.1@evil.com"]
)
def test_only_the_hosts_that_are_set(service: Service, host: str) -> None:
    """A page that points its own name at this machine learns nothing, of health neither."""
    local = Access(TOKEN, public=True, hosts=("localhost", "127.0.0.1", "[::1]"))
    for method, path in (("GET", "/v1/health"), ("GET", "/v1/indexes"), ("POST", QUERY), ("OPTIONS", QUERY)):
        reply = send(service, method, path, b"{}", access=local, headers={"host": host})
        assert "localhost" in problem(reply, 421, "wrong_host")["hint"]
    for good in ("localhost", "LOCALHOST:8787", "127.0.0.1:1", "[::1]:8787", "[::1]"):
        assert send(service, "GET", "/v1/indexes", access=local, headers={"host": good}).status == 200
    assert send(service, "GET", "/v1/indexes", headers={"host": host}).status == 200


# Paths


def test_health(words: Built) -> None:
    service = Service(Folder(words.bucket), 1 << 30)
    reply = send(service, "GET", "/v1/health")
    assert reply.body == {"status": "ok", "version": VERSION, "generations": {}, "cache_bytes": 0, **RUNTIME}
    ask(service, words)
    for token, access in ((None, Access(TOKEN)), ("wrong", Access(TOKEN)), (TOKEN, Access()), ("", Access(""))):
        body = send(service, "GET", "/v1/health?probe=1", token=token, access=access).body
        assert body == {"status": "ok", "version": VERSION}
    public = send(service, "GET", "/v1/health", token=None, access=Access(TOKEN, public=True)).body
    assert public["generations"] == {"words": words.open().current.generation}
    body = send(service, "GET", "/v1/health").body
    assert body["generations"] == {"words": words.open().current.generation}
    assert body["cache_bytes"] == service.cache.held > 0


def test_the_list_of_indexes(service: Service) -> None:
    assert send(service, "GET", "/v1/indexes").body == {"indexes": ["dots", "points", "words"], "cursor": None}


def test_pages_of_the_list_of_indexes(tmp_path: Path) -> None:
    names = sorted(f"{'ab'[i % 2]}{i:04}" for i in range(2500))
    for name in names:
        (tmp_path / name).mkdir()
    bucket = Recorder(Folder(tmp_path))
    many = Service(bucket, 0)

    def pages(options: str, changes: Callable[[], None] = lambda: None) -> list[list[str]]:
        read, cursor = [], ""
        while True:
            body = send(many, "GET", f"/v1/indexes?{options}&cursor={cursor}").body
            read.append(body["indexes"])
            if body["cursor"] is None:
                return read
            assert re.fullmatch("[A-Za-z0-9_-]+", body["cursor"])
            cursor = body["cursor"]
            changes()

    whole = pages("limit=1000")
    assert [len(page) for page in whole] == [1000, 1000, 500] and sum(whole, []) == names
    assert pages("prefix=") == whole  # the default limit
    below = [name for name in names if name.startswith("b1")]
    assert sum(pages("prefix=b1&limit=7"), []) == below
    assert pages("prefix=none") == [[]]

    def lose_one_and_gain_one() -> None:
        """Of the page before: the last index of the first page, and one in front of all."""
        shutil.rmtree(tmp_path / below[6], ignore_errors=True)
        (tmp_path / "b1").mkdir(exist_ok=True)

    assert sum(pages("prefix=b1&limit=7", lose_one_and_gain_one), []) == below
    assert not bucket.gets and not many.open


@pytest.mark.parametrize(
    ("options", "code", "param"),
    [
        ("limit=0", LIMIT, "limit"), ("limit=1001", LIMIT, "limit"), ("limit=-1", LIMIT, "limit"),
        ("limit=", INPUT, "limit"), ("limit=1.5", INPUT, "limit"), ("limit=1e2", INPUT, "limit"),
        (f"limit={'9' * 400}", INPUT, "limit"), ("limit=%D9%A3", INPUT, "limit"), ("limit=1&limit=2", INPUT, "limit"),
        ("prefix=a/b", INPUT, "prefix"), ("prefix=.a", INPUT, "prefix"), (f"prefix={'a' * 65}", INPUT, "prefix"),
        ("prefix=%C3%A4", INPUT, "prefix"), ("prefix=%00", INPUT, "prefix"), ("cursor=a", INPUT, "cursor"),
        ("cursor=words", INPUT, "cursor"), ("cursor=d29yZHM=", INPUT, "cursor"), ("cursor=d29yZHM.", INPUT, "cursor"),
        ("cursor=_w", INPUT, "cursor"), ("cursor=%E2%82%AC", INPUT, "cursor"),
        (f"cursor={'YWFh' * 400}", INPUT, "cursor"), ("top_k=3", INPUT, "top_k"),
    ],
)  # fmt: skip
def test_a_bad_page_of_indexes_is_named(service: Service, options: str, code: str, param: str) -> None:
    problem(send(service, "GET", f"/v1/indexes?{options}"), 400, code, param)


def test_an_index_described(service: Service, words: Built, points: Built) -> None:
    body, root = send(service, "GET", "/v1/indexes/words").body, words.open().root
    assert body["name"] == "words"
    assert body["generation"] == words.open().current.generation
    assert (body["rows"], body["dimension"], body["metric"], body["id"]) == (len(words.ids), 96, "cosine", "bytes")
    assert [a["name"] for a in body["attributes"]] == ["words", "pos", "gloss"]
    assert body["contract"]["recall"] == root.contract.target
    assert len(body["contract"]["points"]) == len(root.contract.points)
    other = send(service, "GET", "/v1/indexes/points").body
    assert (other["metric"], other["id"], other["attributes"]) == ("l2", "i64", [])


def test_the_model_of_the_vectors(service: Service, words: Built) -> None:
    assert send(service, "GET", "/v1/indexes/words").body["model"] is None
    path, given = "/v1/indexes/words/query", {"vector": [1.0] * 96}
    assert send(service, "POST", path, given | {"model": "any"}).status == 200  # no stamp: nothing to compare with
    service.open["words"].root.schema["model"] = "one"  # type: ignore[index]
    assert send(service, "GET", "/v1/indexes/words").body["model"] == "one"
    assert send(service, "POST", path, given | {"model": "one"}).status == send(service, "POST", path, given).status
    body = problem(send(service, "POST", path, given | {"model": "two"}), 400, "invalid_input", "model")
    assert "'two'" in body["detail"] and "'one'" in body["detail"]
    problem(send(service, "POST", path, given | {"model": 3}), 400, "invalid_input", "model")


@pytest.mark.parametrize("path", ["/", "", "/v1", "/v2/indexes", "/v1/indexes/words/query/more", "/v1/indexes/words/x"])
def test_unknown_paths(service: Service, path: str) -> None:
    body = problem(send(service, "GET", path), 404, "not_found", "path")
    assert repr(path) in body["detail"]


@pytest.mark.parametrize(
    ("method", "path", "use"),
    [
        ("POST", "/v1/health", "GET"),
        ("PUT", "/v1/indexes", "GET"),
        ("DELETE", "/v1/indexes/words/vectors/a", "GET"),
        ("GET", QUERY, "POST"),
        ("HEAD", QUERY, "POST"),
        ("PROPFIND", "/v1/indexes", "GET"),
        ("QUERY", QUERY, "POST"),
        ("get", "/v1/health", "GET"),
        ("", "/v1/health", "GET"),
    ],
)
def test_wrong_methods(service: Service, method: str, path: str, use: str) -> None:
    reply = send(service, method, path)
    body = problem(reply, 405, "method_not_allowed", "method")
    assert (body["detail"], body["hint"]) == (f"{method} is not possible here", f"use {use}")
    assert reply.headers["allow"] == {"GET": "GET, HEAD, OPTIONS", "POST": "POST, OPTIONS"}[use]


def test_an_unknown_method_of_an_unknown_path(service: Service) -> None:
    problem(send(service, "PROPFIND", "/none"), 404, "not_found", "path")
    assert len(problem(send(service, "X" * 5000, QUERY), 405, "method_not_allowed", "method")["detail"]) < 200


def test_head_is_get_without_the_body(service: Service, words: Built) -> None:
    row = f"/v1/indexes/words/vectors/{words.ids[0].decode()}"
    for path in ("/v1/health", "/v1/indexes", "/v1/indexes/words", row, "/none", "/v1/indexes/none"):
        got, head = send(service, "GET", path), send(service, "HEAD", path)
        assert (head.status, head.sent) == (got.status, b"")
        if "vectors" not in path:  # its receipt may differ
            assert head.headers == got.headers | {"content-length": str(len(got.sent))}


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        ((), "https://a.example", None),
        (("https://a.example",), "https://a.example", "https://a.example"),
        (("https://a.example", "http://b.example:81"), "http://b.example:81", "http://b.example:81"),
        (("https://a.example",), "https://a.example.evil.com", None),
        (("https://a.example",), "http://a.example", None),
        (("https://a.example",), "null", None),
        (("https://a.example",), None, None),
        (("*",), "https://any.example", "*"),
    ],
)
def test_cors(service: Service, origins: tuple[str, ...], origin: str | None, allowed: str | None) -> None:
    """Preflights need no token; answers and errors alike can be read by pages of an allowed origin, and no others."""
    headers = {} if origin is None else {"origin": origin}
    access = Access(TOKEN, origins=origins)
    asked = headers | {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    preflight = send(service, "OPTIONS", QUERY, token=None, access=access, headers=asked)
    assert (preflight.status, preflight.sent, preflight.headers["allow"]) == (204, b"", "POST, OPTIONS")
    assert preflight.headers.get("access-control-allow-methods") == (allowed and "POST, OPTIONS")
    if allowed:
        assert "Authorization" in preflight.headers["access-control-allow-headers"]
    for reply in (
        preflight,
        send(service, "GET", "/v1/indexes", access=access, headers=headers),
        send(service, "GET", "/v1/indexes", token=None, access=access, headers=headers),
        send(service, "POST", QUERY, b"{", access=access, headers=headers),
        send(service, "GET", "/none", access=access, headers=headers),
    ):
        assert reply.headers.get("access-control-allow-origin") == allowed
        assert ("access-control-expose-headers" in reply.headers) == bool(allowed)
        assert reply.headers.get("vary") == ("Origin" if origins and "*" not in origins else None)


def test_options_of_what_there_is_not(service: Service) -> None:
    problem(send(service, "OPTIONS", "/none", access=Access(public=True)), 404, "not_found", "path")
    assert send(service, "OPTIONS", "/v1/indexes/words").headers["allow"] == "GET, HEAD, OPTIONS, PUT, DELETE"


def test_unknown_indexes(service: Service, words: Built) -> None:
    vector = {"vector": words.queries[0].tolist()}
    for reply in (send(service, "GET", "/v1/indexes/none"), send(service, "POST", "/v1/indexes/none/query", vector)):
        assert "'none'" in problem(reply, 404, "not_found", "index")["detail"]
    for name in ("a b", "..", "x" * 65, "\u00e4"):
        reply = send(service, "POST", f"/v1/indexes/{name}/query", vector)
        assert repr(name)[:80] in problem(reply, 400, "invalid_input", "index")["detail"]


# Answers


def test_an_answer(service: Service, words: Built) -> None:
    body = ask(service, words)
    assert set(body) == {"matches", "scores", "complete", "recall_estimate", "receipt"}
    assert len(body["matches"]) == 10
    assert all(set(m) == {"id", "score"} for m in body["matches"])
    assert all(isinstance(m["id"], str) and -1 <= m["score"] <= 1 for m in body["matches"])
    assert (body["scores"], body["complete"]) == ("estimated", True)
    assert 0.5 < body["recall_estimate"] <= 1
    assert set(body["receipt"]) == RECEIPT
    assert body["receipt"]["generation"] == words.open().current.generation


def test_ids_are_numbers_where_they_are(service: Service, points: Built) -> None:
    assert all(isinstance(m["id"], int) for m in ask(service, points)["matches"])


@pytest.mark.parametrize("include", [[], ["receipt"], ["attributes"], ["vector"], list(INCLUDE), ["vector", "vector"]])
def test_include(service: Service, words: Built, include: list[str]) -> None:
    body, where = ask(service, words, include=include), {i.decode(): n for n, i in enumerate(words.ids)}
    assert ("receipt" in body) == ("receipt" in include)
    for m in body["matches"]:
        assert set(m) == {"id", "score", *set(include) - {"receipt"}}
        if "attributes" in include:
            assert m["attributes"] == words.attributes[where[m["id"]]]
        if "vector" in include:
            assert m["vector"] == words.vectors[where[m["id"]]].tolist()


def test_many_vectors_are_answered_in_order(service: Service, words: Built) -> None:
    vectors = [q.tolist() for q in words.queries]
    vectors = (vectors * VECTORS_MAX)[:VECTORS_MAX]
    reply = send(service, "POST", QUERY, {"vectors": vectors, "top_k": 3})
    results = reply.body["results"]
    assert set(reply.body) == {"results", "receipt"} and len(results) == VECTORS_MAX
    for vector, result in list(zip(vectors, results, strict=True))[::9]:
        alone = send(service, "POST", QUERY, {"vector": vector, "top_k": 3}).body
        assert result["matches"] == alone["matches"]
    one = send(service, "POST", QUERY, {"vectors": vectors[:1]}).body
    assert len(one["results"]) == 1


def test_top_k_recall_and_rerank(service: Service, words: Built) -> None:
    assert len(ask(service, words, top_k=1)["matches"]) == 1
    assert len(ask(service, words, top_k=1000, include=[])["matches"]) == 1000
    points = words.open().root.contract.points
    cheap, dear = (ask(service, words, recall=points[i].recall)["receipt"]["bytes"] for i in (0, -1))
    assert cheap < dear
    exact = ask(service, words, rerank=50)
    assert (exact["scores"], exact["complete"], exact["receipt"]["rows_ranked"]) == ("exact", True, 50)


def test_budget(service: Service, words: Built) -> None:
    usual = ask(service, words)["receipt"]
    enough = {"gets": usual["gets"], "bytes": usual["bytes"], "waves": 1}
    assert ask(service, words, budget=enough)["complete"]
    assert ask(service, words, budget={})["complete"]
    body = ask(service, words, budget={"bytes": 10})
    assert (body["matches"], body["complete"], body["recall_estimate"]) == ([], False, None)
    body = ask(service, words, budget={"waves": 1}, rerank=20, include=["attributes", "vector"])
    assert (body["scores"], body["complete"]) == ("estimated", False)
    assert all(m["attributes"] and m["vector"] is None for m in body["matches"])  # attributes lie in the blocks


def test_explain_is_the_plan_alone(words: Built) -> None:
    bucket = Recorder(Folder(words.bucket))
    service = Service(bucket, 0)
    receipt = ask(service, words)["receipt"]
    bucket.forget()
    body = ask(service, words, explain=True)
    assert not bucket.gets
    assert set(body) == {
        "generation", "routing", "rendition", "ranges", "blocks_cached", "gets", "bytes", "waves", "rounds",
        "modelled_ms", "usd_per_million", "complete", "recall_estimate", "second_below", "rerank",
    }  # fmt: skip
    assert (body["routing"], body["rendition"]) == ([], {"number": 0, "codec": 0, "attributes": False})
    assert all(set(r) == {"object", "blocks", "offset", "bytes"} for r in body["ranges"])
    assert {r["object"] for r in body["ranges"]} == {"shard-00000.bin"}
    named = ask(service, words, explain=True, include=["attributes"])
    number = named["rendition"]["number"]
    assert number and named["rendition"] == {"number": number, "codec": 0, "attributes": True}
    assert {r["object"] for r in named["ranges"]} == {f"rendition-{number}-00000.bin"}
    assert [r["blocks"] for r in named["ranges"]] == [r["blocks"] for r in body["ranges"]]
    assert (named["gets"], named["waves"]) == (body["gets"], 1) and named["bytes"] > body["bytes"]
    assert sum(r["bytes"] for r in body["ranges"]) == body["bytes"]
    for name in ("gets", "bytes", "waves", "modelled_ms", "generation", "blocks_cached"):
        assert body[name] == receipt[name]
    many = send(service, "POST", QUERY, {"vectors": [words.queries[0].tolist()] * 2, "explain": True}).body
    assert many == {"results": [body, body]}
    assert "matches" in ask(service, words, explain=False)
    cut = ask(service, words, explain=True, budget={"bytes": 10})
    assert (cut["complete"], cut["recall_estimate"], cut["gets"]) == (False, None, 0)


# Bad input

D = 96
GOOD = [0.5] * D


@pytest.mark.parametrize(
    ("fields", "code", "param", "said"),
    [
        ({"vectr": GOOD}, INPUT, "vectr", "unknown field 'vectr'"),
        ({"vector": GOOD, "filters": {}}, INPUT, "filters", "unknown field 'filters'"),
        ({"vector": GOOD, "k": 5}, INPUT, "k", "unknown field 'k'"),
        ({"vector": GOOD, "x" * 200: 5}, INPUT, "x" * 80, "unknown field 'xxx"),
        ({}, INPUT, "vector", "one of vector, vectors and id"),
        ({"vector": GOOD, "vectors": [GOOD]}, INPUT, "vector", "one of vector, vectors and id"),
        ({"vector": None}, INPUT, "vector", "vector is not a list of numbers"),
        ({"vector": "0.5"}, INPUT, "vector", "vector is not a list of numbers"),
        ({"vector": {"0": 1}}, INPUT, "vector", "vector is not a list of numbers"),
        ({"vectors": GOOD}, INPUT, "vectors", "vectors is not a list of lists of numbers"),
        ({"vectors": {}}, INPUT, "vectors", "vectors is not a list of lists of numbers"),
        ({"vectors": [GOOD, None]}, INPUT, "vectors", "vectors is not a list of lists of numbers"),
        ({"vectors": []}, LIMIT, "vectors", "the number of vectors is 0, the limit is 1 to 256"),
        ({"vectors": [GOOD] * 257}, LIMIT, "vectors", "the number of vectors is 257, the limit is 1 to 256"),
        ({"vector": []}, LIMIT, "vector", "the length of vector is 0, the limit is 96"),
        ({"vector": GOOD[1:]}, LIMIT, "vector", "the length of vector is 95, the limit is 96"),
        ({"vector": [*GOOD, 1]}, LIMIT, "vector", "the length of vector is 97, the limit is 96"),
        ({"vectors": [GOOD, [1]]}, LIMIT, "vectors[1]", "the length of vectors[1] is 1, the limit is 96"),
        ({"vector": [0.0] * D}, INPUT, "vector", "vector is zero"),
        ({"vectors": [GOOD, [0] * D]}, INPUT, "vectors[1]", "vectors[1] is zero"),
        ({"vector": [*GOOD[1:], "1"]}, INPUT, "vector", "not a float32 number"),
        ({"vector": [*GOOD[1:], None]}, INPUT, "vector", "not a float32 number"),
        ({"vector": [*GOOD[1:], [1]]}, INPUT, "vector", "not a float32 number"),
        ({"vector": [*GOOD[1:], 10**50]}, INPUT, "vector", "vector[95] is not finite as float32"),
        ({"vector": [*GOOD[1:], 10**400]}, INPUT, "vector", "not a float32 number"),
        ({"vector": [1e30] * D}, LIMIT, "vector", "the norm of vector"),
        ({"vector": GOOD, "top_k": 0}, LIMIT, "top_k", "top_k is 0, the limit is 1 to 1000"),
        ({"vector": GOOD, "top_k": -5}, LIMIT, "top_k", "top_k is -5, the limit is 1 to 1000"),
        ({"vector": GOOD, "top_k": 1001}, LIMIT, "top_k", "top_k is 1001, the limit is 1 to 1000"),
        ({"vector": GOOD, "top_k": 10**30}, LIMIT, "top_k", "the limit is 1 to 1000"),
        ({"vector": GOOD, "top_k": 1.5}, INPUT, "top_k", "top_k is not an integer"),
        ({"vector": GOOD, "top_k": "10"}, INPUT, "top_k", "top_k is not an integer"),
        ({"vector": GOOD, "top_k": True}, INPUT, "top_k", "top_k is not an integer"),
        ({"vector": GOOD, "top_k": None}, INPUT, "top_k", "top_k is not an integer"),
        ({"vector": GOOD, "recall": 0}, LIMIT, "recall", "recall is 0, the limit is between 0 and 1"),
        ({"vector": GOOD, "recall": 1}, LIMIT, "recall", "recall is 1, the limit is between 0 and 1"),
        ({"vector": GOOD, "recall": -0.5}, LIMIT, "recall", "recall is -0.5, the limit is between 0 and 1"),
        ({"vector": GOOD, "recall": 0.99999}, LIMIT, "recall", "recall is 0.99999, the limit is 0.9"),
        ({"vector": GOOD, "recall": "0.9"}, INPUT, "recall", "recall is not a number"),
        ({"vector": GOOD, "recall": "x" * 5000}, INPUT, "recall", "recall is not a number"),
        ({"vector": GOOD, "recall": True}, INPUT, "recall", "recall is not a number"),
        ({"vector": GOOD, "recall": []}, INPUT, "recall", "recall is not a number"),
        ({"vector": GOOD, "rerank": -1}, LIMIT, "rerank", "rerank is -1, the limit is 0 or more"),
        ({"vector": GOOD, "rerank": 201}, LIMIT, "rerank", "rerank is 201, the limit is top_k (10) to 200"),
        ({"vector": GOOD, "rerank": 9}, LIMIT, "rerank", "rerank is 9, the limit is top_k (10) to 200"),
        ({"vector": GOOD, "rerank": True}, INPUT, "rerank", "rerank is not an integer"),
        ({"vector": GOOD, "rerank": 20.0}, INPUT, "rerank", "rerank is not an integer"),
        ({"vector": GOOD, "include": "vector"}, INPUT, "include", "include is not a list of names"),
        ({"vector": GOOD, "include": {}}, INPUT, "include", "include is not a list of names"),
        ({"vector": GOOD, "include": None}, INPUT, "include", "include is not a list of names"),
        ({"vector": GOOD, "include": [1]}, INPUT, "include", "include is not a list of names"),
        ({"vector": GOOD, "include": ["score"]}, INPUT, "include", "'score'"),
        ({"vector": GOOD, "explain": 1}, INPUT, "explain", "explain is neither true nor false"),
        ({"vector": GOOD, "explain": "yes"}, INPUT, "explain", "explain is neither true nor false"),
        ({"vector": GOOD, "explain": None}, INPUT, "explain", "explain is neither true nor false"),
        ({"vector": GOOD, "exact": 1}, INPUT, "exact", "exact is neither true nor false"),
        ({"vector": GOOD, "exact": None}, INPUT, "exact", "exact is neither true nor false"),
        ({"vector": GOOD, "exact": True}, INPUT, "exact", "'words' has no error norms"),
        ({"vector": GOOD, "budget": 5}, INPUT, "budget", "budget is not an object"),
        ({"vector": GOOD, "budget": None}, INPUT, "budget", "budget is not an object"),
        ({"vector": GOOD, "filter": None}, INPUT, "filter", "filter is null"),
        ({"vector": GOOD, "budget": {"seconds": 5}}, INPUT, "budget.seconds", "unknown field 'seconds'"),
        ({"vector": GOOD, "budget": {"ms": 60_001}}, LIMIT, "budget.ms", "0 to 60000"),
        ({"vector": GOOD, "budget": {"ms": 0.5}}, INPUT, "budget.ms", "not an integer"),
        ({"vector": GOOD, "budget": {"gets": "5"}}, INPUT, "budget.gets", "budget.gets is not an integer"),
        ({"vector": GOOD, "budget": {"gets": -1}}, LIMIT, "budget.gets", "budget.gets is -1, the limit is 0 to 1000"),
        ({"vector": GOOD, "budget": {"gets": 1001}}, LIMIT, "budget.gets", "budget.gets is 1001"),
        ({"vector": GOOD, "budget": {"bytes": 1 << 31}}, LIMIT, "budget.bytes", f"budget.bytes is {1 << 31}"),
        ({"vector": GOOD, "budget": {"waves": 6}}, LIMIT, "budget.waves", "budget.waves is 6, the limit is 0 to 5"),
        ({"vector": GOOD, "budget": {"waves": True}}, INPUT, "budget.waves", "budget.waves is not an integer"),
    ],
)
@pytest.mark.parametrize("explain", [False, True])
def test_bad_fields(
    service: Service, words: Built, fields: dict[str, Any], code: str, param: str, said: str, explain: bool
) -> None:
    usual = ask(service, words)["matches"]
    reply = send(service, "POST", QUERY, {"explain": True, **fields} if explain else fields)
    body = problem(reply, 400, code, param)
    assert said in body["detail"]
    if code == LIMIT:
        assert str(body["value"]) in body["detail"] and str(body["limit"]) in body["detail"]
    assert ask(service, words)["matches"] == usual


def test_top_k_over_the_rows(service: Service, dots: Built) -> None:
    rows = len(dots.ids)
    every, more = (ask(service, dots, top_k=k) for k in (rows, 1000))
    assert len(every["matches"]) == rows < 1000 and every["complete"] and more["complete"]
    assert more["matches"] == every["matches"]


@pytest.mark.parametrize(
    "raw",
    [
        b"", b" ", b"{", b"vector=1", b'{"vector": [1,]}', b"\xff\xfe", b"[" * 100_000, b'{"vector": 01}',
        b'{"top_k": ' + b"9" * 5000 + b"}", bytes(1000), b" " * BODY_BYTES_MAX,
    ],
)  # fmt: skip
def test_what_is_not_json(service: Service, raw: bytes) -> None:
    assert problem(send(service, "POST", QUERY, raw), 400, INPUT)["detail"].startswith("the body is not JSON")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"vector":' + b"[" * 6000 + b"]" * 6000 + b"}", "nested more than 32 deep"),
        (b'{"budget":' * 6000 + b"1" + b"}" * 6000, "nested more than 32 deep"),
        (b'{"id": "' + b"[" * 6000 + b'", "x":' + b"[" * 6000, "nested more than 32 deep"),
        (b'{"vectors": [' + b"[]," * 5000 + b"[]]}", "the limit is 4096"),
        (b"{" + b",".join(b'"%d":0' % i for i in range(5000)) + b"}", "the limit is 4096"),
        (b'{"top_k": 1, "top_k": 2}', "a name stands twice"),
        (b'{"id": "\\ud800"}', "half a surrogate pair"),
        ('{"top_k": 1}'.encode("utf-16"), "not UTF-8"),
    ],
)
def test_json_past_its_bounds(service: Service, words: Built, raw: bytes, said: str) -> None:
    assert said in problem(send(service, "POST", QUERY, raw), 400, INPUT)["detail"]
    option = b"top_k=" + b"[" * 8000
    vectors = b"VANQ" + np.array([1, 1, 96], "<u4").tobytes() + words.queries[0].astype("<f4").tobytes()
    reply = send(service, "POST", f"{QUERY}?{option.decode()}", vectors, headers={"content-type": BINARY})
    problem(reply, 400, INPUT, "top_k")


def test_brackets_in_texts_are_no_depth(service: Service, words: Built) -> None:
    reply = send(service, "POST", QUERY, {"id": '[{"' * 200})
    assert "there is no row" in problem(reply, 404, "not_found", "id")["detail"]
    assert ask(Service(Folder(words.bucket), 0), words, model="[" * 9000)["complete"]


@pytest.mark.parametrize("raw", [b"[]", b"1", b"null", b'"vector"', b"[[1, 2]]"])
def test_what_is_no_object(service: Service, raw: bytes) -> None:
    assert problem(send(service, "POST", QUERY, raw), 400, INPUT)["detail"] == "the body is not a JSON object"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1e39"])
def test_numbers_that_are_not_finite(service: Service, number: str) -> None:
    """What only Python takes for JSON, and what overflows; no reply repeats it."""
    text = json.dumps({"vector": [*GOOD[1:], 77]})
    body = problem(send(service, "POST", QUERY, text.replace("77", number).encode()), 400, INPUT, "vector")
    assert body["detail"] == "vector[95] is not finite as float32"
    if number != "1e39":
        text = json.dumps({"vector": GOOD, "recall": 77})
        body = problem(send(service, "POST", QUERY, text.replace("77", number).encode()), 400, INPUT, "recall")
        assert body["detail"] == "recall is not a number"


def test_a_body_over_4_mib(service: Service, words: Built) -> None:
    body = problem(send(service, "POST", QUERY, bytes(BODY_BYTES_MAX + 1)), 413, LIMIT)
    assert (body["value"], body["limit"]) == (BODY_BYTES_MAX + 1, BODY_BYTES_MAX)
    assert ask(service, words)


# Headers


@pytest.mark.parametrize(
    ("accept", "best"),
    [
        ("", JSON), ("*/*", JSON), ("application/*", JSON), (BINARY, BINARY), (BINARY.upper(), BINARY),
        (f"{JSON}, {BINARY};q=0", JSON), (f"{BINARY};q=0, */*", JSON), (f"{JSON};q=0.5, {BINARY}", BINARY),
        (f"{JSON};q=0.9, {BINARY};q=0.8", JSON), (f"{JSON};q=0, */*;q=0.1", BINARY), (f"{BINARY}, */*", BINARY),
        (f"{BINARY}, {JSON}", BINARY), (f"{JSON}, {BINARY}", JSON), ("text/html, */*;q=0.8", JSON),
        (f"{BINARY};q=0.2, application/*;q=0.3", JSON), (f"{JSON};charset=utf-8;q=0.4, {BINARY};q=0.3", JSON),
        (f'text/html;a="x, {BINARY}", {JSON}', JSON), (f"{BINARY} ; Q=1.000", BINARY), (f"{BINARY};q=x", BINARY),
        (",,", None), ("text/html", None), ("*/*;q=0", None), (f"{JSON};q=0", None), ("x" * 9000, None),
    ],
)  # fmt: skip
def test_accept(accept: str, best: str | None) -> None:
    if best is None:
        with pytest.raises(VantageError, match="accept"):
            negotiate(accept, [JSON, BINARY])
    else:
        assert negotiate(accept, [JSON, BINARY]) == best


@pytest.mark.parametrize(("method", "path"), [("POST", QUERY), ("GET", "/v1/indexes"), ("GET", "/v1/indexes/words")])
def test_an_accept_that_nothing_fits(service: Service, method: str, path: str) -> None:
    reply = send(service, method, path, {"vector": GOOD}, headers={"accept": "text/html"})
    problem(reply, 406, "not_acceptable", "Accept")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("", 200), (JSON, 200), ("application/json; charset=utf-8", 200), ("application/vnd.any+json", 200),
        ("application/x-www-form-urlencoded", 200), ("text/plain;charset=UTF-8", 200), (BINARY, 400),
        ("multipart/form-data; boundary=x", 415), ("application/xml", 415), ("image/png", 415), ("json", 415),
    ],
)  # fmt: skip
def test_types_of_bodies(service: Service, kind: str, status: int) -> None:
    reply = send(service, "POST", QUERY, {"vector": GOOD}, headers={"content-type": kind})
    assert reply.status == status
    if status == 415:
        problem(reply, 415, "unsupported_media_type")


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", " gzip "])
def test_bodies_in_gzip(service: Service, words: Built, encoding: str) -> None:
    vector = words.queries[0].tolist()
    want = ask(service, words)["matches"]
    raw, sent = json.dumps({"vector": vector}).encode(), {"content-encoding": encoding}
    for packed in (gzip.compress(raw, mtime=0), gzip.compress(raw[:50]) + gzip.compress(raw[50:])):
        assert send(service, "POST", QUERY, packed, headers=sent).body["matches"] == want
    vectors = b"VANQ" + np.array([1, 1, 96], "<u4").tobytes() + words.queries[0].astype("<f4").tobytes()
    reply = send(service, "POST", QUERY, gzip.compress(vectors, mtime=0), headers=sent | {"content-type": BINARY})
    assert reply.body["results"][0]["matches"] == want


@pytest.mark.parametrize(
    ("encoding", "body", "status", "code"),
    [
        ("br", b"{}", 415, "unsupported_media_type"), ("deflate", b"{}", 415, "unsupported_media_type"),
        ("gzip, gzip", b"{}", 415, "unsupported_media_type"), ("x" * 900, b"{}", 415, "unsupported_media_type"),
        ("gzip", b"{}", 400, "invalid_input"), ("gzip", gzip.compress(b"{}" * 99, mtime=0)[:-9], 400, "invalid_input"),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"more", 400, "invalid_input"), ("gzip", b"", 400, "invalid_input"),
        ("gzip", gzip.compress(bytes(BODY_BYTES_MAX + 1), mtime=0), 413, "limit_exceeded"),
        ("gzip", gzip.compress(bytes(BODY_BYTES_MAX), mtime=0) * 50, 413, "limit_exceeded"),
        ("gzip", gzip.compress(b"", mtime=0) * 100_000, 400, "invalid_input"),
        ("identity", b"{}", 400, "invalid_input"),
    ],
)  # fmt: skip
def test_encodings_that_are_not_read(service: Service, encoding: str, body: bytes, status: int, code: str) -> None:
    reply = send(service, "POST", QUERY, body, headers={"content-encoding": encoding})
    assert (reply.status, reply.body["code"]) == (status, code)
    assert reply.headers.get("accept-encoding") == ("gzip" if status == 415 else None)


@pytest.mark.parametrize(
    ("method", "path", "param"),
    [
        ("POST", f"{QUERY}?top_k=3", "top_k"), ("POST", f"{QUERY}?anything", "anything"), ("POST", f"{QUERY}?=1", ""),
        ("GET", "/v1/indexes?top_k=3", "top_k"), ("GET", "/v1/indexes/words?top_k=3", "top_k"),
        ("GET", "/v1/indexes/words/vectors/a?include=vector", "include"),
        ("GET", "/v1/indexes/words/vectors/a?ids=string&ids=number", "ids"),
        ("GET", "/v1/indexes/words/vectors/a?ids=int", "ids"), ("GET", f"/v1/indexes?{'a=1&' * 99}", "path"),
    ],
)  # fmt: skip
def test_parameters_that_would_be_ignored(service: Service, method: str, path: str, param: str) -> None:
    problem(send(service, method, path, {"vector": GOOD}), 400, INPUT, param or None)


def test_an_option_twice(service: Service) -> None:
    reply = send(service, "POST", f"{QUERY}?top_k=3&top_k=5", b"", headers={"content-type": BINARY})
    assert "twice" in problem(reply, 400, INPUT, "top_k")["detail"]


def test_request_ids(service: Service) -> None:
    for headers, shown in (
        ({"cf-ray": "ray-1", "x-request-id": "x"}, "ray-1"),
        ({"x-request-id": "r" * 100}, "r" * 64),
    ):
        assert send(service, "GET", "/none", headers=headers).body["request_id"] == shown
    own = {send(service, "GET", "/none", headers={"x-request-id": ""}).body["request_id"] for _ in range(2)}
    assert len(own) == 2 and all(len(shown) == 32 for shown in own)  # made here, one a request


# Failures


@pytest.fixture
def failing(words: Built, monkeypatch: pytest.MonkeyPatch) -> tuple[Service, Failing]:
    """A service whose bucket fails on plan; well at first."""
    monkeypatch.setattr(reader, "TIMEOUT_S", 0.02)
    bucket = Failing(Folder(words.bucket), never)
    return Service(bucket, 0), bucket


@pytest.mark.parametrize(
    ("where", "fault", "status", "code"),
    [
        *((where, fault, 503, "store_unavailable") for where in ("shard", "vectors") for fault in TRIED_AGAIN),
        *(
            (where, fault, 500, "damaged_index")
            for where in ("shard", "vectors")
            for fault in ("missing", "size", "flip")
        ),
        ("shard", "changed", 503, "object_changed"),
    ],
)
def test_a_failure_names_the_object_and_passes(
    failing: tuple[Service, Failing], words: Built, where: str, fault: str, status: int, code: str
) -> None:
    service, bucket = failing
    usual = ask(service, words, rerank=20)["matches"]
    bucket.plan = always(fault, of=where)
    reply = send(service, "POST", QUERY, {"vector": words.queries[0].tolist(), "rerank": 20})
    body = problem(reply, status, code)
    generation = words.open().current.generation
    assert body["detail"].startswith(f"words/{generation}/{where}")
    assert reply.headers.get("retry-after") == ("1" if status == 503 else None)
    assert send(service, "GET", "/v1/health").body["status"] == "ok"
    bucket.plan = never
    assert ask(service, words, rerank=20)["matches"] == usual


def test_a_budget_that_a_changed_object_used_up(failing: tuple[Service, Failing], words: Built) -> None:
    """The second try counts too: with no wave left for exact scores, the answer says so."""
    service, bucket = failing
    usual = ask(service, words)["matches"]
    bucket.plan = always("changed", of="vectors")
    body = ask(service, words, rerank=20, budget={"waves": 3})
    assert (body["matches"], body["scores"], body["complete"]) == (usual, "estimated", False)
    assert body["receipt"]["waves"] == 3


@pytest.mark.parametrize(("fault", "status"), [("error", 503), ("missing", 404), ("size", 503)])
def test_a_failure_while_opening(failing: tuple[Service, Failing], words: Built, fault: str, status: int) -> None:
    service, bucket = failing
    bucket.plan = always(fault)
    for reply in (
        send(service, "POST", QUERY, {"vector": GOOD}),
        send(service, "GET", "/v1/indexes/words"),
        send(service, "POST", QUERY, {"vector": GOOD, "explain": True}),
    ):
        assert reply.status == status
        assert "words" in reply.body["detail"]
    bucket.plan = never
    assert ask(service, words)["complete"]


def test_a_bug_is_told_without_its_data(
    service: Service, words: Built, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def broken(*_: Any) -> None:
        raise KeyError("some data")

    with monkeypatch.context() as patch:
        patch.setattr(service, "live", broken)
        reply = send(service, "POST", QUERY, {"vector": GOOD})
        assert problem(reply, 500, "internal")["detail"] == "internal error (KeyError)"
        assert "some data" not in reply.text()
        log = "".join(capfd.readouterr())
        assert "request-1" in log and "KeyError" in log and TOKEN not in log

        async def full(*_: Any) -> None:
            raise MemoryError

        patch.setattr(service, "live", full)
        assert (
            "out of memory"
            in problem(send(service, "POST", QUERY, {"vector": GOOD}), 503, "store_unavailable")["detail"]
        )
    assert ask(service, words)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_stored_numbers_that_json_does_not_have(
    service: Service, words: Built, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """Of attributes or scores: an error before a byte is sent, and never NaN in a reply."""

    async def found(self: Any, identifier: Any, receipt: Any) -> Any:
        return [1.0], {"a": [value]}

    monkeypatch.setattr(Index, "row", found)
    reply = send(service, "GET", "/v1/indexes/words/vectors/a")
    assert "not finite" in problem(reply, 500, "damaged_index")["detail"]
    assert json.loads(reply.sent) == reply.body


def test_half_a_surrogate_pair_that_is_stored_is_sent_as_json_spells_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def found(self: Any, identifier: Any, receipt: Any) -> Any:
        return [1.0], {"a": "x\ud800"}

    monkeypatch.setattr(Index, "row", found)
    reply = send(service, "GET", "/v1/indexes/words/vectors/a")
    assert b'"x\\ud800"' in reply.sent and json.loads(reply.sent) == reply.body


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [(MemoryError, 503, "store_unavailable"), (RecursionError, 500, "internal"), (OverflowError, 500, "internal")],
)
def test_what_is_raised_while_a_reply_is_written(
    service: Service, words: Built, monkeypatch: pytest.MonkeyPatch, raised: type[Exception], status: int, code: str
) -> None:
    written = api.json_text

    def failing(body: Any) -> str:
        if "score" in body:
            raise raised
        return written(body)

    with monkeypatch.context() as patch:
        patch.setattr(api, "json_text", failing)
        patch.setattr(bodies, "json_text", failing)
        reply = asyncio.run(
            handle("POST", QUERY, {}, body_of(json.dumps({"vector": GOOD}).encode()), service, Access(public=True), {})
        )
    assert (reply.status, json.loads(reply.sent)["code"]) == (status, code)
    assert ask(service, words)["complete"]


@pytest.mark.parametrize(("name", "status"), [("none", 404), ("words", 200)])
@pytest.mark.parametrize("ms", [0, 60_000])
def test_a_deadline_does_not_make_an_index(words: Built, name: str, status: int, ms: int) -> None:
    """What there is not is not found, however little time there is; what there is may be late."""
    body = body_of(json.dumps({"vector": GOOD, "budget": {"ms": ms}}).encode())

    async def asked() -> Reply:
        service, path = Service(Folder(words.bucket), 0), f"/v1/indexes/{name}/query"
        reply = await handle("POST", path, {}, body, service, Access(public=True), {})
        for work in reply.after:
            await work
        return reply

    reply = asyncio.run(asked())
    assert reply.status == status
    assert status == 404 or reply.body["complete"] == (ms > 0)


def test_every_code_is_told_once() -> None:
    """code is the stable name of an error: no two kinds with different status share one."""
    seen: dict[str, set[int]] = {}
    kinds = [VantageError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        seen.setdefault(kind.code, set()).add(kind.status)
    assert {code: len(statuses) for code, statuses in seen.items() if len(statuses) > 1} in ({}, {LIMIT: 2})


def test_a_stale_index_is_revalidated_after_the_reply(words: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Recorder(Folder(words.bucket))
    service = Service(bucket, 0)
    ask(service, words)
    monkeypatch.setattr(service_module, "REVALIDATE_S", -1.0)
    bucket.forget()
    for method, path, body in (("POST", QUERY, {"vector": GOOD}), ("GET", "/v1/indexes/words", b"")):
        bucket.forget()
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = asyncio.run(handle(method, path, {}, body_of(raw), service, Access(public=True), RUNTIME))
        assert not any("CURRENT" in g.key for g in bucket.gets)
        (work,) = reply.after
        asyncio.run(_finish(work))
        assert bucket.gets[-1].key == "words/CURRENT"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/health/", "//v1/health", "/v1/indexes/", "/v1//indexes", "/v1/indexes/words/", f"{QUERY}/",
        "/v1/indexes/words/vectors/", "/v1/indexes/words/vectors/n00001740/", "/v1/indexes//vectors/n00001740", "", "/",
    ],
)  # fmt: skip
def test_a_slash_more_is_another_path(service: Service, path: str) -> None:
    reply = send(service, "POST" if path.startswith(QUERY) else "GET", path, {"vector": GOOD})
    assert problem(reply, 404, "not_found", "path")["detail"] == f"there is nothing at {path!r}"


# Rows by their ids

ROWS = "/v1/indexes/words/vectors"


def test_rows_by_their_ids(service: Service, words: Built) -> None:
    """In the order asked for, twice where asked twice, with what is wanted; ids that no row has are named."""
    some = [words.ids[i] for i in (5, 900, 17, 5)]
    asked = [i.decode() for i in some]
    body = send(
        service, "POST", ROWS, {"ids": [asked[0], "nobody", *asked[1:]], "include": ["attributes", "receipt"]}
    ).body
    assert [row["id"] for row in body["rows"]] == asked and body["missing"] == ["nobody"] and body["complete"]
    alone = [send(service, "GET", f"{ROWS}/{i}").body for i in asked]
    assert [row["attributes"] for row in body["rows"]] == [one["attributes"] for one in alone]
    assert "vector" not in body["rows"][0] and body["receipt"]["waves"] == 2
    whole = send(service, "POST", ROWS, {"ids": asked}).body
    assert [row["vector"] for row in whole["rows"]] == [one["vector"] for one in alone] and "receipt" not in whole
    many = [i.decode() for i in words.ids[:1000]]
    assert len(send(service, "POST", ROWS, {"ids": many}).body["rows"]) == 1000
    numbers = send(
        service, "POST", "/v1/indexes/points/vectors", {"ids": [-3993, "-3979", 1 << 70], "numbers": "string"}
    )
    assert [row["id"] for row in numbers.body["rows"]] == ["-3993", "-3979"]
    assert numbers.body["missing"] == [str(1 << 70)] and numbers.body["rows"][0]["attributes"] == {}


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, INPUT, "ids"),
        ({"ids": "a"}, INPUT, "ids"),
        ({"ids": []}, LIMIT, "ids"),
        ({"ids": ["a"] * 1001}, LIMIT, "ids"),
        ({"ids": ["a", 3]}, INPUT, "id"),
        ({"ids": ["a", None]}, INPUT, "ids[1]"),
        ({"ids": ["a", True]}, INPUT, "ids[1]"),
        ({"ids": ["a"], "include": ["words"]}, INPUT, "include"),
        ({"ids": ["a"], "include": "vector"}, INPUT, "include"),
        ({"ids": ["a"], "numbers": "float"}, INPUT, "numbers"),
        ({"ids": ["a"], "top_k": 3}, INPUT, "top_k"),
    ],
)
def test_bad_lists_of_ids(service: Service, body: dict[str, Any], code: str, param: str) -> None:
    problem(send(service, "POST", ROWS, body), 400, code, param)


def test_a_path_of_two_methods(service: Service) -> None:
    assert send(service, "OPTIONS", ROWS).headers["allow"] == "GET, HEAD, OPTIONS, POST"
    assert problem(send(service, "PUT", ROWS), 405, "method_not_allowed", "method")["hint"].startswith("use GET")


@pytest.mark.parametrize("name", ["rows", "matches", "results"])
def test_rows_of_a_reply_are_written_one_at_a_time(name: str) -> None:
    """`json` makes a text of each name and value before it joins them."""
    body = {name: [{"id": i, "attributes": {f"n{j}": None for j in range(50)}} for i in range(40)], "complete": True}
    pieces = list(api._pieces(body))
    assert json.loads("".join(pieces)) == body and max(map(len, pieces)) < 1000
    written = Reply(200, body)
    written.write()
    assert json.loads(written.sent) == body
