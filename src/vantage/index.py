"""An index, opened: the whole data path of a query on one page."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .cost import CLASS_B_USD, LANES, Budget, Limits, wave_ms
from .errors import InputError, LimitError, NotFoundError
from .format import ID_PAGE_ROWS, RERANK_MAX, VECTOR_BYTES, Current, Promise, Root, id_entry
from .kernels import lrsq_tables_size, pool_size
from .read.bucket import Bucket
from .read.cache import CACHED, STARTS_SHARD, Cache
from .read.deadline import Until
from .read.gather import Span
from .read.reader import IN_FLIGHT_BYTES_MAX, Reader, read_small
from .read.warm import Asker
from .read.waves import Item, Steps, Want, together
from .receipt import Receipt
from .search.estimate import estimated_recall, features, promise_of, recall_estimate, second_price
from .search.exact import BoundedScan, Reads, prove
from .search.plan import SMALL_BYTES, Plan, plan_scan
from .search.prepare import Prepared, prepare
from .search.query import TOP_K_MAX, Answer, Query
from .search.rank import Match, decode, estimated, rerank
from .search.route import ROUTERS
from .search.route.common import Routed
from .search.route.two_level import TwoLevelRouter
from .search.rows import ATTRIBUTES_BYTES_MAX, Rows
from .search.scan import CONTENDERS_MIN, SCANS, Contender, Scan, Tails

SCANS_BYTES_MAX = 4 << 20  # what the scans of a batch may hold at once; more queries are answered in groups
RANKED_BYTES = 1200  # what reading a row's full vector takes beside its bytes
CONTENDER_BYTES = 250
MATCH_BYTES = 500  # a row of an answer: as objects, and as JSON
VALUE_BYTES = 21  # a number of a vector as JSON
ATTRIBUTE_COPIES = 4  # as read, as objects, as JSON, as sent
EXACT_VECTORS_MAX = 16  # of a request: each may scan all rows that its budget reads
EXACT_BYTES = 2 << 20  # what an exact answer holds besides: intervals, ceilings, full vectors


def _left(budget: Budget, spent: Receipt, reserved: int = 0) -> Budget:
    """What a query may still spend, `reserved` GETs and waves left for later."""
    return Budget(
        budget.gets - spent.gets - reserved, budget.bytes - spent.bytes, budget.waves - spent.waves - reserved
    )


def _least(one: Budget, other: Budget) -> Budget:
    """`one` with the GETs and bytes that both allow."""
    return replace(one, gets=min(one.gets, other.gets), bytes=min(one.bytes, other.bytes))


class Index:
    """One generation of an index. Immutable but for its caches, so that a query ends on the generation it began on."""

    def __init__(self, name: str, bucket: Bucket, cache: Cache, current: Current, root: Root) -> None:
        self.name, self.bucket, self.cache, self.current, self.root = name, bucket, cache, current, root
        self.etags: dict[str, str] = {}
        self.limits = Limits()
        self.warm: Asker | None = None  # asked before the bucket for blocks and routing pages
        self.rows = Rows(name, current.generation, root)
        self.router = ROUTERS[root.index.router](root.router, root.index)
        self.scan_of = SCANS[root.index.codec]
        flags = bytearray(root.index.blocks)
        for first in root.directory.shard_blocks[:-1]:
            flags[first] = STARTS_SHARD
        self.space = f"{name}/{current.generation}"
        self.flags = cache.register(self.space, flags)
        self.small = sum(root.directory.size) <= SMALL_BYTES
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
        if not price and self.small:
            routed = self._every(routed)
        wanted = min(query.top_k + (query.without is not None), self.root.index.rows)
        last = False
        while True:
            plan = plan_scan(routed, self.flags, self.root.directory, price, contract.gets, query.budget)
            if last or not plan.complete or self._rows(plan) >= wanted:
                return plan
            if not price:  # it takes blocks of probability 0 too, and those that the routing page does not name
                routed, last = self._every(routed), True
            price //= 2

    def _every(self, routed: Routed) -> Routed:
        """With the least probability for each block that has none."""
        every = array("I", [1]) * self.root.index.blocks
        for b, value in zip(routed.blocks or range(len(every)), routed.p, strict=True):
            every[b] = value or 1
        return Routed(every)

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
        """A batch of one; the receipt counts what was read. What it counts already is taken from the budget.

        until: when it ends with what it has, and is not complete; None: after the milliseconds of its budget.
        """
        receipt, until = receipt or Receipt(), until or Until.after(query.budget.ms)
        query = replace(query, budget=_left(query.budget, receipt))
        [answer] = await self.answer([query], receipt, until)
        receipt.proof = answer.receipt.proof
        return replace(answer, receipt=receipt)

    async def answer(self, queries: Sequence[Query], receipt: Receipt, until: Until | None = None) -> list[Answer]:
        """Answers queries together: what several want is read once, in the waves that one query would take.

        receipt counts what was read; that of each answer what its query wanted, as if asked alone: budgets bound that.
        All queries are checked before any is answered. Groups of them run at once, as many as memory has room for.
        until: when all end with what they have; None: after the milliseconds of the first one's budget.
        """
        receipt.generation = self.current.generation
        queries = [replace(q, room=q.room // len(queries)) for q in queries]
        if (
            len(queries) == 1
        ):  # its plan keeps to the limits; waves of a batch are shared, and one that passes is not read
            most = _left(Budget(self.limits.gets, self.limits.bytes), receipt)
            queries = [replace(queries[0], budget=_least(queries[0].budget, most))]
        prepared = [prepare(q.vector, self.root.index, q.param) if q.id is None else None for q in queries]
        for query in queries:
            self._check(query)
        if queries[0].exact and len(queries) > EXACT_VECTORS_MAX:
            raise LimitError(
                "exact with the number of vectors", len(queries), EXACT_VECTORS_MAX, hint="send several requests",
                param="exact",
            )  # fmt: skip
        queries = [replace(q, top_k=min(q.top_k, self.root.index.rows)) for q in queries]
        until = until or Until.after(queries[0].budget.ms)
        reader, answers = Reader(self.bucket, self.etags, receipt, until, self.warm, self.limits), list[Answer]()
        shared = self._shared(queries)
        while len(answers) < len(queries):
            group, held, tails = list[tuple[Steps[Answer], Receipt]](), shared, Tails()
            for query, vector in zip(queries[len(answers) :], prepared[len(answers) :], strict=True):
                held += self._held(query)
                if group and held > SCANS_BYTES_MAX:
                    break
                own = Receipt(generation=self.current.generation)
                group.append((self._steps(query, vector, own, tails), own))
            answers += await together(group, reader)
        for answer in answers:
            receipt.scanned(answer.receipt)
        return answers

    def price(self, queries: Sequence[Query]) -> int:
        """About the bytes that answering takes at the most at once, with the JSON of the answers. Checks them, too."""
        for query in queries:
            self._check(query)
        index, d = self.root.index, self.root.index.dimension
        scans = min(sum(map(self._held, queries)), SCANS_BYTES_MAX)
        answers = sum(min(q.top_k, index.rows) for q in queries)
        match = MATCH_BYTES + queries[0].vectors * d * (VECTOR_BYTES[index.vector_kind] + VALUE_BYTES)
        told = 0
        if queries[0].attributes:
            mean = sum(self.root.directory.attribute_size) / index.rows
            told = ATTRIBUTE_COPIES * min(round(2 * mean * answers), ATTRIBUTES_BYTES_MAX)
        return self._shared(queries) + scans + answers * match + told

    def row_price(self) -> int:
        """Likewise of a row by its id."""
        longest = max(self.root.directory.attribute_size, default=0)
        return ID_PAGE_ROWS * id_entry(self.root.index) + ATTRIBUTE_COPIES * min(longest, ATTRIBUTES_BYTES_MAX)

    def in_flight(self, queries: Sequence[Query]) -> int:
        """About the bytes of reads under way, which are not in the heap."""
        nbytes = sum(min(self.promise(q).nbytes, q.budget.bytes) for q in queries)
        return min(round(nbytes), IN_FLIGHT_BYTES_MAX)

    def _shared(self, queries: Sequence[Query]) -> int:
        """About what the scans of a batch share: checks and ids of blocks with contenders, all at the most."""
        rows, blocks = self.root.index.places * (self.root.codec.code_bytes + 6), self.root.index.blocks
        tails = sum(self.root.directory.size) - rows
        kept = sum(max(3 * q.top_k, CONTENDERS_MIN) for q in queries)
        return min(tails, tails * kept // blocks, SCANS_BYTES_MAX // 2)

    def _held(self, query: Query) -> int:
        """About the bytes that a query's own scan holds: tables, pool, numbers a block, full vectors."""
        codec, ranked = self.root.codec, max(query.rerank, self.promise(query).rerank)
        tables = lrsq_tables_size(codec.code_bytes, codec.fine)
        pool = pool_size(max(3 * max(query.top_k, ranked), CONTENDERS_MIN))
        width = VECTOR_BYTES[self.root.index.vector_kind] * self.root.index.dimension
        vectors = ranked * (width + RANKED_BYTES) + query.exact * EXACT_BYTES
        contenders = CONTENDER_BYTES * max(query.top_k, ranked)
        return tables + pool + contenders + 8 * self.root.index.blocks + vectors

    def _steps(self, query: Query, prepared: Prepared | None, receipt: Receipt, tails: Tails) -> Steps[Answer]:
        """prepare -> route -> plan -> store -> scan -> (plan -> store) -> rank; a yield is a wave."""
        if query.id is not None:
            found = yield from self._found(query.id)
            if found is None:
                return Answer([], False, False, None, receipt)
            row, vector = found
            budget = _left(query.budget, Receipt(-receipt.gets, -receipt.bytes, -receipt.waves))
            budget = _least(budget, Budget(self.limits.gets, self.limits.bytes))  # which count what finding it took
            query = replace(query, vector=vector, without=row, budget=budget)
            prepared = prepare(vector, self.root.index)
        assert prepared is not None
        if query.exact:
            return (yield from self._exact(query, prepared, receipt, tails))
        promise = self.promise(query)
        routed, informed = yield from self._route(prepared, query.budget, receipt)
        plan = self.plan(replace(query, budget=_left(query.budget, receipt)), prepared, routed)
        spare = query.without is not None
        kept = promise.rerank if query.top_k <= promise.rerank else 0  # a smaller one could not hold the answer
        ranked = query.rerank or kept
        wanted = max(query.top_k, ranked) + spare
        scan = self.scan_of(self.root, prepared, max(3 * wanted, CONTENDERS_MIN), self.space, tails)
        done: set[int] = set()
        whole = yield from self._scan(plan, scan, done, receipt)
        contenders = [c for c in scan.contenders(wanted) if c.row != query.without]
        measured = whole and plan.complete and informed
        price = plan.price
        estimate = self._estimate(query, prepared, scan, contenders, routed, done, price, ranked) if measured else None
        second = None if estimate is None else second_price(promise, price, estimate)
        left = _left(query.budget, receipt, bool(ranked))
        if second is not None and min(left.gets, left.bytes, left.waves) < 1:
            measured = False  # the budget cuts what the promise takes
        elif second is not None:
            plan = self._second(routed, done, left, second)
            price = second if plan.ranges or plan.cached else price
            whole = yield from self._scan(plan, scan, done, receipt)
            contenders = [c for c in scan.contenders(wanted) if c.row != query.without]
            measured = whole and plan.complete
            estimate = self._estimate(query, prepared, scan, contenders, routed, done, price, ranked)
        receipt.rows = scan.rows
        complete, exact = measured, False
        vectors: dict[int, bytes] = {}
        if ranked:
            best = contenders[:ranked]
            vectors = yield from self.rows.vectors({c.row: c.check for c in best}, query.budget, receipt)
            exact = len(vectors) == len(best)
            complete &= exact
            receipt.rows_ranked = len(vectors)
            if not exact and measured:
                estimate = self._estimate(query, prepared, scan, contenders, routed, done, price, 0)
        if exact:
            matches = rerank(contenders, vectors, prepared, self.root.index, query.top_k)
        else:
            matches = estimated(contenders, prepared, self.root.index, query.top_k)
        complete &= yield from self._dress(matches, vectors, query, receipt)
        return Answer(matches, exact, complete, estimate if measured else None, receipt)

    def _exact(self, query: Query, prepared: Prepared, receipt: Receipt, tails: Tails) -> Steps[Answer]:
        """The proven best, scanned in the router's order first; a two-level router names regions, without a read."""
        most = query.top_k + (query.without is not None)
        scan = BoundedScan(self.root, prepared, most, most, self.space, tails)

        def left() -> Budget:
            """For scans: two waves, half of the GETs and a quarter of the bytes are kept for full vectors."""
            spare = _left(query.budget, receipt)
            gets, nbytes = spare.gets - query.budget.gets // 2, spare.bytes - query.budget.bytes // 4
            return Budget(gets, nbytes, spare.waves - 2)

        def read_blocks(plan: Plan, scan: Scan, done: set[int]) -> Steps[None]:
            yield from self._scan(plan, scan, done, receipt)

        def read_vectors(checks: dict[int, int]) -> Steps[dict[int, bytes]]:
            return (yield from self.rows.vectors(checks, query.budget, receipt))

        first = self.plan(replace(query, budget=left()), prepared)
        reads = Reads(read_blocks, read_vectors, left)
        matches, vectors, proof = yield from prove(scan, query.top_k, query.without, first, self.flags, reads)
        receipt.rows, receipt.rows_ranked, receipt.proof = scan.rows, proof.vectors_read, vars(proof)
        complete = (yield from self._dress(matches, vectors, query, receipt)) and proof.proven
        ranked = all(m.row in vectors for m in matches)
        return Answer(matches, ranked, complete, 1.0 if proof.proven else None, receipt)

    def _dress(self, matches: list[Match], vectors: dict[int, bytes], query: Query, receipt: Receipt) -> Steps[bool]:
        more = query.vectors, query.attributes, query.budget
        return (yield from self.rows.dress(matches, vectors, *more, receipt, query.room))

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

    def _route(self, prepared: Prepared, budget: Budget, receipt: Receipt) -> Steps[tuple[Routed, bool]]:
        """Reads the routing page that a two-level router needs, unless it is cached.

        And whether it could: a budget with no room for that read and one after it leaves no block named.
        """
        routed, wanted = self.without_reading(prepared)
        if wanted is None:
            return routed, True
        section: Any = self.root.router
        key = f"{self.name}/{self.current.generation}/routing.bin"
        start, length, found = section.offset[wanted], section.size[wanted], bytearray()
        left = _left(budget, receipt)
        if left.gets < 2 or left.waves < 2 or left.bytes < length:
            return routed, False
        item = Item(key, start, length, section.nbytes, section.crc[wanted], f"page {wanted}")
        span = Span(key, start, length, [0])
        if not (yield Want([item], [span], lambda _, views: found.extend(views[0]), hot=True)):
            return routed, False
        page = memoryview(found)
        self.cache.put(f"{self.space}/routing", wanted, page)
        return self.router.route(prepared, page), True

    def _check(self, query: Query) -> None:
        if not 1 <= query.top_k <= TOP_K_MAX:
            raise LimitError("top_k", query.top_k, f"1 to {TOP_K_MAX}", hint="ask for fewer", param="top_k")
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

    def _scan(self, plan: Plan, scan: Scan, done: set[int], receipt: Receipt) -> Steps[bool]:
        """Cached blocks first, then the others as they arrive; blocks done already are passed over, new ones added.

        Whether there was time for all.
        """
        directory, sizes = self.root.directory, self.root.objects.shards
        for b in plan.cached:
            scan.block(b, self.cache.get(self.space, b), keep=True)
        receipt.blocks_cached += len(plan.cached)
        receipt.blocks += len(plan.cached)
        done.update(plan.cached)
        blocks: list[int] = []
        items: list[Item] = []
        spans: list[Span] = []
        for r in plan.ranges:
            fresh = [b for b in range(r.first, r.last) if b not in done]  # others are bridged, and scanned already
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
                done.add(blocks[number])
            receipt.blocks += len(numbers)
            scan.settle()
            for number, view in zip(numbers, views, strict=True):
                self.cache.put(self.space, blocks[number], view)

        return not items or (yield Want(items, spans, use, hot=True))

    async def find(self, identifier: int | bytes, receipt: Receipt) -> tuple[int, list[float]]:
        """(row, vector) of an id: one GET for the page of ids, one for the vector. See Rows.find for what it raises."""

        [found] = await together([(self._found(identifier), Receipt())], Reader(self.bucket, self.etags, receipt))
        assert found is not None  # there is no end of time here
        return found

    def _found(self, identifier: int | bytes) -> Steps[tuple[int, list[float]] | None]:
        found = yield from self.rows.find(identifier)
        if found is None:
            return None
        row, check, _ = found
        vectors = yield from self.rows.vectors({row: check}, Budget(), Receipt())
        return None if not vectors else (row, decode(vectors[row], self.root.index.vector_kind))

    async def row(self, identifier: int | bytes, receipt: Receipt) -> tuple[list[float], dict[str, Any]]:
        """(vector, attributes) of an id: a GET for the page of ids, then one for each of the two, side by side."""
        reader = Reader(self.bucket, self.etags, receipt)
        receipt.generation = self.current.generation
        [found] = await together([(self.rows.find(identifier), Receipt())], reader)
        assert found is not None  # there is no end of time here
        row, check, spot = found
        steps: list[tuple[Steps[dict[int, Any]], Receipt]] = [
            (self.rows.vectors({row: check}, Budget(), Receipt()), Receipt()),
            (self.rows.attributes({row: spot}, Budget(), Receipt(), None), Receipt()),
        ]
        vectors, attributes = await together(steps, reader)
        return decode(vectors[row], self.root.index.vector_kind), attributes[row]


