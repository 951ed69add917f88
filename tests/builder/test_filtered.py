"""Filtered answers of whole indexes: only rows that match, all that match, and counts that are right."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filters import CODES, HASHED, KINDS, LISTS, key_of, matching, random_filter, random_row, table_of
from typer.testing import CliRunner

from build_index.audit.verify import verify_deep
from build_index.bucket.open import open_index
from build_index.bucket.store import FolderStore
from build_index.build import Report, build
from build_index.cli.main import app
from build_index.context import BuildContext
from build_index.filters.declare import declare
from build_index.filters.projections import BUCKET_ROWS
from build_index.ingest.open import open_source
from build_index.progress import Progress
from build_index.tune import renditions
from build_index.tune.options import Options
from vantage.cost import Budget
from vantage.errors import DamagedError, InputError, LimitError, NotFoundError
from vantage.filter.schema import CHARS_MAX, describe_attributes
from vantage.format import COLUMNS_PLANE, Counts, open_block, pack_filters, plane_of
from vantage.format.projections import pack_projections
from vantage.http import routes
from vantage.http.access import Access
from vantage.index import Index
from vantage.indexes import Service
from vantage.read.bucket import Folder
from vantage.receipt import Receipt
from vantage.search import paged, scan, verified
from vantage.search.query import Answer, Query

ROWS, DIMENSION = 2000, 16


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


NAMES = ("lang", "tags", "year", "price", "stock", "at", "code", "refs")
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
        match = np.array(matching(value, rows))
        got = ask(index, Query(q.tolist(), 20, filter=value, exact=True))
        best = np.where(match, scores(x.astype(np.float16), q, index.root.index.metric), -np.inf)
        want = np.argsort(-best, kind="stable")[: min(20, match.sum())]
        assert got.complete and got.recall_estimate == 1
        assert {m.id for m in got.matches} == set(want.tolist()) or np.allclose(
            np.sort(best[[m.id for m in got.matches]]), np.sort(best[want]), rtol=1e-3
        )
        assert got.matched is not None and (not got.matched.exact or got.matched.rows == match.sum())


def test_routed_answers_match_and_are_mostly_found(made: Made) -> None:
    check_routed(made)


def check_routed(made: Made) -> None:
    """Answers of drawn queries and filters: only rows that match, as many as there are, most of the best."""
    path, x, rows = made
    index, draw, rng, recalls = open_index(path), Random(2), np.random.default_rng(2), []
    for _ in range(200):
        value, q = random_filter(draw), x[draw.randrange(ROWS)] + 0.1 * rng.normal(size=DIMENSION).astype(np.float32)
        match = np.array(matching(value, rows))
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


def test_rows_that_are_looked_at_are_those_that_match(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if that were always the quickest; where the filter takes too few of them, chunks are read after all."""
    real, used = verified.candidates, list[bool]()

    def counted(*args: Any) -> Any:
        found = yield from real(*args)
        used.append(found is not None)
        return found

    monkeypatch.setattr(verified, "ATTRIBUTES_COST", 0.0)
    monkeypatch.setattr(verified, "SHARE_MIN", 0.01)
    monkeypatch.setattr(verified, "is_for", lambda selection, root: True)
    monkeypatch.setattr(verified, "candidates", counted)
    check_routed(made)
    assert used.count(True) > 10 and False in used


def test_a_batch_and_a_query_by_id_filter_too(made: Made) -> None:
    path, x, rows = made
    index, value = open_index(path), {"year": {"$gte": 1955}, "stock": False}
    match = np.array(matching(value, rows))
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


def test_a_string_among_very_many_is_one_read(made: Made) -> None:
    path, x, rows = made
    index, draw = open_index(path), Random(4)
    for name in HASHED:
        for _ in range(30):
            wanted = draw.choice(CODES[5:])
            match = set(np.flatnonzero(matching({name: wanted}, rows)).tolist())
            got = ask(index, Query(x[0].tolist(), 10, filter={name: wanted}))
            assert {m.id for m in got.matches} == match and got.complete
            assert got.receipt.gets <= 1 and got.receipt.waves <= 1
            assert got.receipt.rows <= BUCKET_ROWS or not index.root.projections
    with pytest.raises(InputError, match="too many different strings") as error:
        ask(index, Query(x[0].tolist(), 5, filter={"code": {"$gte": "a"}}))
    assert error.value.param == "filter.code.$gte"


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


def values_of(rows: list[dict[str, Any]], name: str) -> list[Any]:
    """All values of an attribute, those of lists one by one, by their order in filters."""
    lists = [row[name] if isinstance(row[name], list) else [row[name]] for row in rows if row[name] is not None]
    return sorted((v for own in lists for v in own), key=lambda v: key_of(v, KINDS[name]))


