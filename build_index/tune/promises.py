"""When a query has read enough: estimators of its recall, and the reads that keep each promise on rows held out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from vantage.cost import LANES, Budget, wave_ms
from vantage.format import PRICED_MAX, RERANK_MAX, VECTOR_BYTES, Contract, Estimator, Ladder, Promise, Promises
from vantage.read.gather import plan_gather
from vantage.search.estimate import (
    HALVINGS_MAX,
    LINE_SPREAD_MIN,
    MASS_EPSILON,
    PRICE_LOG_MIN,
    ROWS_EPSILON,
    promise_of,
    second_price,
)

from ..ingest.rows import Ints, Rows
from ..simulate.edge import P, Pages
from ..simulate.measure import KEPT, PRICE_MAX, Bools, Candidates, Reads, plans
from .contract import GOALS, MARGIN_MAX, PricedRecall, depths, price_at, promise_recall

STEPS = (8.0, 4.0, 2.0, 1.0, 0.5, 0.25)  # of the price at the target: plans that estimators learn from
RIDGE = 1e-5
NEWTON_STEPS = 30
WIDTHS = np.geomspace(0.005, 5, 40).tolist()
GATHER_QUERIES = 100  # of the rows held out, whose reads of full vectors are modelled
GOALS_OTHER = (0.8, 0.9, 0.95, 0.98, 0.99)  # at other k than the contract's
SHARPNESS = (1.0, 1.25, 1.5, 2.0)  # of probabilities, for fewer answers than the contract's
SLACK_MS = 1.0  # for which fewer bytes are worth it
NEAR_K = 2  # times k: promises at both hold between them
TWO_WAVES_MS = 85.0  # a plan of one wave below this is sooner than any of two
TWO_WAVES_GOAL = 0.85  # lower ones are kept in one wave: they read too little to divide
FIRST_STEPS = (1.5, 2.5)  # times the price of one wave, for the first of two

_NEVER = (0.0, 0.0, 0.0, np.inf)  # bytes, GETs, waves and ms of reads that no budget holds

FEATURE_BYTES = 16 << 20  # of one column (Q, B) of features at a time, of which there are a few

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ScannedQueries:
    """Queries held out, scanned: candidates, p u32 (Q, B); sizes and rows (B): bytes and rows of blocks.

    pages (Q): routing pages read first; None: there are none. inline: the root holds the blocks, so none is read.
    starts: see measure.plans.
    """

    candidates: Candidates
    p: P
    sizes: Ints
    rows: Ints
    pages: Pages | None = None
    inline: bool = False
    starts: Bools | None = None

    def plans(self, price: int, done: Bools | None = None) -> Reads:
        """What these queries read at a price, beside the blocks done bool (Q, B)."""
        return plans(self.p, self.sizes, price, done=done, inline=self.inline, starts=self.starts)

    def recall_at(self) -> PricedRecall:
        """What they find, by price."""
        return PricedRecall(self.candidates, self.p, self.sizes, self.inline, self.starts)

    def some(self, part: slice) -> ScannedQueries:
        """Without pages: features know none."""
        columns = (getattr(self.candidates, column.name)[part] for column in fields(Candidates))
        return ScannedQueries(Candidates(*columns), self.p[part], self.sizes, self.rows)


ScansAt = Callable[[float], ScannedQueries]  # by the sharpness of the probabilities


@dataclass(frozen=True)
class Deep:
    """Some queries held out with neighbours for k above the contract's, rising in `depths`; recall_at: of theirs.

    rerank_max: exact scores that a promise may take.
    """

    held: ScannedQueries
    recall_at: PricedRecall
    depths: list[int]
    rerank_max: int


def features(held: ScannedQueries, read: Bools, price: int, k: int) -> F64:
    """(Q, 4) of vantage.search.estimate.features for queries that read these blocks; zeros where nothing was found."""
    step = max(1, FEATURE_BYTES // (8 * len(held.rows)))
    parts = [slice(low, low + step) for low in range(0, len(read), step)]
    return np.concatenate([_features(held.some(part), read[part], price, k) for part in parts])


def _features(held: ScannedQueries, read: Bools, price: int, k: int) -> F64:
    candidates, each = held.candidates, np.arange(len(read))
    answered = candidates.answered(read, k)
    count = answered.sum(1)
    score = candidates.score.astype(np.float64)
    last = np.where(answered, score, np.inf).min(1)
    own = np.take_along_axis(candidates.base, np.maximum(candidates.block, 0), 1).astype(np.float64)
    spread = np.sqrt(np.where(answered, (score - own) ** 2, 0).sum(1) / np.maximum(count, 1))
    spread[spread == 0] = 1.0
    share = held.p / np.maximum(held.p.sum(1, dtype=np.float64), 1)[:, None]
    mass, roots = np.where(read, share, 0).sum(1), np.sqrt(np.where(read, 0, share)).sum(1)
    base = _bases(held, read, share)
    away = np.maximum(0, np.where(count > 0, last, 0)[:, None] - base) / spread[:, None]
    reaching = np.where(held.p > 0, held.rows * np.exp(-0.5 * away * away), 0)
    inside = np.where(read, reaching, 0).sum(1)
    out = np.stack([
        np.log((mass + MASS_EPSILON) / (np.maximum(1 - mass, 0) + MASS_EPSILON)),
        np.log(roots + 10 * MASS_EPSILON),
        np.log((reaching.sum(1) - inside + ROWS_EPSILON) / (inside + ROWS_EPSILON)),
        np.full(len(each), max(PRICE_LOG_MIN, np.log2(price + 1))),
    ], 1)  # fmt: skip
    out[count == 0] = 0
    return out


def _bases(held: ScannedQueries, read: Bools, share: F64) -> F64:
    """(Q, B) scores of centres: those of blocks read, and on a line over log probability for the others."""
    base, known = held.candidates.base.astype(np.float64), read & (held.p > 0)
    logs, count = np.log(np.maximum(share, 1e-30)), np.maximum(known.sum(1), 1)
    x0, y0 = (np.where(known, column, 0).sum(1) / count for column in (logs, base))
    x = np.where(known, logs - x0[:, None], 0)
    square = (x * x).sum(1)
    slope = np.where(square > LINE_SPREAD_MIN, (x * (base - y0[:, None])).sum(1) / np.maximum(square, 1e-30), 0)
    return np.where(read, base, (y0 - slope * x0)[:, None] + slope[:, None] * logs)


def fit_logistic(x: F64, y: F64) -> F64:
    """(1 + F) weights of the logistic regression of shares y (n) on features x (n, F), by Newton's method."""
    mean, deviation = x.mean(0), x.std(0)
    deviation[deviation < 1e-9] = 1.0
    z = np.concatenate([np.ones((len(x), 1)), (x - mean) / deviation], 1)
    w, ridge = np.zeros(z.shape[1]), len(x) * RIDGE * np.eye(z.shape[1])
    for _ in range(NEWTON_STEPS):
        predicted = 1 / (1 + np.exp(-np.clip(z @ w, -30, 30)))
        step = z.T @ (predicted - y) + ridge @ w
        w -= np.linalg.solve(z.T @ (z * (predicted * (1 - predicted))[:, None]) + ridge, step)
        w = np.clip(w, -30, 30)
    slopes = w[1:] / deviation
    return np.concatenate([[w[0] - slopes @ mean], slopes])


