"""Held-out rows, exact neighbours and what ties with them: what everything is measured against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from .rows import F32, Ints, Rows

CHUNK_BYTES = 32 << 20
HELD_OUT_MAX, HELD_OUT_MIN = 2000, 500
TRUTH_PAIRS = 2_000_000_000  # of a row and a held-out one: of more than a million rows fewer are held out
NEAR_MISSES = 16  # rows more than are asked for: float32 may order them otherwise than float64
TIE = 2.0**-22  # relative: scores that float32 sums do not tell apart

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class HeldOut:
    """Rows kept from k-means, rotation and routing tables; sorted row numbers.

    `tune` chooses parameters; `price` sets prices and promises, and refuses codes that cannot keep them.
    """

    tune: Ints
    price: Ints

    @property
    def all(self) -> Ints:
        return np.sort(np.concatenate([self.tune, self.price]))


def hold_out(rows: int, seed: int) -> HeldOut:
    """Two disjoint draws of at most 2,000 rows and a twentieth of all rows each; 1,000 of 2 million, 500 of 4 and more.

    What is compared exactly, and scanned, then grows no further with the rows up to 4 million.
    """
    n = max(1, min(HELD_OUT_MAX, rows // 20, max(HELD_OUT_MIN, TRUTH_PAIRS // rows)))
    drawn = np.random.default_rng([seed, 1]).choice(rows, min(2 * n, rows), replace=False)
    return HeldOut(np.sort(drawn[: (len(drawn) + 1) // 2]), np.sort(drawn[len(drawn) // 2 :]))


def exact_neighbours(
    queries: F32,
    chunks: Iterator[tuple[int, F32]],
    k: int,
    metric: str,
    without: Ints | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> I32:
    """i32 (Q, k) row numbers, best first, ties by lower row; -1 where there are fewer. without (Q): a row to leave out.

    Brute force over chunks in the scale of the index (cosine on rows of norm 1 is inner product), so memory is bounded.
    """
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    sign = 1.0 if metric == "l2" else -1.0
    extra = k + (without is not None)
    cost = np.full((len(queries), extra), np.inf, np.float32)
    best = np.full((len(queries), extra), -1, np.int64)
    for first, x in chunks:
        found, ids = faiss.knn(queries, x, min(extra, len(x)), metric=kind)
        cost = np.concatenate([cost, sign * found], 1)
        best = np.concatenate([best, ids + first], 1)
        order = np.lexsort((best, cost), axis=1)[:, :extra]
        cost, best = np.take_along_axis(cost, order, 1), np.take_along_axis(best, order, 1)
        progress(first + len(x))
    if without is not None:
        keep = best != without[:, None]
        keep[keep.all(1), -1] = False  # not among the best: the last one goes
        best = best[keep].reshape(len(queries), k)
    return best.astype(np.int32)


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


@dataclass(frozen=True)
class Truth:
    """Exact neighbours of Q queries: rows i32 (Q, K), best first, -1 where there are fewer.

    better i32 (Q, K): how many rows score better than this one, those that tie with it left out; K or more answers of
    one score make them all right. last f64 (Q): the score of the last one; more bool (Q): others tie with it.
    """

    rows: I32
    better: I32
    last: F64
    more: Bools

    def __getitem__(self, some: slice | Ints) -> Truth:
        """Of some of the queries."""
        return Truth(self.rows[some], self.better[some], self.last[some], self.more[some])


def untied(rows: I32) -> Truth:
    """Truth of rows (Q, K) that all score differently."""
    better = np.where(rows >= 0, np.arange(rows.shape[1], dtype=np.int32), np.int32(-1))
    return Truth(rows, better, np.zeros(len(rows)), np.zeros(len(rows), bool))


def right(place: I32, better: I32, k: int) -> npt.NDArray[np.int64]:
    """(Q) how many answers are right at k. Of those that tie with the k-th neighbour any are, as far as there is room.

    place i32 (Q, M): how many rows score better than an answer, -1 for one that is never right; better i32 (Q, K): of
    the true neighbours.
    """
    wanted = np.maximum((better[:, :k] >= 0).sum(1), 1)
    last = better[np.arange(len(better)), wanted - 1][:, None]
    surely = ((place >= 0) & (place < last)).sum(1)
    tying = ((place >= 0) & (place == last)).sum(1)
    out: npt.NDArray[np.int64] = surely + np.minimum(tying, wanted - np.maximum(last[:, 0], 0))
    return out


def ranks(row: I32, neighbours: I32, better: I32) -> I32:
    """i32 (Q, M): how many rows score better than each row (Q, M) that is a neighbour; -1 for the others.

    neighbours (Q, K): rows; better (Q, K): as in Truth.
    """
    out = np.full(row.shape, -1, np.int32)
    for i, (rows, true) in enumerate(zip(row, neighbours, strict=True)):
        order = np.argsort(true, kind="stable")
        at = order[np.minimum(np.searchsorted(true[order], rows), len(true) - 1)]
        found = (true[at] == rows) & (rows >= 0)
        out[i, found] = better[i, at[found]]
    return out


def truth_of(rows: Rows, held: Ints, k: int, progress: Callable[[int], None] = lambda _: None) -> Truth:
    """Exact neighbours of held-out rows among all other rows, compared as they were given, in float64."""
    most = min(k + NEAR_MISSES, rows.count - 1)
    near = exact_neighbours(rows.take(held), rows.chunks(CHUNK_BYTES), most, rows.metric, held, progress)
    found, places = np.empty((2, len(held), k), np.int32)
    last, more = np.empty(len(held)), np.zeros(len(held), bool)
    step = max(1, CHUNK_BYTES // (8 * rows.dimension * most))
    for low in range(0, len(held), step):
        part = slice(low, low + step)
        score, slack = scores_of(rows, held[part], near[part])
        order = np.lexsort((near[part], -score), axis=1)
        score, slack = np.take_along_axis(score, order, 1), np.take_along_axis(slack, order, 1)
        better = tied(score, slack)
        found[part], places[part] = np.take_along_axis(near[part], order, 1)[:, :k], better[:, :k]
        last[part] = np.take_along_axis(score, better[:, k - 1 : k], 1)[:, 0]
        more[part] = most > k and better[:, k] < k
    return Truth(found, places, last, more)


def tied(score: F64, slack: F64) -> I32:
    """i32 (n, m): how many are better than each of the scores (n, m), best first; ties are to the best of them."""
    better, best = np.zeros(score.shape, np.int32), score[:, 0]
    for j in range(1, score.shape[1]):
        ties = best - score[:, j] <= slack[:, j]
        better[:, j], best = np.where(ties, better[:, j - 1], j), np.where(ties, best, score[:, j])
    return better


def scores_of(rows: Rows, held: Ints, others: I32) -> tuple[F64, F64]:
    """exact_scores of the rows others (n, m) for the rows held (n) as queries."""
    x = rows.spool.gather(others.reshape(-1)).reshape(*others.shape, rows.dimension)
    return exact_scores(rows.spool.gather(held), x, rows.metric)


def ties(rows: Rows, held: Ints, others: I32, last: F64) -> Bools:
    """bool (n, m): whether rows others (n, m) score for the rows held (n) as last (n) does."""
    out, step = np.zeros(others.shape, bool), max(1, CHUNK_BYTES // (8 * rows.dimension * others.shape[1]))
    for low in range(0, len(held), step):
        part = slice(low, low + step)
        score, slack = scores_of(rows, held[part], others[part])
        out[part] = score - last[part, None] >= -slack
    return out