def test_what_is_said_of_attributes(made: Made) -> None:
    path, _, rows = made
    root = open_index(path).root
    told = {one["name"]: one["filter"] for one in describe_attributes(root)}
    assert told.pop("note") is None and list(told) == list(NAMES)
    for name in NAMES:
        values, f = values_of(rows, name), told[name]
        assert (f["kind"], f["list"], f["hashed"]) == (KINDS[name], name in LISTS, name in HASHED)
        assert f["rows"] == sum(row[name] not in (None, []) for row in rows)
        assert f["distinct"] == len({key_of(v, KINDS[name]) for v in values})
        if name in HASHED:
            assert (f["min"], f["max"]) == (None, None)
            continue
        for end, value in ((f["min"], values[0]), (f["max"], values[-1])):
            assert type(end) is type(value) and key_of(end, KINDS[name]) == key_of(value, KINDS[name])
    json.dumps(told, allow_nan=False)
    sections = len(pack_filters(root.filters)) + len(pack_projections(root.projections, paged=False))
    assert root.counts is not None
    sections += len(Counts(root.counts.fields, 0.0, 1.0).pack())
    assert sum(told[name]["bytes"]["root"] for name in NAMES) == pytest.approx(sections, rel=0.1)
    files = {p.name: p.stat().st_size for p in path.glob("*/projection-*")}
    assert sum(told[name]["bytes"]["projection"] for name in NAMES) == pytest.approx(sum(files.values()), rel=0.02)
    assert [told[name]["projection"] for name in NAMES] == [bool(files)] * len(NAMES)


def test_bytes_of_columns_are_those_of_blocks(made: Made) -> None:
    root = open_index(made[0]).root
    directory, data = root.directory, {p.name: p.read_bytes() for p in made[0].glob("*/*.bin")}
    assert directory is not None
    planes = 0
    for r, rendition in enumerate(root.renditions):
        code_bytes = root.codecs[rendition.codec].code_bytes
        for extent in (directory.extent(i, r) for i in range(len(directory))):
            key = root.objects.keys[extent.object]
            whole = bytes(root.inline) if key == "root.bin" else data[key]
            own = whole[extent.offset : extent.offset + extent.whole]
            opened = open_block(
                own, extent.rows, extent.size, code_bytes, DIMENSION, root.index.by_row, "a block", root.index.metric
            )
            planes += len(plane_of(own, opened.planes, COLUMNS_PLANE, "a block"))
    told = sum(one["filter"]["bytes"]["blocks"] for one in describe_attributes(root) if one["filter"])
    assert told == pytest.approx(planes, rel=0.1)


