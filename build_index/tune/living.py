"""The living contract: rows held out keep their exact neighbours as rows come and go, so that prices stay true."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np

from vantage.cost import LANES, Budget
from vantage.format import VECTOR_BYTES, Contract, Cursor, IndexSection, Ladder, Promise, Promises, Root
from vantage.format.layout import HELD, HELD_MAGIC, damaged, pack_object, unpack_object
from vantage.read.gather import plan_gather
from vantage.search.estimate import promise_of
from vantage.search.plan import SMALL_BYTES
from vantage.search.prepare import Prepared, prepare

from ..bucket.rows import Read, is_dead
from ..ingest.formats.batch import DTYPES
from ..ingest.rows import F32, Ints, Rows, in_scale
from ..neighbours.exact import CHUNK_BYTES, I32, best_of, neighbours_at
from ..neighbours.truth import Truth, neighbours_of, tied
from ..routers import ROUTERS
from ..simulate.edge import HeldOutQueries, P
from ..simulate.measure import KEPT, Bools
from ..simulate.stored import extent_probabilities, scan_stored, starts, stored_vectors
from . import renditions
from .contract import calibrate, price_at, target_point, with_reads
from .promises import Gather, ScannedQueries, ScansAt, make_promises

HELD_KEY = "held.bin"
HELD_ROWS, HELD_BYTES = 1500, 4 << 20  # rows that are asked, and bytes of their vectors, at most
NEAR = 128  # neighbours that are kept of each: some go away
UNMEASURED = 0.02  # of the rows may have changed since prices were measured
ASKED_MIN = 20  # rows held, that prices are measured by
SCANNED = 1 << 26  # rows in extents times queries, that are scanned at most: of WordNet a quarter for each query
GROWS = 0.3  # bytes a query of an index built anew, as a power of its rows: 0.22 to 0.33, see docs/scale.md
# Times those bytes, and so many more: a rebuild pays. The first thousand rows beside 45,000 take 1.3 times, which is
# 3 ms of a query; six lanes read the bytes in 1.5 ms.
PAYS, PAYS_BYTES = 1.5, 512 << 10
SLACK = 2.0**-20  # of scores: those that float32 sums do not tell apart tie

COLUMNS = ("rows", "vectors", "near", "cost", "later")
_HELD = struct.Struct("<IIIIQQQQdd")
COMPARED = 8  # times as many copies of rows are compared as neighbours are wanted: a row has a few
Nearest = Callable[["Held", int], tuple[I32, F32]]  # so many neighbours of rows held, and costs, as Held has them


@dataclass(frozen=True)
class Held:
    """Rows that are asked (H), as an index keeps them in `held.bin`.

    rows i64 (H): their numbers. vectors f32 (H, d): as they are stored. near i32 (H, NEAR): the rows nearest to each,
    itself left out, best first, -1 behind the last that is known for sure; cost f32 (H, NEAR): theirs, as
    neighbours_at has it, inf for none. later bool (H): which came after the build. sizes i64 (B): rows of blocks,
    copies too, as the router knows of them. changed: rows that came or went since prices were measured. numbers, gone:
    of the index, and dead ones of these, when this was written. target: the recall that was asked for. built_rows,
    built_bytes: of the build, and what a query at its target read.
    """

    rows: Ints
    vectors: F32
    near: I32
    cost: F32
    later: Bools
    sizes: Ints
    changed: int
    numbers: int
    gone: int
    target: float
    built_rows: int
    built_bytes: float

    def pack(self, kind: str) -> bytes:
        """held.bin; kind: of the stored vectors."""
        h, d = self.vectors.shape
        head = _HELD.pack(
            h, d, self.near.shape[1], len(self.sizes), self.changed, self.numbers, self.gone, self.built_rows,
            self.built_bytes, self.target,
        )  # fmt: skip
        columns = (
            self.rows.astype("<u4"), self.later.astype("<u4"), self.sizes.astype("<u4"), self.near.astype("<i4"),
            self.cost.astype("<f4"), self.vectors.astype(DTYPES[kind]),
        )  # fmt: skip
        return pack_object(HELD_MAGIC, [(HELD, head + b"".join(column.tobytes() for column in columns))])

    @classmethod
    def unpack(cls, data: bytes, root: Root, name: str) -> Held:
        """Of an index with this root. Raises DamagedError where this is not what `pack` gives, or of another index."""
        sections = unpack_object(data, HELD_MAGIC, name)
        if HELD not in sections:
            raise damaged(name, "has no rows")
        cursor, index = Cursor(sections[HELD], name), root.index
        h, d, width, blocks, changed, numbers, gone, built_rows, built_bytes, target = cursor.unpack(_HELD)
        if d != index.dimension or blocks != index.blocks or numbers > index.rows or not 0 < target < 1:
            raise damaged(name, f"rows of {d} dimensions in {blocks} blocks, of {numbers} numbers, for {target}")
        rows, later, sizes = (np.array(cursor.column("I", n)) for n in (h, h, blocks))
        near = np.array(cursor.column("i", h * width)).reshape(h, width)
        cost = np.array(cursor.column("f", h * width)).reshape(h, width)
        raw = cursor.take(h * d * VECTOR_BYTES[index.vector_kind])
        vectors = np.frombuffer(raw, DTYPES[index.vector_kind]).reshape(h, d).astype(np.float32)
        cursor.end()
        if rows.max(initial=0) >= numbers or near.max(initial=-1) >= numbers or not np.isfinite(vectors).all():
            raise damaged(name, f"holds a row that is none of {numbers}")
        return cls(
            rows.astype(np.int64), vectors, near, cost, later.astype(bool), sizes.astype(np.int64), changed, numbers,
            gone, target, built_rows, built_bytes,
        )  # fmt: skip

    def take(self, some: Ints | Bools) -> Held:
        """Some of the rows."""
        return replace(self, **{name: getattr(self, name)[some] for name in COLUMNS})

    def renumbered(self, number: Ints) -> Held:
        """With row r as number[r]; none of its rows is without one."""
        return replace(
            self, rows=number[self.rows], near=np.where(self.near >= 0, number[self.near], -1).astype(np.int32)
        )

    def truth(self) -> Truth:
        """Of as many neighbours as are kept; costs that float32 does not tell apart tie."""
        known = self.near >= 0
        cost = np.where(known, self.cost, np.inf).astype(np.float64)
        better = tied(np.where(known, -cost, -1e300), SLACK * np.maximum(1.0, np.abs(np.where(known, cost, 0))))
        none = np.zeros(len(self.rows), bool)
        return Truth(self.near, np.where(known, better, -1).astype(np.int32), np.zeros(len(self.rows)), none)


@dataclass(frozen=True)
class Scale:
    """The scale of an index."""

    metric: str
    origin: F32
    scale: float

    @classmethod
    def of(cls, index: IndexSection) -> Scale:
        return cls(index.metric, np.asarray(index.origin, np.float32), index.row_scale)

    def scaled(self, x: F32) -> F32:
        """See Rows.scaled."""
        return in_scale(x, self.metric, self.origin, self.scale)


def without(held: Held, gone: Ints) -> Held:
    """After rows `gone` went. Lists get shorter where neighbours did: what is left of them is exact."""
    held = held.take(~np.isin(held.rows, gone))
    left = (held.near >= 0) & ~np.isin(held.near, gone)
    order = np.argsort(~left, axis=1, kind="stable")
    near = np.take_along_axis(np.where(left, held.near, np.int32(-1)), order, 1)
    cost = np.take_along_axis(np.where(left, held.cost, np.float32(np.inf)), order, 1)
    return replace(held, near=near, cost=cost, changed=held.changed + len(gone))


def follow(held: Held, rows: int, new: Ints, vectors: F32, scale: Scale, draw: np.random.Generator) -> Held:
    """After rows `new` (n) came with vectors (n, d), as they are stored, to an index that now has so many.

    They enter the lists where they are nearer than the last one known, behind which there may be others. Some of them
    join the rows held, so that these are drawn alike from all; they have no lists yet: see `filled`.
    """
    held = replace(held, changed=held.changed + len(new))
    if len(new) and len(held.rows):
        queries, x = scale.scaled(held.vectors), scale.scaled(vectors)
        at, apart = neighbours_at(queries, iter([(0, x)]), min(NEAR, len(new)), scale.metric)
        sure = (at >= 0) & (apart <= np.where(held.near >= 0, held.cost, -np.inf).max(1)[:, None])
        near = np.concatenate([held.near, np.where(sure, new[at], -1).astype(np.int32)], 1)
        cost = np.concatenate([held.cost, np.where(sure, apart, np.inf).astype(np.float32)], 1)
        near, cost = best_of(near, cost, held.near.shape[1])
        held = replace(held, near=np.where(np.isfinite(cost), near, np.int32(-1)), cost=cost)
    return joined(held, rows, new, vectors, draw)


def joined(held: Held, rows: int, new: Ints, vectors: F32, draw: np.random.Generator) -> Held:
    """With some of the rows `new` (n) that came to an index which now has so many, so that those held are drawn alike
    from all; vectors f32 (n, d) as they are stored. They have no lists yet: see `filled`.
    """
    most = min(HELD_ROWS, max(1, HELD_BYTES // (4 * vectors.shape[1])))
    share = len(held.rows) / (rows - len(new)) if len(held.rows) else most / rows
    share = min(share, most / max(1.0, len(held.rows) + share * len(new)) * share)
    count = min(len(new), round(share * len(new)))
    some = np.sort(draw.choice(len(new), count, replace=False))
    held = held.take(np.sort(draw.choice(len(held.rows), min(len(held.rows), most - count), replace=False)))
    near, cost = np.full((count, NEAR), -1, np.int32), np.full((count, NEAR), np.inf, np.float32)
    return replace(
        held, rows=np.concatenate([held.rows, new[some]]), vectors=np.concatenate([held.vectors, vectors[some]]),
        near=np.concatenate([held.near, near]), cost=np.concatenate([held.cost, cost]),
        later=np.concatenate([held.later, np.ones(count, bool)]),
    )  # fmt: skip


def caught_up(held: Held, root: Root, vectors_of: Callable[[Ints], F32], seed: int) -> Held:
    """With what came and went since it was written; vectors_of(numbers) f32 (n, d): as they are stored."""
    every = np.arange(root.index.rows)
    dead = every[is_dead(root.dead, every)]
    new = np.setdiff1d(every[held.numbers :], dead)
    changed = changes(held, root)
    if new.size or len(dead) > held.gone:
        draw = np.random.default_rng([seed, 10, root.index.rows])
        held = follow(without(held, dead), root.live_rows, new, vectors_of(new), Scale.of(root.index), draw)
    return replace(held, changed=changed, numbers=root.index.rows, gone=len(dead))


def changes(held: Held, root: Root) -> int:
    """Rows that came or went since prices were measured."""
    gone = root.dead.count if root.dead else 0
    return held.changed + root.index.rows - held.numbers + gone - held.gone


def is_due(held: Held, changed: int, rows: int) -> bool:
    """Whether prices are to be measured again: not where too little has changed of so many rows, or too few are held
    to say anything.
    """
    return changed >= max(1, UNMEASURED * rows) and len(held.rows) >= ASKED_MIN


def filled(held: Held, k: int, rows: int, nearest: Nearest) -> Held:
    """With the lists found that are too short to tell k answers apart, of an index of so many rows."""
    short = np.flatnonzero((held.near >= 0).sum(1) < min(k + 1, rows - 1))
    if not len(short):
        return held
    near, cost = held.near.copy(), held.cost.copy()
    near[short], cost[short] = -1, np.inf
    found, apart = nearest(held.take(short), min(NEAR, rows - 1))
    near[short, : found.shape[1]], cost[short, : found.shape[1]] = found, np.where(found >= 0, apart, np.inf)
    return replace(held, near=near, cost=cost)


def nearest_in(rows: Rows) -> Nearest:
    """Compared with all rows."""
    return lambda held, count: neighbours_of(rows, held.rows, rows.scaled(held.vectors), count)


def nearest_stored(root: Root, read: Read) -> Nearest:
    """Compared with the rows that are best by the codes of an index for any of those held."""

    def nearest(held: Held, count: int) -> tuple[I32, F32]:
        scale, asking = Scale.of(root.index), HeldOutQueries(_prepared(root, held), held.rows, held.truth())
        best = _scans_at(root, read, asking, 0, COMPARED * count)(1.0).candidates.row
        some = np.union1d(best[best >= 0], held.rows).astype(np.int64)
        step = max(1, CHUNK_BYTES // (4 * held.vectors.shape[1]))
        chunks = (
            (low, scale.scaled(stored_vectors(root, read, some[low : low + step])))
            for low in range(0, len(some), step)
        )  # fmt: skip
        own = np.searchsorted(some, held.rows)
        at, cost = neighbours_at(scale.scaled(held.vectors), chunks, min(count, len(some) - 1), scale.metric, own)
        return np.where(at >= 0, some[at], -1).astype(np.int32), cost

    return nearest


class Kept(NamedTuple):
    """What an index promises now."""

    contract: Contract
    promises: Promises


def rebuild_pays(root: Root, held: Held) -> bool:
    """Whether a query at the target reads so much more than one of an index that is built anew would: see PAYS."""
    anew = held.built_bytes * max(1.0, root.live_rows / held.built_rows) ** GROWS
    least = max(PAYS * anew, anew + PAYS_BYTES)
    return root.contract.target < held.target or target_point(root.contract).nbytes > least > PAYS_BYTES


def measure(root: Root, read: Read, held: Held, *, second_wave: bool = False) -> Kept:
    """Contract and promises of an index whose root is known, by the rows held, through its own router, plans and codes.

    root: with what it promised until now. held: by row number. Promises at k above the contract's move with the price
    at its own k. Where nothing keeps the target any more, the contract's target is what is kept.
    """
    contract, old = root.contract, root.promises
    assert old is not None
    asking, k, target = HeldOutQueries(_prepared(root, held), held.rows, held.truth()), contract.k, held.target
    before, gather = promise_of(contract, old, k, None), _gather(root)
    scans = _scans_at(root, read, asking, 0, max(KEPT, 2 * before.rerank))
    recall_at = scans(1.0).recall_at()
    exact = next((n for n in sorted({0, before.rerank}) if price_at(recall_at, k, target, n) is not None), None)
    if exact is None:
        exact, target = before.rerank, min(target, recall_at(0, k, before.rerank))
    made, price = calibrate(recall_at, k, target, exact), price_at(recall_at, k, target, exact)
    assert made is not None and price is not None
    promises = make_promises(scans, price, scans, recall_at, made, root.live_rows, second_wave, gather, exact)
    if exact:
        first, point = promise_of(made, promises, k, None), target_point(made)
        made = with_reads(made, max(0.0, first.nbytes - point.nbytes), max(0.0, first.gets - point.gets))
    longer = next((n for n, one in enumerate(root.renditions) if one.codec == 1), None)
    if longer is not None:
        scans = _scans_at(root, read, asking, longer, KEPT)
        recall_at = scans(1.0).recall_at()
        dear = price_at(recall_at, k, renditions.LONGER_RECALL)
        if dear is not None:
            more = make_promises(
                scans, dear, scans, recall_at, made, root.live_rows, second_wave, gather,
                least=renditions.LONGER_RECALL,
            )  # fmt: skip
            promises = renditions.better(promises, more) or promises
    return Kept(made, replace(promises, others=(*promises.others, *_beyond(old, before, promises, made))))


def _prepared(root: Root, held: Held) -> list[Prepared]:
    return [prepare(vector.tolist(), root.index) for vector in held.vectors]


def _scans_at(root: Root, read: Read, asking: HeldOutQueries, rendition: int, kept: int) -> ScansAt:
    """Of what a rendition finds, scanned once, with probabilities of any sharpness; kept: copies of each query."""
    directory = root.directory
    assert directory is not None
    sizes, rows = np.array(directory.places[rendition].size, np.int64), np.array(directory.rows, np.int64)

    def p_at(sharpness: float) -> P:
        return extent_probabilities(root, [replace(query, sharpness=sharpness) for query in asking.queries])

    p = p_at(1.0)
    found = scan_stored(root, read, asking, _asked(p, rows, sizes), rendition, kept)
    begins = starts(root, rendition)

    @cache
    def at(sharpness: float) -> ScannedQueries:
        own = p if sharpness == 1 else p_at(sharpness)
        return ScannedQueries(found, own, sizes, rows, None, bool(root.inline), begins)

    return at


def _asked(p: P, rows: Ints, sizes: Ints) -> Bools:
    """bool (Q, E): extents that are scanned for each query: all, or the likeliest ones with its share of SCANNED."""
    if rows.sum() * len(p) <= SCANNED or sizes.sum() <= SMALL_BYTES:
        return np.ones(p.shape, bool)
    out, most = np.zeros(p.shape, bool), SCANNED // len(p)
    for line, own in zip(out, p, strict=True):
        order = np.argsort(~own, kind="stable")
        line[order[np.cumsum(rows[order]) <= most]] = True
    return out


def _gather(root: Root) -> Gather:
    """The reads that fetch the full vectors of rows, by number; None where a query's budget does not hold them."""
    pages, width = root.rows, root.index.dimension * VECTOR_BYTES[root.index.vector_kind]
    first, number = np.array(pages.first_row, np.int64), np.array(pages.vector_object)
    offset = np.array(pages.vector_offset, np.int64)

    def reads(rows: Ints) -> list[int] | None:
        page = np.searchsorted(first, rows, side="right") - 1
        at = offset[page] + (rows - first[page]) * width
        items = [(str(o), a, width) for o, a in zip(number[page].tolist(), at.tolist(), strict=True)]
        spans = plan_gather(items, Budget().gets - LANES, Budget().bytes) if items else []
        return None if spans is None else [s.size for s in spans]

    return reads


