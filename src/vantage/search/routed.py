"""The routed source: blocks that the router finds probable and the price allows, and more where little was found."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache

from ..cost import Budget
from ..read.cache import CACHED
from ..read.waves import Steps
from . import holes, paged, projected, verified
from .estimate import estimated_recall, features, recall_estimate, second_price
from .filtered import Matched, Selection
from .matching import expected_recall, held
from .plan import READ_ALL, Plan, plan_scan, rows_of, spread
from .route.common import Routed
from .run import Candidates, Run
from .scan import Contender, Scan, capacity_for

DISTINCT_HALVINGS = 4  # of the price, for a second wave where there were too few values, or too few rows were left


def candidates(run: Run) -> Steps[Candidates]:
    """route -> plan -> read and scan of blocks, or of what stands for them under a filter."""
    query, segment = run.query, run.segment
    if run.prepared.selection is not None:
        yield from paged.read(run)
    selection = run.prepared.selection
    routed = yield from segment.route(run)

    @cache
    def blocks() -> Plan:
        return segment.plan(query, routed, run.left(), selection)

    if selection is not None and selection.rows and selection.bases:
        chosen = projected.choose(run, selection, routed, blocks)
        wider = None if chosen is None else verified.instead(run, selection, chosen.ms)
        if wider is not None:
            if (found := (yield from verified.candidates(run, selection, wider, candidates))) is not None:
                return found
            chosen = projected.choose(run, selection, routed, blocks)  # with what is left
        if chosen is not None:
            return (yield from projected.candidates(run, selection, chosen))
    if selection is not None and not selection.in_blocks(segment.root):  # pages that tell of its chunks were not read
        some = not selection.rows or any(selection.rows)
        expected = Matched(round(sum(selection.rows)), not some)
        return Candidates([], segment.reranked(query), not some, None, lambda: None, matched=expected)
    if routed.directory is None and segment.resident is None:  # its page could not be read
        return Candidates([], segment.reranked(query), False, None, lambda: None)
    return (yield from _in_blocks(run, routed, blocks()))


@dataclass
class _Search:
    """How far a query has looked in blocks. routed: by its router, or with all that this leaves out (floored). price:
    of the last plan. depth: how many rows it asks for, see `holes.depth_of`. best: of the scan.
    """

    run: Run
    scan: Scan
    routed: Routed
    price: int
    depth: int
    best: list[Contender] = field(default_factory=list)
    floored: bool = False

    @property
    def selection(self) -> Selection | None:
        return self.run.prepared.selection

    @property
    def distinct(self) -> bool:
        return self.run.query.distinct is not None

    @property
    def deeper(self) -> bool:
        """Whether it asks for more rows than it wants."""
        return self.depth > self.run.query.top_k


def _in_blocks(run: Run, routed: Routed, plan: Plan) -> Steps[Candidates]:
    """The candidates that a plan finds in blocks, and further waves while there is a reason for one."""
    query, segment = run.query, run.segment
    directory, rendition, rerank = segment.directory(routed), segment.rendition(query)[1], segment.reranked(query)
    most, distinct = max(query.top_k, rerank), query.distinct is not None
    capacity = capacity_for(most + (query.without is not None), distinct=distinct)
    scan = segment.scan_of(segment.root, directory, rendition, run.prepared, capacity, segment.keys, run.block_ids)
    search = _Search(run, scan, routed, plan.price, query.top_k)
    complete = (yield from segment.scan(run, plan, scan, rendition)) and plan.complete and routed.complete
    search.best = scan.contenders(most, query.without)
    if complete and segment.resident is not None:
        search.depth = holes.depth_of(run, scan, search.best)
    estimate = _estimate(search, rerank) if complete else None
    lower = _second_price(search, estimate) if complete else None
    while lower is not None:
        left = run.left(bool(rerank))
        complete = min(left.gets, left.bytes, left.waves) >= 1  # else the budget cuts what the promise takes
        if not complete:
            break
        plan = _second_plan(search, lower, left)
        search.price = plan.price if plan.ranges or plan.cached else search.price
        complete = (yield from segment.scan(run, plan, scan, rendition)) and plan.complete
        search.best = scan.contenders(most, query.without)
        estimate, lower = _estimate(search, rerank), _third_price(search) if complete else None
    run.receipt.rows = scan.rows
    if _lacks(search) or (distinct and len(search.best) < run.wanted and scan.is_full()):
        complete = False  # there may be more
    attributes = scan.attributes if segment.root.renditions[rendition].attributes else None
    known = None if search.selection is None else _matched(search, search.selection)
    return Candidates(
        search.best, rerank, complete, estimate, lambda: _estimate(search, 0), attributes=attributes, matched=known
    )


def _second_price(search: _Search, estimate: float | None) -> int | None:
    """At which a query reads on, in what `search` holds as routed then; None where the first wave suffices: its recall
    is not below what the promise counts on, rows near it are there, and as many as it wants.
    """
    run, price = search.run, search.price
    segment, top_k = run.segment, run.query.top_k
    lower = None
    if estimate is not None and search.selection is None:
        lower = second_price(segment.promise(run.query), price, estimate)
    if search.deeper:
        lower = min(price if lower is None else lower, holes.price_for(price, top_k, search.depth))
    if not _lacks(search):
        return lower
    if search.selection is None and (search.distinct or not segment.is_small):
        return min(lower or price, price >> DISTINCT_HALVINGS)
    if search.selection is not None and not search.selection.rows and segment.resident is not None:
        search.routed = search.routed.floored(segment.root.index.blocks)
    return READ_ALL  # whatever is left may hold some


def _third_price(search: _Search) -> int | None:
    """At which it reads what the router does not name, once: where it still has too few rows, and none are looked for
    that a filter takes or that have values of their own.
    """
    segment = search.run.segment
    blocks, known = segment.root.index.blocks, search.selection is not None or search.distinct
    if known or segment.resident is None or search.floored or not _lacks(search):
        return None
    search.routed, search.floored = search.routed.floored(blocks), True
    return READ_ALL


def _lacks(search: _Search) -> bool:
    """Whether there are fewer than are wanted, and there may be more."""
    run = search.run
    some = (
        search.selection is not None or search.distinct or run.prepared.superseded or run.segment.root.dead is not None
    )
    if len(search.best) >= run.wanted or not some:
        return False
    return not (_is_seen(search) if search.selection is None else _matched(search, search.selection).exact)


def _estimate(search: _Search, rerank: int) -> float | None:
    """Its recall with the exact scores of so many rows; None where nothing was measured of such."""
    if search.distinct or search.deeper:
        return None
    return _recall(search, rerank) if search.selection is None else _recall_of_matching(search, search.selection)


def _matched(search: _Search, selection: Selection) -> Matched:
    """How many rows the filter takes: counted where all extents that may hold one are scanned, else as expected."""
    scan, done = search.scan, search.run.done
    if not selection.rows:
        return Matched(scan.matched, _is_seen(search))
    every = all(i in done or not selection.rows[block] for i, block in enumerate(scan.directory.block))
    return Matched(scan.matched if every else max(scan.matched, round(sum(selection.rows))), every)


def _is_seen(search: _Search) -> bool:
    """Whether all rows of the segment are scanned."""
    return len(search.run.done) == len(search.scan.directory) and search.run.segment.resident is not None


def _second_plan(search: _Search, price: int, left: Budget) -> Plan:
    """What a further wave reads and scans: extents that are done have no value, only bytes where bridged. The price
    falls where it buys too few of the rows that a deeper search asks for.
    """
    run, routed = search.run, search.routed
    segment, rows = run.segment, search.depth - search.scan.rows if search.deeper else 0
    directory, renditions = segment.directory(routed), segment.rendition(run.query)
    flags = segment.flags(directory, renditions)
    for i in run.done:
        flags[i] |= CACHED
    shares = spread(routed, directory, worth=run.query.filter is None)
    while True:
        plan = plan_scan(shares, flags, directory, renditions, price, segment.root.contract.gets, left)
        plan = replace(plan, cached=[i for i in plan.cached if i not in run.done])
        if price <= READ_ALL or not plan.complete or rows_of(plan, directory, run.done) >= rows:
            return plan
        price = max(READ_ALL, price // 2)


def _recall_of_matching(search: _Search, selection: Selection) -> float | None:
    """The recall of a query with a filter, None where nothing was measured; 1 where all rows that match were seen."""
    run = search.run
    if not run.segment.root.filter_promises:
        return None
    promise = run.segment.filter_promise(run.query, by_chunks=False)
    if len(search.best) < run.query.top_k and _matched(search, selection).exact:
        return 1.0
    share = held(spread(search.routed, search.scan.directory, worth=False), run.done)
    return expected_recall(promise, sum(selection.rows) or run.segment.root.live_rows, share)


def _recall(search: _Search, rerank: int) -> float | None:
    """The query's recall after scanning the extents done; the mean at its price in an index without estimators."""
    run, scan, price = search.run, search.scan, search.price
    root, best = run.segment.root, search.best[: run.query.top_k]
    if root.promises is None:
        return recall_estimate(root.contract, price, run.query.top_k)
    if not best:
        return None
    answers = [(c.score / run.prepared.unit, c.place) for c in best]
    rows = scan.directory.rows
    unread = 1 - sum(rows[i] for i in run.done) / root.index.slots
    seen = features(spread(search.routed, scan.directory), run.done, rows, scan.base, answers, price)
    rendition = run.segment.rendition(run.query)[0]
    return estimated_recall(root.promises, rendition, run.query.top_k, rerank, seen, unread)
