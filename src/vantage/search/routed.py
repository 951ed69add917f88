"""The routed source: blocks that the router finds probable and the price allows, and more where little was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
    """route -> plan -> read and scan; a second wave where the estimate stays below what the promise counts on."""
    query, segment = run.query, run.segment
    promise = segment.promise(query)
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
    rerank = segment.reranked(query)
    if selection is not None and not selection.in_blocks(segment.root):  # pages that tell of its chunks were not read
        some = not selection.rows or any(selection.rows)
        expected = Matched(round(sum(selection.rows)), not some)
        return Candidates([], rerank, not some, None, lambda: None, matched=expected)
    most, distinct = max(query.top_k, rerank), query.distinct is not None
    if routed.directory is None and segment.resident is None:  # its page could not be read
        return Candidates([], rerank, False, None, lambda: None)
    plan, directory, rendition = blocks(), segment.directory(routed), segment.rendition(query)[1]
    capacity = capacity_for(most + (query.without is not None), distinct=distinct)
    scan = segment.scan_of(segment.root, directory, rendition, run.prepared, capacity, segment.keys, run.block_ids)
    price, depth = plan.price, query.top_k

    def contenders() -> list[Contender]:
        return scan.contenders(most, query.without)

    def recall(rows: int) -> float | None:
        if distinct or depth > query.top_k:  # nothing was measured of such
            return None
        if selection is None:
            return _recall(run, scan, best, routed, price, rows)
        return _recall_of_matching(run, scan, routed, selection, len(best) < query.top_k and matched().exact)

    def lacks() -> bool:
        """Whether there are fewer than are wanted, and there may be more."""
        some = selection is not None or distinct or run.prepared.superseded or segment.root.dead is not None
        if len(best) >= run.wanted or not some:
            return False
        return not matched().exact if selection is not None else not _is_seen(scan, run)

    def matched() -> Matched:
        assert selection is not None
        return _matched(scan, run, selection)

    complete = (yield from segment.scan(run, plan, scan, rendition)) and plan.complete and routed.complete
    best, whole, floored = contenders(), segment.resident is not None, False
    if complete and whole:
        depth = holes.depth_of(run, scan, best)
    estimate = recall(rerank) if complete else None
    lower = None if estimate is None or selection is not None else second_price(promise, price, estimate)
    if depth > query.top_k:
        lower = min(price if lower is None else lower, holes.price_for(price, query.top_k, depth))
    if complete and lacks():
        if selection is None:
            lower = READ_ALL if segment.is_small and not distinct else min(lower or price, price >> DISTINCT_HALVINGS)
        else:
            lower = READ_ALL  # whatever is left may hold some
            routed = routed if selection.rows or not whole else routed.floored(segment.root.index.blocks)
    while lower is not None:
        left = run.left(bool(rerank))
        complete = min(left.gets, left.bytes, left.waves) >= 1  # else the budget cuts what the promise takes
        if not complete:
            break
        plan = _second_plan(run, routed, lower, left, depth - scan.rows if depth > query.top_k else 0)
        price = plan.price if plan.ranges or plan.cached else price
        complete = (yield from segment.scan(run, plan, scan, rendition)) and plan.complete
        best = contenders()
        estimate, lower = recall(rerank), None
        if complete and whole and not floored and selection is None and not distinct and lacks():
            lower, floored = READ_ALL, True
            routed = routed.floored(segment.root.index.blocks)  # the router names no more
    run.receipt.rows = scan.rows
    if lacks() or (distinct and len(best) < run.wanted and scan.is_full()):
        complete = False  # there may be more
    attributes = scan.attributes if segment.root.renditions[rendition].attributes else None
    known = None if selection is None else matched()
    return Candidates(best, rerank, complete, estimate, lambda: recall(0), attributes=attributes, matched=known)


def _matched(scan: Scan, run: Run, selection: Selection) -> Matched:
    """How many rows the filter takes: counted where all extents that may hold one are scanned, else as expected."""
    if not selection.rows:
        return Matched(scan.matched, _is_seen(scan, run))
    blocks = scan.directory.block
    every = all(i in run.done or not selection.rows[block] for i, block in enumerate(blocks))
    return Matched(scan.matched if every else max(scan.matched, round(sum(selection.rows))), every)


def _is_seen(scan: Scan, run: Run) -> bool:
    """Whether all rows of the segment are scanned."""
    return len(run.done) == len(scan.directory) and run.segment.resident is not None


def _second_plan(run: Run, routed: Routed, price: int, left: Budget, rows: int) -> Plan:
    """What a second wave reads and scans: extents that are done have no value, only bytes where bridged. The price
    falls where it buys fewer than so many rows.
    """
    segment = run.segment
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


def _recall_of_matching(run: Run, scan: Scan, routed: Routed, selection: Selection, every: bool) -> float | None:
    """The recall of a query with a filter, None where nothing was measured; every: all rows that match were seen."""
    if not run.segment.root.filter_promises:
        return None
    promise = run.segment.filter_promise(run.query, by_chunks=False)
    if every:
        return 1.0
    share = held(spread(routed, scan.directory, worth=False), run.done)
    return expected_recall(promise, sum(selection.rows) or run.segment.root.live_rows, share)


def _recall(
    run: Run, scan: Scan, contenders: Sequence[Contender], routed: Routed, price: int, rerank: int
) -> float | None:
    """The query's recall after scanning the extents done; the mean at its price in an index without estimators."""
    root, best = run.segment.root, contenders[: run.query.top_k]
    if root.promises is None:
        return recall_estimate(root.contract, price, run.query.top_k)
    if not best:
        return None
    answers = [(c.score / run.prepared.unit, c.place) for c in best]
    rows = scan.directory.rows
    unread = 1 - sum(rows[i] for i in run.done) / root.index.slots
    seen = features(spread(routed, scan.directory), run.done, rows, scan.base, answers, price)
    rendition = run.segment.rendition(run.query)[0]
    return estimated_recall(root.promises, rendition, run.query.top_k, rerank, seen, unread)