def test_damaged_columns_are_named(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    index, q, real = open_index(made[0]), made[1][0].tolist(), scan.plane_of

    def spoilt(*args: Any) -> memoryview:
        return memoryview(bytes(real(*args)[:-9]))

    monkeypatch.setattr(scan, "plane_of", spoilt)
    with pytest.raises(DamagedError, match="its columns are damaged"):
        ask(index, Query(q, 10, filter={"refs": {"$exists": True}}))


def test_too_many_conditions_are_refused_before_counts_are_summed(made: Made) -> None:
    index = open_index(made[0])
    value = {"$and": [{"year": {"$ne": year}} for year in range(700)]}
    with (
        patch("vantage.search.filtered.expected_rows", side_effect=AssertionError),
        pytest.raises(LimitError, match="number of conditions of the filter .* is 2099"),
    ):
        ask(index, Query(made[1][0].tolist(), 10, filter=value))


N = 120  # rows of the types
SECOND = 1_714_557_600  # 2024-05-01T10:00:00Z
COLUMNS: dict[str, tuple[pa.Array, list[tuple[Any, int]]]] = {  # and filters with the rows that they take
    "float32": (
        pa.array(np.tile(np.float32([0.1, 0.2, np.nan, np.inf]), 30)),
        [(0.1, 30), ({"$gt": 0.1}, 30), ({"$exists": True}, 60), ({"$lte": 0.2}, 60), ({"$ne": 0.1}, 90)],
    ),
    "float16": (pa.array(np.full(N, 0.1, np.float16)), [(0.099975586, N), ({"$lt": 0.1}, N)]),
    "uint8": (pa.array(np.arange(N, dtype=np.uint8)), [(119, 1), ({"$lt": 2.5}, 3), ({"$gte": -(1 << 70)}, N)]),
    "large": (
        pa.array(["a", "B", "é", "e\u0301"] * 30, pa.large_string()),
        [("é", 30), ({"$prefix": "e"}, 30), ("b", 0)],
    ),
    "codes": (pa.array(["x", None, "y", "x"] * 30).dictionary_encode(), [("x", 60), ({"$ne": "x"}, 60)]),
    "numbers": (pa.array([1, 2, None, 3] * 30, pa.int32()).dictionary_encode(), [({"$gte": 2}, 60)]),
    "seconds": (pa.array(range(SECOND, SECOND + N), pa.timestamp("s")), [(SECOND, 1), ({"$lt": SECOND + 2}, 2)]),
    "zone": (
        pa.array([1000 * SECOND + 123] * N, pa.timestamp("ms", "Europe/Berlin")),
        [("2024-05-01T12:00:00.123+02:00", N), ({"$gt": "2024-05-01T10:00:00.123Z"}, 0)],
    ),
    "nano": (
        pa.array(range(SECOND * 10**9 + 950, SECOND * 10**9 + 950 + N), pa.timestamp("ns")),
        [("2024-05-01T10:00:00Z", 50), ({"$gt": "2024-05-01T10:00:00.000000999Z"}, 70)],
    ),
    "day": (pa.array([date(1850, 5, 1)] * N), [("1850-05-01", N), ({"$lt": 0}, N)]),
    "none": (pa.array([None] * N, pa.string()), [({"$exists": False}, N), ({"$ne": "x"}, N), ("", 0)]),
    "lists": (
        pa.array([["a", None], [None], [], None] * 30),
        [({"$exists": True}, 30), ({"$exists": False}, 90), ({"$nin": ["a"]}, 90), ({"$all": ["a", "a"]}, 30)],
    ),
    "pairs": (pa.array([["a", "b"]] * N, pa.list_(pa.string(), 2)), [({"$all": ["a", "b"]}, N), ({"$ne": "b"}, 0)]),
    "a.b[0]": (pa.array(["q"] * N), [("q", N)]),
    "@id:ключ": (pa.array(["q"] * N), [({"$in": ["q", "q"]}, N)]),
    "": (pa.array(["q"] * N), [({"$not": {"$eq": "q"}}, 0)]),
}


@pytest.mark.usefixtures("blocks_apart")
def test_every_type_and_name(tmp_path: Path) -> None:
    """Where other systems had faults: nulls in lists, precisions, zones, and names that look like paths."""
    x = made_up(4)[0][:N]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), DIMENSION)
    table = pa.table({"vector": vectors} | {name: column for name, (column, _) in COLUMNS.items()})
    table = table.append_column("$and", pa.array(["q"] * N))
    pq.write_table(table, tmp_path / "rows.parquet")
    options = Options(0.8, 5, fast=True, filters=tuple(COLUMNS))
    source = open_source([tmp_path / "rows.parquet"])
    build(source, BuildContext(tmp_path / "index", "cosine", options))
    index = open_index(tmp_path / "index")
    for name, (_, filters) in COLUMNS.items():
        for condition, count in filters:
            got = ask(index, Query(x[0].tolist(), N, filter={name: condition}))
            assert got.complete and len(got.matches) == count, (name, condition)
    assert "$and" not in [one.name for one in declare(source.attributes, None)]
    with pytest.raises(InputError, match="\\$and"):
        declare(source.attributes, ("$and",))


