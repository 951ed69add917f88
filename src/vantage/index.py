"""An index, opened: a snapshot of one generation, which queries end on as they began."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from .cost import CLASS_B_USD, LANES, Budget, Limits, wave_ms
from .errors import InputError, LimitError, NotFoundError
from .format import RERANK_MAX, Current, Root
from .read.bucket import Bucket
from .read.cache import Cache
from .read.deadline import Deadline
from .read.reader import Reader, read_small
from .read.warm import WarmClient
from .read.waves import Steps, run_together
from .receipt import Receipt
from .search import facets, memory, paged, projected, verified
from .search.answer import answer
from .search.estimate import recall_estimate
from .search.facets import FacetAnswer, FacetPlan, FacetQuery
from .search.filtered import Selection, distinct_field, select
from .search.fresh import GONE, BaseRow, FreshRows
from .search.listing import Page, PreparedListing, list_rows
from .search.matching import expected_recall, held
from .search.plan import Plan, spread
from .search.prepare import Prepared, prepare
from .search.projected import Chosen
from .search.query import TOP_K_MAX, Answer, Query
from .search.rank import decode
from .search.route.common import Routed
from .search.rows import ATTRIBUTES_BYTES_MAX, IdEntry, StoredRow, id_hash, no_row
from .search.run import Run
from .search.scan import BlockIds
from .search.segment import Segment

ANY = 1 << 40
BASE_ROWS, BASE_BYTES = 1024, 8 << 20  # rows that are looked up together; bytes of their attributes
EXACT_VECTORS_MAX = 16  # of a request: each may scan all rows that its budget reads


@dataclass(frozen=True)
class Wanted:
    """What is wanted of rows that are asked for by their ids, in up to three waves."""

    attributes: bool
    vectors: bool
    budget: Budget


@dataclass(frozen=True)
class StoredAnswer:
    """rows in the order asked for; missing: ids that no row has; complete is False where the budget or time cut it."""

    rows: list[StoredRow]
    missing: list[int | bytes]
    complete: bool


class Index:
    """A snapshot of an index: its segments as one generation has them, and how their objects are read.

    Its segment may have the log behind that, up to a write (`with_fresh`), and then answers are as if all of that were
    in the generation. Immutable but for its caches, and for what the service sets: `warm_client`, asked before the
    bucket for blocks and routing pages, and `limits`, the most of a request. A generation has one segment.
    """

    def __init__(self, name: str, bucket: Bucket, cache: Cache, current: Current, root: Root) -> None:
        self.name, self.bucket, self.cache, self.current = name, bucket, cache, current
        self.segments = (Segment(name, current.generation, root, cache),)
        self.etags: dict[str, str] = {}
        self.limits = Limits()
        self.warm_client: WarmClient | None = None
        self.read_at = float("-inf")  # when CURRENT was asked for, of time.monotonic

    @classmethod
    async def open(cls, bucket: Bucket, name: str, cache: Cache, receipt: Receipt) -> Index:
        """Two dependent GETs: CURRENT, then the root. NotFoundError when there is no such index."""
        read_at, data = monotonic(), await read_small(bucket, f"{name}/CURRENT", receipt)
        if data is None:
            raise NotFoundError(
                f"there is no index {name!r}",
                hint="check its name: GET /v1/indexes, or the folders of the bucket that hold a CURRENT",
                param="index",
            )
        current = Current.unpack(data, f"{name}/CURRENT")
        if current.deleted:
            what, hint = f"the index {name!r} was deleted", "`vantage create` makes another one under its name"
            raise NotFoundError(what, hint=hint, param="index")
        reader = Reader(bucket, {}, receipt)
        root = await reader.whole(f"{name}/{current.root.key}", current.root.size, current.root.sha256)
        index = cls(name, bucket, cache, current, Root.unpack(root, f"{name}/{current.root.key}"))
        index.read_at = read_at
        return index

    def with_fresh(self, fresh: FreshRows | None) -> Index:
        """A snapshot of the same generation with the log as it is now."""
        other = copy(self)
        other.segments = (self.segment.with_fresh(fresh),)
        return other

    @property
    def fresh(self) -> FreshRows | None:
        """What the log says behind the generation; None where it was not read, or says nothing."""
        return self.segment.fresh

    @property
    def seq(self) -> int:
        """Of the last write that answers see."""
        return self.current.log.start - 1 if self.fresh is None else self.fresh.seq

    @property
    def live_rows(self) -> int:
        """At most so many rows may answer: those of the generation, and fresh ones."""
        return self.root.live_rows + (0 if self.fresh is None else self.fresh.live_rows)

    @property
    def segment(self) -> Segment:
        """The one segment."""
        [segment] = self.segments
        return segment

    @property
    def root(self) -> Root:
        """Of the one segment."""
        return self.segment.root

    @property
    def space(self) -> str:
        """The prefix of the keys of this generation."""
        return f"{self.name}/{self.current.generation}"

    async def query(self, query: Query, receipt: Receipt | None = None, deadline: Deadline | None = None) -> Answer:
        """A batch of one; the receipt counts what was read. What it counts already is taken from the budget.

        deadline: when it ends with what it has, and is not complete; None: after the milliseconds of its budget.
        """
        receipt, deadline = receipt or Receipt(), deadline or Deadline.after(query.budget.ms)
        query = replace(query, budget=receipt.left_of(query.budget))
        [answer] = await self.answer([query], receipt, deadline)
        receipt.proof = answer.receipt.proof
        return replace(answer, receipt=receipt)

    async def answer(
        self, queries: Sequence[Query], receipt: Receipt, deadline: Deadline | None = None
    ) -> list[Answer]:
        """Answers queries together: what several want is read once, in the waves that one query would take.

        receipt counts what was read; that of each answer what its query wanted, as if asked alone: budgets bound that.
        All queries are checked before any is answered. Groups of them run at once, as many as memory has room for.
        deadline: when all end with what they have; None: after the milliseconds of the first one's budget.
        """
        receipt.generation, receipt.seq = self.current.generation, self.seq
        queries = [replace(q, room=q.room // len(queries)) for q in queries]
        if len(queries) == 1:  # a batch shares its waves, and does not read one that would pass the limits
            allowed = receipt.left_of(Budget(self.limits.gets, self.limits.bytes))
            gets, nbytes = allowed.gets, allowed.bytes
            queries = [
                replace(queries[0], budget=queries[0].budget.within(replace(self.limits, gets=gets, bytes=nbytes)))
            ]
        prepared, selections = self._prepare(queries), self._select(queries)
        queries = [replace(q, top_k=min(q.top_k, max(1, self.live_rows))) for q in queries]
        deadline = deadline or Deadline.after(queries[0].budget.ms)
        reader, answers = (
            Reader(self.bucket, self.etags, receipt, deadline, self.warm_client, self.limits),
            list[Answer](),
        )
        shared = memory.shared_bytes(self.segment, queries)
        while len(answers) < len(queries):
            group, nbytes, block_ids = list[tuple[Steps[Answer], Receipt]](), shared, BlockIds()
            first = len(answers)
            left = zip(queries[first:], prepared[first:], selections[first:], strict=True)
            for query, vector, selection in left:
                nbytes += memory.scan_bytes(self.segment, query)
                if group and nbytes > memory.SCANS_BYTES_MAX:
                    break
                own = Receipt(generation=self.current.generation, seq=self.seq)
                group.append((self._answer(query, vector, selection, own, block_ids), own))
            answers += await run_together(group, reader)
        for one in answers:
            receipt.add_scan(one.receipt)
        return answers

    def _prepare(self, queries: Sequence[Query]) -> list[Prepared | None]:
        """The vectors, prepared; None for a query by id, whose vector is still to be read. All are checked."""
        self.check(queries)
        return [prepare(q.vector, self.root.index, q.param) if q.id is None else None for q in queries]

    def _select(self, queries: Sequence[Query]) -> list[Selection | None]:
        """Their filters, each compiled once: the queries of a request share theirs."""
        known: dict[int, Selection | None] = {}
        for query in queries:
            if id(query.filter) not in known:
                known[id(query.filter)] = select(query.filter, self.root, self.segment.homes)
        return [known[id(query.filter)] for query in queries]

    def _answer(
        self, query: Query, prepared: Prepared | None, selection: Selection | None, receipt: Receipt,
        block_ids: BlockIds,
    ) -> Steps[Answer]:  # fmt: skip
        run = yield from self._begin(query, prepared, selection, receipt, block_ids)
        return Answer([], False, False, None, receipt) if run is None else (yield from answer(run))

    def _begin(
        self,
        query: Query,
        prepared: Prepared | None,
        selection: Selection | None,
        receipt: Receipt,
        block_ids: BlockIds,
    ) -> Steps[Run | None]:
        """A query's run; one by the id of a row reads its vector first. None where there was no time for that."""
        budget = query.budget
        if query.id is not None:
            place = self._place(query.id)
            if place is None:
                row_and_vector = yield from self._find(query.id)
            else:
                row_and_vector = self.root.index.rows + place, self._fresh_vector(place)
            if row_and_vector is None:
                return None
            row, vector = row_and_vector
            query, prepared = replace(query, vector=vector, without=row), prepare(vector, self.root.index)
            budget = receipt.added_to(budget).within(self.limits)  # finding it costs the query nothing
        assert prepared is not None
        distinct = None if query.distinct is None else distinct_field(query.distinct, self.root)
        prepared = replace(prepared, selection=selection, distinct=distinct)
        if self.fresh is not None:
            prepared = replace(prepared, superseded=self.fresh.superseded)
        if not query.exact:
            prepared = replace(prepared, sharpness=self.segment.promise(query).sharpness)
        return Run(query, prepared, self.segment, budget, receipt, block_ids)

    def check(self, queries: Sequence[Query]) -> None:
        """Raises for what no answer can be given to, whatever the vectors are."""
        for query in queries:
            self._check(query)
        if any(query.distinct != queries[0].distinct for query in queries):
            raise InputError("the queries differ in distinct", hint="ask for them one by one", param="distinct")
        if queries[0].exact and len(queries) > EXACT_VECTORS_MAX:
            raise LimitError(
                "exact with the number of vectors", len(queries), EXACT_VECTORS_MAX, hint="send several requests",
                param="exact",
            )  # fmt: skip

    def _check(self, query: Query) -> None:
        if not 1 <= query.top_k <= TOP_K_MAX:
            hint = "ask for fewer" if query.top_k > TOP_K_MAX else "ask for one at least"
            raise LimitError("top_k", query.top_k, f"1 to {TOP_K_MAX}", hint=hint, param="top_k")
        if query.exact and not self.root.proves:
            raise InputError(
                f"{self.name!r} has no error norms, so none of its answers can be proven",
                hint="build the index with --error-norms, or leave exact out",
                param="exact",
            )
        if query.exact and (query.rerank or query.recall is not None):
            raise InputError("an exact answer needs no recall and no rerank", hint="leave both out", param="exact")
        if query.distinct is not None:
            distinct_field(query.distinct, self.root)
            if query.exact:
                raise InputError("an exact answer has no distinct", hint="leave one of them out", param="distinct")
        if query.rerank and not query.top_k <= query.rerank <= RERANK_MAX:
            raise LimitError(
                "rerank",
                query.rerank,
                f"top_k ({query.top_k}) to {RERANK_MAX}",
                hint="0 switches it off",
                param="rerank",
            )
        self.segment.promise(query)

    async def explain(self, queries: Sequence[Query]) -> list[dict[str, Any]]:
        """Of each query the first wave: its ranges and what they cost; a query by id reads its vector, nothing else.

        routing: the pages that the router would read first; ranges are known after them. rendition: how the blocks
        are stored that are read.
        second_below: a query whose estimate comes out below it reads a second wave; rerank: rows that get exact scores.
        """
        if any(query.exact for query in queries):
            raise InputError(
                "what an exact answer reads follows from what it finds, so there is no plan to explain",
                hint="leave exact or explain out",
                param="explain",
            )
        runs: list[tuple[Steps[Run | None], Receipt]] = []
        prepared = self._prepare(queries)
        for query, vector, selection in zip(queries, prepared, self._select(queries), strict=True):
            receipt = Receipt()
            runs.append((self._begin(query, vector, selection, receipt, BlockIds()), receipt))
        begun = await run_together(runs, Reader(self.bucket, self.etags, Receipt()))
        return [self._explain(run) for run in begun if run is not None]

    def _explain(self, run: Run) -> dict[str, Any]:
        query, segment, contract = run.query, run.segment, run.segment.root.contract
        run.prepared, before_plan = paged.peek(segment, query, run.prepared)
        routed, pages = segment.peek(query, run.prepared)
        pages, selection = [*before_plan, *pages], run.prepared.selection
        plan, promise = segment.plan(query, routed, query.budget, selection), segment.promise(query)
        if before_plan:  # what they say decides
            plan = Plan([], [], plan.price, True)
        promised = segment.root.promises is not None and query.top_k <= contract.k
        recall = promise.recall if promised else recall_estimate(contract, plan.price, query.top_k)
        sizes, before = [r.size for r in plan.ranges], [page.item.size for page in pages]
        routing = [
            {"page": page.number, "object": page.object, "offset": page.item.offset, "bytes": page.item.size}
            for page in pages
        ]
        block, priced_and_read = (), segment.rendition(query)
        if plan.ranges:
            block = segment.directory(routed).block
        by_filter: dict[str, Any] = {}
        if selection is not None:
            blocks, chosen = plan, projected.choose(run, selection, routed, lambda: plan) if selection.bases else None
            plan, block = (chosen.plan, chosen.base.projection.directory.block) if chosen else (plan, block)
            by_filter = self._explain_filter(run, selection, routed, blocks, chosen)
            if chosen is not None and (wider := verified.instead(run, selection, chosen.ms)) is not None:
                told = self._explain(verified.run_of(run, wider))
                cost = {name: told[name] for name in ("gets", "bytes", "modelled_ms")}
                weighed = [{"projection": None, "looked_at": wider.top_k, **cost}, *by_filter["weighed"]]
                return told | by_filter | {"projection": None, "weighed": weighed, "rerank": query.rerank}
            recall = None
            if segment.root.filter_promises:
                directory = chosen.base.projection.directory if chosen else segment.directory(routed)
                extents = {i for r in plan.ranges for i in range(r.first, r.last)} | set(plan.cached)
                share = held(chosen.routed if chosen else spread(routed, directory, worth=False), extents)
                kept = segment.filter_promise(query, by_chunks=chosen is not None)
                recall = expected_recall(kept, sum(selection.rows) or segment.root.live_rows, share)
            sizes = [r.size for r in plan.ranges]
        return {
            "generation": self.current.generation,
            "routing": routing,
            "rendition": {"number": priced_and_read[1], **segment.root.renditions[priced_and_read[1]]._asdict()},
            "ranges": [
                {
                    "object": segment.root.objects.keys[r.object],
                    "blocks": [block[r.first], block[r.last - 1]],
                    "offset": r.offset,
                    "bytes": r.size,
                }
                for r in plan.ranges
            ],
            "blocks_cached": len(plan.cached),
            "gets": len(sizes) + len(before),
            "bytes": plan.bytes + sum(before),
            "waves": bool(sizes) + bool(before),
            "rounds": -(-len(sizes) // LANES) + -(-len(before) // LANES),
            "modelled_ms": round(wave_ms(before) + wave_ms(sizes), 2),
            "usd_per_million": round(1e6 * CLASS_B_USD * (len(sizes) + len(before)), 4),
            "complete": plan.complete,
            "recall_estimate": recall if plan.complete and not pages and not query.distinct else None,
            "second_below": None if selection is not None else promise.threshold or None,
            "rerank": segment.reranked(query, by_chunks=by_filter.get("projection") is not None),
            **by_filter,
        }

    def _explain_filter(
        self, run: Run, selection: Selection, routed: Routed, blocks: Plan, chosen: Chosen | None
    ) -> dict[str, Any]:
        """What was weighed: reads by blocks, where they have all columns, and by each projection that would do."""
        root, names = run.segment.root, run.segment.root.names
        weighed: list[tuple[str | None, Plan]] = [(None, blocks)] if selection.in_blocks(root) else []
        weighed += [
            (names[root.filters[one.base.projection.field].attribute], one.plan)
            for one in (projected.plans(run, selection, routed) if selection.bases else ())
        ]
        by = None if chosen is None else names[root.filters[chosen.base.projection.field].attribute]
        return {
            "projection": by,
            "matched": round(sum(selection.rows)) if selection.rows else None,
            "weighed": [
                {
                    "projection": name,
                    "gets": len(plan.ranges),
                    "bytes": plan.bytes,
                    "modelled_ms": round(wave_ms([r.size for r in plan.ranges]), 2),
                }
                for name, plan in weighed
            ],
        }

    def plan_facets(self, asked: FacetQuery) -> FacetPlan:
        """What counting reads, nothing of which is read yet. Raises InputError or LimitError for what cannot be had."""
        if asked.within is None:
            return facets.plan_facets(self.segment, asked, asked.budget.within(self.limits))
        try:
            self.check([asked.within])
        except InputError as error:
            error.param = f"within.{error.param}"
            raise
        return facets.plan_within(self.segment, asked)

    async def facets(self, plan: FacetPlan, receipt: Receipt, deadline: Deadline | None = None) -> FacetAnswer:
        """Counts of values, in one wave; of the matches of a query in its waves. A plan is good for one answer."""
        deadline = deadline or Deadline.after(plan.asked.budget.ms)
        if plan.asked.within is not None:
            return facets.of_matches(self.segment, plan, await self.query(plan.asked.within, receipt, deadline))
        receipt.generation, receipt.seq = self.current.generation, self.seq
        reader = Reader(self.bucket, self.etags, receipt, deadline, self.warm_client, self.limits)
        own = [Receipt() for _ in plan.readings]
        steps = [facets.read(self.segment, plan, *one) for one in zip(plan.readings, own, strict=True)]
        taken = await run_together(list(zip(steps, own, strict=True)), reader)
        for one in own:
            receipt.add_scan(one)
        return facets.answer(self.segment, plan, taken, receipt)

    async def find(self, identifier: int | bytes, receipt: Receipt) -> tuple[int, list[float]]:
        """(row, vector) of an id of the generation: one GET for each page of ids, one for the vector. Raises as
        StoredRows.find.
        """
        [row] = await run_together([(self._find(identifier), Receipt())], Reader(self.bucket, self.etags, receipt))
        assert row is not None  # there is no end of time here
        return row

    def _place(self, identifier: int | bytes) -> int | None:
        """Of a row in the log; None where that does not have the id. Raises NotFoundError for a row that is deleted."""
        place = None if self.fresh is None else self.fresh.places.get(identifier)
        if place == GONE:
            raise no_row(identifier)
        return place

    def _fresh_vector(self, place: int) -> list[float]:
        """Of a row in the log."""
        assert self.fresh is not None
        return decode(self.fresh.rows.vector(place), self.root.index.vector_kind)

    def _find(self, identifier: int | bytes) -> Steps[tuple[int, list[float]] | None]:
        rows = self.segment.rows
        entry = yield from rows.find(identifier)
        if entry is None:
            return None
        vectors = yield from rows.vectors({entry.row: entry.check}, Budget())
        return (entry.row, decode(vectors[entry.row], self.root.index.vector_kind)) if vectors else None

    async def row(self, identifier: int | bytes, receipt: Receipt) -> tuple[list[float], dict[str, Any]]:
        """(vector, attributes) of an id: a GET for the page of ids, then one for each of the two, side by side; none of
        a row in the log.
        """
        reader, rows = Reader(self.bucket, self.etags, receipt), self.segment.rows
        receipt.generation, receipt.seq = self.current.generation, self.seq
        if (place := self._place(identifier)) is not None:
            assert self.fresh is not None
            return self._fresh_vector(place), self.fresh.attributes([place], ANY)[0][place]
        [entry] = await run_together([(rows.find(identifier), Receipt())], reader)
        assert entry is not None  # there is no end of time here
        spots = {} if entry.spot is None else {entry.row: entry.spot}
        steps: list[tuple[Steps[dict[int, Any]], Receipt]] = [
            (rows.vectors({entry.row: entry.check}, Budget()), Receipt()),
            (rows.attributes(spots, Budget(), None), Receipt()),
        ]
        vectors, attributes = await run_together(steps, reader)
        return decode(vectors[entry.row], self.root.index.vector_kind), attributes.get(entry.row, {})

    async def rows(
        self, identifiers: Sequence[int | bytes], wanted: Wanted, receipt: Receipt, deadline: Deadline
    ) -> StoredAnswer:
        """Rows by their ids, in the order asked for: one wave for pages of ids, then one for each of what is wanted.

        What the log has of them takes no read.
        """
        receipt.generation, receipt.seq = self.current.generation, self.seq
        reader = Reader(self.bucket, self.etags, receipt, deadline, None, self.limits)
        own = Receipt()  # the budget is of all waves together
        [answer] = await run_together([(self._rows(identifiers, wanted, own), own)], reader)
        return answer

    async def list_rows(
        self, prepared: PreparedListing, receipt: Receipt | None = None, deadline: Deadline | None = None
    ) -> Page:
        """A page of rows, as `prepare_listing` has planned it for the segment of this index.

        deadline: when it ends with what it has; None: after the milliseconds of its budget. Raises InputError for a
        budget that is too small for one row.
        """
        asked, own = prepared.listing.budget, Receipt(generation=self.current.generation, seq=self.seq)
        deadline = deadline or Deadline.after(asked.ms)
        receipt = receipt or Receipt()
        receipt.generation, receipt.seq = self.current.generation, self.seq
        budget = receipt.left_of(asked.within(self.limits))
        reader = Reader(self.bucket, self.etags, receipt, deadline, self.warm_client, self.limits)
        [page] = await run_together([(list_rows(self.segment, prepared, budget, own, deadline), own)], reader)
        receipt.add_scan(own)
        return replace(page, receipt=receipt)

    async def base_rows(
        self, identifiers: Sequence[int | bytes], receipt: Receipt, entries: dict[int | bytes, IdEntry]
    ) -> dict[int | bytes, BaseRow | None]:
        """Rows of the generation by their ids, whatever the log says of them; None for an id that none has. Of as many
        as a request may read; receipt: counts what it has read before, and this.

        First all ids are found, then rows are read in the order of their numbers, so that nothing is read twice.
        entries: of ids that a call before found, whose pages of ids are not read again. Those that are found now come,
        and each goes as its row is read, which takes more memory.
        """
        stored, budget = self.segment.rows, Budget(self.limits.gets, self.limits.bytes, ANY)
        reader = Reader(self.bucket, self.etags, receipt, limits=self.limits)
        unknown = sorted((i for i in identifiers if i not in entries), key=id_hash)
        [found] = await run_together([(stored.find_many(unknown, receipt.left_of(budget)), Receipt())], reader)
        out: dict[int | bytes, BaseRow | None] = {i: None for i, entry in found.items() if entry is None}
        entries |= {i: entry for i, entry in found.items() if entry is not None}
        order, at = sorted((entries[i].row, i) for i in identifiers if i in entries), 0
        while at < len(order):
            some = [entries[identifier] for _, identifier in order[at : at + BASE_ROWS]]
            steps = stored.whole(some, receipt.left_of(budget), BASE_BYTES)
            [rows] = await run_together([(steps, Receipt())], reader)
            if not rows:
                break
            for row, identifier in order[at : at + len(rows)]:
                out[identifier] = BaseRow(*rows[row])
                del entries[identifier]
            at += len(rows)
        return out

    def _stored(
        self, identifiers: Sequence[int | bytes], wanted: Wanted, spent: Receipt, room: int | None = None
    ) -> Steps[tuple[dict[int | bytes, IdEntry | None], dict[int, bytes], dict[int, dict[str, Any]]]]:
        """Of rows of the generation: their entries by id; vectors and attributes, where they are wanted, by number."""
        stored, budget = self.segment.rows, wanted.budget
        entries = yield from stored.find_many(list(dict.fromkeys(identifiers)), budget)
        found = {entry.row: entry for entry in entries.values() if entry is not None}
        vectors: dict[int, bytes] = {}
        if wanted.vectors:
            checks = {row: entry.check for row, entry in found.items()}
            vectors = yield from stored.first_vectors(checks, spent.left_of(budget, reserved=int(wanted.attributes)))
        attributes: dict[int, dict[str, Any]] = {}
        if wanted.attributes:
            spots = {row: entry.spot for row, entry in found.items() if entry.spot is not None}
            attributes = yield from stored.attributes(spots, spent.left_of(budget), room)
        return entries, vectors, attributes

    def _rows(self, identifiers: Sequence[int | bytes], wanted: Wanted, spent: Receipt) -> Steps[StoredAnswer]:
        fresh, kind, room = self.fresh, self.root.index.vector_kind, ATTRIBUTES_BYTES_MAX
        known = {} if fresh is None else {i: fresh.places[i] for i in identifiers if i in fresh.places}
        out: dict[int | bytes, StoredRow] = {}
        if fresh is not None:
            places = [place for place in known.values() if place != GONE]
            own, room = fresh.attributes(places * wanted.attributes, room)
            for identifier, place in known.items():
                if place != GONE:
                    vector = self._fresh_vector(place) if wanted.vectors else None
                    out[identifier] = StoredRow(identifier, vector, own.get(place))
        rest = [identifier for identifier in identifiers if identifier not in known]
        wanted = replace(wanted, budget=wanted.budget.within(self.limits))
        entries, vectors, attributes = yield from self._stored(rest, wanted, spent, room)
        for identifier, entry in entries.items():
            if entry is not None:
                vector = decode(vectors[entry.row], kind) if entry.row in vectors else None
                out[identifier] = StoredRow(identifier, vector, attributes.get(entry.row) if self.root.names else {})
        complete = len(entries) == len(set(rest))
        complete &= not wanted.vectors or all(row.vector is not None for row in out.values())
        complete &= not wanted.attributes or all(row.attributes is not None for row in out.values())
        gone = {identifier for identifier, entry in entries.items() if entry is None}
        gone |= {identifier for identifier, place in known.items() if place == GONE}
        missing = [identifier for identifier in identifiers if identifier in gone]
        return StoredAnswer([out[i] for i in identifiers if i in out], missing, complete)
