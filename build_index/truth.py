"""Held-out rows and exact neighbours: what everything is measured against."""

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
) -> npt.NDArray[np.int32]:
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


def truth_of(rows: Rows, held: Ints, k: int, progress: Callable[[int], None] = lambda _: None) -> npt.NDArray[np.int32]:
    """Exact neighbours of held-out rows among all other rows."""
    return exact_neighbours(rows.take(held), rows.chunks(CHUNK_BYTES), k, rows.metric, held, progress)
