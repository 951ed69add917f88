"""Rows that score alike: any of them is right, in truth, promises and eval; and what is measured stays as strict."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from doubles import Built
from hypothesis import given
from hypothesis import strategies as st
from small import RowsOf, clustered

from build_index import VectorIndex
from build_index.bucket.open import open_index
from build_index.evaluate.evaluate import check_truth, evaluate, gather_vectors, right_answers, source_rows
from build_index.ingest.queries import Queries, read_queries
from build_index.neighbours import truth
from build_index.neighbours.exact import exact_scores
from build_index.neighbours.truth import ranks, right, tied, ties, truth_of, untied
from build_index.simulate.measure import judge
from vantage.errors import InputError, LimitError

K = 5


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.data())
def test_right_is_the_best_of_all_ways_to_break_ties(scores: list[int], data: st.DataObject) -> None:
    """Against all choices of k rows of the best scores."""
    order = np.argsort(-np.array(scores), kind="stable")
    k = data.draw(st.integers(1, len(scores)))
    answer = data.draw(st.permutations(range(len(scores))))[: data.draw(st.integers(0, k))]
    best = sorted(scores, reverse=True)[:k]
    wanted = [
        set(c) for c in combinations(range(len(scores)), k) if sorted((scores[i] for i in c), reverse=True) == best
    ]
    better = tied(np.array([sorted(scores, reverse=True)], float), np.zeros((1, len(scores))))
    answered = np.full((1, k), -1, np.int32)
    answered[0, : len(answer)] = answer
    place = ranks(answered, order[None].astype(np.int32), better)
    assert right(place, better[:, :k], k).tolist() == [max(len(c & set(answer)) for c in wanted)]


def test_ties_do_not_make_up_for_better_rows() -> None:
    """Three rows are better, the others tie: answers of ties alone are right where ties have room."""
    better = np.array([[0, 1, 2, 3, 3]], np.int32)
    assert right(np.array([[3, 3, 3, 3, 3]], np.int32), better, 5).tolist() == [2]
    assert right(np.array([[0, 3, 3, 3, 3]], np.int32), better, 5).tolist() == [3]
    assert right(np.array([[2, 1, 3, 0, 3]], np.int32), better, 5).tolist() == [5]
    assert right(np.array([[3, 3, 3, 3, 3]], np.int32), better, 3).tolist() == [0]
    assert right(np.array([[-1, -1, -1, -1, -1]], np.int32), better, 5).tolist() == [0]


def sets() -> dict[str, np.ndarray]:
    """Many equal rows, in several ways; each set has its own."""
    draw = np.random.default_rng(0)
    x = clustered(600, 12, 3)
    some = x.copy()
    some[:180] = some[0]
    holes = x.copy()
    holes[draw.choice(600, 60, replace=False)] = 0
    return {
        "a third equal": some, "zero rows": holes, "all equal": np.tile(x[:1], (300, 1)),
        "two values": x[draw.integers(2, size=300)], "each twice": np.repeat(x[:300], 2, axis=0),
        "bits": draw.integers(0, 2, (600, 24)).astype(np.float32),
        "small bytes": draw.integers(0, 4, (600, 12)).astype(np.uint8),
    }  # fmt: skip


SETS = sets()


@pytest.mark.parametrize("metric", ["l2", "dot", "cosine"])
@pytest.mark.parametrize("name", [n for n in SETS if n != "zero rows"])
def test_truth_knows_what_ties(rows_of: RowsOf, name: str, metric: str) -> None:
    """Every row that scores as the k-th or better has a place, no other has, by scores in whole numbers or float64."""
    x = SETS[name] + SETS[name].dtype.type(name == "bits")  # no zero row under cosine
    if metric == "cosine":
        x = x[x.any(1)]
    rows, held = rows_of(x, metric, None), np.arange(0, len(x), 29)
    found = truth_of(rows, held, K)
    q, wide = x[held].astype(np.float64), x.astype(np.float64)
    score = -((wide - q[:, None]) ** 2).sum(2) if metric == "l2" else q @ wide.T
    if metric == "cosine":
        score /= np.linalg.norm(wide, axis=1) * np.linalg.norm(q, axis=1)[:, None]
    score[np.arange(len(held)), held] = -np.inf
    last = -np.sort(-score, axis=1)[:, K - 1]
    every = np.tile(np.arange(len(x), dtype=np.int32), (len(held), 1))
    every[np.arange(len(held)), held] = found.rows[:, 0]
    at_least = np.take_along_axis(score, every.astype(np.int64), 1) >= last[:, None] - 1e-9 * np.abs(last[:, None])
    place = ranks(every, found.rows, found.better)
    assert ((place >= 0) | ties(rows, held, every, found.last) == at_least).all()
    assert (found.more == (at_least & (place < 0)).any(1)).all()
    assert (
        np.take_along_axis(score, found.rows.astype(np.int64), 1) >= last[:, None] - 1e-9 * np.abs(last[:, None])
    ).all()


def test_truth_of_rows_far_from_the_origin_is_exact(rows_of: RowsOf) -> None:
    """Where float32 sums of squares lose the order, scores of the rows themselves tell it."""
    x = (clustered(400, 8, 1) + 300).astype(np.float32)
    rows, held = rows_of(x, "l2", None), np.arange(0, 400, 10)
    far = ((x[held, None].astype(np.float64) - x) ** 2).sum(2)
    far[np.arange(len(held)), held] = np.inf
    assert (truth_of(rows, held, 3).rows == np.argsort(far, axis=1)[:, :3]).all()


def test_an_own_row_is_left_out_and_its_copy_stays(rows_of: RowsOf) -> None:
    rows = rows_of(SETS["each twice"], "l2", None)
    found = truth_of(rows, np.arange(600), 1)
    assert (found.rows[:, 0] == (np.arange(600) ^ 1)).all() and not found.more.any()


@pytest.mark.parametrize("name", SETS)
def test_sets_with_ties_keep_a_recall(name: str, tmp_path: Path) -> None:
    """They build, and eval with computed truth, with a file's and with another choice of ties measures what is kept."""
    metric = "l2" if name in ("bits", "small bytes") else "dot" if name == "zero rows" else "cosine"
    x = SETS[name]
    made = VectorIndex(metric=metric, recall=0.9, k=K, fast=True, seed=1).fit(x)
    assert made.recall_ >= 0.9
    path = tmp_path / "bucket" / "ties"
    made.save(path)
    queries = x[:: max(1, len(x) // 60)].astype(np.float32)
    measured = evaluate(path, Queries(queries, None))["recall"]
    assert measured > 0.83  # of 60 queries
    q, wide = queries.astype(np.float64), x.astype(np.float64)
    if metric == "cosine":
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    score = q @ wide.T if metric != "l2" else -((wide - q[:, None]) ** 2).sum(2)
    for shuffle in (1, -1):  # the lowest row numbers among equals, and the highest
        order = np.argsort(-np.round(score, 6)[:, ::shuffle], axis=1, kind="stable")[:, :K]
        named = (order if shuffle == 1 else len(x) - 1 - order).astype(np.int32)
        assert evaluate(path, Queries(queries, named))["recall"] == pytest.approx(measured, abs=0.02)


def test_eval_counts_wrong_answers_as_wrong(points: Built) -> None:
    """By row or by score: answers that are worse than the k-th are never right."""
    path = points.bucket / points.name
    index = open_index(path)
    near = np.array([np.argsort(points.scores(q), kind="stable")[:40] for q in points.queries], np.int32)
    number = np.argsort(source_rows(path, index)).astype(np.int32)[near]
    for answers, share in (
        (number[:, :10], 10), (number[:, 10:20], 0), (number[:, 3:13], 7), (np.full((len(near), 10), -1, np.int32), 0),
    ):  # fmt: skip
        assert (right_answers(path, index, points.queries, number[:, :10], answers) - share).max() <= 1
        assert abs((right_answers(path, index, points.queries, number[:, :10], answers) - share).mean()) < 0.1
    far = np.argsort(source_rows(path, index)).astype(np.int32)[[7, 3, 7]]
    assert gather_vectors(path, index, far[None]).shape == (1, 3, points.queries.shape[1])
    assert np.allclose(gather_vectors(path, index, far), points.vectors[[7, 3, 7]], rtol=1e-3, atol=1e-3)


def test_neighbours_that_are_no_rows(points: Built, tmp_path: Path) -> None:
    path = points.bucket / points.name
    for row in (-1, len(points.vectors)):
        named = np.full((len(points.queries), 10), row, np.int32)
        with pytest.raises(InputError, match=f"name row {row}, which the index does not have"):
            evaluate(path, Queries(points.queries, named))
    vectors = pa.array(points.queries[:2].tolist(), pa.list_(pa.float32()))
    for wrong in ([[1, 2], [3]], [[1, None], [3, 4]], [None, [1]], ["a", "b"], [1, 2]):
        pq.write_table(pa.table({"vector": vectors, "neighbors": wrong}), tmp_path / "q.parquet")
        with pytest.raises(InputError, match="column neighbors"):
            read_queries(tmp_path / "q.parquet", None)


def test_what_is_asked_is_checked_before_the_truth_is_sought(points: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    index = open_index(points.bucket / points.name)
    monkeypatch.setattr("build_index.evaluate.evaluate.compute_truth", lambda *_: pytest.fail("sought"))
    for recall, rerank in ((0.99999, 0), (-1.0, 0), (0.0, 0), (None, 3), (None, 201)):
        with pytest.raises(LimitError):
            check_truth(points.bucket / points.name, index, Queries(points.queries, None), 10, recall, rerank)


def test_recall_counts_ties_of_reads() -> None:
    """Candidates: a row that ties with the last neighbour is a hit as it is answered, up to k."""
    found = judge(np.zeros((1, 4), np.int32), np.array([[9, 8, 7, 6]], np.int32), untied(np.array([[1, 6]], np.int32)))
    read = np.ones((1, 1), bool)
    assert found.recall(read, 2).tolist() == [0.0]
    assert found.recall(read, 2, 4).tolist() == [0.5]  # row 6, by its exact score
    tie = replace(found, rank=np.array([[1, 1, -1, 1]], np.int32))
    assert tie.recall(read, 2).tolist() == [0.5] and tie.recall(read, 1).tolist() == [0.0]


@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_scores_that_float32_tells_apart_do_not_tie(metric: str) -> None:
    q = np.ones((1, 4), np.float32)
    x = np.array([[[1, 1, 1, 1], [1, 1, 1, 1 + 2**-18], [1, 1, 1, 1]]], np.float32)
    score, slack = exact_scores(q, x, metric)
    apart = np.abs(score[0] - score[0, 0]) > slack[0]
    assert apart.tolist() == [False, True, False]


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
@pytest.mark.parametrize("copies", [1, 3])
def test_float32_orders_only_what_it_tells_apart(
    rows_of: RowsOf, metric: str, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The truth is that of float64 scores of all neighbours, also where rows differ in their last bits."""
    x = np.repeat(clustered(900 // copies, 40, 4), copies, axis=0)
    x[1::2] *= np.float32(1 + 2e-7)
    rows, held = rows_of(x, metric, scale=None), np.arange(0, 900, 3)
    found = truth_of(rows, held, 20)
    monkeypatch.setattr(truth, "DOUBT_SHARE", -1.0)
    wanted = truth_of(rows, held, 20)
    assert (found.rows == wanted.rows).all() and (found.better == wanted.better).all()
    assert found.last == pytest.approx(wanted.last, rel=1e-12) and (found.more == wanted.more).all()
