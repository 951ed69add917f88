"""Filtered answers of whole indexes: only rows that match, all that match, and counts that are right."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filters import random_filter, random_row, takes
from typer.testing import CliRunner

from build_index.audit.verify import verify_deep
from build_index.bucket.open import open_index
from build_index.bucket.store import FolderStore
from build_index.build import build
from build_index.cli.main import app
from build_index.context import BuildContext
from build_index.ingest.open import open_source
from build_index.tune import renditions
from build_index.tune.options import Options
from vantage.cost import Budget
from vantage.errors import DamagedError, InputError
from vantage.http import routes
from vantage.http.access import Access
from vantage.index import Index
from vantage.indexes import Service
from vantage.read.bucket import Folder
from vantage.receipt import Receipt
from vantage.search import paged, scan
from vantage.search.query import Answer, Query

ROWS, DIMENSION = 2000, 16
TIMES = pa.timestamp("us", "UTC")


def made_up(seed: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Vectors in clusters, and rows whose values follow the clusters in part, so that some filters are far."""
    draw, rng = Random(seed), np.random.default_rng(seed)
    centres = rng.normal(size=(20, DIMENSION))
    of = rng.integers(20, size=ROWS)
    x = (centres[of] + 0.4 * rng.normal(size=(ROWS, DIMENSION))).astype(np.float32)
    rows = [random_row(draw) for _ in range(ROWS)]
    for row, cluster in zip(rows, of.tolist(), strict=True):
        if row["year"] is not None:
            row["year"] = int(1950 + cluster + draw.randrange(3))
        row["lang"] = draw.choice(("de", "fr", "")) if cluster % 2 else row["lang"]
    return x, rows


def table_of(x: np.ndarray, rows: list[dict[str, Any]]) -> pa.Table:
    def time(value: str | None) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value if "T" in value else value + "T00:00:00+00:00")

    columns = {
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1]),
        "lang": pa.array([row["lang"] for row in rows]),
        "note": pa.array([{"x": 1}] * len(rows)),
        "tags": pa.array([row["tags"] for row in rows], pa.list_(pa.string())),
        "year": pa.array([row["year"] for row in rows], pa.int64()),
        "price": pa.array([row["price"] for row in rows], pa.float64()),
        "stock": pa.array([row["stock"] for row in rows]),
        "at": pa.array([time(row["at"]) for row in rows], TIMES),
    }
    return pa.table(columns)


