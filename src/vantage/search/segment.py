"""A segment: one set of blocks of an index, with its root, its router, what of it is cached, and its rows."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from copy import copy
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING, Protocol

from ..format import ROOT_KEY, Directory, Extent, FilterPromise, Promise, Root
from ..read.cache import CACHED, STARTS_OBJECT, Cache
from ..read.gather import Span
from ..read.waves import Item, Steps, Wave
from ..receipt import Receipt
from .estimate import promise_of
from .filtered import Selection
from .matching import BLOCKS_SHARE_MIN, Pricing, least_share, least_step, plan_share, promise_under_filter, share_for
from .plan import READ_ALL, SMALL_BYTES, Plan, plan_scan, rows_of, spread
from .prepare import Prepared
from .query import TOP_K_MAX, Query
from .route import ROUTERS
from .route.common import Page, Routed, Router
from .route.tail import by_centres, by_logits, shared, tail
from .rows import StoredRows
from .scan import SCANS, Extents
from .superseded import Superseded

if TYPE_CHECKING:
    from ..cost import Budget
    from .fresh import FreshRows
    from .run import Run


FEW_MATCHES = 4  # times top_k: fewer rows than that are all read


class Reads(Protocol):
    """What reads extents, and has done some: their numbers in the directory."""

    receipt: Receipt
    done: set[int]


class Segment:
    """One set of blocks. Immutable but for what is cached of it.

    fresh: what the log says behind it, None where it was not read. space: the prefix of the keys of its generation.
    keys: of its objects, by number. is_small: it may be read as a whole. resident: the directory of all its extents, or
    None where pages of the router have it.
    """

    def __init__(self, name: str, generation: str, root: Root, cache: Cache) -> None:
        self.name, self.generation, self.root, self.cache = name, generation, root, cache
        self.space = f"{name}/{generation}"
        self.keys = root.objects.resolve(name, generation)
        self.resident = root.directory
        self.rows = StoredRows(name, self.keys, root)
        self.fresh: FreshRows | None = None
        self.router: Router = ROUTERS[root.index.router](root.router, root.index)
        self.scan_of = SCANS[root.index.codec]
        self._inline = root.objects.keys.index(ROOT_KEY) if ROOT_KEY in root.objects.keys else None
        self.is_small = self.resident is not None and sum(self.resident.places[0].whole) <= SMALL_BYTES
        cache.register(self.keys)

    @property
    def superseded(self) -> Superseded:
        """Ids that the log has: no row of the generation with one of these may answer."""
        return Superseded() if self.fresh is None else self.fresh.superseded

    @cached_property
    def live_share(self) -> float:
        """Of the rows at home in blocks, those that are not dead."""
        at_home = self.root.index.rows if self.resident is None else self.resident.at_home
        return self.root.live_rows / max(1, at_home)

    def with_fresh(self, fresh: FreshRows | None) -> Segment:
        """The same with the log as it is now."""
        other = copy(self)
        other.fresh = fresh
        return other

    def promise(self, query: Query) -> Promise:
        """How the recall is kept that the query has to have, at its top_k. Raises LimitError where it cannot."""
        return promise_of(self.root.contract, self.root.promises, query.nearest, query.recall)

    def rendition(self, query: Query) -> tuple[int, int]:
        """(the rendition that the promise of a query is of, the one to read): with attributes, where it wants those."""
        priced = 0 if query.exact else self.promise(query).rendition
        own = self.root.renditions[priced]
        if query.attributes and not query.exact and own._replace(attributes=True) in self.root.renditions:
            return priced, self.root.renditions.index(own._replace(attributes=True))
        return priced, priced

    def part(self, number: int, offset: int) -> memoryview | None:
        """A part of an object that is verified and in memory; None where it is not."""
        part = self.cache.get(self.keys[number], offset)
        return None if part is None else memoryview(part)

    def flags(self, directory: Directory, renditions: tuple[int, int]) -> bytearray:
        """(n) of its extents, as `plan_scan` takes them: objects are those of the first of two renditions, whose bytes
        have the prices; what is cached is of the second.
        """
        priced, read = renditions
        flags, offset = bytearray(len(directory)), directory.places[read].offset
        for _, low, _ in directory.runs[priced]:
            flags[low] = STARTS_OBJECT
        for number, low, high in directory.runs[read]:
            cached: Iterable[int]
            if number == self._inline:
                cached = range(low, high)
            elif held := self.cache.offsets(self.keys[number]):
                cached = compress(range(low, high), map(held.__contains__, offset[low:high]))
            else:
                continue
            for i in cached:
                flags[i] |= CACHED
        return flags

    @cached_property
    def homes(self) -> Sequence[int]:
        """(B) rows at home in each block; none where pages of the router have the directory."""
        if self.resident is None:
            return []
        homes = [0] * self.root.index.blocks
        for block, count in zip(self.resident.block, self.resident.homes, strict=True):
            homes[block] += count
        return homes

    def route(self, run: Run) -> Steps[Routed]:
        """The probabilities of blocks, of the rows that the query's filter takes."""
        routed = self._tail(run.prepared, run.query)
        return routed or self._of_matching(run.prepared, (yield from self.router.route(run)))

    def peek(self, query: Query, prepared: Prepared) -> tuple[Routed, list[Page]]:
        """The same as far as no read is needed, and the pages that `route` would read first."""
        if routed := self._tail(prepared, query):
            return routed, []
        if self.root.is_empty:
            return Routed(array("I")), []
        routed, pages = self.router.peek(prepared, self)
        return self._of_matching(prepared, routed), pages

    def _tail(self, prepared: Prepared, query: Query) -> Routed | None:
        root, selection = self.root, prepared.selection
        if selection is None or not selection.rows or root.counts is None:
            return None
        if not root.counts.paged:
            assert root.centres is not None  # they come with such counts
            scores = by_centres(prepared, root.index, root.centres, root.counts)
        elif (logits := self.router.logits(prepared)) is not None:
            scores = by_logits(logits, root.counts)
        else:
            return None
        return tail(scores, selection.rows, query.nearest + (query.without is not None))

    def _of_matching(self, prepared: Prepared, routed: Routed) -> Routed:
        rows = prepared.selection.rows if prepared.selection else ()
        return shared(routed, rows, self.homes) if rows else routed

    def plan(self, query: Query, routed: Routed, budget: Budget, selection: Selection | None = None) -> Plan:
        """What the first wave reads of the blocks that the router names; reads nothing. Raises as `promise` does.

        The price is one that fits the mean query: where it buys fewer rows than top_k, it falls. An unread routing page
        names no block.
        """
        contract, price = self.root.contract, self.promise(query).price
        if self.root.is_empty or (routed.directory is None and self.resident is None):
            return Plan([], [], price, True)
        directory = self.directory(routed)
        routed, renditions = spread(routed, directory, worth=selection is None), self.rendition(query)
        if not price and (self.is_small or self.resident is None):
            routed = routed.floored(len(directory))
        flags = self.flags(directory, renditions)
        if selection is not None:
            return self._plan_matching(query, routed, selection, flags, directory, budget)
        rows = query.nearest + (query.without is not None)
        rows = min(math.ceil(rows / self.live_share), directory.at_home) if self.live_share else 0
        last = False
        while True:
            plan = plan_scan(routed, flags, directory, renditions, price, contract.gets, budget)
            if last or not plan.complete or rows_of(plan, directory) >= rows:
                return plan
            if not price:  # it takes blocks of probability 0 too
                routed, last = routed.floored(len(directory)), True
            price //= 2

    def filter_promise(self, query: Query, *, by_chunks: bool) -> FilterPromise:
        """How the recall of a query with a filter is kept. Raises LimitError where it cannot."""
        return promise_under_filter(self.root, by_chunks, query.nearest, query.recall)

    def reranked(self, query: Query, *, by_chunks: bool = False) -> int:
        """Rows that get exact scores: as many as the query says, or the promise; fewer could not hold the answer.

        by_chunks: of a projection, under a filter.
        """
        promised = self.promise(query).rerank
        if query.filter and self.root.filter_promises:
            promised = self.filter_promise(query, by_chunks=by_chunks).rerank
        return query.rerank or (promised if query.top_k <= promised else 0)

    def _plan_matching(
        self, query: Query, routed: Routed, selection: Selection, flags: bytearray, directory: Directory, budget: Budget
    ) -> Plan:
        """The first wave under a filter, of blocks; of few matching rows all that there may be."""
        renditions, gets = self.rendition(query), self.root.contract.gets
        if selection.rows and sum(selection.rows) < FEW_MATCHES * query.nearest:
            return plan_scan(routed, flags, directory, renditions, READ_ALL, gets, budget)
        matches = sum(selection.rows) or float(self.root.live_rows)
        if not self.root.filter_promises and selection.rows and matches >= BLOCKS_SHARE_MIN * self.root.live_rows:
            # Nothing was measured: the nearest of half of all rows lie about where twice as many of all rows do.
            nearest = min(TOP_K_MAX, round(query.nearest * self.root.live_rows / matches))
            price = promise_of(self.root.contract, self.root.promises, nearest, query.recall).price
            return plan_scan(routed, flags, directory, renditions, price, gets, budget)
        promise = self.filter_promise(query, by_chunks=False)
        pricing = Pricing(routed, flags, directory, renditions, gets, budget)
        return plan_share(
            pricing, share_for(promise, matches), least_step(promise, matches), least_share(promise, matches)
        )

    def directory(self, routed: Routed) -> Directory:
        """Of the extents that a router's answer may name."""
        directory = routed.directory or self.resident
        assert directory is not None
        return directory

    def scan(self, run: Reads, plan: Plan, scan: Extents, rendition: int) -> Steps[bool]:
        """Scans a plan's cached extents, then the others as they arrive; passes over those that the run has done.

        Whether there was time for all.
        """
        directory, sizes, receipt = scan.directory, self.root.objects.sizes, run.receipt
        places = directory.places[rendition]
        for i in plan.cached:
            if i not in run.done:
                number, offset = places.object[i], places.offset[i]
                data = self._inline_part(directory.extent(i, rendition)) if number == self._inline else None
                data = data or self.part(number, offset)
                assert data is not None  # nothing was awaited since it was planned
                scan.block(i, data, keep=True)
        receipt.blocks_cached += len(plan.cached)
        receipt.blocks += len(plan.cached)
        run.done.update(plan.cached)
        extents: list[int] = []
        items: list[Item] = []
        spans: list[Span] = []
        for r in plan.ranges:
            fresh = [i for i in range(r.first, r.last) if i not in run.done]  # others are bridged, and scanned already
            if not fresh:
                continue
            key = self.keys[r.object]
            spans.append(Span(key, r.offset, r.size, list(range(len(items), len(items) + len(fresh)))))
            extents += fresh
            items += [
                Item(
                    key, places.offset[i], places.whole[i], sizes[r.object], places.crc[i],
                    f"block {directory.block[i]} at byte {places.offset[i]}",
                    places.size[i] if scan.has_planes else None,
                )
                for i in fresh
            ]  # fmt: skip

        def use(numbers: list[int], views: list[memoryview]) -> None:
            for number, view in zip(numbers, views, strict=True):
                scan.block(extents[number], view, keep=False)
                run.done.add(extents[number])
            receipt.blocks += len(numbers)
            scan.settle()
            for number, view in zip(numbers, views, strict=True):
                self.cache.put(items[number].key, items[number].offset, view)

        return not items or (yield Wave(items, spans, use, hot=True))

    def _inline_part(self, extent: Extent) -> memoryview:
        return self.root.inline[extent.offset : extent.offset + extent.whole]