def reranks_of(k: int, rows: int, more: Iterable[int] = ()) -> list[int]:
    """Numbers of rows whose exact scores might keep a promise at k; and `more`, which another k takes."""
    return sorted({min(RERANK_MAX, rows, k * 5 // 4), min(RERANK_MAX, rows, 2 * k), *more})


@dataclass(frozen=True)
class Aim:
    """How queries for so many answers read: the sharpness of their probabilities, and a price near the target's."""

    sharpness: float
    price: int


def _aim(tune_at: ScansAt, k: int, goal: float, target: int) -> Aim:
    """Of the sharpnesses at which the tuning rows reach recall@k about as soon as at any, the one that reads least.

    target: the price without any.
    """
    measured = list[tuple[float, float, Aim]]()
    for sharpness in SHARPNESS:
        tune = tune_at(sharpness)
        recall_at = tune.recall_at()
        price = price_at(recall_at, k, goal)
        if price is None:
            continue
        reads = recall_at.reads(price, slice(None))
        measured.append((float(reads.ms.mean()), reads.nbytes, Aim(sharpness, target if sharpness == 1 else price)))
    soonest = min((ms for ms, _, _ in measured), default=0.0)
    near = ((nbytes, aim) for ms, nbytes, aim in measured if ms <= soonest + SLACK_MS)
    return min(near, key=lambda one: one[0], default=(0.0, Aim(1.0, target)))[1]


def estimators(tune_at: ScansAt, aims: dict[int, Aim], reranks: dict[int, list[int]]) -> tuple[Estimator, ...]:
    """Fitted to what plans around a price find of each query's neighbours, for each k of aims.

    reranks: numbers of exact scores by k.

    What reads miss is learnt by query; what the codes lose on top hardly differs, and is fitted to means.
    """
    out = []
    for depth, aim in aims.items():
        held = tune_at(aim.sharpness)
        every = np.ones_like(held.p, bool)
        prices = [_times(aim.price, step, held.sizes) for step in STEPS]
        reads = [held.plans(price).blocks for price in prices]
        seen = [features(held, r, price, depth) for r, price in zip(reads, prices, strict=True)]
        whole = max(1e-9, float(held.candidates.recall(every, depth, KEPT).mean()))
        y = np.concatenate([held.candidates.recall(r, depth, KEPT) for r in reads]) / whole
        weights = fit_logistic(np.concatenate(seen), np.minimum(y, 1))
        miss = [1 / (1 + np.exp(np.clip(weights[0] + x @ weights[1:], -60, 60))) for x in seen]
        for rerank in (0, *reranks[depth]):
            ceiling = max(1e-9, float(held.candidates.recall(every, depth, rerank).mean()))
            means = [float(held.candidates.recall(r, depth, rerank).mean()) for r in reads]
            width = min(WIDTHS, key=partial(_off, miss, means, ceiling))
            out.append(Estimator(depth, rerank, ceiling, width, tuple(weights.tolist())))
    return tuple(out)


def _off(miss: list[F64], means: list[float], ceiling: float, width: float) -> float:
    """Squared differences of mean recalls, one a price, and what this width says of the misses, each (Q)."""
    expected = [((1 - m) * (1 - (1 - ceiling) * np.exp(-m / width))).mean() for m in miss]
    return float(np.square(np.array(expected) - means).sum())


def _times(price: int, step: float, sizes: Ints) -> int:
    """A multiple of a price, as far as the planner takes it."""
    return min(int(price * step), PRICE_MAX, (PRICED_MAX - 1) // int(sizes.sum()))


def estimate_recall(estimator: Estimator, held: ScannedQueries, read: Bools, price: int) -> F64:
    """(Q) what the estimator says of queries that read these blocks, as vantage.search.estimate.estimated_recall."""
    z = estimator.weights[0] + features(held, read, price, estimator.k) @ np.array(estimator.weights[1:])
    unread = 1 - (read * held.rows).sum(1) / held.rows.sum()
    miss = np.minimum(1, 2 * unread) / (1 + np.exp(np.clip(z, -60, 60)))
    out: F64 = (1 - miss) * (1 - (1 - estimator.ceiling) * np.exp(-miss / estimator.width))
    return out


Gather = Callable[[Ints], list[int] | None]  # rows of the source -> bytes of the reads that fetch their full vectors


def gather_of(home: npt.NDArray[np.int32], rows: Rows) -> Gather:
    """Models the vectors as one object in the order of home blocks, floats as f16; other columns are left out.

    None where a query's budget does not hold the reads.
    """
    vector_bytes = rows.dimension * min(2, VECTOR_BYTES[rows.stored.kind])
    number = np.empty(len(home), np.int64)
    number[np.argsort(home, kind="stable")] = np.arange(len(home))

    def reads(numbers: Ints) -> list[int] | None:
        items = [("", at, vector_bytes) for at in (number[numbers] * vector_bytes).tolist()]
        spans = plan_gather(items, Budget().gets - LANES, Budget().bytes) if items else []
        return None if spans is None else [s.size for s in spans]

    return reads


def _kept_promises(
    held: ScannedQueries,
    recall_at: PricedRecall,
    k: int,
    goals: Iterable[float],
    known: tuple[Estimator, ...],
    reranks: Sequence[int],
    second_wave: bool,
    gather: Gather,
    sharpness: float = 1.0,
) -> tuple[Promise, ...]:
    """For each goal what reaches it at k in the least modelled time, with exact scores or without.

    sharpness: of the probabilities of held.

    second_wave divides it over two waves, where that is wished for: it evens out queries, and costs time.
    """
    out = list[Promise]()
    for goal in sorted(goals):
        best: tuple[float, Promise] | None = None
        for rerank in (0, *reranks):
            if best is not None and best[1].ms <= TWO_WAVES_MS:
                break
            price = price_at(recall_at, k, goal, rerank)
            if price is None:
                continue
            reads = held.plans(price)
            measured = _promise(held, k, rerank, [(price, reads, np.arange(len(held.p)))], 0.0, gather)
            if measured.ms < (np.inf if best is None else best[0]):
                best = measured.ms, measured
        if best is None:
            continue
        promise = best[1]
        if second_wave and goal >= TWO_WAVES_GOAL:
            promise = _two_waves(held, k, promise, known, goal, gather) or promise
        if not out or promise.recall > out[-1].recall:
            out.append(replace(promise, sharpness=sharpness))
    return tuple(out)


def _promise(
    held: ScannedQueries, k: int, rerank: int, waves: list[tuple[int, Reads, Ints]], threshold: float, gather: Gather
) -> Promise:
    """Measured: waves are (price, plans, the queries that read them)."""
    read = np.zeros_like(held.p, bool)
    count = np.zeros((4, len(held.p)))  # bytes, GETs, waves, ms
    for _, reads, queries in waves:
        read[queries] |= reads.blocks
        for i, sizes in zip(queries, reads.ranges, strict=True):
            if not held.inline:
                count[:, i] += sum(sizes), len(sizes), bool(sizes), wave_ms(sizes)
    if held.pages is not None:
        count += np.array([(sum(pages), len(pages), 1, wave_ms(pages)) for pages in held.pages]).T
    means = count.mean(1)
    if rerank:
        some = slice(0, GATHER_QUERIES * RERANK_MAX // max(rerank, RERANK_MAX))
        rows, answered = held.candidates.row[some], held.candidates.answered(read, rerank)[some]
        spans = [gather(r[a].astype(np.int64)) for r, a in zip(rows, answered, strict=True)]
        means += np.mean([_NEVER if s is None else (sum(s), len(s), bool(s), wave_ms(s)) for s in spans], 0)
    nbytes, gets, waited, ms = means.tolist()
    return Promise(
        promise_recall(held.candidates.recall(read, k, rerank)),
        waves[0][0],
        rerank,
        threshold,
        nbytes,
        gets,
        waited,
        ms,
    )


def _two_waves(
    held: ScannedQueries, k: int, one: Promise, known: tuple[Estimator, ...], goal: float, gather: Gather
) -> Promise | None:
    """The fewest bytes among dearer first waves; the least threshold whose second waves meet the goal."""
    estimator = next(e for e in known if (e.k, e.rerank) == (k, one.rerank))
    best: Promise | None = None
    for step in FIRST_STEPS:
        price = _times(one.price, step, held.sizes)
        first = held.plans(price)
        estimate = estimate_recall(estimator, held, first.blocks, price)
        recalls = [held.candidates.recall(first.blocks, k, one.rerank)]
        later = []
        for halvings in range(1, HALVINGS_MAX + 1):
            later.append(held.plans(price >> halvings, first.blocks))
            recalls.append(held.candidates.recall(first.blocks | later[-1].blocks, k, one.rerank))

        def halvings_at(threshold: float, price: int = price, estimate: F64 = estimate) -> Ints:
            """(Q) halvings of the price for the second wave, 0 without one."""
            trial = replace(one, threshold=threshold)
            prices = [second_price(trial, price, e) for e in estimate.tolist()]
            halvings = {price >> n: n for n in range(HALVINGS_MAX, 0, -1)}
            return np.array([0 if p is None else halvings[p] for p in prices], np.int64)

        recalls_by_wave = np.stack(recalls)
        low, high = 0.0, 1.0
        if promise_recall(recalls_by_wave[halvings_at(high), np.arange(len(estimate))]) < goal:
            continue
        for _ in range(12):
            middle = (low + high) / 2
            enough = promise_recall(recalls_by_wave[halvings_at(middle), np.arange(len(estimate))]) >= goal
            low, high = (low, middle) if enough else (middle, high)
        halved = halvings_at(high)
        waves = [(price, first, np.arange(len(estimate)))]
        for n, reads in enumerate(later, 1):
            some = np.flatnonzero(halved == n)
            waves.append((price >> n, Reads(reads.blocks[some], [reads.ranges[i] for i in some]), some))
        measured = _promise(held, k, one.rerank, waves, high, gather)
        if measured.waves > one.waves and (best is None or measured.nbytes < best.nbytes):
            best = measured
    return best


def make_promises(
    tune_at: ScansAt,
    target: int,
    calibration_at: ScansAt,
    recall_at: PricedRecall,
    contract: Contract,
    rows: int,
    second_wave: bool,
    gather: Gather,
    rerank: int = 0,
    least: float = 0.0,
    deep: Deep | None = None,
) -> Promises:
    """The section of promises: estimators from the tuning rows, promises from those that served nothing else.

    target: the price that reached the target on the tuning rows. recall_at: of the others, as they are. rows: of the
    index. rerank: the exact scores that the target takes, where it takes any. least: of the recalls to promise. deep:
    of the rows that served nothing else some with more neighbours, for k above the contract's; None: it promises for no
    such k.
    """
    own = reranks_of(contract.k, rows, [rerank] if rerank else [])
    reranks = {k: own if k == contract.k else reranks_of(k, rows, own) for k in depths(contract.k)}
    goal = max(contract.target, least)
    aims = {k: _aim(tune_at, k, goal, target) if k < contract.k else Aim(1.0, target) for k in depths(contract.k)}
    known = estimators(tune_at, aims, reranks)

    @cache
    def measured_at(sharpness: float) -> PricedRecall:
        held = calibration_at(sharpness)
        return recall_at if sharpness == 1 else held.recall_at()

    def kept(k: int, goals: Iterable[float], second_wave: bool) -> tuple[Promise, ...]:
        goals = {goal for goal in (contract.target, *goals) if goal >= least}
        if deep is None or k <= contract.k:
            sharpness = (aims.get(k) or _aim(tune_at, k, goal, target)).sharpness
            held, priced, exact = calibration_at(sharpness), measured_at(sharpness), reranks.get(k)
            exact = exact or reranks_of(k, rows, own)
            return _kept_promises(held, priced, k, goals, known, exact, second_wave, gather, sharpness)
        exact = sorted({most for most in (k * 5 // 4, 2 * k) if most <= min(deep.rerank_max, rows)})
        return _kept_promises(deep.held, deep.recall_at, k, goals, known, exact, False, gather)

    beyond = [] if deep is None else deep.depths
    others = [Ladder(k, kept(k, GOALS_OTHER, second_wave)) for k in [*depths(contract.k)[:-1], *beyond]]
    promises = Promises(known, kept(contract.k, GOALS, second_wave), tuple(x for x in others if x.by_recall))

    def measured(k: int, promise: Promise) -> float:
        priced = measured_at(promise.sharpness) if deep is None or k <= contract.k else deep.recall_at
        return priced(promise.price, k, promise.rerank if k <= promise.rerank else 0)

    return between(contract, promises, measured, lambda k: kept(k, GOALS_OTHER, False))


def between(
    contract: Contract,
    promises: Promises,
    measured: Callable[[int, Promise], float],
    kept: Callable[[int], tuple[Promise, ...]],
) -> Promises:
    """With promises also at k amid two that have some, where the prices between those do not keep what they say.

    measured(k, promise): recall@k of queries that read so; kept(k): the promises there. Rows in tight clusters want
    other prices just above the size of a cluster than below, and no line between two k knows of it.
    """
    checked = set[int]()
    while True:
        known = [ladder.k for ladder in promises.ladders(contract.k)]
        amid = [round((a * b) ** 0.5) for a, b in pairwise(known) if b > NEAR_K * a]
        k = next((k for k in amid if k not in checked), None)
        if k is None:
            return promises
        checked.add(k)
        if not _holds(contract, promises, k, measured) and (by_recall := kept(k)):
            others = sorted((*promises.others, Ladder(k, by_recall)), key=lambda ladder: ladder.k)
            promises = replace(promises, others=tuple(others))


def _holds(contract: Contract, promises: Promises, k: int, measured: Callable[[int, Promise], float]) -> bool:
    """Whether the prices that queries take keep recall@k."""
    best = max(ladder.by_recall[-1].recall for ladder in promises.ladders(contract.k))
    for goal in {contract.target, *GOALS_OTHER}:
        if goal > best:
            continue
        promise = promise_of(contract, promises, k, goal)
        if not promise.threshold and measured(k, promise) < goal - MARGIN_MAX:
            return False
    return True
