"""What a query's recall is, from what its reads and scores say; and which promise a request asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import replace

from ..errors import LimitError
from ..format import RERANK_MAX, Contract, Estimator, Point, Promise, Promises
from .route.common import PROBABILITY_BITS, Routed

MASS_EPSILON = 1e-4  # of the probability, so that its logarithms stay finite
ROWS_EPSILON = 0.1  # rows, likewise
LINE_SPREAD_MIN = 1e-6  # of the squares of logarithms, that a line is fitted to
PRICE_LOG_MIN = 12.0  # log2: below, all of any index is read
HALVINGS_MAX = 3  # of the price, for a second wave: held-out rows gain nothing from more, and it bounds a query
HALVINGS = 1.25  # of the price a halving of what is missed takes: measured, misses fall as its power 0.8


def promise_of(contract: Contract, promises: Promises | None, k: int, recall: float | None) -> Promise:
    """How to read for this recall@k; None: the contract's target. Raises LimitError above the best promise.

    Between two recalls, and between two k that promises were measured at, prices are interpolated where both are kept
    in one way (by one rendition, with as many exact scores, in as many waves, both at a price); else the one that reads
    more holds, with the exact scores that either takes. More answers than the largest k are read for as for that k.
    Without promises the points of the contract promise.
    """
    recall = contract.target if recall is None else recall
    if not recall > 0:
        raise LimitError("recall", recall, "between 0 and 1", hint="0.95 is a usual target", param="recall")
    if promises is None:
        return Promise(recall, price_of(contract, recall), 0, 0.0, 0.0, 0.0, 1.0, 0.0)
    ladders = [x for x in promises.ladders(contract.k) if x.by_recall[-1].recall >= recall]
    if not ladders:
        best = int(promises.by_recall[-1].recall * 1000) / 1000
        raise LimitError(
            "recall", recall, best, hint="ask for less, or build the index with a higher --recall", param="recall"
        )
    above = next((x for x in ladders if x.k >= k), ladders[-1])
    below = next((x for x in reversed(ladders) if x.k <= k), above)
    low, high = _on(below.by_recall, recall), _on(above.by_recall, recall)
    if above.k <= k or below is above:
        return high
    if low.rendition != high.rendition:  # prices of two renditions do not compare
        return high
    if _kind(low) != _kind(high) or not high.price:
        more = max(low, high, key=lambda promise: promise.nbytes)
        ranked = min(RERANK_MAX, math.ceil(low.rerank * k / below.k))  # what tells few rows apart, for as many more
        return replace(more, price=min(low.price, high.price), rerank=max(more.rerank, high.rerank, ranked))
    share = math.log(k / below.k) / math.log(above.k / below.k)
    return replace(_between(low, high, share), recall=recall)


def _on(by_recall: Sequence[Promise], recall: float) -> Promise:
    """The promise of a recall between two of one k, the last of which keeps it."""
    at = next(i for i, p in enumerate(by_recall) if p.recall >= recall)
    low, high = by_recall[max(at - 1, 0)], by_recall[at]
    if low.recall >= recall or _kind(low) != _kind(high):
        return high
    return replace(_between(low, high, (recall - low.recall) / (high.recall - low.recall)), recall=recall)


def _kind(promise: Promise) -> tuple[int, int, bool, bool]:
    """How it is kept: by which rendition, exact scores, whether there is a second wave, and whether bytes have a price.

    The price 0 may read blocks that the router gives nothing, which no price between it and another does.
    """
    return promise.rendition, promise.rerank, promise.threshold > 0, promise.price > 0


def _between(low: Promise, high: Promise, share: float) -> Promise:
    """Linear in all that a promise of this kind has, but for the price: what its logarithm is linear in misses less."""

    def mid(name: str) -> float:
        a, b = float(getattr(low, name)), float(getattr(high, name))
        return a + (b - a) * share

    price = round(low.price ** (1 - share) * high.price**share) if low.price else 0
    return Promise(
        mid("recall"), price, high.rerank, mid("threshold"), mid("nbytes"), mid("gets"),
        mid("waves"), mid("ms"), high.rendition, mid("sharpness"),
    )  # fmt: skip


def second_price(promise: Promise, price: int, estimate: float) -> int | None:
    """The price of the second wave that lifts a query with this estimate to the threshold; None where it is there.

    price: of its first wave. Halved once for every halving of misses that is wanted, and a quarter more.
    """
    if estimate >= promise.threshold:
        return None
    halvings = math.log2((1 - estimate) / max(1e-6, 1 - promise.threshold))
    return price >> max(1, min(HALVINGS_MAX, math.ceil(HALVINGS * halvings)))


def features(
    routed: Routed,
    read: Container[int],
    rows: Sequence[int],
    base: Callable[[int], float],
    answers: Sequence[tuple[float, int]],
    price: int,
) -> tuple[float, float, float, float]:
    """What the estimate goes by, of a query that has scanned the extents `read`; answers, one at least, best first.

    routed: of extents; rows (n) of extents; base: the score of the centre of one that is read; answers: (score,
    extent); price: of the last plan. They are the log odds of the probability read; how evenly the rest is spread, as
    log of the sum of roots; of the rows that reach the last answer's score, were rows normal around their centres as
    far as the answers are, the log ratio of those in unread to those in read extents; and log2 of the price. What is
    unread has its centre's score from a line, fitted to those read over the logarithm of their probability.
    """
    last = answers[-1][0]
    spread = math.sqrt(sum((score - base(i)) ** 2 for score, i in answers) / len(answers)) or 1.0
    total, inside = sum(routed.p) or 1, list[tuple[int, int]]()
    blocks_at, rows_at = dict[int, int](), dict[int, int]()  # unread ones of equal probabilities count together
    for i, p in zip(routed.blocks or range(len(routed.p)), routed.p, strict=True):
        if not p:
            continue
        if i in read:
            inside.append((i, p))
        else:
            blocks_at[p], rows_at[p] = blocks_at.get(p, 0) + 1, rows_at.get(p, 0) + rows[i]
    at, slope = _line([(math.log(p / total), base(i)) for i, p in inside])
    mass, roots, beyond = sum(p for _, p in inside), 0.0, [0.0, 0.0]
    for i, _ in inside:
        beyond[True] += _beyond(rows[i], last - base(i), spread)
    for p, count in blocks_at.items():
        roots += count * math.sqrt(p / total)
        beyond[False] += _beyond(rows_at[p], last - at - slope * math.log(p / total), spread)
    share = mass / total
    return (
        math.log((share + MASS_EPSILON) / (1 - share + MASS_EPSILON)),
        math.log(roots + 10 * MASS_EPSILON),
        math.log((beyond[0] + ROWS_EPSILON) / (beyond[1] + ROWS_EPSILON)),
        max(PRICE_LOG_MIN, math.log2(price + 1)),
    )


def _beyond(rows: int, away: float, spread: float) -> float:
    """Of so many rows, those that reach a score which lies `away` above that of their centre."""
    away = max(0.0, away) / spread
    return rows * math.exp(-0.5 * away * away)


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(value at 0, slope) of the line nearest to points (x, y), by least squares; level where they do not spread."""
    n = max(1, len(points))
    x0, y0 = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    square = sum((x - x0) ** 2 for x, _ in points)
    slope = sum((x - x0) * (y - y0) for x, y in points) / square if square > LINE_SPREAD_MIN else 0.0
    return y0 - slope * x0, slope


