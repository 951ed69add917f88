"""Promises under filters: measured as an index is built, kept by queries that served nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from build_index.bucket.open import open_index
from build_index.build import build
from build_index.cli.main import app
from build_index.context import BuildContext
from build_index.filters.columns import Column
from build_index.filters.suite import make_suite, nearest_taken, rows_taken
from build_index.ingest.open import open_source
from build_index.tune import renditions
from build_index.tune.options import Options
from vantage.filter.parse import parse_filter
from vantage.filter.program import resolve
from vantage.format import FilterField
from vantage.search.query import Query

ROWS, DIMENSION, CLUSTERS = 6000, 16, 40


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, np.ndarray]]:
    """An index of clusters, with an attribute that follows them and others that do not; and queries."""
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(CLUSTERS, DIMENSION))
    of = rng.integers(CLUSTERS, size=ROWS + 50)
    x = (centres[of] + 0.6 * rng.normal(size=(ROWS + 50, DIMENSION))).astype(np.float32)
    table = pa.table({
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(x[:ROWS].ravel()), DIMENSION),
        "topic": pa.array([f"t{v}" for v in of[:ROWS]]),
        "half": pa.array([f"h{v}" for v in rng.integers(0, 2, ROWS)]),
        "tenth": pa.array([f"x{v}" for v in rng.integers(0, 10, ROWS)]),
        "number": pa.array(rng.permutation(ROWS)),
    })  # fmt: skip
    folder = tmp_path_factory.mktemp("calibrated")
    pq.write_table(table, folder / "rows.parquet")
    with patch.object(renditions, "INLINE_BYTES", 0):
        build(open_source([folder / "rows.parquet"]), BuildContext(folder / "index", "l2", Options(fast=True)))
    yield folder, x[ROWS:]


def test_a_build_says_what_filters_cost(made: tuple[Path, np.ndarray]) -> None:
    index = open_index(made[0] / "index")
    promises = index.root.filter_promises
    assert {(p.by_chunks, p.k) for p in promises} >= {(False, 10), (False, 100)}
    for p in promises:
        assert p.recall <= p.aim <= p.ceiling <= 1 and p.nbytes > 0
    manifest = json.loads((made[0] / "index" / index.current.manifest.key).read_text())["filters"]
    assert len(manifest["promises"]) == len(promises)
    assert {line["filter"] for line in manifest["report"]} >= {"value 50%", "range 10%", "own value", "far value"}
    assert all(line["recall"] >= 0.93 for line in manifest["report"] if line["k"] == 100)


def test_queries_that_served_nothing_keep_it(made: tuple[Path, np.ndarray]) -> None:
    """Each family within three points of the promise, as 50 queries tell, and the estimate as near to what was."""
    folder, queries = made
    np.save(folder / "queries.npy", queries)
    told = CliRunner().invoke(
        app, ["eval", str(folder / "index"), "--queries", str(folder / "queries.npy"), "--filters", "--json"]
    )
    assert told.exit_code == 0, told.output
    lines = json.loads(told.stdout)["filters"]
    assert len(lines) >= 8
    for line in lines:
        assert line["recall"] >= 0.92 and line["waves"] <= 1.2, line
        assert abs(line["recall_estimate"] - line["recall"]) < 0.04, line


def test_pictures_and_tables(made: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    folder, queries = made
    np.save(tmp_path / "queries.npy", queries[:6])
    given = ["eval", str(folder / "index"), "--queries", str(tmp_path / "queries.npy"), "--filters"]
    told = CliRunner().invoke(app, [*given, "--svg", str(tmp_path / "filters.svg"), "--k", "10"])
    assert told.exit_code == 0 and "far value" in told.stdout
    assert (tmp_path / "filters.svg").read_text().startswith("<svg")
    for wrong in (["--curve"], ["--rerank", "20"], ["--filter", "{}"]):
        assert CliRunner().invoke(app, [*given, *wrong]).exit_code != 0


def test_more_recall_reads_more(made: tuple[Path, np.ndarray]) -> None:
    folder, queries = made
    index, filters = open_index(folder / "index"), {"half": "h1"}
    nbytes = [0, 0]
    for vector in queries[:20].tolist():
        for i, recall in enumerate((0.8, 0.97)):
            answer = asyncio.run(index.query(Query(vector, 100, recall, filter=filters)))
            nbytes[i] += answer.receipt.bytes
            assert answer.recall_estimate is not None and answer.complete
    assert nbytes[0] < nbytes[1]


def column(values: list[list[int]], name: str, place: int) -> Column:
    keys = np.array([row[0] if row else 0 for row in values], np.int64)
    counts = np.array([len(row) for row in values], np.uint8)
    known = keys[counts > 0]
    rows, distinct = len(known), len(np.unique(known))
    field = FilterField(place, "integer", False, True, rows, distinct, int(known.min()), int(known.max()))
    return Column(name, field, keys, counts, None)


@pytest.mark.parametrize("seed", range(4))
def test_suites_take_the_rows_that_plain_python_takes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = [[int(v)] if rng.random() < 0.9 else [] for v in rng.integers(0, 12, 800)]
    b = [[int(v)] for v in rng.permutation(800)]
    columns = [column(a, "a", 0), column(b, "b", 1)]
    x = rng.normal(size=(800, 8)).astype(np.float32)
    queries = x[:5]
    near = np.argsort(-(queries @ x.T), axis=1)[:, 1:201].astype(np.int32)
    suite = make_suite(columns, near, 800, seed)
    assert {case.family for case in suite} >= {"value 10%", "range 10%", "range 1%", "own value", "far value"}
    fields = [c.field for c in columns]
    nodes = [resolve(parse_filter(case.filter, fields, ["a", "b"]), fields) for case in suite]  # type: ignore[arg-type]
    chunks = [(low, x[low : low + 300]) for low in range(0, 800, 300)]
    best, counts = nearest_taken(chunks, queries, "dot", np.arange(5), suite, nodes, columns, 20)
    for case, node, (rows, _), count in zip(suite, nodes, best, counts.tolist(), strict=True):

        def takes(value: list[int], condition: object) -> bool:
            if not isinstance(condition, dict):
                return value == [condition]
            if "$ne" in condition:
                return value != [condition["$ne"]]
            return bool(value) and condition["$gte"] <= value[0] <= condition["$lte"]

        own = {"a": a, "b": b}
        mask = np.array([all(takes(own[n][i], c) for n, c in case.filter.items()) for i in range(800)])
        assert (rows_taken(node, columns, 0, 800) == mask).all()
        mask[case.query] = False
        assert count == mask.sum()
        scores = np.where(mask, queries[case.query] @ x.T, -np.inf)
        want = np.argsort(-scores, kind="stable")[: min(20, count)]
        assert rows[: len(want)].tolist() == want.tolist()
