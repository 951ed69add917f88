"""Exact neighbours and scores, by brute force in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import faiss
import numpy as np
import numpy.typing as npt

from ..ingest.rows import F32, Ints
from ..kernels import nearest

CHUNK_BYTES = 32 << 20
TIE = 2.0**-22  # relative: scores that float32 sums do not tell apart

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
Rank = TypeVar("Rank", I32, Ints)


def exact_neighbours(
    queries: F32,
    chunks: Iterator[tuple[int, F32]],
    k: int,
    metric: str,
    without: Ints | None = None,
) -> I32:
    """i32 (Q, k) row numbers, best first, ties by lower row; -1 where there are fewer. without (Q): a row to leave out.
    k is at most 1,023.

    Brute force over chunks in the scale of the index (cosine on rows of norm 1 is inner product), so memory is bounded.
    """
    return neighbours_at(queries, chunks, k, metric, without)[0]


def neighbours_at(
    queries: F32, chunks: Iterator[tuple[int, F32]], k: int, metric: str, without: Ints | None = None
) -> tuple[I32, F32]:
    """`exact_neighbours`, and f32 (Q, k) their squared distances, or inner products times -1; inf where none is."""
    extra = k + (without is not None)
    cost = np.full((len(queries), extra), np.inf, np.float32)
    best = np.full((len(queries), extra), -1, np.int64)
    for first, x in chunks:
        count = min(extra, len(x))
        if metric == "l2":  # by differences: products of rows that lie near each other do not tell them apart
            apart, ids = faiss.knn(queries, x, count, metric=faiss.METRIC_L2)
        else:
            at, closeness = nearest(queries, x, np.zeros(len(x), np.float32), count)
            apart, ids = -closeness, at.astype(np.int64)
        best, cost = best_of(np.concatenate([best, ids + first], 1), np.concatenate([cost, apart], 1), extra)
    if without is not None:
        best, cost = left_out(best, cost, without)
    return best.astype(np.int32), cost


def best_of(rows: Rank, cost: F32, count: int) -> tuple[Rank, F32]:
    """The `count` of least cost of each line of rows and cost (Q, m), of equal ones the lower row."""
    order = np.lexsort((rows, cost), axis=1)[:, :count]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(cost, order, 1)


def left_out(rows: Rank, cost: F32, without: Ints) -> tuple[Rank, F32]:
    """One less of each line (Q, k): the row `without` (Q), or the last one where it is not there."""
    keep = rows != without[:, None]
    keep[keep.all(1), -1] = False
    return rows[keep].reshape(len(rows), -1), cost[keep].reshape(len(rows), -1)


def exact_scores(queries: F32, x: F32, metric: str) -> tuple[F64, F64]:
    """Scores f64 (n, m) of vectors x (n, m, d) for queries (n, d), larger is better; and by how much those that tie may
    differ. Vectors are as they were given, not in the scale of the index: scores of whole numbers are exact.
    """
    q, x = queries.astype(np.float64)[:, None], x.astype(np.float64)
    if metric == "l2":
        x -= q
        score = -np.einsum("nmd,nmd->nm", x, x)
        return score, -TIE * score
    score, length = (x @ q[:, 0, :, None])[..., 0], np.linalg.norm(q, axis=2) * np.linalg.norm(x, axis=2)
    if metric == "cosine":
        return score / np.maximum(length, 1e-300), np.full(score.shape, TIE)
    return score, TIE * length
