"""vantage eval: its keys, its truth, its cache and what it counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from doubles import Built

from build_index.bucket.open import open_index
from build_index.evaluate.evaluate import compute_truth, evaluate
from build_index.evaluate.stored import source_rows
from build_index.ingest.queries import Queries, read_queries
from vantage.errors import InputError, LimitError, NotFoundError
from vantage.search.query import Query

KEYS = [
    "index",
    "rows",
    "dimension",
    "metric",
    "queries",
    "k",
    "recall",
    "target",
    "gets",
    "bytes",
    "waves",
    "blocks",
    "scan_cost",
    "rows_ranked",
    "cpu_ms_p50",
    "cpu_ms_p99",
    "modelled_ms_p50",
    "modelled_ms_p99",
    "resident_bytes",
    "heap_bytes",
    "incomplete",
]
NAMES = ("words", "points", "dots")


@pytest.fixture(params=NAMES)
def built(request: pytest.FixtureRequest) -> Built:
    found: Built = request.getfixturevalue(request.param)
    return found


def path(built: Built) -> Path:
    return built.bucket / built.name


def nearest(built: Built, k: int) -> np.ndarray:
    """i32 (Q, k): source rows of the exact neighbours."""
    sign = 1 if built.metric == "l2" else -1
    order = [np.argsort(sign * built.scores(q), kind="stable")[:k] for q in built.queries]
    return np.array(order, np.int32)


def without_times(result: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in result.items() if not name.startswith("cpu_")}


def test_keys(built: Built) -> None:
    result = evaluate(path(built), Queries(built.queries, None))
    assert list(result) == KEYS
    assert (result["index"], result["metric"], result["queries"]) == (built.name, built.metric, len(built.queries))
    assert (result["rows"], result["dimension"]) == built.vectors.shape
    assert (result["k"], result["target"], result["heap_bytes"]) == (10, 0.9, None)
    assert result["resident_bytes"] == open_index(path(built)).current.root.size


def test_counts_and_recall(built: Built) -> None:
    result = evaluate(path(built), Queries(built.queries, None))
    assert 0.85 <= result["recall"] <= 1  # 60 queries of a contract of 0.9
    assert 0 < result["gets"] <= 6 and result["waves"] == 1 and result["incomplete"] == 0
    assert 40 < result["modelled_ms_p50"] <= result["modelled_ms_p99"]
    assert 0 < result["cpu_ms_p50"] <= result["cpu_ms_p99"]
    assert 0 < result["scan_cost"] <= 1.4
    assert 0 < result["blocks"] <= open_index(path(built)).root.index.blocks
    assert result["rows_ranked"] == 0


def test_neighbours_of_the_file_and_computed_ones_agree(built: Built, tmp_path: Path) -> None:
    flat = pa.array(built.queries.ravel())
    table = pa.table({
        "vector": pa.FixedSizeListArray.from_arrays(flat, built.queries.shape[1]),
        "neighbors": pa.array(nearest(built, 30).tolist(), pa.list_(pa.int32(), 30)),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "q.parquet")
    np.save(tmp_path / "q.npy", built.queries)
    told, bare = read_queries(tmp_path / "q.parquet", None), read_queries(tmp_path / "q.npy", None)
    assert told.neighbors is not None and bare.neighbors is None
    assert (told.neighbors == nearest(built, 30)).all() and (told.vectors == bare.vectors).all()
    computed = compute_truth(path(built), open_index(path(built)), bare.vectors, 30)
    same = np.mean([len(np.intersect1d(a, b)) / 30 for a, b in zip(computed, told.neighbors, strict=True)])
    assert same > 0.999  # equal distances, and f32 against f64
    assert evaluate(path(built), told)["recall"] == pytest.approx(evaluate(path(built), bare)["recall"], abs=0.002)


def test_rows_are_those_of_the_source(built: Built) -> None:
    index = open_index(path(built))
    found = source_rows(path(built), index)
    assert sorted(found) == list(range(len(built.vectors)))
    assert (nearest(built, 1)[:, 0] == compute_truth(path(built), index, built.queries, 1)[:, 0]).mean() > 0.99


def test_rows_in_the_index_are_found_first(built: Built) -> None:
    """A stored row as the query is its own nearest neighbour, under cosine and l2; asked for the most that is promised.

    At the target a plan may be one block, and a row near the edge of its own may be looked for in the next.
    """
    if built.metric == "dot":
        return
    rows = np.arange(5, len(built.vectors), 97)
    asked, stop = Queries(built.vectors[rows], rows[:, None].astype(np.int32)), open_index(path(built)).root.promises
    assert stop is not None
    result = evaluate(path(built), asked, k=1, recall=stop.by_recall[-1].recall)
    assert result["recall"] > 0.98


def test_each_k_asks_for_as_many_answers(built: Built) -> None:
    """One answer has a promise of its own, and reads by it; a k over the contract's asks for more."""
    ten, one = (evaluate(path(built), Queries(built.queries, None), k=k) for k in (10, 1))
    own = open_index(path(built)).segment.promise(Query(built.queries[0].tolist(), 1))
    assert one["k"] == 1 and own.nbytes == pytest.approx(one["bytes"], rel=0.35)
    assert one["bytes"] < 1.3 * ten["bytes"]  # to be as sure of one answer takes some more
    assert 0.75 <= one["recall"] <= 1
    more = evaluate(path(built), Queries(built.queries, None), k=40)
    assert more["k"] == 40 and 0.3 < more["recall"] <= 1 and more["bytes"] >= ten["bytes"]


