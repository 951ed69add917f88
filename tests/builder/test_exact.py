"""Exact answers: the same as reading everything, proven, within the budget; and the bounds that prove them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import clustered

from build_index.bucket.open import open_index
from build_index.build import build
from build_index.cli.main import main
from build_index.context import BuildContext
from build_index.ingest.open import open_source
from build_index.serve import ROOT
from build_index.tune.options import Options
from vantage.cost import Budget
from vantage.errors import DamagedError, InputError
from vantage.format import NORMS_PLANE, Directory, norms_of, open_block, pack_norms
from vantage.http.bodies import describe
from vantage.index import Index
from vantage.read.bucket import Folder
from vantage.search import exact
from vantage.search.exact import BoundedScan
from vantage.search.plan import plan_extents, range_of
from vantage.search.prepare import prepare
from vantage.search.query import Answer, Query
from vantage.search.rank import exact_score

LARGE = 1 << 30
KINDS = ["cosine", "l2", "dot"]


def source(kind: str) -> tuple[np.ndarray, pa.DataType]:
    """(N, d) rows of the test of a metric, and how their values are stored."""
    if kind == "cosine":
        table = pq.read_table(ROOT / "sample" / "wordnet.parquet", columns=["vector"])
        x = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)[::8, :64]
        return x.astype(np.float32), pa.float32()
    if kind == "l2":
        return np.clip(np.rint(128 + 24 * clustered(1200, 24, 1)), 0, 255), pa.uint8()
    return clustered(900, 33, 2) * np.random.default_rng(3).uniform(0.5, 2, (900, 1)), pa.float16()


@pytest.fixture(scope="module")
def proofs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index a metric, with error norms, copies of rows, and every tenth row twice."""
    folder, scratch = tmp_path_factory.mktemp("proofs"), tmp_path_factory.mktemp("source")
    for kind in KINDS:
        x, values = source(kind)
        x = np.concatenate([x, x[::10]])
        flat = pa.array(x.ravel().astype(values.to_pandas_dtype()), values)
        pq.write_table(
            pa.table({"vector": pa.FixedSizeListArray.from_arrays(flat, x.shape[1])}), scratch / f"{kind}.parquet"
        )
        options = Options(0.9, 10, copies_share=0.35, fast=True, error_norms=True)
        with patch("build_index.tune.renditions.INLINE_BYTES", 0):  # so that there are blocks to read
            build(open_source([scratch / f"{kind}.parquet"]), BuildContext(folder / kind, kind, options))
    return folder


@pytest.fixture(params=KINDS)
def index(request: pytest.FixtureRequest, proofs: Path) -> Index:
    return open_index(proofs / request.param, LARGE)


def queries(index: Index) -> list[list[float]]:
    """Some near rows, and far from them: a multiple, a sum of two, noise, the opposite."""
    x = source(index.root.index.metric)[0].astype(np.float32)
    noise = np.random.default_rng(5).normal(size=x.shape[1]) * np.abs(x).max()
    return [q.tolist() for q in (*x[3:40:9] * 1.01, 20 * x[50], x[60] + x[300], noise.astype(np.float32), -x[70])]


def stored(index: Index) -> list[bytes]:
    """All full vectors, by row number."""
    read = asyncio.run(_every(index))
    return [read[row] for row in range(index.root.index.rows)]


async def _every(index: Index) -> dict[int, bytes]:
    from vantage.read.reader import Reader
    from vantage.read.waves import run_together
    from vantage.receipt import Receipt

    scan = scan_all(index, [1.0] * index.root.index.dimension)
    checks = {c.row: c.check for c in scan.contenders(scan.capacity)}
    steps = index.segment.rows.vectors(checks, Budget(1000, LARGE, 5))
    [found] = await run_together([(steps, Receipt())], Reader(index.bucket, {}, Receipt()))
    return found


def resident(index: Index) -> Directory:
    """Of all blocks, each of one extent."""
    directory = index.segment.resident
    assert directory is not None and directory.single
    return directory


def block_bytes(index: Index, b: int) -> bytes:
    r = range_of(resident(index), 0, b, b + 1)
    assert isinstance(index.bucket, Folder)
    return (index.bucket.path / index.segment.keys[r.object]).read_bytes()[r.offset : r.offset + r.size]


def scan_all(index: Index, vector: list[float]) -> BoundedScan:
    rows = index.root.index.rows
    scan = BoundedScan(index.root, resident(index), prepare(vector, index.root.index), rows, rows)
    for b in range(index.root.index.blocks):
        scan.block(b, block_bytes(index, b), keep=True)
    return scan


def ask(index: Index, vector: list[float], top_k: int = 10, **options: Any) -> Answer:
    return asyncio.run(index.query(Query(vector, top_k, exact=True, **options)))


