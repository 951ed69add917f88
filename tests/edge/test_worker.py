"""The Worker in workerd: the same answers as in-process, over HTTP, from local R2."""

import asyncio
import gzip
import json
import os
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from doubles import Built

from build_index.bucket.open import open_index
from build_index.evaluate.evaluate import evaluate
from build_index.ingest.queries import read_queries
from build_index.serve import ROOT, Server, load, serve
from vantage.filter.schema import describe_attributes
from vantage.http.bodies import answer_body, row_body
from vantage.http.reply import Reply
from vantage.http.request import BINARY, BODY_BYTES_MAX, parse_row_listing
from vantage.receipt import Receipt
from vantage.search.listing import prepare_listing
from vantage.search.query import Query

pytestmark = pytest.mark.edge

TOKEN = "a-token-of-the-tests"
WITH_TOKEN = {"authorization": f"Bearer {TOKEN}"}
SAMPLE = ROOT / "sample"


def client(server: Server, **headers: str) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers=headers, timeout=60, trust_env=False)


def sample_queries(count: int) -> list[list[float]]:
    return [v.tolist() for v in read_queries(SAMPLE / "queries.parquet", count).vectors]


@pytest.fixture(scope="module")
def cold(worker: Callable[..., Server], sample_bucket: Path) -> Server:
    return worker(sample_bucket, VANTAGE_TOKEN=TOKEN, VANTAGE_CACHE_BYTES="0", VANTAGE_WARM_BYTES="0")


@dataclass(frozen=True)
class Changing:
    """A Worker without caches, whose tests change objects in local R2, each those of an index of its own."""

    bucket: Path
    state: Path
    server: Server


@pytest.fixture(scope="module")
def changing(
    tmp_path_factory: pytest.TempPathFactory, words: Built, generations: tuple[Built, Built]
) -> Iterator[Changing]:
    """Copies of `words`: sound, flipped (bytes of its shard), shardless, rootless and again; few, the words of the
    fixtures; live and cut, an index in two generations.
    """
    bucket, state = tmp_path_factory.mktemp("bucket"), tmp_path_factory.mktemp("state")
    for name in ("sound", "flipped", "shardless", "rootless", "again"):
        shutil.copytree(words.bucket / "words", bucket / name)
    shutil.copytree(ROOT / "tests" / "fixtures" / "words", bucket / "few")
    for name, built in zip(("live", "cut"), generations, strict=True):
        shutil.copytree(built.bucket / "live", bucket / name)
    shard = next((bucket / "flipped").glob("*/shard-00000.bin"))
    data = bytearray(shard.read_bytes())
    for at in range(4096, len(data), 4096):
        data[at] ^= 1
    shard.write_bytes(data)
    next((bucket / "shardless").glob("*/shard-00000.bin")).unlink()
    next((bucket / "rootless").glob("*/root.bin")).unlink()
    load(bucket, state)
    variables = {"PUBLIC_READ": "1", "VANTAGE_CACHE_BYTES": "0", "VANTAGE_WARM_BYTES": "0"}
    with serve(state, variables=variables) as server:
        yield Changing(bucket, state, server)


def ask(http: httpx.Client, body: dict[str, Any], index: str = "wordnet") -> httpx.Response:
    # Not json=: httpx refuses the NaN that a careless client sends.
    return http.post(f"/v1/indexes/{index}/query", content=json.dumps(body), headers=WITH_TOKEN)


def in_process(bucket: Path, query: Query, include: list[str]) -> dict[str, Any]:
    """The answer as JSON carries it."""
    answer = asyncio.run(open_index(bucket / "wordnet").query(query))
    body: dict[str, Any] = json.loads(Reply(200, answer_body(answer, include)).text())
    return body