def test_warm_reads_nothing(built: Built) -> None:
    queries = Queries(built.queries, None)
    cold, warm = evaluate(path(built), queries), evaluate(path(built), queries, cache_bytes=64 << 20, warm=True)
    assert (warm["gets"], warm["bytes"], warm["waves"], warm["modelled_ms_p99"]) == (0, 0, 0, 0)
    assert warm["recall"] >= cold["recall"] - 1e-9
    passes = evaluate(path(built), queries, warm=True)  # no cache: a first pass changes nothing
    assert without_times(passes) == without_times(cold)
    once = evaluate(path(built), queries, cache_bytes=64 << 20)
    assert 0 < once["bytes"] < cold["bytes"]


def test_rerank_reads_full_vectors(built: Built) -> None:
    queries = Queries(built.queries, None)
    plain, exact = evaluate(path(built), queries), evaluate(path(built), queries, rerank=50)
    assert 10 <= exact["rows_ranked"] <= 50 and exact["waves"] == 2
    assert exact["recall"] >= plain["recall"] - 0.01


def test_recall_asked_of_each_query(built: Built) -> None:
    queries = Queries(built.queries, None)
    low, high = (evaluate(path(built), queries, recall=r) for r in (0.7, 0.93))
    assert (low["target"], high["target"]) == (0.7, 0.93)
    assert low["bytes"] <= 1.2 * high["bytes"]  # the edge lowers a price that buys too few rows, by halves
    assert low["recall"] >= 0.6 and high["recall"] >= 0.88  # 60 queries: three deviations of their mean
    with pytest.raises(LimitError, match="recall is 0.9999"):
        evaluate(path(built), queries, recall=0.9999)


def test_limit(points: Built, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", points.queries)
    assert len(read_queries(tmp_path / "q.npy", 7).vectors) == 7
    assert len(read_queries(tmp_path / "q.npy", 1000).vectors) == len(points.queries)


def test_neighbours_that_are_too_few_are_computed(points: Built) -> None:
    """As for k = 1,000, where a file of queries has a hundred each."""
    few, none = (evaluate(path(points), Queries(points.queries, near)) for near in (nearest(points, 3), None))
    assert without_times(few) == without_times(none)
    many = evaluate(path(points), Queries(points.queries, nearest(points, 3)), k=1000)
    assert many["k"] == 1000 and many["recall"] >= 0.85 and many["scan_cost"] > 2 * few["scan_cost"]


def test_refusals(points: Built, tmp_path: Path) -> None:
    three = Queries(points.queries, nearest(points, 3))
    with pytest.raises(InputError, match="the length of the queries is 5, the limit is 24"):
        evaluate(path(points), Queries(points.queries[:, :5], None))
    with pytest.raises(InputError, match="--k is -1"):
        evaluate(path(points), Queries(points.queries, None), k=-1)
    with pytest.raises(InputError, match="no quer"):
        evaluate(path(points), Queries(points.queries[:0], None))
    with pytest.raises(NotFoundError, match="nowhere"):
        evaluate(points.bucket / "nowhere", three)
    with pytest.raises(InputError, match="no such file"):
        read_queries(tmp_path / "none.npy", None)


def test_some_queries_are_spread_over_the_file() -> None:
    x = np.arange(100, dtype=np.float32)[:, None]
    some = Queries(x, x.astype(np.int32)).spread(10)
    assert some.neighbors is not None and (some.vectors == some.neighbors).all()
    assert len(some.vectors) == 10 and some.vectors[[0, -1], 0].tolist() == [0, 99]
    assert (np.diff(some.vectors[:, 0]) >= 10).all()
    assert len(Queries(x, None).spread(500).vectors) == 100
    assert not len(Queries(x[:0], None).spread(5).vectors)