def best(index: Index, vectors: list[bytes], vector: list[float], top_k: int) -> list[tuple[int, float]]:
    """(row, exact score) of all rows, best first."""
    query, sign = prepare(vector, index.root.index), 1 if index.root.index.metric == "l2" else -1
    scored = [(row, exact_score(v, query, index.root.index)) for row, v in enumerate(vectors)]
    return sorted(scored, key=lambda r: (sign * r[1], r[0]))[:top_k]


def test_answers_are_the_best_of_all_rows(index: Index) -> None:
    vectors = stored(index)
    for vector in queries(index):
        for top_k in (1, 10, 100):
            answer = ask(index, vector, top_k)
            assert [(m.row, m.score) for m in answer.matches] == best(index, vectors, vector, top_k)
            assert answer.complete and answer.exact and answer.recall_estimate == 1.0
            told = answer.receipt.proof
            assert told is not None and told["proven"]
            assert told["vectors_read"] + told["rows_excluded"] == index.root.index.rows
            assert told["blocks_scanned"] + told["blocks_excluded"] == index.root.index.blocks
            assert top_k <= told["vectors_read"] == answer.receipt.rows_ranked
    assert told["vectors_read"] < index.root.index.rows / 2


def test_every_score_is_inside_of_its_interval_and_under_its_ceiling(index: Index) -> None:
    root, vectors = index.root, stored(index)
    x = np.array([np.frombuffer(v, {"f16": "<f2", "f32": "<f4", "u8": "u1"}[root.index.vector_kind]) for v in vectors])
    x = x.astype(np.float64)
    x = x - np.asarray(root.index.origin) if root.index.metric == "l2" else x
    x = x / np.linalg.norm(x, axis=1, keepdims=True) if root.index.metric == "cosine" else x * root.index.row_scale
    for vector in queries(index):
        scan = scan_all(index, vector)
        true = x @ np.array(scan.query.vector, np.float64)
        if root.index.metric == "l2":
            true -= (x * x).sum(1) / 2
        true *= scan.query.unit
        low = {row: score for score, row, _, _ in exact.pool_entries(scan.lowest, scan.most)}
        high = {row: score for score, row, _, _ in exact.pool_entries(scan.highest, scan.maybe)}
        assert len(low) == len(high) == root.index.rows
        ceilings = scan.ceilings()
        for row, score in enumerate(true):
            assert low[row] <= score <= high[row]
        for b in range(root.index.blocks):
            data, extent = block_bytes(index, b), resident(index).extent(b, 0)
            code_bytes, dimension = root.codec.code_bytes, root.index.dimension
            at = open_block(data, extent.rows, extent.size, code_bytes, dimension, root.index.by_row, "block").at
            rows = np.frombuffer(data, "<u4", at.n, at.rows)
            assert true[rows].max() <= ceilings[b]


@pytest.mark.parametrize("way", ["two-level", "two-level-ecvh", "inline"])
def test_answers_are_proven_wherever_blocks_are_named(way: str, tmp_path: Path) -> None:
    """With pages of a router, cold and warm, and with blocks in the root: the best of all rows, with attributes."""
    x = clustered(1200, 24, 1).astype(np.float32)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 24)
    table = pa.table({"id": list(range(len(x))), "vector": flat, "note": [f"n{i}" for i in range(len(x))]})
    pq.write_table(table, tmp_path / "rows.parquet")
    options = Options(0.9, 10, fast=True, error_norms=True, router=None if way == "inline" else way)
    with patch("build_index.tune.renditions.INLINE_BYTES", (1 << 20) * (way == "inline")):
        build(open_source([tmp_path / "rows.parquet"]), BuildContext(tmp_path / "index", "cosine", options))
    index = open_index(tmp_path / "index", LARGE)
    assert bool(index.root.inline) == (way == "inline") and index.root.directory is not None
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for turn in range(2):
        for at in (3, 500, 900):
            answer = ask(index, (x[at] + 0.1).tolist(), attributes=True)
            query = (x[at] + np.float32(0.1)).astype(np.float64)
            truth = np.argsort(-(unit @ query), kind="stable")[:10].tolist()
            assert answer.complete and [m.id for m in answer.matches] == truth, (turn, at)
            assert [m.attributes for m in answer.matches] == [{"note": f"n{i}"} for i in truth]
            asyncio.run(index.query(Query((x[at] + 0.1).tolist())))  # pages are in memory from then on


def test_there_is_no_plan_to_explain(index: Index) -> None:
    with pytest.raises(InputError, match="leave exact or explain out"):
        asyncio.run(index.explain([Query([1.0] * index.root.index.dimension, exact=True)]))


