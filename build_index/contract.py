"""The contract: prices that keep a promise, measured on rows that served nothing else."""

from __future__ import annotations

from vantage.errors import InputError
from vantage.format import Contract, Point
from vantage.plan import LANES

from .measure import Candidates, plans, price_for
from .rows import Ints
from .shape import P

CALIBRATION_MARGIN = 0.005  # unseen rows run a little high
GOALS = (0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995)


def price_at(found: Candidates, p: P, sizes: Ints, k: int, recall: float) -> int | None:
    """The highest price that reaches this recall@k and the margin; None when none does."""
    return price_for(
        lambda price: float(found.recall(plans(p, sizes, price).blocks, k).mean()), recall + CALIBRATION_MARGIN
    )


def calibrated(found: Candidates, p: P, sizes: Ints, k: int, recall: float) -> Contract:
    """Measured points from cheap to dear, and one at the target; the margin is taken off what is promised."""
    target = price_at(found, p, sizes, k, recall)
    if target is None:
        raise InputError(f"recall {recall} is not reached on held-out rows", hint="ask for a lower --recall")
    prices = {target, 0}
    for goal in GOALS:
        at = price_at(found, p, sizes, k, goal)
        if at is not None:
            prices.add(at)
    points = []
    for price in sorted(prices, reverse=True):
        reads = plans(p, sizes, price)
        for depth in sorted({min(10, k), k, 1}):
            mean = float(found.recall(reads.blocks, depth).mean())
            points.append(Point(depth, price, max(0.0, mean - CALIBRATION_MARGIN), reads.nbytes, reads.gets))
    return Contract(k, LANES, recall, tuple(points))


def target_point(contract: Contract) -> Point:
    """The cheapest measured point that keeps the promise."""
    points = (p for p in contract.points if p.k == contract.k and p.recall >= contract.target)
    return min(points, key=lambda p: p.recall)