def test_the_sample_index_reads_no_more_than_it_did(sample_bucket: Path) -> None:
    """In-process, in kernel arithmetic: what a change must not make worse unseen.

    Machines may differ in the last digits of k-means, so these are bounds.
    """
    queries = read_queries(SAMPLE / "queries.parquet", None)
    cold = evaluate(sample_bucket / "wordnet", queries)
    assert cold["queries"] == 600
    assert cold["recall"] >= 0.945
    assert cold["gets"] <= 6
    assert cold["bytes"] <= 1_050_000
    assert cold["waves"] == 1
    assert cold["incomplete"] == 0
    ten = evaluate(sample_bucket / "wordnet", queries, k=10)  # which has a promise of its own
    assert ten["recall"] >= 0.945 and ten["bytes"] <= 700_000 and ten["waves"] == 1
    warm = evaluate(sample_bucket / "wordnet", queries, cache_bytes=40 << 20, warm=True)
    assert warm["gets"] == 0
    assert warm["recall"] >= 0.95


def test_answers_are_those_of_cpython(cold: Server, sample_bucket: Path) -> None:
    index = open_index(sample_bucket / "wordnet")
    with client(cold) as http:
        for vector in sample_queries(60):
            got = ask(http, {"vector": vector, "top_k": 100}).json()
            want = answer_body(asyncio.run(index.query(Query(vector, 100))), ["receipt"])
            assert got["matches"] == want["matches"]
            counted = ("gets", "bytes", "waves", "blocks", "rows", "modelled_ms")
            assert {k: got["receipt"][k] for k in counted} == {k: want["receipt"][k] for k in counted}


def test_rerank_attributes_and_vectors(cold: Server, sample_bucket: Path) -> None:
    vector = sample_queries(1)[0]
    body = {"vector": vector, "top_k": 5, "rerank": 50, "include": ["attributes", "vector", "receipt"]}
    with client(cold) as http:
        got = ask(http, body).json()
    want = in_process(
        sample_bucket, Query(vector, 5, rerank=50, attributes=True, vectors=True), ["attributes", "vector", "receipt"]
    )
    assert got["scores"] == "exact"
    assert got["matches"] == want["matches"]
    assert got["receipt"]["rows_ranked"] == 50


@pytest.mark.parametrize(
    "value",
    [
        {"category": "noun.plant"},
        {"category": {"$in": ["noun.food", "verb.social"]}, "pos": {"$ne": "verb"}},
        {"$or": [{"pos": "adverb"}, {"category": {"$prefix": "adj"}}]},
        {"pos": {"$exists": False}},
    ],
)
def test_filtered_answers_are_those_of_cpython(cold: Server, sample_bucket: Path, value: dict[str, Any]) -> None:
    with client(cold) as http:
        for vector in sample_queries(3):
            got = ask(http, {"vector": vector, "top_k": 20, "filter": value}).raise_for_status().json()
            want = in_process(sample_bucket, Query(vector, 20, filter=value), [])
            assert {name: got[name] for name in want} == want and got["matched"] == want["matched"]
        refused = ask(http, {"vector": sample_queries(1)[0], "filter": {"gloss": {"$prefix": "x"}}})
        assert refused.status_code == 400 and refused.json()["param"] == "filter.gloss.$prefix"


@pytest.mark.parametrize(
    "fields",
    [
        {"filter": {"category": {"$in": ["noun.food", "noun.plant"]}}, "limit": 300},
        {"filter": {"pos": "adverb"}, "order_by": {"category": "desc"}, "limit": 40},
        {"distinct": "category", "limit": 20},
        {"limit": 7, "include": ["vector"]},
    ],
)
def test_listed_rows_are_those_of_cpython(cold: Server, sample_bucket: Path, fields: dict[str, Any]) -> None:
    """Two pages of each."""
    index, cursor = open_index(sample_bucket / "wordnet"), None
    with client(cold) as http:
        for _ in range(2):
            body = fields | ({"cursor": cursor} if cursor else {})
            got = http.post("/v1/indexes/wordnet/rows", json=body, headers=WITH_TOKEN).raise_for_status().json()
            listing, include = parse_row_listing(body)
            page = asyncio.run(index.list_rows(prepare_listing(index.segment, listing)))
            want = [row_body(row, include) for row in page.rows]
            assert (got["rows"], got["cursor"], got["complete"]) == (want, page.cursor, page.complete)
            cursor = page.cursor
            assert want and cursor