@pytest.mark.usefixtures("blocks_apart")
def test_what_is_declared(tmp_path: Path) -> None:
    x, rows = made_up(6)
    table = table_of(x, rows).append_column("title", pa.array([f"title {i}" * 30 for i in range(ROWS)]))
    pq.write_table(table, tmp_path / "rows.parquet")
    notes: list[str] = []
    options = Options(0.8, 5, fast=True)

    def context(name: str, filters: tuple[str, ...] | None = None) -> BuildContext:
        own = Options(0.8, 5, fast=True, filters=filters)
        return BuildContext(tmp_path / name, "cosine", own if filters is not None else options, note=notes.append)

    build(open_source([tmp_path / "rows.parquet"]), context("default"))
    index = open_index(tmp_path / "default")
    names = [index.root.names[f.attribute] for f in index.root.filters]
    assert names == ["lang", "year", "price", "stock", "at", "code"], names
    assert [f.in_blocks for f in index.root.filters] == [True, True, False, True, True, False]
    assert [f.hashed for f in index.root.filters] == [False] * 5 + [True]
    assert any("'title' is not filterable" in note for note in notes) and not any("'price'" in note for note in notes)
    assert any("'code' has" in note and "$in" in note for note in notes)
    draw = Random(3)
    for _ in range(80):  # those of price by its projection alone
        value = random_filter(draw)
        if any(f'"{name}"' in json.dumps(value) for name in LISTS):
            continue
        match = np.array(matching(value, rows))
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
    found, wanted = [0, 0], [0, 0]  # without and with texts that few rows have, which only projections find all of
    for _ in range(150):
        value = random_filter(draw)
        match = np.array(matching(value, rows))
        query = Query(x[draw.randrange(ROWS)].tolist(), 10, filter=value)
        got = ask(index, query)
        ids = [int(m.id) for m in got.matches]
        assert match[ids].all() and len(set(ids)) == len(ids)
        assert not got.complete or len(ids) == min(10, match.sum()), (value, len(ids), match.sum())
        assert got.matched is not None and (not got.matched.exact or got.matched.rows == match.sum())
        rare = any(f"'{name}'" in str(value) for name in HASHED)
        found[rare] += len(ids)
        wanted[rare] += min(10, match.sum())
        plan = asyncio.run(index.explain([query]))[0]
        assert set(plan) >= {"projection", "weighed", "matched"}
    assert found[False] > 0.8 * wanted[False] and found[True] > 0.6 * wanted[True], (found, wanted)


@pytest.mark.usefixtures("blocks_apart")
def test_the_plan_of_a_build_is_near_what_it_writes(tmp_path: Path) -> None:
    x, rows = made_up(4)
    table = table_of(x, rows).append_column("title", pa.array([f"title {i}" * 30 for i in range(ROWS)]))
    pq.write_table(table, tmp_path / "rows.parquet")
    plans: list[Any] = []

    def made_with(filters: tuple[str, ...] | None) -> tuple[Report, list[str]]:
        notes: list[str] = []
        options = Options(0.8, 5, fast=True, filters=filters)
        context = BuildContext(tmp_path / "index", "cosine", options, note=notes.append, plan=plans.append)
        return build(open_source([tmp_path / "rows.parquet"]), context), notes

    for filters in (None, (*NAMES, "title")):
        report, notes = made_with(filters)
        assert plans.pop() == list(report.plan)
        assert [(one.name, not one.left_out) for one in report.plan] == [
            (one["name"], one["filter"] is not None) for one in report.attributes
        ]
        left_out = {one.name: one.left_out for one in report.plan if one.left_out}
        assert "does not compare" in left_out.pop("note")
        assert left_out.keys() == (set() if filters else {"tags", "refs", "title"})
        if not filters:
            assert "a list" in left_out["tags"] and left_out["title"].partition(";")[0] in "".join(notes)
        for one, own in zip(report.plan, report.attributes, strict=True):
            if own["filter"]:
                assert one.distinct == own["filter"]["distinct"]
                assert bool(one.blocks) == own["filter"]["in_blocks"]
                assert 0.3 < one.projection / own["filter"]["bytes"]["projection"] < 2
                assert 0.3 < one.root / own["filter"]["bytes"]["root"] < 3
    told = report.as_dict()
    assert told["plan"][0].keys() >= {"name", "blocks", "root", "projection", "left_out"}
    assert json.loads(json.dumps(told))["attributes"][0]["filter"]["kind"] == "text"


def test_a_filter_that_cannot_be_is_refused_before_the_work(tmp_path: Path) -> None:
    x, rows = made_up(4)
    table = table_of(x, rows).append_column("huge", pa.array([2**64 - 1] * ROWS, pa.uint64()))
    table = table.append_column("$and", table["year"])
    pq.write_table(table, tmp_path / "rows.parquet")
    for name, done in (("nope", set()), ("note", set()), ("$and", set()), ("huge", {"read"})):
        phases: list[str] = []
        progress = Progress(lambda phase, share: phases.append(phase))  # noqa: B023
        options = Options(0.8, 5, fast=True, filters=("lang", name))
        with pytest.raises((InputError, NotFoundError), match=re.escape(repr(name))):
            build(
                open_source([tmp_path / "rows.parquet"]), BuildContext(tmp_path / "index", "cosine", options, progress)
            )
        assert set(phases) == done