def test_early_exit_changes_nothing(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    early = [ask(index, q) for q in queries(index)]
    prove = exact.prove
    monkeypatch.setattr("vantage.search.exact.prove", lambda *args: prove(*args, early=False))
    for answer, vector in zip(early, queries(index), strict=True):
        late = ask(index, vector)
        assert late.complete and late.matches == answer.matches
        assert late.receipt.proof["blocks_scanned"] == index.root.index.blocks  # type: ignore[index]


def test_far_blocks_are_not_scanned(proofs: Path) -> None:
    index = open_index(proofs / "l2", LARGE)
    told = [ask(index, q, 1).receipt.proof for q in queries(index)]
    assert max(t["blocks_excluded"] for t in told if t) > 0


def test_the_query_itself_is_left_out(index: Index) -> None:
    vectors = stored(index)
    answer = ask(index, queries(index)[0], 10, without=3)
    assert [(m.row, m.score) for m in answer.matches] == [
        (row, score) for row, score in best(index, vectors, queries(index)[0], 11) if row != 3
    ][:10]
    assert answer.complete


@pytest.mark.parametrize(
    "budget", [Budget(0), Budget(2), Budget(waves=1), Budget(waves=3), Budget(bytes=1 << 14), Budget(bytes=1 << 17)]
)
def test_a_budget_holds_and_is_told(proofs: Path, budget: Budget) -> None:
    index = open_index(proofs / "cosine")
    for vector in queries(index):
        answer = ask(index, vector, budget=budget)
        receipt = answer.receipt
        assert receipt.gets <= budget.gets and receipt.bytes <= budget.bytes and receipt.waves <= budget.waves
        assert receipt.proof is not None and answer.complete == receipt.proof["proven"]
        if answer.complete:
            assert answer.matches == ask(index, vector).matches
    assert not ask(index, queries(index)[0], budget=Budget(0)).complete


def test_too_many_rows_that_might_be_answers_are_not_proven(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "MAYBE_MAX", 10)
    answers = [ask(index, q) for q in queries(index)]
    assert not all(a.complete for a in answers)


def test_what_cannot_be_asked(index: Index) -> None:
    vector = queries(index)[0]
    for options in ({"rerank": 20}, {"recall": 0.9}):
        with pytest.raises(InputError, match="needs no recall and no rerank"):
            ask(index, vector, **options)
    without = open_index(ROOT / "tests" / "fixtures" / "words")
    with pytest.raises(InputError, match="build the index with --error-norms"):
        ask(without, [1.0] * 16)
    assert describe(index)["exact"] and not describe(without)["exact"]


def test_damaged_norms_are_refused(index: Index) -> None:
    root, directory = index.root, resident(index)
    scan = BoundedScan(root, directory, prepare(queries(index)[0], root.index), 10, 10)
    whole = block_bytes(index, 0)
    extent = directory.extent(0, 0)
    opened = open_block(
        whole, extent.rows, extent.size, root.codec.code_bytes, root.index.dimension, root.index.by_row, "block"
    )
    [plane] = opened.planes
    assert plane.kind == NORMS_PLANE
    for at, value, what in (
        (plane.offset, b"\0\0\x80\x7f", "error norms are not finite"),
        (48, b"\x63", f"has no plane {NORMS_PLANE}"), (48 + 8, b"\x01\0", "error norms of 1 bytes"),
    ):  # fmt: skip
        data = bytearray(whole)
        data[at : at + len(value)] = value
        with pytest.raises(DamagedError, match=what):
            scan.block(0, bytes(data), keep=False)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.binary(min_size=1, max_size=50), st.floats(0, 1e9, width=32))
def test_norms_come_back(norms: bytes, step: float) -> None:
    plane = pack_norms(step, 1.5, 0.25, norms)
    found = norms_of(plane, len(norms), "block")
    assert (found.step, found.slack, found.spread, bytes(found.norms)) == (step, 1.5, 0.25, norms)
    for size in (len(plane) - 1, len(plane) + 1):
        with pytest.raises(DamagedError, match="error norms of"):
            norms_of((plane + b"\0")[:size], len(norms), "block")


def test_blocks_are_read_as_far_as_the_budget_goes(index: Index) -> None:
    directory, flags = resident(index), bytearray(index.root.index.blocks)
    wanted = list(range(index.root.index.blocks))[::-1]
    whole = plan_extents(directory, 0, wanted, flags, Budget())
    assert whole.complete and sum(r.last - r.first for r in whole.ranges) == len(wanted)
    some = plan_extents(directory, 0, wanted, flags, replace(Budget(), bytes=whole.bytes // 2))
    assert not some.complete and 0 < some.bytes <= whole.bytes // 2
    assert some.ranges[-1].last == len(wanted)  # the most wanted
    assert plan_extents(directory, 0, wanted, flags, Budget(waves=0)).ranges == []


def test_the_command_says_what_is_proven(
    proofs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ([], ["--json"]):
        monkeypatch.setattr("sys.argv", ["vantage", "query", str(proofs / "l2"), "--id", "7", "--exact", *options])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
    text, line = capsys.readouterr().out.rsplit("\n", 2)[:2]
    assert "proven: " in text and "vectors read" in text
    told = json.loads(line)
    assert told["complete"] and told["scores"] == "exact" and told["receipt"]["proof"]["proven"]