def test_answers_of_distinct_values_are_those_of_cpython(cold: Server, sample_bucket: Path) -> None:
    with client(cold) as http:
        for vector in sample_queries(3):
            got = ask(http, {"vector": vector, "top_k": 20, "distinct": "category"}).raise_for_status().json()
            want = in_process(sample_bucket, Query(vector, 20, distinct="category"), [])
            assert {name: got[name] for name in want} == want and len(got["matches"]) == 20


def test_a_batch_is_that_of_cpython(cold: Server, sample_bucket: Path) -> None:
    """Read together, with the same reads, and answered as single queries are; as JSON and as bytes."""
    vectors, receipt = sample_queries(24), Receipt()
    index = open_index(sample_bucket / "wordnet")
    want = asyncio.run(index.answer([Query(v, 20) for v in vectors], receipt))
    body = np.array([0x514E4156, 1, 24, 384], "<u4").tobytes() + np.array(vectors, "<f4").tobytes()
    with client(cold) as http:
        many = ask(http, {"vectors": vectors, "top_k": 20}).json()
        single = [ask(http, {"vector": v, "top_k": 20}).json() for v in vectors[:3]]
        kinds = {"content-type": BINARY, "accept": BINARY}
        packed = http.post("/v1/indexes/wordnet/query?top_k=20", content=body, headers=WITH_TOKEN | kinds)
    results = many["results"]
    assert [r["matches"] for r in results] == [answer_body(a, [])["matches"] for a in want]
    assert [(r["matches"], r["recall_estimate"]) for r in results[:3]] == [
        (r["matches"], r["recall_estimate"]) for r in single
    ]
    counted = ("gets", "bytes", "waves", "blocks", "rows")
    assert [many["receipt"][k] for k in counted] == [getattr(receipt, k) for k in counted]
    assert packed.headers["content-type"] == BINARY
    scores = np.frombuffer(packed.content, "<f4", 24 * 20, 32 + 4 * 24)
    assert scores.tolist() == [np.float32(m["score"]) for r in results for m in r["matches"]]


def test_rows_by_their_id(cold: Server, sample_bucket: Path) -> None:
    index = open_index(sample_bucket / "wordnet")
    with client(cold) as http:
        found = ask(http, {"vector": sample_queries(1)[0], "top_k": 1}).json()["matches"][0]["id"]
        row = http.get(f"/v1/indexes/wordnet/vectors/{found}", headers=WITH_TOKEN).json()
        near = ask(http, {"id": found, "top_k": 5}).json()
        gone = http.get("/v1/indexes/wordnet/vectors/a%2Fb", headers=WITH_TOKEN)
    assert (row["vector"], row["attributes"]) == asyncio.run(index.row(found.encode(), Receipt()))
    assert row["receipt"]["gets"] == 3
    want = answer_body(asyncio.run(index.query(Query(None, 5, id=found.encode()))), ["receipt"])
    assert near["matches"] == want["matches"]
    assert near["receipt"]["gets"] == want["receipt"]["gets"]
    assert (gone.status_code, gone.json()["code"]) == (404, "not_found")


def test_deep_json_is_refused_and_the_worker_lives(cold: Server) -> None:
    """In Wasm the stack ends before Python says so, and the isolate with it; each is some kB."""
    vectors = np.array([0x514E4156, 1, 1, 384], "<u4").tobytes() + np.ones(384, "<f4").tobytes()
    with client(cold, **WITH_TOKEN) as http:
        query = "/v1/indexes/wordnet/query"
        for body in (b'{"vector":' + b"[" * 6000 + b"]" * 6000 + b"}", b'{"budget":' * 3000 + b"1" + b"}" * 3000):
            reply = http.post(query, content=body)
            assert (reply.status_code, "32 deep" in reply.json()["detail"]) == (400, True)
        reply = http.post(f"{query}?top_k={'[' * 8000}", content=vectors, headers={"content-type": BINARY})
        assert (reply.status_code, reply.json()["param"]) == (400, "top_k")
        assert ask(http, {"vector": sample_queries(1)[0]}).status_code == 200