def test_types_and_names_as_people_have_them(tmp_path: Path) -> None:
    draw, count, zone = Random(2), 300, pa.timestamp("s", "Europe/Berlin")
    seconds = [draw.choice((None, 0, -86400, 1714557600)) for _ in range(count)]
    half = [draw.choice((0.1, -2.5, 65504.0)) for _ in range(count)]
    names = [draw.choice((None, "Straße", "STRASSE", "", "\U0001f600x", "日本")) for _ in range(count)]
    big = [draw.choice((None, 2**53 + 1, 2**53, -(2**63), 2**63 - 1)) for _ in range(count)]
    tags = [draw.choice((None, [], ["a", "a", None], ["", "b"], ["B"])) for _ in range(count)]
    x = np.random.default_rng(2).normal(size=(count, DIMENSION)).astype(np.float32)
    columns = {
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), DIMENSION),
        "a.b": pa.array(names).dictionary_encode(), "with space": pa.array(names, pa.large_string()),
        "Größe": pa.array(big, pa.int64()), "h": pa.array(np.array(half, np.float16)),
        "at": pa.array(seconds, zone), "tags": pa.array(tags, pa.list_(pa.string())),
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    options = Options(0.8, 5, fast=True, filters=("a.b", "with space", "Größe", "h", "at", "tags"))
    build(open_source([tmp_path / "rows.parquet"]), BuildContext(tmp_path / "index", "cosine", options))
    index = open_index(tmp_path / "index")
    for value, takes_row in (
        ({"a.b": "Straße"}, [v == "Straße" for v in names]),
        ({"with space": {"$prefix": "\U0001f600"}}, [v == "\U0001f600x" for v in names]),
        ({"a.b": {"$lte": ""}}, [v == "" for v in names]),
        ({"Größe": 2**53 + 1}, [v == 2**53 + 1 for v in big]),
        ({"Größe": {"$gt": float(2**53)}}, [v is not None and v > 2**53 for v in big]),
        ({"h": {"$in": [65504, 0.099975586]}}, [v != -2.5 for v in half]),
        ({"at": "2024-05-01T12:00:00+02:00"}, [v == 1714557600 for v in seconds]),
        ({"at": {"$lt": "1970-01-01"}}, [v == -86400 for v in seconds]),
        ({"tags": {"$all": ["b", ""]}}, [v == ["", "b"] for v in tags]),
        ({"tags": {"$exists": False}}, [not v for v in tags]),
    ):
        got = ask(index, Query(x[0].tolist(), count, filter=value))
        assert got.complete and {m.id for m in got.matches} == set(np.flatnonzero(takes_row).tolist()), value


@pytest.mark.parametrize("kind", ["time", "number"])
def test_a_key_that_is_no_value_is_damage(made: Made, kind: str) -> None:
    root = open_index(made[0]).root
    fields = [replace(f, high=(1 << 63) - 1) if f.kind == kind else f for f in root.filters]
    with pytest.raises(DamagedError, match=f"a {kind} of attribute . has key"):
        describe_attributes(replace(root, filters=tuple(fields)))


def test_long_texts_are_cut(made: Made) -> None:
    root = open_index(made[0]).root
    (long, *rest) = root.filters
    text = "é".encode() * 1000
    field = replace(long, ends=(0, len(text)), texts=text, distinct=1)
    told = describe_attributes(replace(root, filters=(field, *rest)))[0]["filter"]
    assert told["min"] == told["max"] == "é" * (CHARS_MAX - 1) + "…"


def test_the_command_line(made: Made) -> None:
    path, _, rows = made
    args = ["query", str(path), "--id", "3", "--top-k", "2", "--filter", '{"lang": "de"}', "--json"]
    done = CliRunner().invoke(app, args)
    body = json.loads(done.stdout)
    assert done.exit_code == 0 and all(rows[m["id"]]["lang"] == "de" for m in body["matches"]) and body["matched"]
    wrong = CliRunner().invoke(app, [*args[:-2], "{lang: de}"])
    assert wrong.exit_code != 0
    told = CliRunner().invoke(app, ["explain", *args[1:4], "--filter", '{"lang": "de"}']).output
    assert "the filter takes about" in told and "read by" in told
    assert re.search(r"recall estimate (0\.\d+|1)\b", told), told
    told = CliRunner().invoke(app, ["info", str(path)]).output
    assert "not filterable: note" in told and "what filters take" in told
    evaluated = json.loads(CliRunner().invoke(app, ["eval", *args[1:4], "--k", "5", *args[6:]]).stdout)
    assert evaluated["matched"] == sum(row["lang"] == "de" for row in rows) and evaluated["recall"] > 0


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
    monkeypatch.setattr(paged, "WRESERVE_BYTES", 600)
    monkeypatch.setattr(paged, "PAGES_BYTES_MAX", 1 << 20)
    draw, recalls = Random(12), []
    for _ in range(150):
        value, q = random_filter(draw), x[draw.randrange(ROWS)]
        match = np.array(matching(value, rows))
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
