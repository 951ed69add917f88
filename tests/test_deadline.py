"""budget.ms on a virtual clock: a query ends in time with what it has, and never as an error."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import Built
from virtual import Slow, run

from vantage.cost import Budget
from vantage.errors import VantageError
from vantage.http.access import Access
from vantage.http.reply import Reply
from vantage.http.routes import handle
from vantage.index import Index
from vantage.indexes import Service
from vantage.read.bucket import Folder
from vantage.read.cache import Cache
from vantage.read.deadline import Deadline
from vantage.receipt import Receipt
from vantage.search.query import Answer, Query

FIXTURES = Path(__file__).parent / "fixtures"
READ_S = 0.04  # what a read takes


def asked_within(name: str, query: Query) -> tuple[float, Answer]:
    """(seconds, answer) of a query to a fixture without a cache, whose reads take READ_S."""

    async def ask() -> tuple[float, Answer]:
        index = await Index.open(Folder(FIXTURES), name, Cache(0), Receipt())
        index.bucket = Slow(Folder(FIXTURES), lambda *_: READ_S)
        began = asyncio.get_running_loop().time()
        answer = await index.query(query)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return asyncio.get_running_loop().time() - began, answer

    return run(ask())


def question(name: str) -> list[float]:
    vector: list[float] = json.loads((FIXTURES / "expected.json").read_text())[name]["vectors"][0]
    return vector


def timed(words: Built, bucket: Slow, query: Query, deadline: Deadline | None = None) -> tuple[float, Answer]:
    """(seconds, answer) of a query to an open index without a cache; nothing may run on after it."""

    async def ask() -> tuple[float, Answer]:
        service = Service(Folder(words.bucket), 0)
        await service.query("words", query)
        service.open["words"].bucket = bucket
        began = asyncio.get_running_loop().time()
        answer = await service.query("words", query, deadline)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return asyncio.get_running_loop().time() - began, answer

    return run(ask())


def test_what_arrived_in_time_is_the_answer(words: Built, widest: list[np.ndarray]) -> None:
    """The second read of the wave comes too late: fewer rows, not complete, no estimate, and no wave after it."""
    query = Query(widest[0].tolist(), 10, 0.9, attributes=True, vectors=True)
    whole = timed(words, Slow(Folder(words.bucket), lambda *_: 0.04), query)[1]
    assert whole.complete and len(whole.receipt.wave_sizes[0]) > 1
    bucket = Slow(Folder(words.bucket), lambda i, *_: 0.04 if i == 0 else 5.0)
    seconds, cut = timed(words, bucket, Query(**{**vars(query), "budget": Budget(ms=100)}))
    assert seconds == pytest.approx(0.1)
    assert (cut.complete, cut.recall_estimate, cut.receipt.waves) == (False, None, 1)
    assert 0 < cut.receipt.rows < whole.receipt.rows
    assert cut.matches and all(m.attributes and m.stored is None for m in cut.matches)  # the blocks have attributes


def test_where_nothing_arrived_the_answer_is_empty(words: Built) -> None:
    query = Query(words.queries[0].tolist(), budget=Budget(ms=30))
    seconds, cut = timed(words, Slow(Folder(words.bucket), lambda *_: 0.04), query)
    assert (seconds, cut.matches, cut.complete, cut.recall_estimate) == (pytest.approx(0.03), [], False, None)


def test_a_time_that_is_enough_changes_nothing(words: Built) -> None:
    query = Query(words.queries[0].tolist(), 10, rerank=20)
    bucket = Slow(Folder(words.bucket), lambda *_: 0.04)
    free = timed(words, bucket, query)[1]
    assert timed(words, bucket, Query(**{**vars(query), "budget": Budget(ms=10_000)}))[1] == free


def test_a_rerank_out_of_time_leaves_the_estimated_scores(words: Built) -> None:
    def plan(_: int, key: str, __: int | None) -> float:
        return 5.0 if "vectors" in key else 0.01

    query = Query(words.queries[0].tolist(), 10, rerank=20, budget=Budget(ms=200))
    seconds, cut = timed(words, Slow(Folder(words.bucket), plan), query)
    assert (len(cut.matches), cut.exact, cut.complete) == (10, False, False)
    assert seconds == pytest.approx(0.2)


@pytest.mark.parametrize("top_k", [1, 10, 40])
def test_a_proof_out_of_time_proves_nothing(top_k: int) -> None:
    """Whatever the millisecond that ends it: proven and the same, or neither proven nor complete, and in time."""
    vector = question("proofs")
    seconds, whole = asked_within("proofs", Query(vector, top_k, exact=True))
    assert whole.complete and whole.receipt.proof and whole.receipt.proof["proven"] and whole.receipt.waves > 1
    for ms in range(5, round(1000 * seconds) + 40, 10):
        took, cut = asked_within("proofs", Query(vector, top_k, exact=True, budget=Budget(ms=ms)))
        assert took <= ms / 1000 + 1e-6
        assert cut.receipt.proof is not None and cut.complete == cut.receipt.proof["proven"]
        assert cut.complete == (took >= seconds - 1e-6)
        if cut.complete:
            assert cut.matches == whole.matches
        else:
            assert cut.recall_estimate is None and cut.receipt.proof["rows_excluded"] == 0


def test_a_routing_page_that_is_late_leaves_nothing_to_plan() -> None:
    vector = question("pages")
    seconds, whole = asked_within("pages", Query(vector))
    assert (whole.complete, whole.receipt.waves, seconds) == (True, 2, pytest.approx(2 * READ_S))
    seconds, cut = asked_within("pages", Query(vector, budget=Budget(ms=30)))
    assert (seconds, cut.matches, cut.complete, cut.recall_estimate) == (pytest.approx(0.03), [], False, None)
    assert (cut.receipt.waves, cut.receipt.blocks) == (1, 0)
    seconds, cut = asked_within("pages", Query(vector, budget=Budget(ms=60)))
    assert (seconds, cut.matches, cut.complete, cut.receipt.waves) == (pytest.approx(0.06), [], False, 2)


def test_when_the_client_goes_the_reads_end(words: Built) -> None:
    async def gone(deadline: Deadline) -> None:
        await asyncio.sleep(0.02)
        deadline.end()

    index = words.open(bucket=Folder(words.bucket))
    index.bucket = Slow(Folder(words.bucket), lambda *_: 1.0)

    async def ask() -> tuple[float, Answer]:
        deadline = Deadline()
        _, answer = await asyncio.gather(
            gone(deadline), index.query(Query(words.queries[0].tolist()), deadline=deadline)
        )
        return asyncio.get_running_loop().time(), answer

    seconds, answer = run(ask())
    assert seconds == pytest.approx(0.02)
    assert (answer.matches, answer.complete) == ([], False)


def test_over_http_an_opening_that_is_late_goes_on_behind_an_empty_answer(words: Built) -> None:
    async def ask() -> tuple[dict[str, Any], dict[str, Any]]:
        service = Service(Slow(Folder(words.bucket), lambda *_: 0.04), 0)

        async def post(ms: int) -> dict[str, Any]:
            async def body(*_: object) -> bytes:
                return json.dumps({"vector": words.queries[0].tolist(), "budget": {"ms": ms}}).encode()

            reply = await handle("POST", "/v1/indexes/words/query", {}, body, service, Access(None, True), {})
            assert reply.status == 200, reply.body
            for work in reply.after:
                await work
            return dict(reply.body)

        return await post(50), await post(50)

    first, second = run(ask())
    assert (first["matches"], first["complete"], first["receipt"]["gets"]) == ([], False, 0)
    assert second["complete"] and len(second["matches"]) == 10


def posted(service: Service, name: str, ms: int) -> tuple[float, Reply]:
    """(seconds, reply) of a query with a deadline."""

    async def ask() -> tuple[float, Reply]:
        async def body(*_: object) -> bytes:
            return json.dumps({"vector": question("words"), "budget": {"ms": ms}}).encode()

        began = asyncio.get_running_loop().time()
        reply = await handle("POST", f"/v1/indexes/{name}/query", {}, body, service, Access(None, True), {})
        took = asyncio.get_running_loop().time() - began
        for work in reply.after:
            with suppress(VantageError):
                await work
        return took, reply

    return run(ask())


def test_looking_for_a_successor_ends_in_time(tmp_path: Path) -> None:
    """Objects are gone, and CURRENT, which would tell why, is slow."""
    shutil.copytree(FIXTURES / "words", tmp_path / "words")
    late = [0.0]
    service = Service(Slow(Folder(tmp_path), lambda _, key, __: late[0] if "CURRENT" in key else 0.01), 0)
    assert posted(service, "words", 1000)[1].body["complete"]
    for path in tmp_path.rglob("shard-*"):
        path.unlink()
    late[0] = 5.0
    took, reply = posted(service, "words", 100)
    assert (took, reply.status) == (pytest.approx(0.1), 200)
    assert (reply.body["matches"], reply.body["complete"]) == ([], False)
    assert reply.body["receipt"]["gets"] > 0  # what the first try asked for


def test_an_opening_that_fails_in_time_is_not_tried_again(tmp_path: Path) -> None:
    bucket = Slow(Folder(tmp_path), lambda i, *_: 0.01 if i == 0 else 3.0)
    took, reply = posted(Service(bucket, 0), "none", 100)
    assert (took, reply.status, bucket.count) == (pytest.approx(0.01), 404, 1)