def test_manners_of_http(cold: Server) -> None:
    """Methods that the SDK does not know, HEAD, gzip, Accept, paths that the URL parser has changed."""
    body = json.dumps({"vector": sample_queries(1)[0], "include": []}).encode()
    with client(cold, **WITH_TOKEN) as http:
        query, got = "/v1/indexes/wordnet/query", http.get("/v1/indexes/wordnet")
        for path in ("/v1/indexes", query):
            reply = http.request("PROPFIND", path)
            assert (reply.status_code, reply.json()["code"]) == (405, "method_not_allowed")
        head = http.head("/v1/indexes/wordnet")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(got.content))
        options = http.options(query)
        assert (options.status_code, options.headers["allow"]) == (204, "POST, OPTIONS")
        plain = http.post(query, content=body)
        packed = http.post(query, content=gzip.compress(body), headers={"content-encoding": "gzip"})
        assert packed.json() == plain.json()
        huge = gzip.compress(bytes(BODY_BYTES_MAX)) * 60
        assert http.post(query, content=huge, headers={"content-encoding": "gzip"}).status_code == 413
        assert http.post(query, content=body, headers={"content-encoding": "br"}).status_code == 415
        refused = http.post(query, content=body, headers={"accept": f"application/json, {BINARY};q=0"})
        assert refused.headers["content-type"] == "application/json"
        assert http.post(f"{query}?top_k=3", content=body).json()["param"] == "top_k"
    for dots in ("..", ".", "%2e%2e", "%2E"):  # httpx would normalise them itself
        connection = HTTPConnection(cold.url.removeprefix("http://"), timeout=60)
        connection.request("GET", f"/v1/indexes/wordnet/vectors/{dots}", headers=WITH_TOKEN)
        reply = json.loads(connection.getresponse().read())
        connection.close()
        assert reply["code"] == "not_found" and "vectors?id=" in reply["hint"]


def test_a_stalled_upload_holds_up_nobody_and_is_given_up(cold: Server) -> None:
    """The stall is waited for in earnest: five seconds."""
    host, port = cold.url.removeprefix("http://").split(":")
    head = f"POST /v1/indexes/wordnet/query HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n"
    with ExitStack() as stalled, client(cold, **WITH_TOKEN) as http:
        uploads = []
        for rest in ("Content-Length: 2000000\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"):
            uploads.append(stalled.enter_context(socket.create_connection((host, int(port)), timeout=30)))
            uploads[-1].sendall((head + rest).encode())
        time.sleep(0.2)
        began = time.perf_counter()
        assert http.get("/v1/indexes/wordnet").status_code == 200
        assert ask(http, {"vector": sample_queries(1)[0]}).status_code == 200
        assert time.perf_counter() - began < 3
        assert [upload.recv(12) for upload in uploads] == [b"HTTP/1.1 408"] * 2
        assert ask(http, {"vector": sample_queries(1)[0]}).status_code == 200


def test_explain_reads_nothing_and_is_what_a_query_reads(cold: Server) -> None:
    vector = sample_queries(1)[0]
    with client(cold) as http:
        plan = ask(http, {"vector": vector, "explain": True}).json()
        receipt = ask(http, {"vector": vector}).json()["receipt"]
    assert (plan["gets"], plan["bytes"]) == (receipt["gets"], receipt["bytes"])


def test_warm_cache_reads_nothing(worker: Callable[..., Server], sample_bucket: Path) -> None:
    server = worker(sample_bucket, PUBLIC_READ="1")
    vectors = sample_queries(20)
    with client(server) as http:
        for vector in vectors:
            http.post("/v1/indexes/wordnet/query", json={"vector": vector})  # the same rendition is read again
        receipts = [http.post("/v1/indexes/wordnet/query", json={"vector": v}).json()["receipt"] for v in vectors]
        heap = http.get("/v1/health").json()["heap_bytes"]
    assert sum(r["gets"] for r in receipts) == 0
    assert heap <= 90 << 20


