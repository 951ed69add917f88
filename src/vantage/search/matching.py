"""Plans under filters: as many extents as hold the share of the expected answers that a promise takes."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from ..cost import Budget
from ..errors import LimitError
from ..format import PRICED_MAX, Directory, FilterPromise, Root
from .plan import PRICE_BITS, READ_ALL, Plan, plan_scan
from .route.common import PROBABILITY_BITS, Routed

STEP_MIN, STEP_MAX = -16, 8  # prices in half octaves, from that of the mean byte of what has a probability
_FACTORS = [math.ldexp(math.sqrt(2) if step % 2 else 1.0, step // 2) for step in range(STEP_MIN, STEP_MAX + 1)]
UNMEASURED = 0.5  # of the answers that may be missed, by extents that are not read, where nothing was measured
POWER_MIN, POWER_MAX = 0.25, 16.0
MISSED_MAX = 4.0  # times what a promise may miss: no query is to miss more only because others are cheaper
BLOCKS_SHARE_MIN = 0.25  # of all rows: filters that take fewer are answered by a projection where there is one


def promise_under_filter(root: Root, by_chunks: bool, k: int, recall: float | None) -> FilterPromise:
    """How to read for this recall@k; None: the contract's target, or the best that was measured below it.

    Between two k, linear in their logarithms; between two recalls the higher one. Raises LimitError above the best.
    """
    wanted = root.contract.target if recall is None else recall
    known = [p for p in root.filter_promises if p.by_chunks == by_chunks]
    if not known:
        aim = 1 - (1 - wanted) * UNMEASURED
        return FilterPromise(by_chunks, k, wanted, aim, 0, 1.0, 1.0, 0.0, STEP_MIN, 0.0, 0.0, 0.0, 0.0)
    measured = sorted({p.k for p in known})
    above = next((n for n in measured if n >= k), measured[-1])
    below = next((n for n in reversed(measured) if n <= k), above)
    low, high = (_of_recall([p for p in known if p.k == n], wanted, recall is not None) for n in (below, above))
    if low is high or low.rerank != high.rerank:
        return high if above >= k else low
    share = math.log(k / low.k) / math.log(high.k / low.k)

    def mid(name: str) -> float:
        a, b = float(getattr(low, name)), float(getattr(high, name))
        return a + (b - a) * share

    return replace(
        high, k=k, aim=mid("aim"), ceiling=mid("ceiling"), power=mid("power"), slope=mid("slope"), floor=mid("floor"),
        rise=mid("rise"), gets=mid("gets"), nbytes=mid("nbytes"), ms=mid("ms"),
    )  # fmt: skip


def _of_recall(promises: list[FilterPromise], wanted: float, strict: bool) -> FilterPromise:
    """The least of one k and path that keeps the recall; they rise."""
    found = next((p for p in promises if p.recall >= wanted), None)
    if found is None and strict:
        best = int(promises[-1].recall * 1000) / 1000
        hint = "under filters ask for less, or build the index with a higher --recall"
        raise LimitError("recall", wanted, best, hint=hint, param="recall")
    return found or promises[-1]


def held(routed: Routed, extents: Iterable[int]) -> float:
    """The share of the expected answers in these extents, each once."""
    total = sum(routed.p)
    if not total:
        return 1.0
    if routed.blocks is None:
        return sum(routed.p[i] for i in extents) / total
    own = dict(zip(routed.blocks, routed.p, strict=True))
    return sum(own.get(i, 0) for i in extents) / total


def power_of(promise: FilterPromise, matches: float) -> float:
    """How fast what is missed falls with the share that is not held; matches: rows that the filter is to take."""
    return max(POWER_MIN, min(POWER_MAX, promise.power - promise.slope * _depth(promise, matches)))


def least_step(promise: FilterPromise, matches: float) -> int:
    """The step of the cheapest price that a plan may have."""
    step = math.ceil(round(promise.floor + promise.rise * _depth(promise, matches), 6))
    return max(STEP_MIN, min(STEP_MAX, step))


def _depth(promise: FilterPromise, matches: float) -> float:
    """How rare answers are among the rows that match."""
    return math.log2(max(1.0, matches / promise.k))


def expected_recall(promise: FilterPromise, matches: float, share: float) -> float:
    """Of a query that holds this share of the expected answers. Rounded, so that the last bit decides nothing."""
    recall = promise.ceiling * (1 - math.pow(max(0.0, 1 - share), power_of(promise, matches)))
    return round(recall * (1 << PROBABILITY_BITS)) / (1 << PROBABILITY_BITS)


def share_for(promise: FilterPromise, matches: float) -> float:
    """The share of the expected answers that a plan has to hold; rounded likewise."""
    return _share(promise, matches, promise.aim)


def least_share(promise: FilterPromise, matches: float) -> float:
    """The share that a plan has to hold whatever it costs: so that it finds a good part of what is promised."""
    return _share(promise, matches, 1 - MISSED_MAX * (1 - promise.recall))


def _share(promise: FilterPromise, matches: float, aim: float) -> float:
    missed = min(1.0, max(0.0, 1 - aim / promise.ceiling))
    share = 1 - math.pow(missed, 1 / power_of(promise, matches))
    return round(share * (1 << PROBABILITY_BITS)) / (1 << PROBABILITY_BITS)


@dataclass(frozen=True)
class Pricing:
    """What plans of a query's extents have in common. routed: of extents; flags, renditions, gets: see plan_scan."""

    routed: Routed
    flags: bytearray
    directory: Directory
    renditions: tuple[int, int]
    gets: int
    budget: Budget

    def price(self, step: int) -> int:
        """Of a step: 0 is that at which a mean byte of what has a probability is read."""
        mean, most = self._mean_and_most
        return int(max(READ_ALL, min(most, round(mean * _FACTORS[step - STEP_MIN]))))

    @cached_property
    def _mean_and_most(self) -> tuple[float, int]:
        """The price of step 0, and the highest that a plan takes."""
        size = self.directory.places[self.renditions[0]].size
        numbers = range(len(size)) if self.routed.blocks is None else self.routed.blocks
        span = sum(size[b] for b, p in zip(numbers, self.routed.p, strict=True) if p)
        most = min((1 << 32) - 1, (PRICED_MAX - 1) // max(1, self.directory.span(self.renditions[0])))
        return (sum(self.routed.p) << PRICE_BITS) / max(1, span), most

    def plan(self, price: int) -> tuple[Plan, float]:
        """A plan, and the share of the expected answers that it holds."""
        plan = plan_scan(self.routed, self.flags, self.directory, self.renditions, price, self.gets, self.budget)
        extents = {i for r in plan.ranges for i in range(r.first, r.last)}
        extents.update(plan.cached)
        return plan, held(self.routed, extents)

    def first_step(self, share: float) -> int:
        """Where plans that hold this share are looked for: if ranges cost nothing, they began there."""
        size = self.directory.places[self.renditions[0]].size
        numbers = range(len(size)) if self.routed.blocks is None else self.routed.blocks
        worth = sorted(
            ((p / size[b], p, size[b]) for b, p in zip(numbers, self.routed.p, strict=True) if p), reverse=True
        )
        left, last = share * sum(self.routed.p), 0.0
        for one, p, _ in worth:
            left, last = left - p, one
            if left <= 0:
                break
        mean = sum(p for _, p, _ in worth) / max(1, sum(nbytes for _, _, nbytes in worth))
        return STEP_MIN + max(0, bisect_right(_FACTORS, last / mean) - 1) if mean else STEP_MIN


def plan_share(pricing: Pricing, share: float, least: int, enough: float) -> Plan:
    """The plan at the dearest price whose extents hold this share of the expected answers, or that of the step `least`
    where it holds the share `enough`.

    Shares fall as prices rise. One that the budget cuts is the last that is tried.
    """
    if share >= 1:
        return pricing.plan(READ_ALL)[0]
    step = max(least, pricing.first_step(share))
    plan, found = pricing.plan(pricing.price(step))
    while found < share and plan.complete and step > (least if found >= enough else STEP_MIN):
        step -= 1
        plan, found = pricing.plan(pricing.price(step))
    tried = step
    while tried == step and plan.complete and found >= share and step < STEP_MAX:
        less, found = pricing.plan(pricing.price(step + 1))
        tried += 1
        if found >= share and less.complete:
            plan, step = less, tried
    return plan
