"""A segment: one set of blocks of an index, with its root, its router, what of it is cached, and its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..format import Promise, Root
from ..read.cache import CACHED, STARTS_SHARD, Cache
from ..read.gather import Span
from ..read.waves import Item, Steps, Wave
from .estimate import promise_of
from .plan import SMALL_BYTES, Plan, plan_scan
from .query import Query
from .route import ROUTERS
from .route.common import Routed, Router
from .rows import StoredRows
from .scan import SCANS, Scan

if TYPE_CHECKING:
    from ..cost import Budget
    from .run import Run


class Segment:
    """One set of blocks. Immutable but for what is cached of it.

    flags (B): of each block, as the planner takes them. space: the prefix of its objects' keys, and its name in the
    cache.
    """

    def __init__(self, name: str, generation: str, root: Root, cache: Cache) -> None:
        self.name, self.root, self.cache = name, root, cache
        self.space = f"{name}/{generation}"
        self.rows = StoredRows(name, generation, root)
        self.router: Router = ROUTERS[root.index.router](root.router, root.index)
        self.scan_of = SCANS[root.index.codec]
        flags = bytearray(root.index.blocks)
        for first in root.directory.shard_blocks[:-1]:
            flags[first] = STARTS_SHARD
        self.flags = cache.register(self.space, flags)
        self._pages = cache.register(f"{self.space}/routing", bytearray(self.router.pages))
        self._small = sum(root.directory.size) <= SMALL_BYTES

    def key(self, name: str) -> str:
        """The key of one of its objects."""
        return f"{self.space}/{name}"

    def promise(self, query: Query) -> Promise:
        """How the recall is kept that the query has to have, at its top_k. Raises LimitError where it cannot."""
        return promise_of(self.root.contract, self.root.promises, query.top_k, query.recall)

    def page(self, number: int) -> memoryview | None:
        """A routing page, verified, if it is cached."""
        cached = self._pages[number] & CACHED
        return memoryview(self.cache.get(f"{self.space}/routing", number)) if cached else None

    def keep_page(self, number: int, page: memoryview) -> None:
        """Caches a routing page."""
        self.cache.put(f"{self.space}/routing", number, page)

    def plan(self, query: Query, routed: Routed, budget: Budget) -> Plan:
        """What the first wave reads of the blocks that the router names; reads nothing. Raises as `promise` does.

        The price is one that fits the mean query: where it buys fewer rows than top_k, it falls. An unread routing page
        names no block.
        """
        contract, price = self.root.contract, self.promise(query).price
        if not routed.p:
            return Plan([], [], price, True)
        blocks = self.root.index.blocks
        if not price and self._small:
            routed = routed.floored(blocks)
        rows = min(query.top_k + (query.without is not None), self.root.index.rows)
        last = False
        while True:
            plan = plan_scan(routed, self.flags, self.root.directory, price, contract.gets, budget)
            if last or not plan.complete or self._rows_of(plan) >= rows:
                return plan
            if not price:  # it takes blocks of probability 0 too, and those that the routing page does not name
                routed, last = routed.floored(blocks), True
            price //= 2

    def _rows_of(self, plan: Plan) -> int:
        """Distinct rows that a plan is sure to scan: the home rows of its blocks."""
        first_row = self.root.directory.first_row
        read = sum(first_row[r.last] - first_row[r.first] for r in plan.ranges)
        inside = {b for r in plan.ranges for b in range(r.first, r.last)}
        return read + sum(first_row[b + 1] - first_row[b] for b in plan.cached if b not in inside)

    def scan(self, run: Run, plan: Plan, scan: Scan) -> Steps[bool]:
        """Scans a plan's cached blocks, then the others as they arrive; passes over those that the run has done.

        Whether there was time for all.
        """
        directory, sizes, receipt = self.root.directory, self.root.objects.shards, run.receipt
        for b in plan.cached:
            scan.block(b, self.cache.get(self.space, b), keep=True)
        receipt.blocks_cached += len(plan.cached)
        receipt.blocks += len(plan.cached)
        run.done.update(plan.cached)
        blocks: list[int] = []
        items: list[Item] = []
        spans: list[Span] = []
        for r in plan.ranges:
            fresh = [b for b in range(r.first, r.last) if b not in run.done]  # others are bridged, and scanned already
            key = self.rows.shard(r.shard)
            if not fresh:
                continue
            spans.append(Span(key, r.offset, r.size, list(range(len(items), len(items) + len(fresh)))))
            blocks += fresh
            items += [
                Item(
                    key, directory.offset[b], directory.size[b], sizes[r.shard], directory.crc[b],
                    f"block {b} at byte {directory.offset[b]}",
                )
                for b in fresh
            ]  # fmt: skip

        def use(numbers: list[int], views: list[memoryview]) -> None:
            for number, view in zip(numbers, views, strict=True):
                scan.block(blocks[number], view, keep=False)
                run.done.add(blocks[number])
            receipt.blocks += len(numbers)
            scan.settle()
            for number, view in zip(numbers, views, strict=True):
                self.cache.put(self.space, blocks[number], view)

        return not items or (yield Wave(items, spans, use, hot=True))