def test_catalogue_and_health(cold: Server, sample_bucket: Path) -> None:
    with client(cold, **WITH_TOKEN) as http:
        assert http.get("/v1/indexes").json() == {"indexes": ["wordnet"], "cursor": None}
        described = http.get("/v1/indexes/wordnet").json()
        assert described["rows"] == 12288
        assert described["contract"]["recall"] == 0.95
        assert described["attributes"] == describe_attributes(open_index(sample_bucket / "wordnet").root)
        health = http.get("/v1/health").json()
        assert health["generations"] == {"wordnet": described["generation"]}
        assert health["heap_bytes"] <= 90 << 20


def add_keys(state: Path, keys: list[str]) -> None:
    """Rows of these keys in the table of the local R2, each with the object of another one: to put them takes 20 s."""
    [database] = set((state / "v3" / "r2").glob("*/*.sqlite")) - set((state / "v3" / "r2").glob("*/metadata.sqlite"))
    with closing(sqlite3.connect(database)) as connection, connection:
        [columns] = connection.execute("SELECT group_concat(name) FROM pragma_table_info('_mf_objects')").fetchone()
        values = columns.replace("key", "?")
        connection.executemany(
            f"INSERT INTO _mf_objects ({columns}) SELECT {values} FROM _mf_objects LIMIT 1", [(key,) for key in keys]
        )


def test_many_indexes_are_listed_in_pages(tmp_path: Path) -> None:
    bucket, state = tmp_path / "bucket", tmp_path / "state"
    (bucket / "few").mkdir(parents=True)
    (bucket / "few" / "CURRENT").write_bytes(b"is not read")
    load(bucket, state)
    many = [f"many-{i:04}" for i in range(2500)]
    add_keys(state, [*(f"{name}/CURRENT" for name in many), "many-0007x", "notes.txt"])
    with serve(state, variables={"PUBLIC_READ": "1"}) as server, client(server) as http:

        def pages(**options: str | int) -> Iterator[list[str]]:
            cursor = ""
            while cursor is not None:
                body = http.get("/v1/indexes", params=options | {"cursor": cursor}).json()
                yield body["indexes"]
                cursor = body["cursor"]

        whole = list(pages())
        assert sum(whole, []) == ["few", *many]
        assert len(whole) == 3 and max(map(len, whole)) == 1000
        assert sum(pages(prefix="many-00", limit=7), []) == many[:100]
        assert sum(pages(prefix="many-0007", limit=1), []) == ["many-0007"]
        assert list(pages(prefix="none")) == [[]]
        assert http.get("/v1/indexes", params={"limit": 1001}).json()["param"] == "limit"


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"vector": [1.0, 2.0]}, 400, "limit_exceeded", "vector"),
        ({"vector": [0.0] * 384}, 400, "invalid_input", "vector"),
        ({"vector": ["x"] * 384}, 400, "invalid_input", "vector"),
        ({"vector": [float("nan")] * 384}, 400, "invalid_input", "vector"),
        ({"vector": [1.0] * 384, "top_k": 0}, 400, "limit_exceeded", "top_k"),
        ({"vector": [1.0] * 384, "top_k": 1001}, 400, "limit_exceeded", "top_k"),
        ({"vector": [1.0] * 384, "filter": []}, 400, "invalid_input", "filter"),
        ({"vector": [1.0] * 384, "recall": 0.99999}, 400, "limit_exceeded", "recall"),
        ({"vectors": [[1.0] * 384] * 257}, 400, "limit_exceeded", "vectors"),
    ],
)
def test_bad_requests_are_named_and_harm_nothing(
    cold: Server, body: dict[str, Any], status: int, code: str, param: str
) -> None:
    with client(cold) as http:
        reply = ask(http, body)
        assert reply.status_code == status
        assert reply.headers["content-type"] == "application/problem+json"
        problem = reply.json()
        assert (problem["code"], problem["param"]) == (code, param)
        assert problem["hint"]
        assert ask(http, {"vector": sample_queries(1)[0]}).status_code == 200


