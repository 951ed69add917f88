"""The living contract: rows held out keep their exact neighbours as rows come and go, so that prices stay true."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vantage.cost import LANES, Budget
from vantage.errors import InputError
from vantage.format import HELD, HELD_MAGIC, VECTOR_BYTES, Contract, Cursor, Ladder, Promise, Promises, Root
from vantage.format.layout import pack_object, unpack_object
from vantage.read.gather import plan_gather
from vantage.search.estimate import promise_of
from vantage.search.plan import SMALL_BYTES
from vantage.search.prepare import Prepared, prepare

from ..ingest.rows import F32, Ints, in_scale
from ..neighbours.exact import I32, best_of, neighbours_at
from ..neighbours.truth import Truth, tied
from ..simulate.edge import HeldOutQueries, P
from ..simulate.measure import Bools
from ..simulate.stored import Read, dead_rows, extent_probabilities, scan_stored, starts
from . import renditions
from .contract import calibrate, depths, price_at, target_point
from .promises import Gather, ScannedQueries, ScansAt, make_promises

HELD_ROWS, HELD_BYTES = 600, 4 << 20  # rows that are asked, and bytes of their vectors, at most
NEAR = 150  # neighbours that are kept of each: some go away
UNMEASURED = 0.02  # of the rows may have changed since prices were measured
SCANNED = 1 << 28  # rows in extents times queries, that are scanned at most
GROWS = 0.4  # bytes a query of an index built anew, as a power of its rows: see docs/writes.md
PAYS = 1.25  # times those bytes: a rebuild pays
SLACK = 2.0**-20  # of scores: those that float32 sums do not tell apart tie

_HELD = struct.Struct("<IIIIQQddd")
Nearest = Callable[[F32, Ints, int], tuple[I32, F32]]  # see truth.neighbours_of: (numbers, queries, count)


@dataclass(frozen=True)
class Held:
    """Rows that are asked (H), as an index keeps them in `held.bin`.

    rows i64 (H): their numbers. vectors f32 (H, d): as they are stored. near i32 (H, NEAR): the rows nearest to each,
    itself left out, best first, -1 behind the last that is known for sure; cost f32 (H, NEAR): theirs, as
    neighbours_at has it, inf for none. later bool (H): which came after the build. changed: rows that came or went
    since prices were measured. target: the recall that was asked for. built_rows, built_bytes: of the build, and what
    a query at its target read.
    """

    rows: Ints
    vectors: F32
    near: I32
    cost: F32
    later: Bools
    changed: int
    target: float
    built_rows: int
    built_bytes: float

    def pack(self) -> bytes:
        """held.bin."""
        h, d = self.vectors.shape
        head = _HELD.pack(
            h, d, self.near.shape[1], 0, self.changed, self.built_rows, self.built_bytes, self.target, 0.0
        )
        columns = (
            self.rows.astype("<u4"), self.later.astype("<u4"), self.vectors.astype("<f4"), self.near.astype("<i4"),
            self.cost.astype("<f4"),
        )  # fmt: skip
        return pack_object(HELD_MAGIC, [(HELD, head + b"".join(column.tobytes() for column in columns))])

    @classmethod
    def unpack(cls, data: bytes, name: str) -> Held:
        """Raises DamagedError where this is not what `pack` gives."""
        cursor = Cursor(unpack_object(data, HELD_MAGIC, name)[HELD], name)
        h, d, near, _, changed, built_rows, built_bytes, target, _ = cursor.unpack(_HELD)

        def column(code: str, *shape: int) -> npt.NDArray[np.generic]:
            return np.array(cursor.column(code, int(np.prod(shape)))).reshape(shape)

        out = cls(
            column("I", h).astype(np.int64), later=column("I", h).astype(bool),
            vectors=column("f", h, d).astype(np.float32), near=column("i", h, near).astype(np.int32),
            cost=column("f", h, near).astype(np.float32), changed=changed, target=target, built_rows=built_rows,
            built_bytes=built_bytes,
        )  # fmt: skip
        cursor.end()
        return out

    def take(self, some: Ints | Bools) -> Held:
        """Some of the rows."""
        columns = ("rows", "vectors", "near", "cost", "later")
        return replace(self, **{name: getattr(self, name)[some] for name in columns})

    def renumbered(self, number: Ints) -> Held:
        """With row r as number[r]; none of its rows is without one."""
        return replace(
            self, rows=number[self.rows], near=np.where(self.near >= 0, number[self.near], -1).astype(np.int32)
        )

    def scaled(self, root: Root) -> F32:
        """f32 (H, d): the vectors in the scale of the index."""
        index = root.index
        return in_scale(self.vectors, index.metric, np.asarray(index.origin, np.float32), index.row_scale)

    def truth(self) -> Truth:
        """Of as many neighbours as are kept; costs that float32 does not tell apart tie."""
        known = self.near >= 0
        cost = np.where(known, self.cost, np.inf).astype(np.float64)
        better = tied(np.where(known, -cost, -1e300), SLACK * np.maximum(1.0, np.abs(np.where(known, cost, 0))))
        none = np.zeros(len(self.rows), bool)
        return Truth(self.near, np.where(known, better, -1).astype(np.int32), np.zeros(len(self.rows)), none)


def follow(held: Held, gone: Ints, new: Ints, vectors: F32, metric: str, queries: F32) -> Held:
    """After rows `gone`, sorted, went and rows `new` (n) came, with vectors (n, d) in the scale of the index, as are
    queries (H, d). Lists get shorter where neighbours went: what is left of them is exact.
    """
    stay = ~np.isin(held.rows, gone)
    held, queries = held.take(stay), queries[stay]
    left = (held.near >= 0) & ~np.isin(held.near, gone)
    order = np.argsort(~left, axis=1, kind="stable")
    near = np.take_along_axis(np.where(left, held.near, -1), order, 1)
    cost = np.take_along_axis(np.where(left, held.cost, np.inf).astype(np.float32), order, 1)
    if len(new) and len(held.rows):
        at, apart = neighbours_at(queries, iter([(0, vectors)]), min(NEAR, len(new)), metric)
        # Behind the last one known there may be rows that are not in the list.
        last = np.where(left, held.cost, -np.inf).max(1)[:, None]
        sure = (at >= 0) & (apart <= last)
        at, apart = np.where(sure, new[at], -1).astype(np.int32), np.where(sure, apart, np.inf).astype(np.float32)
        near, cost = best_of(np.concatenate([near, at], 1), np.concatenate([cost, apart], 1), held.near.shape[1])
        near = np.where(np.isfinite(cost), near, -1).astype(np.int32)
    return replace(held, near=near, cost=cost, changed=held.changed + len(gone) + len(new))


def asked_rows(held: Held, rows: int, new: int, draw: np.random.Generator) -> tuple[Ints, Ints]:
    """(which of the rows held stay, which of `new` new ones join them) so that both are drawn alike from all rows."""
    most = min(HELD_ROWS, max(1, HELD_BYTES // (4 * held.vectors.shape[1])))
    joining = min(new, most, round(most * new / rows) if len(held.rows) else most)
    staying = min(len(held.rows), most - joining)
    kept = np.sort(draw.choice(len(held.rows), staying, replace=False))
    return kept, np.sort(draw.choice(new, joining, replace=False))


def filled(held: Held, k: int, rows: int, queries: F32, nearest: Nearest) -> Held:
    """With the lists found again that have become too short to tell k answers apart, of an index of so many rows."""
    short = np.flatnonzero((held.near >= 0).sum(1) < min(k + 1, rows - 1))
    if not len(short):
        return held
    near, cost = held.near.copy(), held.cost.copy()
    near[short], cost[short] = _lists(held.rows[short], queries[short], nearest)
    return replace(held, near=near, cost=cost)


def _lists(rows: Ints, queries: F32, nearest: Nearest) -> tuple[I32, F32]:
    """(near, cost) of rows held, as Held has them."""
    found, apart = nearest(rows, queries, NEAR)
    near, cost = np.full((len(rows), NEAR), -1, np.int32), np.full((len(rows), NEAR), np.inf, np.float32)
    near[:, : found.shape[1]] = found[:, :NEAR]
    cost[:, : found.shape[1]] = np.where(found[:, :NEAR] >= 0, apart[:, :NEAR], np.inf)
    return near, cost


class Kept(NamedTuple):
    """What an index promises now. nbytes: of a query at the target; pays: a rebuild, see PAYS; seconds of CPU."""

    contract: Contract
    promises: Promises
    nbytes: float
    pays: bool


def measure(root: Root, read: Read, held: Held, *, second_wave: bool = False) -> Kept:
    """Contract and promises of an index whose root is known, by the rows held, through its own router, plans and codes.

    root: with what it promised until now. held: by row number. Promises at k above the contract's move with the price
    at its own k. Where nothing keeps the target any more, the contract's target is what is kept.
    """
    contract, old, index = root.contract, root.promises, root.index
    assert old is not None
    asking = HeldOutQueries(_prepared(root, held), held.rows, held.truth())
    before = promise_of(contract, old, contract.k, None)
    rerank = before.rerank
    whole = _scans_at(root, read, asking, 0)
    own = whole(1.0)
    recall_at = own.recall_at()
    target, made = held.target, None
    for exact in sorted({0, rerank}):
        made = made or calibrate(recall_at, contract.k, target, exact)
    if made is None:
        target = min(target, recall_at(0, contract.k, rerank))
        made = calibrate(recall_at, contract.k, target, rerank)
        assert made is not None
    kept_by = next(e for e in (0, rerank) if price_at(recall_at, contract.k, target, e) is not None)
    price = price_at(recall_at, contract.k, target, kept_by)
    assert price is not None
    gather = _gather(root)
    promises = make_promises(
        whole, price, whole, recall_at, made, root.live_rows, second_wave, gather, kept_by,
    )  # fmt: skip
    longer = next((n for n, one in enumerate(root.renditions) if one.codec == 1), None)
    if longer is not None and any(p.rendition for p in old.all()):
        dear = _scans_at(root, read, asking, longer)
        far = dear(1.0).recall_at()
        best = price_at(far, contract.k, renditions.LONGER_RECALL)
        if best is not None:
            more = make_promises(
                dear, best, dear, far, made, root.live_rows, second_wave, gather, least=renditions.LONGER_RECALL
            )
            promises = renditions.better(promises, more) or promises
    promises = replace(promises, others=(*promises.others, *_beyond(old, before, promises, made)))
    nbytes = target_point(made).nbytes
    grown = max(1.0, root.live_rows / held.built_rows) ** GROWS
    return Kept(made, promises, nbytes, bool(held.built_bytes and nbytes > PAYS * grown * held.built_bytes))


def _prepared(root: Root, held: Held) -> list[Prepared]:
    return [prepare(vector.tolist(), root.index) for vector in held.vectors]


def _scans_at(root: Root, read: Read, asking: HeldOutQueries, rendition: int) -> ScansAt:
    """Of what a rendition finds, scanned once, with probabilities of any sharpness."""
    directory = root.directory
    assert directory is not None
    sizes, rows = np.array(directory.places[rendition].size, np.int64), np.array(directory.rows, np.int64)

    def p_at(sharpness: float) -> P:
        return extent_probabilities(root, [replace(query, sharpness=sharpness) for query in asking.queries])

    p = p_at(1.0)
    found = scan_stored(root, read, asking, _asked(p, rows, sizes), rendition)
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