NAMES = ("lang", "tags", "year", "price", "stock", "at")
Made = tuple[Path, np.ndarray, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def blocks_apart() -> Iterator[None]:
    """Blocks in objects of their own, and so projections, of however few rows."""
    with patch.object(renditions, "INLINE_BYTES", 0):
        yield


@pytest.fixture(scope="module", params=["dot", "cosine", "l2"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp(request.param)
    x, rows = made_up(5)
    pq.write_table(table_of(x, rows), folder / "rows.parquet")
    options = Options(0.9, 10, fast=True, error_norms=True, filters=NAMES)
    if request.param != "dot":  # whose blocks lie in the root
        request.getfixturevalue("blocks_apart")
    build(open_source([folder / "rows.parquet"]), BuildContext(folder / "bucket" / "index", request.param, options))
    return folder / "bucket" / "index", x, rows


def scores(x: np.ndarray, q: np.ndarray, metric: str) -> np.ndarray:
    if metric == "l2":
        return -((x.astype(np.float64) - q) ** 2).sum(1)
    dots = x.astype(np.float64) @ q
    return dots / np.linalg.norm(x, axis=1) if metric == "cosine" else dots


def ask(index: Index, query: Query) -> Answer:
    return asyncio.run(index.query(query))


def test_exact_answers_are_the_best_that_match(made: Made) -> None:
    path, x, rows = made
    index, draw, rng = open_index(path), Random(1), np.random.default_rng(1)
    for _ in range(60):
        value, q = random_filter(draw), x[draw.randrange(ROWS)] + 0.1 * rng.normal(size=DIMENSION).astype(np.float32)
        match = np.array([takes(value, row) for row in rows])
        got = ask(index, Query(q.tolist(), 20, filter=value, exact=True))
        best = np.where(match, scores(x.astype(np.float16), q, index.root.index.metric), -np.inf)
        want = np.argsort(-best, kind="stable")[: min(20, match.sum())]
        assert got.complete and got.recall_estimate == 1
        assert {m.id for m in got.matches} == set(want.tolist()) or np.allclose(
            np.sort(best[[m.id for m in got.matches]]), np.sort(best[want]), rtol=1e-3
        )
        assert got.matched is not None and (not got.matched.exact or got.matched.rows == match.sum())


def test_routed_answers_match_and_are_mostly_found(made: Made) -> None:
    path, x, rows = made
    index, draw, rng, recalls = open_index(path), Random(2), np.random.default_rng(2), []
    for _ in range(200):
        value, q = random_filter(draw), x[draw.randrange(ROWS)] + 0.1 * rng.normal(size=DIMENSION).astype(np.float32)
        match = np.array([takes(value, row) for row in rows])
        got = ask(index, Query(q.tolist(), 10, filter=value))
        ids = [int(m.id) for m in got.matches]
        assert match[ids].all() and len(set(ids)) == len(ids)
        assert got.complete and len(ids) == min(10, match.sum()), (value, len(ids), match.sum())
        assert got.matched is not None and (not got.matched.exact or got.matched.rows == match.sum())
        best = np.where(match, scores(x, q, index.root.index.metric), -np.inf)
        want = set(np.argsort(-best)[: min(10, match.sum())].tolist())
        recalls += [len(want & set(ids)) / len(want)] if want else []
        assert got.receipt.waves <= 2 and (want or not got.receipt.rows or got.receipt.gets <= 12)
    assert np.mean(recalls) > 0.9, np.mean(recalls)


def test_a_batch_and_a_query_by_id_filter_too(made: Made) -> None:
    path, x, rows = made
    index, value = open_index(path), {"year": {"$gte": 1955}, "stock": False}
    match = np.array([takes(value, row) for row in rows])
    queries = [Query(q.tolist(), 5, filter=value) for q in x[:9]]
    together = asyncio.run(index.answer(queries, Receipt()))
    alone = [ask(index, query) for query in queries]
    assert [a.matches for a in together] == [a.matches for a in alone]
    own = int(np.flatnonzero(match)[0])
    got = ask(index, Query(None, 5, filter=value, id=own))
    assert own not in [m.id for m in got.matches] and match[[int(m.id) for m in got.matches]].all()


def test_a_filter_that_takes_nothing_reads_nothing(made: Made) -> None:
    index = open_index(made[0])
    for value in ({"lang": "nowhere"}, {"year": {"$gt": 3000}}, {"stock": True, "year": {"$lt": 0}}):
        got = ask(index, Query(made[1][0].tolist(), 10, filter=value))
        assert got.complete and not got.matches and got.receipt.gets <= 1
        assert got.matched is not None and got.matched.exact and got.matched.rows == 0


def test_over_http(made: Made) -> None:
    path, x, rows = made

    def post(body: dict[str, Any]) -> Any:
        async def read(*_: object) -> bytes:
            return json.dumps(body).encode()

        service = Service(Folder(path.parent), 0)
        where = f"/v1/indexes/{path.name}/query"
        return asyncio.run(routes.handle("POST", where, {}, read, service, Access(public=True), {}))

    reply = post({"vector": x[0].tolist(), "top_k": 3, "filter": {"lang": "de"}})
    body = json.loads(reply.text())
    assert reply.status == 200 and len(body["matches"]) == 3 and body["matched"] > 0
    assert isinstance(body["matched_exact"], bool)
    assert all(rows[m["id"]]["lang"] == "de" for m in body["matches"])
    bad = post({"vector": x[0].tolist(), "filter": {"year": {"$gte": "x"}}})
    assert bad.status == 400 and json.loads(bad.text())["param"] == "filter.year.$gte"
    deep: dict[str, Any] = {"year": 1}
    for _ in range(7):
        deep = {"$or": [deep]}
    assert post({"vector": x[0].tolist(), "filter": deep}).status == 200
    assert post({"vector": x[0].tolist(), "filter": {"$or": [deep]}}).status == 400


def test_damaged_columns_are_named(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    index, q, real = open_index(made[0]), made[1][0].tolist(), scan.plane_of

    def spoilt(*args: Any) -> memoryview:
        return memoryview(bytes(real(*args)[:-9]))

    monkeypatch.setattr(scan, "plane_of", spoilt)
    with pytest.raises(DamagedError, match="its columns are damaged"):
        ask(index, Query(q, 10, filter={"at": {"$exists": True}}))


@pytest.mark.usefixtures("blocks_apart")
def test_what_is_declared(tmp_path: Path) -> None:
    x, rows = made_up(6)
    table = table_of(x, rows).append_column("title", pa.array([f"title {i}" * 20 for i in range(ROWS)]))
    pq.write_table(table, tmp_path / "rows.parquet")
    notes: list[str] = []
    options = Options(0.8, 5, fast=True)

    def context(name: str, filters: tuple[str, ...] | None = None) -> BuildContext:
        own = Options(0.8, 5, fast=True, filters=filters)
        return BuildContext(tmp_path / name, "cosine", own if filters is not None else options, note=notes.append)

    build(open_source([tmp_path / "rows.parquet"]), context("default"))
    index = open_index(tmp_path / "default")
    names = [index.root.names[f.attribute] for f in index.root.filters]
    assert names == ["lang", "year", "price", "stock", "at"], names
    assert [f.in_blocks for f in index.root.filters] == [True, True, False, True, True]
    assert any("'title' is not filterable" in note for note in notes) and not any("'price'" in note for note in notes)
    draw = Random(3)
    for _ in range(80):  # those of price by its projection alone
        value = random_filter(draw)
        if "tags" in json.dumps(value):
            continue
        match = np.array([takes(value, row) for row in rows])
        got = ask(index, Query(x[draw.randrange(ROWS)].tolist(), 10, filter=value))
        ids = [int(m.id) for m in got.matches]
        assert match[ids].all() and len(set(ids)) == len(ids) == min(10, match.sum()) and got.complete, value
        assert got.matched is not None and (not got.matched.exact or got.matched.rows == match.sum())
    with pytest.raises(InputError, match="'tags' cannot be filtered by"):
        ask(index, Query(x[0].tolist(), 5, filter={"tags": "a"}))
    build(open_source([tmp_path / "rows.parquet"]), context("none", ()))
    with pytest.raises(InputError, match="no attribute of this index can be filtered by"):
        ask(open_index(tmp_path / "none"), Query(x[0].tolist(), 5, filter={"lang": "de"}))
    for filters, what in ((("nope",), "no attribute 'nope'"), (("note",), "cannot be filtered by")):
        with pytest.raises(InputError, match=what):
            build(open_source([tmp_path / "rows.parquet"]), context("bad", filters))


@pytest.mark.usefixtures("blocks_apart")
@pytest.mark.parametrize(("router", "centre_bytes"), [("two-level", 1 << 20), ("mlp", 0), ("tree", 1 << 20)])
def test_other_routers_and_without_counts(
    router: str, centre_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("build_index.write.index.CENTRE_BYTES_MAX", centre_bytes)
    monkeypatch.setattr("build_index.tune.contract.SURE", 0.0)
    x, rows = made_up(8)
    pq.write_table(table_of(x, rows), tmp_path / "rows.parquet")
    options = Options(0.7, 10, router=router, filters=NAMES, copies="none")
    build(open_source([tmp_path / "rows.parquet"]), BuildContext(tmp_path / "index", "cosine", options))
    index, draw = open_index(tmp_path / "index"), Random(9)
    assert bool(index.root.projections) == (router != "two-level") and index.root.paged == (not centre_bytes)
    found = wanted = 0
    for _ in range(60):
        value = random_filter(draw)
        match = np.array([takes(value, row) for row in rows])
        query = Query(x[draw.randrange(ROWS)].tolist(), 10, filter=value)
        got = ask(index, query)
        ids = [int(m.id) for m in got.matches]
        assert match[ids].all() and len(set(ids)) == len(ids)
        assert not got.complete or len(ids) == min(10, match.sum()), (value, len(ids), match.sum())
        assert got.matched is not None and (not got.matched.exact or got.matched.rows == match.sum())
        found, wanted = found + len(ids), wanted + min(10, match.sum())
        plan = asyncio.run(index.explain([query]))[0]
        assert set(plan) >= {"projection", "weighed", "matched"}
    assert found > 0.8 * wanted


def test_the_command_line(made: Made) -> None:
    path, _, rows = made
    args = ["query", str(path), "--id", "3", "--top-k", "2", "--filter", '{"lang": "de"}', "--json"]
    done = CliRunner().invoke(app, args)
    body = json.loads(done.stdout)
    assert done.exit_code == 0 and all(rows[m["id"]]["lang"] == "de" for m in body["matches"]) and body["matched"]
    wrong = CliRunner().invoke(app, [*args[:-2], "{lang: de}"])
    assert wrong.exit_code != 0


Large = tuple[Path, Path, np.ndarray, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, blocks_apart: None) -> Large:
    """An index whose root has the counts and the projections of its rows, and one that has them in pages."""
    folder = tmp_path_factory.mktemp("large")
    x, rows = made_up(11)
    for i, row in enumerate(rows):
        row["year"] = 7 * i
    pq.write_table(table_of(x, rows), folder / "rows.parquet")
    for name, nbytes in (("resident", 1 << 20), ("paged", 0)):
        with (
            patch("build_index.write.index.CENTRE_BYTES_MAX", nbytes),
            patch("build_index.filters.projections.PAGE_CHUNKS", 3),
        ):
            options = Options(0.9, 10, fast=True, filters=NAMES, copies="none")  # a copy may score otherwise
            build(open_source([folder / "rows.parquet"]), BuildContext(folder / name, "l2", options))
    return folder / "resident", folder / "paged", x, rows


def test_a_large_index_answers_as_a_small_one(large: Large, monkeypatch: pytest.MonkeyPatch) -> None:
    resident, index = open_index(large[0]), open_index(large[1])
    _, _, x, rows = large
    assert index.root.paged and index.root.centres is None and not resident.root.paged
    assert max(len(p.block) for p in index.root.projections) > 8
    monkeypatch.setattr(paged, "WHOLE_BYTES", 600)
    monkeypatch.setattr(paged, "PAGES_BYTES_MAX", 1 << 20)
    draw, recalls = Random(12), []
    for _ in range(150):
        value, q = random_filter(draw), x[draw.randrange(ROWS)]
        match = np.array([takes(value, row) for row in rows])
        query = Query(q.tolist(), 10, filter=value)
        got, other = ask(index, query), ask(resident, query)
        ids, scores_of = [int(m.id) for m in got.matches], {m.id: m.score for m in other.matches}
        assert match[ids].all() and len(set(ids)) == len(ids)
        assert got.complete and len(ids) == min(10, match.sum()), (value, len(ids), match.sum())
        assert got.matched is not None and (not got.matched.exact or got.matched.rows == match.sum())
        assert all(scores_of.get(m.id, m.score) == m.score for m in got.matches)
        assert got.receipt.waves <= 3
        best = np.where(match, scores(x, q, index.root.index.metric), -np.inf)
        want = set(np.argsort(-best)[: min(10, match.sum())].tolist())
        recalls += [len(want & set(ids)) / len(want)] if want else []
    assert np.mean(recalls) > 0.9, np.mean(recalls)


def test_what_a_large_index_reads(large: Large) -> None:
    index, warm, x = open_index(large[1]), open_index(large[1], 64 << 20), large[2]
    for i in (0, 700, ROWS - 1):  # a page, then a chunk
        got = ask(index, Query(x[0].tolist(), 10, filter={"year": 7 * i}))
        assert [m.id for m in got.matches] == [i] and got.complete
        assert got.receipt.gets == got.receipt.waves == 2 and got.matched is not None and got.matched.exact
        assert ask(index, Query(x[0].tolist(), 10, filter={"year": 7 * i}, budget=Budget(waves=1))).receipt.waves <= 1
    for value in ({"lang": "nowhere"}, {"year": {"$gt": 7 * ROWS}}, {"stock": True, "year": {"$lt": 0}}):
        got = ask(index, Query(x[0].tolist(), 10, filter=value))
        assert got.complete and not got.matches and got.receipt.gets <= 1
        assert got.matched is not None and got.matched.exact and got.matched.rows == 0
    query = Query(x[0].tolist(), 3, filter={"lang": "de", "stock": True})
    before = asyncio.run(warm.explain([query]))[0]
    assert before["routing"] and not before["ranges"] and before["projection"] is None
    first, again = ask(warm, query), ask(warm, query)
    assert first.matches == again.matches and again.receipt.gets == 0 < first.receipt.gets
    after = asyncio.run(warm.explain([query]))[0]
    assert not after["routing"] and after["weighed"]
    together = asyncio.run(index.answer([Query(q.tolist(), 3, filter=query.filter) for q in x[:20]], Receipt()))
    assert [a.matches for a in together] == [
        ask(index, Query(q.tolist(), 3, filter=query.filter)).matches for q in x[:20]
    ]


def test_a_large_index_is_verified_and_its_damaged_pages_are_named(large: Large, tmp_path: Path) -> None:
    report = verify_deep(FolderStore(large[1]))
    assert report["damages"] == 0, report
    shutil.copytree(large[1], tmp_path / "index")
    for path in tmp_path.glob("index/*/projection-*-pages-*.bin"):
        data = bytearray(path.read_bytes())
        data[70::97] = bytes(b ^ 1 for b in data[70::97])
        path.write_bytes(data)
    with pytest.raises(DamagedError, match="checksum of page .* of the projection of 'year' differs"):
        ask(open_index(tmp_path / "index"), Query(large[2][0].tolist(), 10, filter={"year": 70}))