def test_paths_tokens_and_bodies(cold: Server) -> None:
    vector = sample_queries(1)[0]
    with client(cold) as http:
        query = "/v1/indexes/wordnet/query"
        assert http.post(query, json={"vector": vector}).status_code == 401
        wrong = http.post(query, json={"vector": vector}, headers={"authorization": "Bearer wrong"})
        assert wrong.status_code == 401
        assert TOKEN not in wrong.text
        assert http.get("/v1/health").status_code == 200
        assert http.get("/v1/elsewhere", headers=WITH_TOKEN).status_code == 404
        assert http.get(query, headers=WITH_TOKEN).status_code == 405
        assert ask(http, {"vector": vector}, "missing").json()["code"] == "not_found"
        assert http.post(query, content=b"{", headers=WITH_TOKEN).json()["code"] == "invalid_input"
        for content in (
            b" " * (BODY_BYTES_MAX + 1),
            iter([b" " * (1 << 20)] * 5),
        ):  # with and without a declared length
            large = http.post(query, content=content, headers=WITH_TOKEN)
            assert (large.status_code, large.json()["limit"]) == (413, BODY_BYTES_MAX)
            assert large.json()["value"] > BODY_BYTES_MAX
        assert ask(http, {"vector": vector}).status_code == 200


def test_without_a_token_only_health_answers(worker: Callable[..., Server], sample_bucket: Path) -> None:
    with client(worker(sample_bucket)) as http:
        refused = http.get("/v1/indexes")
        assert refused.status_code == 401
        assert "VANTAGE_TOKEN" in refused.json()["hint"]
        assert http.get("/v1/health").status_code == 200


def test_snapshot_saved_and_restored(tmp_path: Path, sample_bucket: Path) -> None:
    """Production starts every isolate from a snapshot taken after the imports."""
    load(sample_bucket, tmp_path)
    vector = sample_queries(1)[0]
    answers = []
    for mode in ("save", "load"):
        with serve(tmp_path, variables={"PUBLIC_READ": "1"}, snapshot=mode) as server, client(server) as http:
            answers.append(http.post("/v1/indexes/wordnet/query", json={"vector": vector}).json()["matches"])
    assert answers[0] == answers[1]
    assert answers[0] == in_process(sample_bucket, Query(vector), [])["matches"]


def test_damage_and_loss_are_errors_and_other_indexes_answer(changing: Changing, words: Built) -> None:
    vector = words.queries[0].tolist()
    with client(changing.server) as http:
        for name, phrase in (("flipped", "checksum"), ("shardless", "shard-00000.bin"), ("rootless", "root.bin")):
            reply = http.post(f"/v1/indexes/{name}/query", json={"vector": vector})
            assert reply.status_code == 500, reply.text
            assert reply.json()["code"] == "damaged_index"
            assert phrase in reply.json()["detail"]
            assert http.post("/v1/indexes/sound/query", json={"vector": vector}).status_code == 200


def test_a_failing_bucket_is_a_503_that_names_the_object(changing: Changing, generations: tuple[Built, Built]) -> None:
    """The shard's bytes are cut under local R2, so that bodies end early."""
    shard = next((changing.bucket / "cut").glob("*/shard-00000.bin")).stat().st_size
    (blob,) = (path for path in changing.state.glob("**/blobs/*") if path.stat().st_size == shard)
    os.truncate(blob, 1000)
    vector = generations[1].queries[0].tolist()
    with client(changing.server) as http:
        reply = http.post("/v1/indexes/cut/query", json={"vector": vector})
        assert reply.status_code == 503, reply.text
        assert reply.json()["code"] == "store_unavailable"
        assert "shard-00000.bin" in reply.json()["detail"]
        assert http.get("/v1/indexes/cut").status_code == 200


def test_a_new_generation_is_picked_up_with_no_failed_query(
    changing: Changing, generations: tuple[Built, Built]
) -> None:
    """The index is replaced while it is asked; soon the answers are of the new generation."""
    old, new = (open_index(built.bucket / built.name).current.generation for built in generations)
    assert new != old
    vector = generations[0].queries[0].tolist()
    with client(changing.server) as http:

        def generation() -> str:
            reply = http.post("/v1/indexes/live/query", json={"vector": vector})
            assert reply.status_code == 200, reply.text
            answered: str = reply.json()["receipt"]["generation"]
            return answered

        assert generation() == old
        load(generations[1].bucket, changing.state)
        deadline = time.monotonic() + 60
        seen = [generation()]
        while seen[-1] == old and time.monotonic() < deadline:
            time.sleep(0.5)
            seen.append(generation())
        assert seen[-1] == new