def estimated_recall(
    promises: Promises, rendition: int, k: int, rerank: int, seen: Sequence[float], unread: float
) -> float | None:
    """Recall@k of a query with these features, linear in k between estimators; None where k was not measured.

    A neighbour is in the blocks read with the probability c = 1 / (1 + exp(-z)), z linear in the features; a query that
    leaves less than half of the slots unread misses in proportion to them. Of those read the codes lose a share, less
    of them where more answers are wrong anyway: (1 - ceiling) exp((c - 1) / width).

    rendition: of the blocks read. rerank: rows with exact scores; the estimator with the most that are not more speaks.
    unread: share of slots.
    Rounded to 2^-20, so that the last bit of a logarithm decides nothing.
    """
    by_k: dict[int, Estimator] = {}
    for e in promises.estimators:
        if e.rendition == rendition and e.rerank <= rerank:
            by_k[e.k] = e
    if not by_k or k > max(by_k):
        return None
    low, high = max((n for n in by_k if n <= k), default=min(by_k)), min(n for n in by_k if n >= k)

    def recall_of(e: Estimator) -> float:
        z = e.weights[0] + sum(w * f for w, f in zip(e.weights[1:], seen, strict=True))
        miss = min(1.0, 2 * unread) / (1 + math.exp(max(-60.0, min(60.0, z))))
        return (1 - miss) * (1 - (1 - e.ceiling) * math.exp(-miss / e.width))

    value = between([(float(n), recall_of(by_k[n])) for n in sorted({low, high})], float(k), clamp=True)
    return None if value is None else round(value * (1 << PROBABILITY_BITS)) / (1 << PROBABILITY_BITS)


def price_of(contract: Contract, recall: float | None) -> int:
    """The price that reaches `recall` at the contract's k: the target's when None.

    Linear between measured points. Raises LimitError above the best point, which it names.
    """
    recall = contract.target if recall is None else recall
    points = sorted((p for p in contract.points if p.k == contract.k), key=lambda p: p.recall)
    if recall > points[-1].recall:
        best = int(points[-1].recall * 1000) / 1000
        raise LimitError(
            "recall", recall, best, hint="ask for less, or build the index with a higher --recall", param="recall"
        )
    return round(between([(p.recall, float(p.price)) for p in points], recall, clamp=True) or 0.0)


def recall_estimate(contract: Contract, price: int, k: int) -> float | None:
    """Measured mean recall@k at this price, linear between points; None where nothing was measured."""
    by_k: dict[int, list[Point]] = {}
    for p in contract.points:
        by_k.setdefault(p.k, []).append(p)
    low, high = max((n for n in by_k if n <= k), default=None), min((n for n in by_k if n >= k), default=None)
    if high is None:
        return None
    ends = [
        (float(n), between(sorted((float(p.price), p.recall) for p in by_k[n]), float(price), clamp=False))
        for n in sorted({n for n in (low, high) if n is not None})
    ]
    known = [(n, r) for n, r in ends if r is not None]
    return between(known, float(k), clamp=True) if len(known) == len(ends) else None


def between(points: list[tuple[float, float]], x: float, *, clamp: bool) -> float | None:
    """y at x, linear between points (x, y) by rising x; outside the nearest one's if clamp, else None."""
    if not points or not clamp and not points[0][0] <= x <= points[-1][0]:
        return None
    x = max(points[0][0], min(points[-1][0], x))
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if x0 <= x <= x1:
            return y0 if x1 == x0 else y0 + (y1 - y0) * ((x - x0) / (x1 - x0))
    return points[0][1]
