"""Rows held out of training, their exact neighbours and what ties with these: the truth that builds are measured by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vantage.format import LENGTH_MAX

from ..ingest.rows import F32, Ints, Rows
from ..progress import SILENT, Progress
from .exact import CHUNK_BYTES, F64, I32, best_of, exact_scores, left_out, neighbours_at

HELD_OUT_MAX, HELD_OUT_MIN, HELD_OUT_FEW = 2000, 500, 250
TRUTH_PAIRS = 2_000_000_000  # of a row and a held-out one: of more than a million rows fewer are held out
DOUBT = 2.0**-16  # times the lengths: float32 sums of 4,096 products of numbers like rows' are nearer to the truth
DOUBT_SHARE = 0.5  # of neighbours in doubt: then all are compared again
NEAR_MISSES = 16  # rows more than are asked for: float32 may order them otherwise than float64
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class HeldOut:
    """Rows kept from k-means, rotation and routing tables; sorted row numbers.

    `tuning` rows choose parameters; `calibration` rows set prices and promises, and refuse codes that cannot keep them.
    """

    tuning: Ints
    calibration: Ints

    @property
    def all(self) -> Ints:
        """Both, sorted."""
        return np.sort(np.concatenate([self.tuning, self.calibration]))


def hold_out(rows: int, seed: int) -> HeldOut:
    """Two disjoint draws of at most 2,000 rows and a twentieth of all rows each; 1,000 of 2 million, 500 of 4 and more.

    Of fewer than 5,000 rows a fifth each, up to 250: a twentieth would say too little of the rest. What is compared
    exactly, and scanned, then grows no further with the rows up to 4 million.
    """
    share = max(rows // 20, min(HELD_OUT_FEW, rows // 5))
    n = max(1, min(HELD_OUT_MAX, share, max(HELD_OUT_MIN, TRUTH_PAIRS // rows)))
    drawn = np.random.default_rng([seed, 1]).choice(rows, min(2 * n, rows), replace=False)
    return HeldOut(np.sort(drawn[: (len(drawn) + 1) // 2]), np.sort(drawn[len(drawn) // 2 :]))


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

    @cached_property
    def _depths(self) -> dict[int, tuple[I32, Ints]]:
        return {}

    def at(self, k: int) -> tuple[I32, Ints]:
        """(better i32 (Q, k) of the first k, how many neighbours these are, (Q), at least 1), found once for each k."""
        if k not in self._depths:
            self._depths[k] = np.ascontiguousarray(self.better[:, :k]), np.maximum((self.rows[:, :k] >= 0).sum(1), 1)
        return self._depths[k]

    def __getitem__(self, some: slice | Ints) -> Truth:
        """Of some of the queries."""
        return Truth(self.rows[some], self.better[some], self.last[some], self.more[some])


def untied(rows: I32) -> Truth:
    """Truth of rows (Q, K) that all score differently."""
    better = np.where(rows >= 0, np.arange(rows.shape[1], dtype=np.int32), np.int32(-1))
    return Truth(rows, better, np.zeros(len(rows)), np.zeros(len(rows), bool))


def right(rank: I32, better: I32, k: int) -> npt.NDArray[np.int64]:
    """(Q) how many answers are right at k. Of those that tie with the k-th neighbour any are, as far as there is room.

    rank i32 (Q, M): how many rows score better than an answer, -1 for one that is never right; better i32 (Q, K): of
    the true neighbours.
    """
    count = np.maximum((better[:, :k] >= 0).sum(1), 1)
    last = better[np.arange(len(better)), count - 1][:, None]
    surely = ((rank >= 0) & (rank < last)).sum(1)
    tying = ((rank >= 0) & (rank == last)).sum(1)
    out: npt.NDArray[np.int64] = surely + np.minimum(tying, count - np.maximum(last[:, 0], 0))
    return out


def ranks(row: I32, neighbours: I32, better: I32) -> I32:
    """i32 (Q, M): how many rows score better than each row (Q, M) that is a neighbour; -1 for the others.

    neighbours (Q, K): rows; better (Q, K): as in Truth.
    """
    out = np.full(row.shape, -1, np.int32)
    of = np.full(max(row.max(initial=0), neighbours.max(initial=0)) + 1, -1, np.int32)  # by row, of one query
    for own, rows, true, places in zip(out, row, neighbours, better, strict=True):
        known = true >= 0
        of[true[known]] = places[known]
        own[:] = np.where(rows >= 0, of[rows], -1)
        of[true[known]] = -1
    return out


def truth_of(rows: Rows, held: Ints, k: int, progress: Progress = SILENT) -> Truth:
    """Exact neighbours of held-out rows among all other rows, compared as they were given, in float64.

    Where float32 sums are sure to tell two neighbours apart, their order is taken as it is.
    """
    most, queries = min(k + NEAR_MISSES, rows.count - 1), rows.take(held)
    near, cost = neighbours_of(rows, held, queries, most, progress)
    doubt = _doubt(queries, cost, rows.metric)
    doubt[:, k - 1 : k + 1] = True  # what ties with the last one is asked of others too
    neighbours, ranks_of = np.empty((2, len(held), k), np.int32)
    last, more = np.empty(len(held)), np.zeros(len(held), bool)
    step = max(1, CHUNK_BYTES // (8 * rows.dimension * most))
    for low in range(0, len(held), step):
        part = slice(low, low + step)
        score, slack = _scores(rows, held[part], near[part], cost[part], doubt[part])
        order = np.lexsort((near[part], -score), axis=1)
        score, slack = np.take_along_axis(score, order, 1), np.take_along_axis(slack, order, 1)
        better = tied(score, slack)
        neighbours[part], ranks_of[part] = np.take_along_axis(near[part], order, 1)[:, :k], better[:, :k]
        last[part] = np.take_along_axis(score, better[:, k - 1 : k], 1)[:, 0]
        more[part] = most > k and better[:, k] < k
    return Truth(neighbours, ranks_of, last, more)


def neighbours_of(rows: Rows, held: Ints, queries: F32, count: int, progress: Progress = SILENT) -> tuple[I32, F32]:
    """As neighbours_at, among all rows but each held one itself; queries (n, d) are the held rows (n)."""
    best, cost = np.full((len(held), count + 1), -1, np.int32), np.full((len(held), count + 1), np.inf, np.float32)
    for near, apart in rows.tasks.map(_nearest_in, (rows, queries, count + 1), rows.cells(), progress):
        best, cost = best_of(np.concatenate([best, near], 1), np.concatenate([cost, apart], 1), count + 1)
    return left_out(best, cost, held)


def _nearest_in(shared: tuple[Rows, F32, int], cell: tuple[int, int]) -> tuple[I32, F32]:
    """neighbours_at queries in a cell."""
    rows, queries, count = shared
    return neighbours_at(queries, rows.chunks(CHUNK_BYTES, cell), count, rows.metric)


def _doubt(queries: F32, cost: F32, metric: str) -> Bools:
    """bool (Q, k): which neighbours float32 may put in another order than float64, by costs (Q, k) that rise."""
    square = np.einsum("ij,ij->i", queries, queries)[:, None]
    if metric == "l2":  # |y|^2 is at most twice |q|^2 + |q - y|^2
        margin = DOUBT * (3 * square + 2 * np.maximum(cost, 0))
    else:
        margin = np.broadcast_to(DOUBT * np.sqrt(square) * (1 if metric == "cosine" else LENGTH_MAX["dot"]), cost.shape)
    near = np.diff(cost, axis=1) <= margin[:, 1:]
    out = np.zeros(cost.shape, bool)
    out[:, 1:] |= near
    out[:, :-1] |= near
    return out


def _scores(rows: Rows, held: Ints, near: I32, cost: F32, doubt: Bools) -> tuple[F64, F64]:
    """scores_of neighbours in doubt, near (n, m); of the others what orders them among these, and ties with none."""
    if doubt.mean() > DOUBT_SHARE:
        return scores_of(rows, held, near)
    score, slack = -cost.astype(np.float64) / rows.scale**2, np.zeros(cost.shape)
    i, j = np.nonzero(doubt)
    own = scores_of(rows, held[i], near[i, j][:, None])
    score[i, j], slack[i, j] = own[0][:, 0], own[1][:, 0]
    return score, slack


def nearness(rows: Rows, held: Ints, neighbours: I32) -> float:
    """Median distance, in the scale of the index, of rows held (n) from a neighbour (n), its copies left out.

    Infinite where all are copies, or none was given.
    """
    apart = np.linalg.norm(rows.take(held) - rows.take(neighbours.astype(np.int64)), axis=1)
    return float(np.median(apart[apart > 0])) if (apart > 0).any() else float("inf")


def tied(score: F64, slack: F64) -> I32:
    """i32 (n, m): how many are better than each of the scores (n, m), best first; ties are to the best of them."""
    better, best = np.zeros(score.shape, np.int32), score[:, 0]
    for j in range(1, score.shape[1]):
        ties = best - score[:, j] <= slack[:, j]
        better[:, j], best = np.where(ties, better[:, j - 1], j), np.where(ties, best, score[:, j])
    return better


def scores_of(rows: Rows, held: Ints, others: I32) -> tuple[F64, F64]:
    """exact_scores of the rows others (n, m) for the rows held (n) as queries."""
    x = rows.stored.gather(others.reshape(-1)).reshape(*others.shape, rows.dimension)
    return exact_scores(rows.stored.gather(held), x, rows.metric)


def ties(rows: Rows, held: Ints, others: I32, last: F64) -> Bools:
    """bool (n, m): whether rows others (n, m) score for the rows held (n) as last (n) does."""
    out, step = np.zeros(others.shape, bool), max(1, CHUNK_BYTES // (8 * rows.dimension * others.shape[1]))
    for low in range(0, len(held), step):
        part = slice(low, low + step)
        score, slack = scores_of(rows, held[part], others[part])
        out[part] = score - last[part, None] >= -slack
    return out