def test_at_the_limits(cold: Server) -> None:
    """256 vectors in a body as large as can be, 32,768 answers, and a thousand of one vector."""
    vectors = sample_queries(256)
    vectors = (vectors * 256)[:256]
    with client(cold) as http:
        body = json.dumps({"vectors": vectors, "top_k": 128}).encode()
        reply = http.post("/v1/indexes/wordnet/query", content=body.ljust(BODY_BYTES_MAX), headers=WITH_TOKEN)
        assert reply.status_code == 200, reply.text
        assert [len(r["matches"]) for r in reply.json()["results"]] == [128] * 256
        most = ask(http, {"vector": sample_queries(1)[0], "top_k": 1000, "recall": 0.97}).json()
        assert len(most["matches"]) == 1000
        assert http.get("/v1/health", headers=WITH_TOKEN).json()["heap_bytes"] <= 90 << 20


def test_an_index_smaller_than_top_k(changing: Changing) -> None:
    index = open_index(changing.bucket / "few")
    with client(changing.server) as http:
        body = {"vector": [1.0] * index.root.index.dimension, "top_k": index.root.index.rows}
        assert len(http.post("/v1/indexes/few/query", json=body).json()["matches"]) == index.root.index.rows
        all_of_them = http.post("/v1/indexes/few/query", json=body | {"top_k": body["top_k"] + 1}).json()
        assert len(all_of_them["matches"]) == index.root.index.rows and all_of_them["complete"]


def test_an_object_put_again_under_its_key(changing: Changing, words: Built) -> None:
    """R2 answers 412 to the old etag; size and checksums still hold, so the query is answered from the new object."""
    shard = next((changing.bucket / "again").glob("*/shard-00000.bin"))
    directory = open_index(changing.bucket / "again").root.directory
    assert directory is not None
    places = directory.places[0]
    vector = words.queries[0].tolist()
    with client(changing.server) as http:
        first = http.post("/v1/indexes/again/query", json={"vector": vector}).json()
        data = bytearray(shard.read_bytes())
        padding = next(e for b in range(99) if (e := places.offset[b] + places.whole[b]) < places.offset[b + 1])
        data[padding] ^= 1  # between two blocks
        shard.write_bytes(data)
        load(changing.bucket, changing.state, only="again")
        again = http.post("/v1/indexes/again/query", json={"vector": vector})
        assert again.status_code == 200, again.text
        assert again.json()["matches"] == first["matches"]
        assert again.json()["receipt"]["opened_gets"] > 0  # it looked at CURRENT


def test_the_warm_object_hands_its_root_to_the_worker(
    tmp_path: Path, sample_bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By RPC on workerd: nothing at first, then CURRENT and root. The entry of the test asks as the Worker does."""
    project = tmp_path / "project"
    shutil.copytree(ROOT / "src", project / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "python_modules", project / "python_modules")
    shutil.copy(ROOT / "wrangler.toml", project)
    (project / "src" / "entry.py").rename(project / "src" / "real_entry.py")
    (project / "src" / "entry.py").write_text(ASKING_ENTRY)
    monkeypatch.setattr("build_index.serve.ROOT", project)
    load(sample_bucket, tmp_path / "state")
    with serve(tmp_path / "state") as server, client(server) as http:
        first, deadline = http.get("/").json(), time.monotonic() + 20
        while (got := http.get("/").json()) is None and time.monotonic() < deadline:
            time.sleep(0.1)
    assert first is None
    root = next(sample_bucket.glob("wordnet/*/root.bin"))
    assert got == [(sample_bucket / "wordnet" / "CURRENT").stat().st_size, root.stat().st_size]


ASKING_ENTRY = """
from real_entry import Default as Real, IndexLog, WarmIndex
from workers import Response


class Default(Real):
    async def fetch(self, request):
        if "health" in request.url:
            return Response("ok")
        held = await self._warm_root("wordnet")
        return Response.json(None if held is None else [len(part) for part in held])
"""
