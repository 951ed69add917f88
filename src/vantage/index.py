"""An index, opened: the whole data path of a query on one page."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from .cache import Cache
from .errors import DamagedError, InputError, LimitError, NotFoundError
from .estimate import estimated_recall, features, promise_of, second_price
from .format import (
    ID_ENTRY_BYTES,
    ID_PAGE_ROWS,
    RERANK_MAX,
    VECTOR_BYTES,
    Current,
    Promise,
    Root,
    attributes_at,
    part_key,
    shard_key,
)
from .kernels import crc32c
from .plan import CACHED, STARTS_SHARD, Budget, Plan, plan_gather, plan_scan, recall_estimate
from .prepare import Prepared, prepare
from .proof import BoundedScan, Reads, prove
from .rank import Match, decode, estimated, rerank
from .route import ROUTERS, Routed, TwoLevelRouter
from .scan import CONTENDERS_MIN, SCANS, Contender, Scan
from .stats import Receipt
from .store import Bucket, Reader, Until, read_small

TOP_K_MAX = 1000
ATTRIBUTE_RANGES = 6


@dataclass(frozen=True)
class Query:
    """One question. recall None: the contract's target. rerank 0: exact scores only where the recall takes them.

    exact: the best of the whole index, proven; complete is False where the budget ended before that.
    """

    vector: Any
    top_k: int = 10
    recall: float | None = None
    rerank: int = 0
    attributes: bool = False
    vectors: bool = False
    budget: Budget = field(default_factory=Budget)
    without: int | None = None  # a row that is left out of the answer: the query itself
    param: str = "vector"  # what errors call the vector
    exact: bool = False


@dataclass(frozen=True)
class Answer:
    """matches best first; exact says what their scores are; complete is False when a budget cut something.

    after: work that goes on when the answer is out, for waitUntil.
    """

    matches: list[Match]
    exact: bool
    complete: bool
    recall_estimate: float | None
    receipt: Receipt
    after: Awaitable[Any] | None = None


def id_hash(identifier: int | bytes) -> int:
    """The u64 that ids.bin is sorted by: the first 8 bytes of the SHA-256 of the id (an i64 as 8 bytes)."""
    raw = struct.pack("<q", identifier) if isinstance(identifier, int) else identifier
    return int.from_bytes(sha256(raw).digest()[:8], "little")


def _left(budget: Budget, spent: Receipt, reserved: int = 0) -> Budget:
    """What a query may still spend, `reserved` GETs and waves left for later."""
    return Budget(
        budget.gets - spent.gets - reserved, budget.bytes - spent.bytes, budget.waves - spent.waves - reserved
    )


class Index:
    """One generation of an index. Immutable but for its caches, so that a query ends on the generation it began on."""

    def __init__(self, name: str, bucket: Bucket, cache: Cache, current: Current, root: Root) -> None:
        self.name, self.bucket, self.cache, self.current, self.root = name, bucket, cache, current, root
        self.etags: dict[str, str] = {}
        self.router = ROUTERS[root.index.router](root.router, root.index)
        self.scan_of = SCANS[root.index.codec]
        flags = bytearray(root.index.blocks)
        for first in root.directory.shard_blocks[:-1]:
            flags[first] = STARTS_SHARD
        self.space = f"{name}/{current.generation}"
        self.flags = cache.register(self.space, flags)
        if isinstance(self.router, TwoLevelRouter):
            self.pages = cache.register(f"{self.space}/routing", bytearray(len(self.router.section.size)))

    @classmethod
    async def open(cls, bucket: Bucket, name: str, cache: Cache, receipt: Receipt) -> Index:
        """Two dependent GETs: CURRENT, then the root. NotFoundError when there is no such index."""
        data = await read_small(bucket, f"{name}/CURRENT", receipt)
        if data is None:
            raise NotFoundError(
                f"there is no index {name!r}",
                hint="check its name: GET /v1/indexes, or the folders of the bucket that hold a CURRENT",
                param="index",
            )
        current = Current.unpack(data, f"{name}/CURRENT")
        reader = Reader(bucket, {}, receipt)
        root = await reader.whole(f"{name}/{current.root.key}", current.root.size, current.root.sha256)
        return cls(name, bucket, cache, current, Root.unpack(root, f"{name}/{current.root.key}"))

    def plan(self, query: Query, prepared: Prepared, routed: Routed | None = None) -> Plan:
        """What the first wave would read; reads nothing. Raises LimitError where the query asks too much.

        The price is one that fits the mean query: where it buys fewer rows than are asked for, it falls. routed: what
        the router says, where it has read for it; a two-level router that has read nothing names no block.
        """
        self._check(query)
        contract, price = self.root.contract, self.promise(query).price
        routed = routed or self.router.route(prepared)
        if not routed.p:
            return Plan([], [], price, True)
        wanted = min(query.top_k + (query.without is not None), self.root.index.rows)
        last = False
        while True:
            plan = plan_scan(routed, self.flags, self.root.directory, price, contract.gets, query.budget)
            if last or not plan.complete or self._rows(plan) >= wanted:
                return plan
            if not price:  # it takes blocks of probability 0 too, and those that the routing page does not name
                every = array("I", [1]) * self.root.index.blocks
                for b, value in zip(routed.blocks or range(len(every)), routed.p, strict=True):
                    every[b] = value or 1
                routed, last = Routed(every), True
            price //= 2

    def promise(self, query: Query) -> Promise:
        """How the contract keeps the recall that is asked for. Raises LimitError where it cannot."""
        return promise_of(self.root.contract, self.root.stop, query.recall)

    def _rows(self, plan: Plan) -> int:
        """Distinct rows that a plan is sure to scan: the home rows of its blocks."""
        first_row = self.root.directory.first_row
        read = sum(first_row[r.last] - first_row[r.first] for r in plan.ranges)
        inside = {b for r in plan.ranges for b in range(r.first, r.last)}
        return read + sum(first_row[b + 1] - first_row[b] for b in plan.cached if b not in inside)

    async def query(self, query: Query, receipt: Receipt | None = None, until: Until | None = None) -> Answer:
        """prepare -> route -> plan -> store -> scan -> (plan -> store) -> rank.

        until: when it ends with what it has, and is not complete; None: after the milliseconds of its budget.
        """
        receipt, until = receipt or Receipt(), until or Until.after(query.budget.ms)
        receipt.generation = self.current.generation
        prepared = prepare(query.vector, self.root.index, query.param)
        self._check(query)
        if query.exact:
            return await self._exact(query, prepared, receipt, until)
        promise = self.promise(query)
        reader = Reader(self.bucket, self.etags, receipt, until)
        routed, informed = await self._route(prepared, reader, query.budget)
        plan = self.plan(replace(query, budget=_left(query.budget, receipt)), prepared, routed)
        spare = query.without is not None
        kept = promise.rerank if query.top_k <= promise.rerank else 0  # a smaller one could not hold the answer
        ranked = query.rerank or kept
        wanted = max(query.top_k, ranked) + spare
        scan = self.scan_of(self.root, prepared, max(3 * wanted, CONTENDERS_MIN), self.space)
        done: set[int] = set()
        whole = await self._scan(plan, scan, reader, done)
        contenders = [c for c in scan.contenders(wanted) if c.row != query.without]
        measured = whole and plan.complete and informed
        price = plan.price
        estimate = self._estimate(query, prepared, scan, contenders, routed, done, price, ranked) if measured else None
        second = None if estimate is None else second_price(promise, price, estimate)
        left = _left(query.budget, receipt, bool(ranked))
        if second is not None and (reader.until.over or min(left.gets, left.bytes, left.waves) < 1):
            measured = False  # the budget cuts what the promise takes
        elif second is not None:
            plan = self._second(routed, done, left, second)
            price = second if plan.ranges or plan.cached else price
            whole = await self._scan(plan, scan, reader, done)
            contenders = [c for c in scan.contenders(wanted) if c.row != query.without]
            measured = whole and plan.complete
            estimate = self._estimate(query, prepared, scan, contenders, routed, done, price, ranked)
        receipt.rows = scan.rows
        complete, exact = measured, False
        vectors: dict[int, bytes] = {}
        if ranked:
            best = contenders[:ranked]
            vectors = await self._vectors({c.row: c.check for c in best}, reader, query.budget)
            exact = len(vectors) == len(best)
            complete &= exact
            receipt.rows_ranked = len(vectors)
            if not exact and measured:
                estimate = self._estimate(query, prepared, scan, contenders, routed, done, price, 0)
        if exact:
            matches = rerank(contenders, vectors, prepared, self.root.index, query.top_k)
        else:
            matches = estimated(contenders, prepared, self.root.index, query.top_k)
        complete &= await self._dress(matches, vectors, query, reader)
        return Answer(matches, exact, complete, estimate if measured else None, receipt)

    async def _exact(self, query: Query, prepared: Prepared, receipt: Receipt, until: Until) -> Answer:
        """The proven best, scanned in the router's order first; a two-level router names regions, without a read."""
        reader = Reader(self.bucket, self.etags, receipt, until)
        most = query.top_k + (query.without is not None)
        scan = BoundedScan(self.root, prepared, most, most, self.space)

        def left() -> Budget:
            """For scans: two waves, half of the GETs and a quarter of the bytes are kept for full vectors."""
            spare = _left(query.budget, receipt)
            gets, nbytes = spare.gets - query.budget.gets // 2, spare.bytes - query.budget.bytes // 4
            return Budget(gets, nbytes, spare.waves - 2)

        async def read_blocks(plan: Plan, scan: Scan, done: set[int]) -> None:
            await self._scan(plan, scan, reader, done)

        async def read_vectors(checks: dict[int, int]) -> dict[int, bytes]:
            return await self._vectors(checks, reader, query.budget)

        first = self.plan(replace(query, budget=left()), prepared)
        reads = Reads(read_blocks, read_vectors, left)
        matches, vectors, proof = await prove(scan, query.top_k, query.without, first, self.flags, reads)
        receipt.rows, receipt.rows_ranked, receipt.proof = scan.rows, proof.vectors_read, vars(proof)
        complete = await self._dress(matches, vectors, query, reader) and proof.proven
        ranked = all(m.row in vectors for m in matches)
        return Answer(matches, ranked, complete, 1.0 if proof.proven else None, receipt)

    def _estimate(
        self,
        query: Query,
        prepared: Prepared,
        scan: Scan,
        contenders: list[Contender],
        routed: Routed,
        done: set[int],
        price: int,
        ranked: int,
    ) -> float | None:
        """This query's recall after scanning the blocks done; the mean at its price in an index without estimators."""
        stop, best = self.root.stop, contenders[: query.top_k]
        if stop is None:
            return recall_estimate(self.root.contract, price, query.top_k)
        if not best:
            return None
        answers = [(c.score / prepared.unit, c.block) for c in best]
        rows = self.root.directory.rows
        found = features(routed, done, rows, scan.base, answers, price)
        unread = 1 - sum(rows[b] for b in done) / self.root.index.places
        return estimated_recall(stop, query.top_k, ranked, found, unread)

    def _second(self, routed: Routed, done: set[int], left: Budget, price: int) -> Plan:
        """What a second wave would read and scan: blocks that are done have no value, only bytes where bridged."""
        flags = bytearray(self.flags)
        for b in done:
            flags[b] |= CACHED
        plan = plan_scan(routed, flags, self.root.directory, price, self.root.contract.gets, left)
        return replace(plan, cached=[b for b in plan.cached if b not in done])

    def without_reading(self, prepared: Prepared) -> tuple[Routed, int | None]:
        """What the router says from memory, and the routing page that a query would read first, None where none."""
        if not isinstance(self.router, TwoLevelRouter):
            return self.router.route(prepared), None
        wanted = self.router.page(prepared)
        if not self.pages[wanted] & CACHED:
            return self.router.route(prepared), wanted
        return self.router.route(prepared, memoryview(self.cache.get(f"{self.space}/routing", wanted))), None

    async def _route(self, prepared: Prepared, reader: Reader, budget: Budget) -> tuple[Routed, bool]:
        """Reads the routing page that a two-level router needs, unless it is cached.

        And whether it could: a budget with no room for that read and one after it leaves no block named.
        """
        routed, wanted = self.without_reading(prepared)
        if wanted is None:
            return routed, True
        section: Any = self.root.router
        key = f"{self.name}/{self.current.generation}/routing.bin"
        start, length, found = section.offset[wanted], section.size[wanted], bytearray()
        if budget.gets < 2 or budget.waves < 2 or budget.bytes < length:
            return routed, False
        if not await reader.wave([(key, start, length, section.nbytes)], lambda _, data: found.extend(data)):
            return routed, False
        page = memoryview(found)
        if crc32c(page) != section.crc[wanted]:
            raise DamagedError(f"{key}: checksum of page {wanted} differs", hint="publish the index again")
        self.cache.put(f"{self.space}/routing", wanted, page)
        return self.router.route(prepared, page), True

    def _check(self, query: Query) -> None:
        rows = self.root.index.rows
        if not 1 <= query.top_k <= TOP_K_MAX:
            raise LimitError("top_k", query.top_k, f"1 to {TOP_K_MAX}", hint="ask for fewer", param="top_k")
        if query.top_k > rows:
            raise LimitError("top_k", query.top_k, f"the {rows} rows of the index", hint="ask for fewer", param="top_k")
        if query.exact and self.root.bounds is None:
            raise InputError(
                f"{self.name!r} has no error norms, so none of its answers can be proven",
                hint="build the index with --error-norms, or leave exact out",
                param="exact",
            )
        if query.exact and (query.rerank or query.recall is not None):
            raise InputError("an exact answer needs no recall and no rerank", hint="leave both out", param="exact")
        if query.rerank and not query.top_k <= query.rerank <= RERANK_MAX:
            raise LimitError(
                "rerank",
                query.rerank,
                f"top_k ({query.top_k}) to {RERANK_MAX}",
                hint="0 switches it off",
                param="rerank",
            )

    async def _scan(self, plan: Plan, scan: Scan, reader: Reader, done: set[int]) -> bool:
        """Cached blocks first, then each range as it arrives; blocks done already are passed over, new ones added.

        Whether there was time for all.
        """
        directory, receipt = self.root.directory, reader.receipt
        for b in plan.cached:
            scan.block(b, self.cache.get(self.space, b), keep=True)
        receipt.blocks_cached += len(plan.cached)
        receipt.blocks += len(plan.cached)
        done.update(plan.cached)

        def use(i: int, data: memoryview) -> None:
            r = plan.ranges[i]
            fresh = [b for b in range(r.first, r.last) if b not in done]  # others are bridged, and scanned already
            done.update(fresh)
            for b in fresh:
                at = directory.offset[b] - r.offset
                block = data[at : at + directory.size[b]]
                if crc32c(block) != directory.crc[b]:
                    raise DamagedError(
                        f"{self.name}/{shard_key(self.current.generation, r.shard)}: checksum of block {b} at byte "
                        f"{directory.offset[b]} differs",
                        hint="publish the index again",
                    )
                scan.block(b, block, keep=False)
                receipt.blocks += 1
            scan.settle()
            for b in fresh:  # each was verified here
                at = directory.offset[b] - r.offset
                self.cache.put(self.space, b, data[at : at + directory.size[b]])

        sizes = self.root.objects.shards
        return await reader.wave(
            [
                (f"{self.name}/{shard_key(self.current.generation, r.shard)}", r.offset, r.size, sizes[r.shard])
                for r in plan.ranges
            ],
            use,
        )

    async def _gather(
        self, items: list[tuple[str, int, int]], sizes: dict[str, int], reader: Reader, budget: Budget, gets: int
    ) -> list[bytes] | None:
        """The bytes of scattered items in one wave; None when the budget or the time does not allow it."""
        receipt = reader.receipt
        left = budget.gets - receipt.gets
        if receipt.waves >= budget.waves or left < 1:
            return None
        room = budget.bytes - receipt.bytes
        spans = plan_gather(items, min(gets, left), room) or plan_gather(items, left, room)
        if spans is None:
            return None
        out: list[bytes] = [b""] * len(items)

        def use(i: int, data: memoryview) -> None:
            for j in spans[i].items:
                at = items[j][1] - spans[i].offset
                out[j] = bytes(data[at : at + items[j][2]])

        whole = await reader.wave([(s.key, s.offset, s.size, sizes[s.key]) for s in spans], use)
        return out if whole else None

    async def _vectors(self, checks: dict[int, int], reader: Reader, budget: Budget) -> dict[int, bytes]:
        """Full vectors of rows, verified by their checks; {} when the budget does not allow the wave."""
        if not checks:
            return {}
        pages, index = self.root.vectors, self.root.index
        width = VECTOR_BYTES[index.vector_kind] * index.dimension
        items, sizes = [], {}
        for row in checks:
            page = bisect_right(pages.first_row, row) - 1
            part = pages.part[page]
            key = f"{self.name}/{part_key(self.current.generation, part)}"
            sizes[key] = self.root.objects.parts[part]
            items.append((key, pages.offset[page] + (row - pages.first_row[page]) * width, width))
        found = await self._gather(items, sizes, reader, budget, budget.gets)
        for (row, check), vector, (key, _, _) in zip(checks.items(), found or [], items, strict=False):
            if crc32c(vector) != check:
                raise DamagedError(
                    f"{key}: checksum of the vector of row {row} differs", hint="publish the index again"
                )
        return dict(zip(checks, found, strict=True)) if found is not None else {}

    async def _dress(self, matches: list[Match], vectors: dict[int, bytes], query: Query, reader: Reader) -> bool:
        """Attributes and vectors of the matches, when asked for; whether all could be read."""
        whole = True
        if query.vectors and matches:
            missing = {m.row: m.check for m in matches if m.row not in vectors}
            vectors = vectors | await self._vectors(missing, reader, query.budget)
            for m in matches:
                if m.row in vectors:
                    m.vector = decode(vectors[m.row], self.root.index.vector_kind)
            whole &= all(m.vector is not None for m in matches)
        if query.attributes and matches:
            names = [a["name"] for a in self.root.schema["attributes"]]
            found = (
                await self._attribute_blocks({self._home(m.row) for m in matches}, reader, query.budget)
                if names
                else {}
            )
            for m in matches:
                if not names:
                    m.attributes = {}
                    continue
                home = self._home(m.row)
                if home in found:
                    first, end = self.root.directory.first_row[home], self.root.directory.first_row[home + 1]
                    label = f"{self.space}: attributes of block {home}"
                    m.attributes = attributes_at(found[home], end - first, m.row - first, names, label)
            whole &= all(m.attributes is not None for m in matches)
        return whole

    def _home(self, row: int) -> int:
        return bisect_right(self.root.directory.first_row, row) - 1

    async def _attribute_blocks(self, blocks: set[int], reader: Reader, budget: Budget) -> dict[int, bytes]:
        directory, order = self.root.directory, sorted(blocks)
        items, sizes = [], {}
        for b in order:
            shard = bisect_right(directory.shard_blocks, b) - 1
            key = f"{self.name}/{shard_key(self.current.generation, shard)}"
            sizes[key] = self.root.objects.shards[shard]
            items.append((key, directory.attribute_offset[b], directory.attribute_size[b]))
        found = await self._gather(items, sizes, reader, budget, max(ATTRIBUTE_RANGES, len(sizes)))
        for i, (b, data) in enumerate(zip(order, found or [], strict=False)):
            if crc32c(data) != directory.attribute_crc[b]:
                raise DamagedError(
                    f"{items[i][0]}: checksum of attributes of block {b} differs", hint="publish the index again"
                )
        return dict(zip(order, found, strict=True)) if found is not None else {}

    async def find(self, identifier: int | bytes, receipt: Receipt) -> tuple[int, list[float]]:
        """(row, vector) of an id: one GET for the page of ids, one for each candidate's vector.

        The hash is 64 bits wide, and the builder refuses two ids with one hash.
        """
        if isinstance(identifier, int) != (self.root.index.id_kind == "i64"):
            raise InputError(
                f"ids of {self.name!r} are {self.root.index.id_kind}", hint="send an id of that kind", param="id"
            )
        missing = NotFoundError(f"there is no row with id {_readable(identifier)!r}", hint="check the id", param="id")
        if isinstance(identifier, int) and not -(1 << 63) <= identifier < 1 << 63:
            raise missing
        pages, wanted = self.root.id_pages, id_hash(identifier)
        page = bisect_right(pages.first_hash, wanted) - 1
        if page < 0:
            raise missing
        rows = min(ID_PAGE_ROWS, self.root.index.rows - page * ID_PAGE_ROWS)
        key, size = f"{self.name}/{self.current.generation}/ids.bin", self.root.objects.ids
        reader, found = Reader(self.bucket, self.etags, receipt), bytearray()
        offset, length = page * ID_PAGE_ROWS * ID_ENTRY_BYTES, rows * ID_ENTRY_BYTES
        await reader.wave([(key, offset, length, size)], lambda _, data: found.extend(data))
        if crc32c(found) != pages.crc[page]:
            raise DamagedError(f"{key}: checksum of page {page} differs", hint="publish the index again")
        view = memoryview(found)
        hashes = view[: 8 * rows].cast("Q")
        at = bisect_right(hashes, wanted) - 1
        if at < 0 or hashes[at] != wanted:
            raise missing
        row, check = (column[at] for column in (view[8 * rows : 12 * rows].cast("I"), view[12 * rows :].cast("I")))
        if row >= self.root.index.rows:
            raise DamagedError(f"{key}: row {row} of {self.root.index.rows}", hint="build the index again")
        vectors = await self._vectors({row: check}, reader, Budget())
        return row, decode(vectors[row], self.root.index.vector_kind)


def _readable(identifier: int | bytes) -> int | str:
    return identifier if isinstance(identifier, int) else identifier.decode(errors="replace")