def _beyond(old: Promises, before: Promise, now: Promises, contract: Contract) -> list[Ladder]:
    """Promises at k above the contract's, whose price moved as that at the contract's k did."""
    after = promise_of(contract, now, contract.k, None)
    dearer = after.price / before.price if before.price and after.price else 1.0
    more = after.nbytes / before.nbytes if before.nbytes else 1.0

    def moved(p: Promise) -> Promise:
        return replace(p, price=min((1 << 32) - 1, int(p.price * dearer)), nbytes=p.nbytes * more)

    return [Ladder(x.k, tuple(map(moved, x.by_recall))) for x in old.others if x.k > contract.k]


def renew(root: Root, read: Read, held: Held, *, seed: int, second_wave: bool) -> tuple[Root, Held] | None:
    """For an index that names objects of an older one: its root with a router and prices that know of all its rows, and
    the rows held, to be written. None where too few rows are held to say anything: all stays as it is.

    root: with the router and the prices of the older one. held: as they were written last, or what `begin` gives.
    """
    if len(held.rows) < ASKED_MIN:
        return None
    held = caught_up(held, root, lambda rows: stored_vectors(root, read, rows), seed)
    if len(held.rows) < ASKED_MIN:
        return root, held
    root, held = grown(root, held)
    held = filled(held, root.contract.k, root.live_rows, nearest_stored(root, read))
    kept = measure(root, read, held, second_wave=second_wave)
    return replace(root, contract=kept.contract, promises=kept.promises), replace(held, changed=0)


def grown(root: Root, held: Held) -> tuple[Root, Held]:
    """With a router that knows the rows of blocks as they are."""
    grow, directory = ROUTERS[root.index.router].grow, root.directory
    if grow is None or directory is None:
        return root, held
    sizes = np.bincount(directory.block, directory.rows, root.index.blocks).astype(np.int64)
    return replace(root, router=grow(root.router, held.sizes, sizes)), replace(held, sizes=sizes)