def explain(index: Index, query: Query) -> dict[str, Any]:
    """The first wave of a query: its ranges and their price, reading nothing.

    routing: the page that a two-level router would read first, None where none is needed; ranges are known after it.
    second_below: a query whose estimate comes out below it reads a second wave; rerank: rows that get exact scores.
    """
    prepared = prepare(query.vector, index.root.index, query.param)
    routed, wanted = index.without_reading(prepared)
    plan: Plan = index.plan(query, prepared, routed)
    promise, contract = index.promise(query), index.root.contract
    promised = index.root.stop is not None and query.top_k == contract.k
    estimate = promise.recall if promised else recall_estimate(contract, plan.price, query.top_k)
    sizes, before, page = [r.size for r in plan.ranges], [], None
    if wanted is not None:
        section: Any = index.root.router
        before = [section.size[wanted]]
        page = {"page": wanted, "offset": section.offset[wanted], "bytes": before[0]}
    return {
        "generation": index.current.generation,
        "routing": page,
        "ranges": [
            {"shard": r.shard, "blocks": [r.first, r.last - 1], "offset": r.offset, "bytes": r.size}
            for r in plan.ranges
        ],
        "blocks_cached": len(plan.cached),
        "gets": len(sizes) + len(before),
        "bytes": plan.bytes + sum(before),
        "waves": (1 if sizes else 0) + len(before),
        "rounds": -(-len(sizes) // LANES) + len(before),
        "modelled_ms": round(wave_ms(before) + wave_ms(sizes), 2),
        "usd_per_million": round(1e6 * CLASS_B_USD * (len(sizes) + len(before)), 4),
        "complete": plan.complete,
        "recall_estimate": estimate if plan.complete and page is None else None,
        "second_below": promise.threshold or None,
        "rerank": query.rerank or (promise.rerank if query.top_k <= promise.rerank else 0),
    }
