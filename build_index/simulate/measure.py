"""Measures what plans find, in the kernels' own arithmetic, for many queries and any price at once.

All blocks are scanned once for each query, keeping the best copies of rows; what a plan would answer follows from the
blocks it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from vantage import kernels
from vantage.cost import LANE_BYTES_PER_MS, LANES, ROUND_MS, wave_ms
from vantage.format import RANGES_AT, Centres, Root, aligned, block_planes, pack_block
from vantage.read.cache import CACHED, STARTS_OBJECT
from vantage.search.plan import GETS_MAX, PRICE_BITS, SMALL_BYTES
from vantage.search.prepare import Prepared
from vantage.search.scan import LrsqScan

from ..blocks.layout import Layout, centre_at, centres_at
from ..codecs.kept import KeptCodes
from ..codecs.planes import Codec, Encoded, encode_blocks
from ..ingest.rows import CELL_ROWS, F32, Ints, Rows
from ..kernels import count_right, find_answered, plan_queries, plan_queries_size
from ..neighbours.truth import Truth, ranks, ties
from ..progress import SILENT, Progress
from ..tasks.pool import cores
from ..tasks.tasks import Lazy
from .edge import NOWHERE, HeldOutQueries, P, Pages, bases, trial_root

KEPT = 512  # best copies kept for a query: enough for any plan that finds most of 100 neighbours
SHARED_ITEMS = 1 << 20  # queries times blocks, of more all cores plan: each a part of the queries
POOLS_HELD = 6  # times as many copies of a query are held, of all cells that have been scanned
CHUNK_BYTES = 8 << 20
PRICE_MAX = (1 << 32) - 1
LOST_LEAST = 20  # neighbours that a limit of blocks leaves out, to hold for queries that it was not found by

Bools = npt.NDArray[np.bool_]
ENTRY = np.dtype([("score", "<i4"), ("slot", "<u4"), ("block", "<u4"), ("index", "<u4")])  # of a pool
Entries = npt.NDArray[np.void]


@dataclass(frozen=True)
class Reads:
    """What the plans of Q queries read: blocks bool (Q, B), and of each query its ranges' bytes.

    pages: what each reads in a wave before, for its routing; None where the router is in memory.
    """

    blocks: Bools
    ranges: list[list[int]]
    pages: Pages | None = None

    @property
    def gets(self) -> float:
        return float(np.mean([len(r) for r in self.ranges])) + float(np.mean([len(p) for p in self.pages or [[]]]))

    @property
    def nbytes(self) -> float:
        return float(np.mean([sum(r) for r in self.ranges])) + float(np.mean([sum(p) for p in self.pages or [[]]]))

    @property
    def ms(self) -> npt.NDArray[np.float64]:
        waits = np.array([
            ROUND_MS + max(r) / LANE_BYTES_PER_MS if 0 < len(r) <= LANES else wave_ms(r) for r in self.ranges
        ])  # fmt: skip
        return waits if self.pages is None else waits + [wave_ms(page) for page in self.pages]


def plans(
    p: P, block_bytes: Ints, price: int, gets: int = GETS_MAX, done: Bools | None = None, inline: bool = False,
    starts: Bools | None = None,
) -> Reads:  # fmt: skip
    """Runs the edge's planner for p (Q, B), nothing cached, one shard of blocks of these bytes, aligned.

    done bool (Q, B): blocks that a wave before has read, which have no value to this one. inline: the root holds the
    blocks, so that each is scanned where it is worth its bytes, and none because it lies between others. starts bool
    (B): blocks that begin an object, where they lie in several.
    """
    return planner(p, block_bytes, gets, done, inline, starts)(price, slice(None))


def planner(
    p: P, block_bytes: Ints, gets: int = GETS_MAX, done: Bools | None = None, inline: bool = False,
    starts: Bools | None = None,
) -> Callable[[int, slice], Reads]:  # fmt: skip
    """`plans` by price, of some of the queries."""
    if inline:

        def scanned(price: int, some: slice) -> Reads:
            worth = (p[some].astype(np.int64) << PRICE_BITS) >= price * block_bytes
            if done is not None:
                worth &= ~done[some]
            return Reads(worth, [[] for _ in worth])

        return scanned
    blocks = p.shape[1]
    p, everything = np.ascontiguousarray(p), block_bytes.sum() <= SMALL_BYTES
    size, at = block_bytes.astype(np.uint32), np.cumsum([0, *map(aligned, block_bytes.tolist())])[:-1].astype(np.uint64)
    flags = np.zeros((1, blocks), np.uint8) if done is None else (done * np.uint8(CACHED))
    flags[:, 0 if starts is None else starts] |= STARTS_OBJECT

    def planned(price: int, some: slice) -> Reads:
        rows = p[some]
        own = flags if done is None else flags[some]
        if len(rows) * blocks < SHARED_ITEMS or cores() == 1:
            return part(price, rows, own)
        cuts = np.linspace(0, len(rows), min(cores(), len(rows)) + 1).astype(int).tolist()
        pieces = [slice(low, high) for low, high in pairwise(cuts)]
        with ThreadPoolExecutor(len(pieces)) as threads:
            parts = list(threads.map(lambda of: part(price, rows[of], own if done is None else own[of]), pieces))
        return Reads(np.concatenate([one.blocks for one in parts]), [r for one in parts for r in one.ranges])

    def part(price: int, rows: P, own: npt.NDArray[np.uint8]) -> Reads:
        rows, own = np.ascontiguousarray(rows), np.ascontiguousarray(own)
        if not price and everything:
            rows = np.maximum(rows, 1)
        scratch = np.empty(plan_queries_size(blocks), np.uint8)
        counts, read = np.empty(len(rows), np.uint32), np.empty((len(rows), blocks), bool)
        lengths = np.empty(gets * len(rows), np.uint32)
        while True:
            total = plan_queries(rows, size, at, own, price, gets, lengths, counts, read, scratch)
            if total <= len(lengths):
                break
            lengths = np.empty(total, np.uint32)
        ends = np.cumsum(counts, dtype=np.int64).tolist()
        flat = lengths[:total].tolist()
        return Reads(read, [flat[a:b] for a, b in zip([0, *ends], ends, strict=False)])

    return planned


@dataclass(frozen=True)
class Candidates:
    """The best M copies of rows for each query over all blocks, best first, all i32 (Q, M), -1 where there is none.

    A row in its home block is a copy too. block and row of each; twin: the earlier copy of the same row; rank: how many
    rows score better, where the row is one of the exact neighbours, truth (Q, K), or ties with the last of them. score
    f32 (Q, M): of the copy, in the scale of the index; base f32 (Q, B): the score of a block's centre.
    """

    block: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]
    twin: npt.NDArray[np.int32]
    rank: npt.NDArray[np.int32]
    truth: Truth
    score: npt.NDArray[np.float32]
    base: npt.NDArray[np.float32]

    def answered(self, read: Bools, most: int) -> Bools:
        """(Q, M) whether a copy is the best of one of the `most` best rows of the blocks read bool (Q, B)."""
        out = np.empty(self.block.shape, bool)
        find_answered(*self._copies(read), most, out)
        return out

    def recall(self, read: Bools, k: int, rerank: int = 0) -> npt.NDArray[np.float64]:
        """(Q) recall@k of the answers from the blocks read bool (Q, B), the best `rerank` by exact score; k at most K.

        Exact scores put every true neighbour among those rows first, so they are counted there. Of rows that tie with
        the k-th neighbour any are right.
        """
        found, (better, sought) = np.empty(len(read), np.uint32), self.truth.at(k)
        count_right(*self._copies(read), max(k, rerank), self.rank, better, better.shape[1], found)
        out: npt.NDArray[np.float64] = found / sought
        return out

    def _copies(self, read: Bools) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Bools, int, int, int]:
        """What the kernels take first."""
        return (self.block, self.twin, np.ascontiguousarray(read), *self.block.shape, read.shape[1])


def block_bytes(sizes: Ints, code_bytes: int, id_bytes: float, dimension: int) -> Ints:
    """Bytes of scan blocks of these many rows, with ids of id_bytes each, as the directory states them."""
    return np.array([block_planes(int(n), code_bytes, dimension).ids + int(n * id_bytes) for n in sizes], np.int64)


def spans(p: P) -> Ints:
    """i64 (Q, 2): the first block of a probability in p (Q, B), and the one after the last; 0, 0 where all are 0."""
    out = np.zeros((len(p), 2), np.int64)
    for span, row in zip(out, p, strict=True):
        some = np.flatnonzero(row)
        if len(some):
            span[:] = some[0], some[-1] + 1
    return out


@dataclass(frozen=True)
class Scanned:
    """Queries to scan for, keeping so many copies of each.

    p (Q, B): blocks before the first and after the last of a probability are left out, as no plan reads them, but where
    all may be read; None: all are scanned. most: as many of a query's blocks of the largest p are scanned; None: all.
    """

    held: HeldOutQueries
    p: P | None = None
    kept: int = KEPT
    most: int | None = None
    all_read: bool = False

    def blocks(self, count: int) -> Bools:
        """(Q, B): which of so many blocks are scanned."""
        out = np.ones((len(self.held.queries), count), bool)
        if self.p is None:
            return out
        if self.most is not None and self.most < count:
            out[:] = False
            for read, own in zip(out, self.p, strict=True):
                read[np.argsort(~own, kind="stable")[: self.most]] = True
        if not self.all_read:
            low, high = spans(self.p).T[:, :, None]
            out &= (low <= np.arange(count)) & (np.arange(count) < high)
        return out


def blocks_needed(p: P, layout: Layout, neighbours: npt.NDArray[np.int32], lost: float) -> int:
    """How many blocks of the largest p (Q, B) a query needs to find its neighbours (Q, k), but for a share `lost`.

    All, where that is so few of these neighbours that it says nothing of other queries.
    """
    if lost * np.count_nonzero(neighbours >= 0) < LOST_LEAST:
        return int(p.shape[1])
    found, holders = np.empty(neighbours.shape, np.int32), layout.holders(neighbours)
    rank, places = np.empty(p.shape[1], np.int32), np.arange(p.shape[1], dtype=np.int32)
    for own, some, held in zip(found, p, np.moveaxis(holders, 1, 0), strict=True):
        rank[np.argsort(~some, kind="stable")] = places
        own[:] = rank[held].min(0)
    return 1 + int(np.quantile(found[neighbours >= 0], 1 - lost, method="higher"))


def full_scan(
    rows: Rows,
    layout: Layout,
    codec: Codec,
    held: HeldOutQueries,
    progress: Progress = SILENT,
    p: P | None = None,
    kept: int = KEPT,
) -> Candidates:
    """`full_scans` of one set of queries."""
    return full_scans(rows, layout, codec, [Scanned(held, p, kept)], progress)[0]


def full_scans(
    rows: Rows,
    layout: Layout,
    codec: Codec,
    wanted: Sequence[Scanned],
    progress: Progress = SILENT,
    codes: KeptCodes | None = None,
) -> list[Candidates]:
    """Scans every copy of a row for every query. A query's own row is left out of its answers.

    codes: of these blocks by this codec, which are read where they are complete, and else put in; None: all are made.
    """
    members, queries = layout.members(), [q for one in wanted for q in one.held.queries]
    asking = np.concatenate([one.blocks(layout.blocks) for one in wanted])
    starts = np.concatenate([[0], np.cumsum([len(m) for m in members])])
    known = codes is not None and codes.complete
    kept = [one.kept for one in wanted for _ in one.held.queries]
    scanning = _Scanning(
        rows, codec, trial_root(rows, layout, codec.rotation, codec.section, 100), layout.centre_section,
        layout.centres, queries, kept, codes is not None and not known,
    )  # fmt: skip
    cells = chunks(members, CELL_ROWS)

    def cell(number: int) -> _Cell:
        low, high = cells[number]
        asked = [(j, asking[j, low:high]) for j in np.flatnonzero(asking[:, low:high].any(1)).tolist()]
        made = codes.get(low, high) if known and codes is not None else None
        return _Cell(low, members[low:high], int(starts[low]), asked, made)

    found, held = [list[Entries]() for _ in queries], [0] * len(queries)
    results = rows.tasks.map(_scan_cell, scanning, Lazy(len(cells), cell), progress, keep=False)
    for (low, high), (asked, counts, entries, *planes) in zip(cells, results, strict=True):
        for j, part in zip(asked.tolist(), np.split(entries, np.cumsum(counts)[:-1]), strict=True):
            found[j].append(part.copy())  # a view would keep those of all queries
            held[j] += len(part)
            if held[j] > POOLS_HELD * kept[j]:
                found[j] = [_best(found[j], kept[j])]
                held[j] = len(found[j][0])
        if scanning.keeps and codes is not None:
            codes.put(_unjoined(planes, [len(m) for m in members[low:high]]))
    row_of_slot = np.concatenate(members).astype(np.int32)
    out = list[Candidates]()
    for one in wanted:
        count = len(one.held.queries)
        own, found = found[:count], found[count:]
        base = np.empty((count, layout.blocks), np.float32)
        for line, query in zip(base, one.held.queries, strict=True):
            line[:] = bases(query, layout.centre_section, rows.dimension)
        out.append(replace(_candidates(rows, one, own, row_of_slot), base=base))
    return out


@dataclass(frozen=True)
class _Scanning:
    """What all blocks are scanned with: queries (Q), how many copies are kept of each, and whether codes are wanted."""

    rows: Rows
    codec: Codec
    root: Root
    centre_section: Centres
    centres: F32
    queries: list[Prepared]
    kept: list[int]
    keeps: bool

    @cached_property
    def scans(self) -> dict[int, LrsqScan]:
        """By query, as they are asked for: their tables serve all cells."""
        return {}

    def scan(self, query: int) -> LrsqScan:
        """Tables of a query, and an empty pool."""
        if query not in self.scans:
            self.scans[query] = LrsqScan(self.root, NOWHERE, 0, self.queries[query], self.kept[query])
        kernels.pool_reset(self.scans[query].pool, self.kept[query])
        return self.scans[query]


@dataclass(frozen=True)
class _Cell:
    """Blocks from `low` on, members of each; slot: number of the first of these. asked: queries that scan some of them,
    and which, bool (blocks). codes: where they are known.
    """

    low: int
    members: list[Ints]
    slot: int
    asked: list[tuple[int, Bools]]
    codes: list[Encoded] | None


def _scan_cell(scanning: _Scanning, cell: _Cell) -> tuple[npt.NDArray[Any], ...]:
    """(queries that asked i64 (n), how many entries each has i64 (n), these one after the other, their slot in row;
    and where codes are wanted, them: see _joined)."""
    rows, codec, slot, all_made = scanning.rows, scanning.codec, cell.slot, list[Encoded]()
    scans = [scanning.scan(j) for j, _ in cell.asked]
    centres = centres_at(scanning.centre_section, slice(cell.low, cell.low + len(cell.members)))
    bases_of = [bases(scanning.queries[j], centres, rows.dimension) for j, _ in cell.asked]
    for low, high in chunks(cell.members, CHUNK_BYTES // (4 * rows.dimension)):
        sizes = [len(m) for m in cell.members[low:high]]
        if cell.codes is not None:
            made = cell.codes[low:high]
        else:
            x, at = rows.take(np.concatenate(cell.members[low:high])), [0, *np.cumsum(sizes).tolist()]
            made = encode_blocks(codec, x, at, scanning.centres[cell.low + low : cell.low + high], rows.metric)
            all_made += made if scanning.keeps else []
        blocks = []
        for i, encoded, n in zip(range(low, high), made, sizes, strict=True):
            pad = bytes(4 * (aligned(n, 16) - n))
            slots = np.arange(slot, slot + n, dtype=np.uint32).tobytes() + pad
            centre = centre_at(scanning.centre_section, cell.low + i)
            data, _ = pack_block(n, 0, encoded.ranges, centre, [*encoded.planes(), slots], b"")
            planes = block_planes(n, codec.code_bytes, rows.dimension)
            blocks.append((data, RANGES_AT, planes.codes, planes.f, planes.h, planes.rows, n))
            slot += n
        # Query by query: its tables and its pool, which are far more than the blocks of a piece, are fetched once.
        for (_, asked), own, scan in zip(cell.asked, bases_of, scans, strict=True):
            for i in np.flatnonzero(asked[low:high]).tolist():
                kernels.lrsq_scan(*blocks[i], own[low + i], cell.low + low + i, scan.tables, scan.pool)
    found, counts = list[Entries](), list[int]()
    for scan in scans:
        entries = np.empty(scan.capacity, ENTRY)
        counts.append(kernels.pool_finish(scan.pool, entries))
        found.append(entries[: counts[-1]])
    asked_by, none = np.array([j for j, _ in cell.asked], np.int64), np.empty(0, ENTRY)
    codes = _joined(all_made) if scanning.keeps else ()
    return asked_by, np.array(counts, np.int64), np.concatenate([none, *found]), *codes


def _joined(blocks: list[Encoded]) -> tuple[npt.NDArray[Any], ...]:
    """(ranges f64 (B, 4), codes u8 (n, code_bytes), f and h u8 (n)) of all blocks."""
    planes = (np.concatenate([getattr(one, name) for one in blocks]) for name in ("codes", "f", "h"))
    return np.array([one.ranges for one in blocks], np.float64), *planes


def _unjoined(joined: list[npt.NDArray[Any]], sizes: list[int]) -> list[Encoded]:
    """The blocks of these sizes again."""
    ends = np.cumsum(sizes)[:-1]
    ranges, *planes = joined
    parts = zip(ranges.tolist(), *(np.split(plane, ends) for plane in planes), strict=True)
    return [Encoded(tuple(own), codes, f, h) for own, codes, f, h in parts]


def _best(parts: list[Entries], most: int) -> Entries:
    """The best entries of some pools, the lower slot first among equals."""
    entries = np.concatenate([np.empty(0, ENTRY), *parts])
    best: Entries = entries[np.lexsort((entries["slot"], -entries["score"].astype(np.int64)))][:most]
    return best


def _candidates(rows: Rows, of: Scanned, found: list[list[Entries]], row_of_slot: npt.NDArray[np.int32]) -> Candidates:
    """The best of what pools of cells have kept for queries (Q), as one pool of all would have it. Without base."""
    held, shape = of.held, (len(found), of.kept)
    block, row, score = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
    for i, parts in enumerate(found):
        entries = _best(parts, of.kept)
        entries = entries[row_of_slot[entries["slot"]] != held.rows[i]]
        n = len(entries)
        block[i, :n], row[i, :n] = entries["block"], row_of_slot[entries["slot"]]
        score[i, :n] = entries["score"] / held.queries[i].unit
    candidates = judge(block, row, held.truth)
    tying = np.flatnonzero(held.truth.more)
    others = (candidates.rank[tying] < 0) & (row[tying] >= 0)
    tie = others & ties(rows, held.rows[tying], np.where(others, row[tying], 0), held.truth.last[tying])
    candidates.rank[tying] = np.where(tie, held.truth.better[tying, -1:], candidates.rank[tying])
    return replace(candidates, score=score)


def judge(block: npt.NDArray[np.int32], row: npt.NDArray[np.int32], truth: Truth) -> Candidates:
    """Candidates of these copies, best first, against this truth; without scores, and ties with other rows."""
    none = np.zeros((len(block), 0), np.float32)
    return Candidates(block, row, _twins(row), ranks(row, truth.rows, truth.better), truth, none, none)


def _twins(row: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    order = np.argsort(row, axis=1, kind="stable")
    sorted_rows = np.take_along_axis(row, order, 1)
    same = np.zeros(row.shape, bool)
    same[:, 1:] = (sorted_rows[:, 1:] == sorted_rows[:, :-1]) & (sorted_rows[:, 1:] >= 0)
    before = np.full(row.shape, -1, np.int32)
    before[:, 1:] = np.where(same[:, 1:], order[:, :-1], -1)
    out = np.full(row.shape, -1, np.int32)
    np.put_along_axis(out, order, before, 1)
    return out


def chunks(members: list[Ints], rows_max: int) -> list[tuple[int, int]]:
    """Consecutive blocks [low, high) of at most about rows_max rows together."""
    out, low, held = [], 0, 0
    for b, m in enumerate(members):
        if held and held + len(m) > rows_max:
            out.append((low, b))
            low, held = b, 0
        held += len(m)
    return [*out, (low, len(members))]


STEPS = 1 << 12  # prices that a search may find, evenly by their logarithms up to 2^32: half a percent apart


def price_for(recall_at: Callable[[int], float], target: float, known: Collection[int] = ()) -> int | None:
    """The highest price with recall_at(price) >= target, by bisection of its logarithm; None when 0 is not enough.

    known: steps whose prices cost nothing to ask about: between these first.
    """
    low, high = 0, STEPS  # recall falls as it rises
    while True:
        inner = [step for step in known if low < step < high]
        if not inner:
            break
        middle = sorted(inner)[len(inner) // 2]
        low, high = (middle, high) if recall_at(price_of(middle)) >= target else (low, middle)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if recall_at(price_of(middle)) >= target else (low, middle)
    if recall_at(price_of(low)) >= target:
        return price_of(low)
    return 0 if recall_at(0) >= target else None  # asked last: to plan everything takes longest


def price_of(step: int) -> int:
    """The price of a step, 0 to STEPS."""
    return min(PRICE_MAX, int(2 ** (32 * step / STEPS)))
