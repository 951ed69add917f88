"""Finds what share of the expected answers plans under filters have to hold, by asking a suite of filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vantage.cost import Budget, wave_ms
from vantage.format import (
    PROMISED_VECTORS_MAX,
    VECTOR_BYTES,
    Directory,
    FilterPromise,
    Root,
)
from vantage.read.cache import Cache
from vantage.search.filtered import Base, Selection, select
from vantage.search.matching import (
    BLOCKS_SHARE_MIN,
    MISSED_MAX,
    POWER_MAX,
    POWER_MIN,
    STEP_MAX,
    STEP_MIN,
    Pricing,
    least_share,
    least_step,
    share_for,
)
from vantage.search.plan import spread
from vantage.search.prepare import Prepared
from vantage.search.projected import WRESERVE_BYTES, ChunkScan, known_bases, route_chunks, runs
from vantage.search.route.tail import by_centres, tail
from vantage.search.scan import LrsqScan
from vantage.search.segment import FEW_MATCHES, Segment

from ..bucket.rows import Read
from ..ingest.rows import F32, Ints, Rows
from ..neighbours.exact import CHUNK_BYTES, I32
from ..neighbours.truth import hold_out, neighbours_of
from ..progress import Progress
from ..simulate.edge import prepare_rows
from ..simulate.stored import Opened
from ..tune.contract import MARGIN_MAX, SURE
from ..write.contents import RowTable
from .columns import Column
from .suite import NEAR_FAR, Case, make_suite, nearest_taken, right_rows

QUERIES = 32
POOL = 3000  # rows that a scan keeps
GOALS = (0.8, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99)
TOO_LITTLE = 0.35  # of the expected answers: dearer plans keep no recall that is promised
ENOUGH = 0.9985  # of the expected answers: cheaper plans say no more
LIKELY = 0.9  # of the expected answers: paths are compared by plans that hold as much
POWERS, SLOPES = np.geomspace(0.5, 8, 25), np.linspace(0, 0.4, 9)
NEARLY_ALL = 0.02  # of the expected answers: plans that miss as little count most in a fit
AIMS = 12  # recalls that are tried, from the goal on towards the ceiling
RISES, FLOORS = (0.0, 0.4, 0.8, 1.2), (-32, 9)  # of a promise, as tried
AIM_MAX = 0.998  # of the ceiling: nearer to it plans read all that there is
MORE = (0.0, 0.004, 0.008, 0.012, 0.016, 0.024)  # recall above a goal, as tried
FAMILY_MIN = 12  # queries of a family whose own mean has to keep a promise
ROUNDED = 6  # digits of what a promise says
RERANKS = (0.0, 1.3, 2.0, 4.0)  # times k, exact scores that promises may take
Floats = npt.NDArray[np.float64]
Model = tuple[float, float, dict[int, float]]  # power, slope and by k the ceiling, of FilterPromise


@dataclass(frozen=True)
class Trial:
    """A case asked by one path at one k. share, gets, nbytes, ms (S): of plans, from the price of the step `first` on
    down; recall (R, S): with each number of exact scores. matches: expected. whole: all was read at once, as so little
    is.
    """

    case: Case
    by_chunks: bool
    k: int
    whole: bool
    matches: float
    first: int
    share: Floats
    gets: Floats
    nbytes: Floats
    ms: Floats
    recall: Floats

    def at(self, promise: FilterPromise) -> int:
        """The plan that a promise reads."""
        enough = np.flatnonzero(self.share >= share_for(promise, self.matches))
        last = 0 if self.whole else max(0, self.first - least_step(promise, self.matches))
        last = max(last, *np.flatnonzero(self.share >= least_share(promise, self.matches))[:1], 0)
        return int(min(len(self.share) - 1, last, *enough[:1]))


def calibrate(
    root: Root, folder: Path, rows: Rows, table: RowTable, columns: Sequence[Column], target: float, seed: int,
    progress: Progress,
) -> tuple[tuple[FilterPromise, ...], list[dict[str, Any]]]:  # fmt: skip
    """(promises, what recall costs by family at the target) of an index whose objects lie in a folder.

    root: without promises under filters. None are made where there is no filter to ask.
    """
    held = hold_out(rows.count, seed).calibration
    held = held[np.linspace(0, len(held) - 1, min(QUERIES, len(held))).astype(np.int64)]
    queries = rows.take(held)
    near, _ = neighbours_of(rows, held, queries, min(NEAR_FAR, rows.count - 1))
    suite = make_suite(columns, near, rows.count, seed)
    segment = Segment("", "", root, Cache(0))
    selections = [select(case.filter, root, segment.homes) for case in suite]
    ks = sorted({min(10, root.contract.k), root.contract.k})
    nodes = [None if one is None else one.node for one in selections]
    best, counts = nearest_taken(
        rows.chunks(CHUNK_BYTES), queries, rows.metric, held, suite, nodes, columns, max(ks)
    )  # fmt: skip
    slots, trials = _Slots.of(table), list[Trial]()
    prepared = prepare_rows(rows, held)
    with Opened(folder) as files:
        for i, (case, selection) in enumerate(zip(suite, selections, strict=True)):
            if selection is not None and counts[i]:
                own = _Asked(case, replace(prepared[case.query], selection=selection), selection, int(held[case.query]))
                trials += _try(own, segment, files.read, best[i], int(counts[i]), ks, table, slots)
            progress((i + 1) / len(suite))
    promises = tuple(_promises(trials, ks, root, target))
    return promises, _report(trials, promises, suite, counts, rows.count, target)


@dataclass(frozen=True)
class _Asked:
    """A case at work; own: the source row that the query is."""

    case: Case
    prepared: Prepared
    selection: Selection
    own: int


@dataclass(frozen=True)
class _Slots:
    """The blocks of each source row: block[ends[i]:ends[i + 1]]."""

    block: Ints
    ends: Ints

    @classmethod
    def of(cls, table: RowTable) -> _Slots:
        rows = np.concatenate(table.members)
        block = np.repeat(np.arange(len(table.members)), [len(m) for m in table.members])
        return cls(block[np.argsort(rows, kind="stable")], np.concatenate([[0], np.cumsum(np.bincount(rows))]))

    def of_rows(self, rows: Ints) -> Ints:
        """(rows, most) blocks of source rows, the last one repeated."""
        first, last = self.ends[rows], self.ends[rows + 1] - 1
        most = int((last - first).max(initial=0)) + 1
        places: Ints = np.minimum(first[:, None] + np.arange(most), last[:, None])
        return np.asarray(self.block[places], np.int64)


def _try(
    asked: _Asked, segment: Segment, read: Read, best: tuple[I32, F32], count: int, ks: Sequence[int],
    table: RowTable, slots: _Slots,
) -> list[Trial]:  # fmt: skip
    """A case, by the projection with the fewest rows, and by blocks where these may be read."""
    root, out = segment.root, list[Trial]()
    assert root.centres is not None and root.counts is not None
    some = known_bases(asked.selection, root)
    scores = by_centres(asked.prepared, root.index, root.centres, root.counts)
    routed = {k: tail(scores, asked.selection.rows, k + 1) for k in ks}
    if some:
        base = min(some, key=_rows_of)
        directory = base.projection.directory
        priced = {k: route_chunks(base, routed[k].p) for k in ks}
        pricing = {k: _pricing(segment, priced[k], directory) for k in ks}
        nbytes = sum(sum(directory.places[0].whole[run.first : run.end]) for run in runs(base))
        scan: LrsqScan = ChunkScan(root, base.projection, asked.prepared, POOL, (), {})
        out += _trials(asked, True, nbytes <= WRESERVE_BYTES, pricing, scan, segment, read, best, count, table, None)
    if asked.selection.in_blocks(root) and (not some or count > BLOCKS_SHARE_MIN * root.index.rows):
        assert segment.resident is not None
        pricing = {k: _pricing(segment, spread(routed[k], segment.resident), segment.resident) for k in ks}
        scan = segment.scan_of(root, segment.resident, 0, asked.prepared, POOL, (), {})
        out += _trials(asked, False, False, pricing, scan, segment, read, best, count, table, slots)
    return out


def _rows_of(base: Base) -> int:
    return sum(sum(base.projection.directory.rows[run.first : run.end]) for run in runs(base))


def _pricing(segment: Segment, routed: Any, directory: Directory) -> Pricing:
    flags = segment.flags(directory, (0, 0))
    return Pricing(routed, flags, directory, (0, 0), segment.root.contract.gets, Budget())


def _trials(
    asked: _Asked, by_chunks: bool, whole: bool, pricing: dict[int, Pricing], scan: LrsqScan, segment: Segment,
    read: Read,
    best: tuple[I32, F32], count: int, table: RowTable, slots: _Slots | None,
) -> list[Trial]:  # fmt: skip
    """By one path at each k: plans from dear to cheap, and what those who read them find."""
    root, directory, out = segment.root, scan.directory, list[Trial]()
    plans: dict[int, list[tuple[Any, float, npt.NDArray[np.bool_]]]] = {}
    first = dict[int, int]()
    every = np.zeros(len(directory), bool)
    for k, one in pricing.items():
        if not by_chunks and count < FEW_MATCHES * k:
            continue
        plans[k], first[k] = [], STEP_MAX if whole else min(STEP_MAX, one.first_step(TOO_LITTLE))
        for step in range(first[k], STEP_MIN - 1, -1):
            plan, share = one.plan(one.price(STEP_MIN if whole else step))
            if not plan.complete:
                break
            extents = np.zeros(len(directory), bool)
            for r in plan.ranges:
                extents[r.first : r.last] = True
            plans[k].append((plan, share, extents))
            every |= extents
            if whole or share >= ENOUGH:
                break
    place = directory.places[0]
    for i in np.flatnonzero(every).tolist():
        key = root.objects.keys[place.object[i]]
        scan.block(i, read(key, place.offset[i], place.whole[i]), keep=False)
    entries = [(row, at) for _, row, at, _ in scan.entries()]
    number, at = (np.array(values, np.int64) for values in (zip(*entries, strict=True) if entries else ((), ())))
    source = table.source[number]
    keep = source != asked.own
    source, at = source[keep], at[keep]
    places = at[:, None] if slots is None else slots.of_rows(source)
    for k, some in plans.items():
        if not some:
            continue
        wanted = min(k, count)
        good = np.isin(source, right_rows(best, wanted))
        recall = np.zeros((len(RERANKS), len(some)))
        for j, (_, _, extents) in enumerate(some):
            right = good[extents[places].any(1)]
            for number_of, times in enumerate(RERANKS):
                recall[number_of, j] = min(wanted, int(right[: round(max(1.0, times) * k)].sum())) / wanted
        sizes = [[r.size for r in plan.ranges] for plan, _, _ in some]
        out.append(
            Trial(
                asked.case,
                by_chunks,
                k,
                whole,
                sum(asked.selection.rows),
                first[k],
                np.array([share for _, share, _ in some]),
                np.array([len(own) for own in sizes], float),
                np.array([sum(own) for own in sizes], float),
                np.array([wave_ms(own) for own in sizes]),
                recall,
            )  # fmt: skip
        )
    return out


def _promises(trials: Sequence[Trial], ks: Sequence[int], root: Root, target: float) -> list[FilterPromise]:
    """Of each path and k, by rising recall. Queries take the path that is quicker for them, which is the one that finds
    less: so both aim higher, until the mean of each family keeps the goal.
    """
    models, out = dict[tuple[bool, int], Model](), list[FilterPromise]()
    for by_chunks in (False, True):
        own = [t for t in trials if t.by_chunks == by_chunks and not t.whole]
        if own:
            models |= {(by_chunks, r): _fit(own, r) for r in range(len(RERANKS))}
    for k in ks:
        stacks = {by_chunks: _stack(trials, by_chunks, k) for by_chunks, _ in models}
        for goal in sorted({*GOALS, target}):
            tried = list[tuple[float, list[FilterPromise]]]()
            for more in MORE:
                found = [
                    promise
                    for by_chunks, own in stacks.items()
                    if own and (promise := _cheapest(by_chunks, k, goal, more, models, own, root))
                ]
                tried.append((_least(trials, found, k), found))
                if tried[-1][0] >= goal:
                    break
            out += max(tried, key=lambda one: min(goal, one[0]))[1]
    return sorted(map(_rounded, out), key=lambda p: (p.by_chunks, p.k, p.recall))


def _rounded(promise: FilterPromise) -> FilterPromise:
    """The same on any machine: the last bits of powers and sums are not."""
    names = ("aim", "ceiling", "power", "slope", "gets", "nbytes", "ms")
    return replace(promise, **{name: round(getattr(promise, name), ROUNDED) for name in names})


def _cheapest(
    by_chunks: bool, k: int, goal: float, more: float, models: dict[tuple[bool, int], Model],
    own: _Stack, root: Root,
) -> FilterPromise | None:  # fmt: skip
    """The promise of a goal with the fewest exact scores."""
    vector = root.index.dimension * VECTOR_BYTES[root.index.vector_kind]
    for r, times in enumerate(RERANKS):
        rerank = round(times * k)
        if rerank * vector <= PROMISED_VECTORS_MAX:
            power, slope, ceilings = models[by_chunks, r]
            blank = FilterPromise(
                by_chunks, k, goal, goal, rerank, ceilings[k], power, slope, 0.0, 0.0, 0.0, 0.0, 0.0
            )  # fmt: skip
            sure = _aimed(blank, own, r, goal + more)
            if promise := sure or (_aimed(blank, own, r, goal + more, sure=False) if not r else None):
                return promise
    return None


def _rerank_of(promise: FilterPromise) -> int:
    """Its place among RERANKS."""
    return [round(times * promise.k) for times in RERANKS].index(promise.rerank)


def _stack(trials: Sequence[Trial], by_chunks: bool, k: int) -> _Stack | None:
    """Trials of a path at k, of the queries that it is the quicker one for, if there are any."""
    own = [t for t in trials if t.by_chunks == by_chunks and not t.whole and t.k == k]
    return _Stack.of(_quicker(trials, own, k) or own) if own else None


def _least(trials: Sequence[Trial], promises: Sequence[FilterPromise], k: int) -> float:
    """The mean recall of the family with the least, each query by the quicker path. Without those that are read whole:
    they find what codes can tell, whatever is aimed at.
    """
    of = {p.by_chunks: p for p in promises}
    best: dict[tuple[str, int], tuple[float, float, bool]] = {}
    for t in trials:
        if t.k == k and (promise := of.get(t.by_chunks)):
            j, key = t.at(promise), (t.case.family, t.case.query)
            one = float(t.ms[j]), float(t.recall[_rerank_of(promise), j]), t.whole
            best[key] = min(best.get(key, one), one)
    families: dict[str, list[float]] = {}
    for (family, _), (_, recall, whole) in best.items():
        if not whole:
            families.setdefault(family, []).append(recall)
    return min((float(np.mean(some)) for some in families.values() if len(some) >= FAMILY_MIN), default=1.0)


def _quicker(trials: Sequence[Trial], own: Sequence[Trial], k: int) -> list[Trial]:
    """Those of one path at k that the model says are quicker than the others, by plans that hold LIKELY answers."""
    best: dict[tuple[str, int], float] = {}

    def ms(t: Trial) -> float:
        return float(t.ms[min(len(t.ms) - 1, int(np.searchsorted(t.share >= LIKELY, True)))])

    for t in trials:
        key = t.case.family, t.case.query
        if t.k == k:
            best[key] = min(best.get(key, ms(t)), ms(t))
    return [t for t in own if t.k == k and ms(t) <= best[t.case.family, t.case.query]]


@dataclass(frozen=True)
class _Stack:
    """Trials of one path and k side by side (T), each with its plans (S), the last one repeated.

    family (T): the number of each one's family; sizes: trials of each family; x: as in FilterPromise; first (T); share,
    gets, nbytes, ms (T, S); recall (R, T, S).
    """

    family: Ints
    sizes: Ints
    x: Floats
    first: Ints
    share: Floats
    recall: Floats
    gets: Floats
    nbytes: Floats
    ms: Floats

    @classmethod
    def of(cls, trials: Sequence[Trial]) -> _Stack:
        most = max(len(t.share) for t in trials)
        plans = np.array([np.minimum(np.arange(most), len(t.share) - 1) for t in trials])
        share, gets, nbytes, ms = (
            np.array([getattr(t, name)[j] for t, j in zip(trials, plans, strict=True)])
            for name in ("share", "gets", "nbytes", "ms")
        )
        recall = np.stack([t.recall[:, j] for t, j in zip(trials, plans, strict=True)], axis=1)
        _, family, sizes = np.unique([t.case.family for t in trials], return_inverse=True, return_counts=True)
        x = np.array([np.log2(max(1.0, t.matches / t.k)) for t in trials])
        first = np.array([t.first for t in trials])
        return cls(family, sizes, x, first, share, recall, gets, nbytes, ms)

    def means(self, values: Floats) -> Floats:
        """Of each family, of values (T)."""
        return np.bincount(self.family, values) / self.sizes

    def surely(self, values: Floats) -> Floats:
        """Those means, less half of their standard errors."""
        mean = self.means(values)
        return mean - 0.5 * np.sqrt(np.maximum(0, self.means(values**2) - mean**2) / self.sizes)


def _aimed(blank: FilterPromise, own: _Stack, r: int, wanted: float, *, sure: bool = True) -> FilterPromise | None:
    """The promise that keeps the recall that is wanted of it with the fewest bytes, their logarithms added up over the
    families; None where none does. sure: not by a chance of these few queries; exact scores for that would cost a wave.
    """
    each, last, out = np.arange(len(own.x)), own.share.shape[1] - 1, list[tuple[float, FilterPromise]]()
    power = np.clip(blank.power - blank.slope * own.x, POWER_MIN, POWER_MAX)[:, None]
    expected = blank.ceiling * (1 - np.maximum(0, 1 - own.share) ** power)
    least = expected >= 1 - MISSED_MAX * (1 - blank.recall)
    least_plans = np.where(least.any(1), least.argmax(1), last)
    many = own.sizes >= FAMILY_MIN

    def at(aimed: Ints, floor: float, rise: float) -> Ints:
        """Which plans are read, where those of the aim are known."""
        steps = np.clip(np.ceil(np.round(floor + rise * own.x, 6)), STEP_MIN, STEP_MAX).astype(np.int64)
        plans: Ints = np.minimum(aimed, np.maximum(np.maximum(0, own.first - steps), least_plans))
        return plans

    def keeps(plans: Ints) -> bool:
        recall = own.recall[r, each, plans]
        margin = sure * min(MARGIN_MAX, SURE * float(recall.std()) / len(recall) ** 0.5)
        means = (own.surely if sure else own.means)(recall)[many]
        return bool(min(means.min(initial=1.0), recall.mean() - margin) >= wanted)

    for aim in np.linspace(wanted, AIM_MAX * blank.ceiling, AIMS).tolist():
        reached = expected >= aim
        aimed = np.where(reached.any(1), reached.argmax(1), last)
        for rise in RISES:
            low, high = FLOORS
            if aim < wanted or not keeps(at(aimed, low, rise)):
                continue
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if keeps(at(aimed, middle, rise)) else (low, middle)
            plans = at(aimed, low, rise)
            worth = float(np.log(own.means(own.nbytes[each, plans]) + 1).sum())
            gets, nbytes, ms = (float(values[each, plans].mean()) for values in (own.gets, own.nbytes, own.ms))
            out.append((worth, replace(blank, aim=aim, floor=float(low), rise=rise, gets=gets, nbytes=nbytes, ms=ms)))
    return min(out, key=lambda one: one[0])[1] if out else None


def _fit(trials: Sequence[Trial], r: int) -> Model:
    """By least squares over all plans of each trial, with so many exact scores."""
    share = np.concatenate([t.share for t in trials])
    depth = np.concatenate([np.full(len(t.share), t.k) for t in trials])
    recall = np.concatenate([t.recall[r] for t in trials])
    weight = np.concatenate([np.full(len(t.share), 1 / len(t.share)) for t in trials]) / (1 - share + NEARLY_ALL)
    x = np.concatenate([np.full(len(t.share), np.log2(max(1.0, t.matches / t.k))) for t in trials])
    fits = list[tuple[float, Model]]()
    for power in POWERS.tolist():
        for slope in SLOPES.tolist():
            shape = 1 - np.maximum(0, 1 - share) ** np.clip(power - slope * x, POWER_MIN, POWER_MAX)
            off, ceilings = 0.0, dict[int, float]()
            for k in sorted(set(depth.tolist())):
                w, s, found = weight[depth == k], shape[depth == k], recall[depth == k]
                ceilings[k] = min(1.0, max(1e-3, float((found * w * s).sum() / max(1e-9, (w * s * s).sum()))))
                off += float((w * (ceilings[k] * s - found) ** 2).sum())
            fits.append((off, (power, slope, ceilings)))
    return min(fits, key=lambda fit: fit[0])[1]


def _report(
    trials: Sequence[Trial], promises: Sequence[FilterPromise], suite: Sequence[Case], counts: Ints, rows: int,
    target: float,
) -> list[dict[str, Any]]:  # fmt: skip
    """Of each family and k what its queries take at the target, each by the path that the model says is quicker."""
    share: dict[str, list[float]] = {}
    for case, count in zip(suite, counts.tolist(), strict=True):
        share.setdefault(case.family, []).append(count / rows)
    kept = {(p.by_chunks, p.k): p for p in reversed(promises) if p.recall >= target} or {
        (p.by_chunks, p.k): p for p in promises
    }
    chosen: dict[tuple[str, int, int], tuple[float, ...]] = {}
    for t in trials:
        promise = kept.get((t.by_chunks, t.k))
        j = len(t.share) - 1 if promise is None else t.at(promise)
        r = 0 if promise is None else _rerank_of(promise)
        one = float(t.ms[j]), float(t.recall[r, j]), float(t.gets[j]), float(t.nbytes[j])
        key = t.case.family, t.k, t.case.query
        chosen[key] = min(chosen.get(key, one), one)
    out = []
    for k in sorted({k for _, k, _ in chosen}):
        for family in share:
            some = [one for (name, depth, _), one in chosen.items() if (name, depth) == (family, k)]
            if some:
                ms, recall, gets, nbytes = np.mean(some, axis=0).tolist()
                out.append({
                    "filter": family, "k": k, "rows": float(np.mean(share[family])), "recall": round(recall, 4),
                    "gets": round(gets, 2), "bytes": round(nbytes), "modelled_ms": round(ms, 1),
                })  # fmt: skip
    return out


def promises_dict(promises: Sequence[FilterPromise]) -> list[dict[str, Any]]:
    """For the manifest."""
    return [asdict(p) for p in promises]
