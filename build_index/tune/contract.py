"""Makes the contract: prices that keep a promise, measured on rows that served nothing else."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt

from vantage.format import Contract, Point
from vantage.search.plan import GETS_MAX

from ..ingest.rows import Ints
from ..neighbours.truth import HELD_OUT_FEW
from ..simulate.edge import P, Pages
from ..simulate.measure import STEPS, Bools, Candidates, planner, price_for, price_of

SURE = 1.645  # standard errors under the mean: one query set in twenty is below
MARGIN_MAX = 0.005  # a larger index is not refused for holding out too few rows to be sure
GOALS = (0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995)


def promise_recall(recall: npt.NDArray[np.float64]) -> float:
    """What unseen queries reach on average, 19 times in 20, from the recall (Q) of held-out ones.

    To their variance is added what so few have not shown, so that all perfect promises less than 1: a Q-th, and of
    fewer than HELD_OUT_FEW as much as Wilson's interval has. The margin of more is cut.
    """
    unseen = SURE**2 if len(recall) < HELD_OUT_FEW else 1
    margin = SURE * ((recall.var() + unseen / len(recall)) / len(recall)) ** 0.5
    if len(recall) > HELD_OUT_FEW:
        margin = min(margin, MARGIN_MAX)
    return max(0.0, float(recall.mean() - margin))


@cache
def _step_of() -> dict[int, int]:
    return {price_of(step): step for step in range(STEPS)}


class PricedRecall:
    """Recall of what plans at a price answer; each price is planned once, as bisections share most of theirs.

    reads(price, some): those plans, of some of the queries. inline: the root holds the blocks. starts: see `plans`.
    """

    def __init__(
        self, candidates: Candidates, p: P, sizes: Ints, inline: bool = False, starts: Bools | None = None
    ) -> None:
        self.candidates, self.blocks = candidates, p.shape[1]
        self.reads = planner(p, sizes, inline=inline, starts=starts)
        self._read: dict[int, npt.NDArray[np.uint8]] = {}  # blocks, eight to a byte
        self._promised: dict[tuple[int, int, int], float] = {}
        self._step_of = _step_of()

    @property
    def steps(self) -> list[int]:
        """Of the prices that are planned: see price_for."""
        return [self._step_of[price] for price in self._read if price in self._step_of]

    def __call__(self, price: int, k: int, rerank: int = 0) -> float:
        """What is promised of recall@k at this price, the best `rerank` rows by exact score."""
        if (price, k, rerank) not in self._promised:
            if price not in self._read:
                self._read[price] = np.packbits(self.reads(price, slice(None)).blocks, axis=1)
            read = np.unpackbits(self._read[price], axis=1, count=self.blocks).astype(bool)
            self._promised[price, k, rerank] = promise_recall(self.candidates.recall(read, k, rerank))
        return self._promised[price, k, rerank]


def depths(k: int) -> list[int]:
    """The numbers of answers that recall is measured at."""
    return [*(depth for depth in (1, 10, 100) if depth < k), k]


def depths_beyond(k: int, rows: int) -> list[int]:
    """Those above it: of fewer rows than a thousand and one, all but the query itself."""
    return sorted({min(depth, rows - 1) for depth in (100, 1000) if min(depth, rows - 1) > k})


def price_at(recall_at: PricedRecall, k: int, recall: float, rerank: int = 0) -> int | None:
    """The highest price that promises this recall@k; None when none does."""
    return price_for(lambda price: recall_at(price, k, rerank), recall, recall_at.steps)


def calibrate(recall_at: PricedRecall, k: int, recall: float, rerank: int = 0) -> Contract | None:
    """Measured points from cheap to dear, and one at the target; None where all blocks together do not reach it.

    rerank: exact scores that each answer takes.
    """
    target = price_at(recall_at, k, recall, rerank)
    if target is None:
        return None
    prices = {target, 0}
    for goal in GOALS:
        at = price_at(recall_at, k, goal, rerank)
        if at is not None:
            prices.add(at)
    points = []
    for price in sorted(prices, reverse=True):
        reads = recall_at.reads(price, slice(None))
        points += [
            Point(depth, price, recall_at(price, depth, rerank), reads.nbytes, reads.gets) for depth in depths(k)
        ]
    return Contract(k, GETS_MAX, recall, tuple(points))


def with_pages(contract: Contract, pages: Pages | None) -> Contract:
    """Points that count the routing pages of each query; None: there are none."""
    if pages is None:
        return contract
    return with_reads(contract, float(np.mean([sum(p) for p in pages])), float(np.mean([len(p) for p in pages])))


def with_reads(contract: Contract, nbytes: float, gets: float) -> Contract:
    """Points that count so much more each."""
    points = (replace(p, nbytes=p.nbytes + nbytes, gets=p.gets + gets) for p in contract.points)
    return replace(contract, points=tuple(points))


def target_point(contract: Contract) -> Point:
    """The cheapest measured point that keeps the promise."""
    points = (p for p in contract.points if p.k == contract.k and p.recall >= contract.target)
    return min(points, key=lambda p: p.recall)
