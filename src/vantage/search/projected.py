"""The source of filters by a projection: chunks of the rows of a value or a range, by the answers they may hold."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import mul
from typing import NamedTuple

from .. import kernels
from ..cost import ROUND_MS, wave_ms
from ..filter.keys import KEY_MAX, KEY_MIN
from ..format import OpenChunk, Projection, Root, open_chunk
from ..read.cache import CACHED
from ..read.waves import Steps
from .filtered import Base, Matched, Selection, bases
from .matching import BLOCKS_SHARE_MIN, Pricing, expected_recall, held, least_share, least_step, plan_share, share_for
from .plan import READ_ALL, Plan, plan_scan
from .prepare import Prepared
from .route.common import PROBABILITY_BITS, Routed
from .run import Candidates, Run
from .scan import BlockIds, LrsqScan, Opened, capacity_for, without_rows
from .superseded import gone_in

WRESERVE_BYTES = 512 << 10  # chunks of so many bytes in all are all read
ATTRIBUTE_WAVES = 2  # after chunks: where attributes are, and these


@dataclass(frozen=True)
class Chosen:
    """What to read of a projection: its chunks that may hold a match, as routed, and the plan of the first wave."""

    base: Base
    routed: Routed
    plan: Plan

    @property
    def ms(self) -> float:
        """Modelled."""
        return wave_ms([r.size for r in self.plan.ranges])


class Stretch(NamedTuple):
    """Chunks `first` up to `end` of one bucket in a segment, or of rows without a value; keys: the least and the
    largest of these.

    share: of the bucket's keys, those that a base takes. until: the last block that its rows can be at home in.
    """

    segment: int
    first: int
    end: int
    keys: tuple[int, ...]
    share: float
    until: int


def known_bases(selection: Selection, root: Root) -> list[Base]:
    """What chunks can be found by without a read: nothing in a large index, whose pages tell of chunks."""
    return [] if root.paged else bases(selection.node, selection.program, root)


def buckets(base: Base) -> list[int]:
    """Numbers of the buckets that may hold a row of the base with a value, in order."""
    p, out, at = base.projection, list[int](), 0
    for j, (low, high) in enumerate(zip(p.low, p.high, strict=True)):
        while at < len(base.spans) and base.spans[at][1] < low:
            at += 1
        if at < len(base.spans) and base.spans[at][0] <= high:
            out.append(j)
    return out


def runs(base: Base) -> list[Stretch]:
    """The chunks that may hold a row of the base, in their order: segment by segment, and in each bucket by bucket."""
    p, touched, at = base.projection, list[tuple[int, tuple[int, ...], float]](), 0
    until, before = p.until or [KEY_MAX] * (len(p.low) + len(p.first)), KEY_MIN
    for j, (low, high) in enumerate(zip(p.low, p.high, strict=True)):
        if low < before:  # the next segment of pages
            at = 0
        before = low
        while at < len(base.spans) and base.spans[at][1] < low:
            at += 1
        inside, i = 0, at
        while i < len(base.spans) and base.spans[i][0] <= high:
            inside += min(high, base.spans[i][1]) - max(low, base.spans[i][0]) + 1
            i += 1
        if inside:
            touched.append((j, (low, high), inside / (high - low + 1)))
    out, nulls = list[Stretch](), p.chunks(len(p.low))
    for segment, first in enumerate(p.first):
        for j, keys, share in touched:
            if first[j] < first[j + 1]:
                out.append(Stretch(segment, first[j], first[j + 1], keys, share, until[j]))
        if base.nulls and nulls[segment]:
            end = until[len(p.low) + segment]
            out.append(Stretch(segment, nulls[segment].start, nulls[segment].stop, (), 1.0, end))
    return out


def route_chunks(base: Base, blocks: Sequence[int]) -> Routed:
    """The shares of answers of the chunks of a base, from those of blocks (B), which the rows of a chunk come from.

    What a block holds is shared by the runs by their rows, and in a run by the chunks with rows of it.
    """
    p, found = base.projection, runs(base)
    sums = list(accumulate(blocks, initial=0))
    rows = p.directory.rows
    size = Counter[tuple[int, tuple[int, ...]]]()
    for run in found:  # of a large index a value may have several
        size[run.segment, run.keys] += sum(rows[run.first : run.end])
    total, numbers, values = sum(size.values()) or 1, array("I"), list[float]()
    for run in found:
        a, b, own = run.first, run.end, size[run.segment, run.keys]
        first = [*p.block[a:b], max(p.block[b - 1], min(run.until, len(blocks) - 1))]
        touching: dict[int, int] = {}
        for block in first[:-1]:
            touching[block] = touching.get(block, 0) + 1
        for i in range(b - a):  # the chunk before the first one of a block ends with it
            if i and first[i] != first[i - 1]:
                touching[first[i]] += 1
        for c, (low, high) in enumerate(zip(first, first[1:], strict=False), a):
            inside = sums[high] - sums[low + 1] if high > low else 0
            ends = blocks[low] / touching[low]
            if high > low:
                ends += blocks[high] / touching.get(high, 1)
            numbers.append(c)
            values.append((inside + ends) * own / total)
    unit = (1 << PROBABILITY_BITS) / (sum(values) or 1)
    return Routed(array("I", [max(1, round(v * unit)) for v in values]), numbers)


def plans(run: Run, selection: Selection, routed: Routed) -> list[Chosen]:
    """Plans of projections, the quickest first, by the model. routed: the shares of answers of all blocks."""
    return sorted((_plan(run, selection, base, routed) for base in selection.bases), key=lambda chosen: chosen.ms)


def choose(run: Run, selection: Selection, routed: Routed, blocks: Callable[[], Plan]) -> Chosen | None:
    """The quickest of them where it is quicker than the plan of blocks, few rows match, or blocks lack a column; else
    None. blocks: makes that plan, which takes as long as those of chunks do and is often not asked for.
    """
    found, left = plans(run, selection, routed), run.left()
    if not found or not selection.in_blocks(run.segment.root):
        return found[0] if found else None
    more = ATTRIBUTE_WAVES * run.query.attributes  # chunks have none, and blocks may
    if left.waves <= more or not found[0].plan.complete:
        return None
    if sum(selection.rows) < BLOCKS_SHARE_MIN * run.segment.root.live_rows:
        return found[0]
    blocks_ms = wave_ms([r.size for r in blocks().ranges])
    return found[0] if found[0].ms + more * ROUND_MS < blocks_ms else None


def _plan(run: Run, selection: Selection, base: Base, routed: Routed) -> Chosen:
    segment, query = run.segment, run.query
    directory, contract = base.projection.directory, segment.root.contract
    chunks = route_chunks(base, routed.p)
    flags = segment.flags(directory, (0, 0))
    whole = directory.places[0].whole
    assert chunks.blocks is not None
    few = sum(whole[c] for c in chunks.blocks) <= WRESERVE_BYTES
    if few:
        plan = plan_scan(chunks, flags, directory, (0, 0), READ_ALL, contract.gets, run.left())
    else:
        promise, matches = segment.filter_promise(query, by_chunks=True), sum(selection.rows)
        pricing = Pricing(chunks, flags, directory, (0, 0), contract.gets, run.left())
        plan = plan_share(
            pricing, share_for(promise, matches), least_step(promise, matches), least_share(promise, matches)
        )
    return Chosen(base, chunks, plan)


class ChunkScan(LrsqScan):
    """A scan of chunks, whose rows have the scores that their blocks would give them: by the centres of those."""

    has_planes = False

    def __init__(
        self, root: Root, projection: Projection, query: Prepared, capacity: int, keys: Sequence[str],
        block_ids: BlockIds,
    ) -> None:  # fmt: skip
        super().__init__(root, projection.directory, 0, query, capacity, keys, block_ids)
        self.bases: list[float] | None = None  # of all blocks, where the root has their centres
        if not root.paged:
            assert root.centres is not None
            self.bases = self.bases_of(root.centres.table, root.centres.scale, root.centres.bias)
        self.what = root.names[root.filters[projection.field].attribute]

    def bases_of(self, table: memoryview, scale: Sequence[float], bias: Sequence[float]) -> list[float]:
        """<q, c> + bias of these centres."""
        dots = array("i", bytes(4 * len(scale)))
        kernels.matvec_i8(self.query.i16, table, len(scale), self.root.index.dimension, dots)
        base = map(mul, dots, map(self.query.i16_scale.__mul__, scale))
        return [dot + one for dot, one in zip(base, bias, strict=True)]

    def _own_bases(self, data: bytes | memoryview, chunk: OpenChunk) -> list[float]:
        """Of the blocks of a chunk."""
        if self.bases is not None:
            return [self.bases[b] for b in chunk.blocks]
        at, count = chunk.at.centres, len(chunk.blocks)
        numbers = memoryview(data)[at : at + 8 * count].cast("f")
        return self.bases_of(memoryview(data)[at + 8 * count : chunk.at.codes], numbers[:count], numbers[count:])

    def block(self, place: int, data: bytes | memoryview, *, keep: bool) -> None:
        index, extent = self.root.index, self.directory.extent(place, 0)
        paged = self.root.paged
        where = self.where(place)
        chunk = open_chunk(data, extent.rows, extent.size, self.codec.code_bytes, index, paged, where)
        (self._opened if keep else self._fresh)[place] = data, chunk
        at = chunk.at
        gone = gone_in(data, chunk, self.query.superseded, self.root, where)
        mask = without_rows(self.mask_of(memoryview(data)[at.columns : at.columns_end], at.n, where), gone, at.n)
        self.rows += at.n
        self.matched += int.from_bytes(mask, "little").bit_count()
        if any(mask):
            bases = array("f", self._own_bases(data, chunk))
            kernels.lrsq_scan_mixed(
                data, at.ranges, at.homes, at.codes, at.f, at.h, at.rows, at.n, len(bases), bases, place, self.tables,
                self.pool, mask,
            )  # fmt: skip

    def columns(self, place: int, data: bytes | memoryview, opened: Opened) -> memoryview:
        if self.query.distinct is None:
            return memoryview(b"")
        assert isinstance(opened, OpenChunk)
        return memoryview(data)[opened.at.columns : opened.at.columns_end]


def candidates(run: Run, selection: Selection, chosen: Chosen) -> Steps[Candidates]:
    """read and scan of chunks; a second wave for what is left where fewer matches were found than are wanted."""
    query, segment, projection = run.query, run.segment, chosen.base.projection
    rerank = segment.reranked(query, by_chunks=True)
    most = max(query.top_k, rerank)
    capacity = capacity_for(most + (query.without is not None), distinct=query.distinct is not None)
    scan = ChunkScan(segment.root, projection, run.prepared, capacity, segment.keys, run.block_ids)
    complete = (yield from segment.scan(run, chosen.plan, scan, 0)) and chosen.plan.complete
    chunks = chosen.routed.blocks
    assert chunks is not None

    def seen() -> bool:
        return selection.whole and run.done.issuperset(chunks)

    best = scan.contenders(most, query.without)
    if complete and len(best) < run.wanted and not seen():
        left = run.left(bool(rerank))
        complete = min(left.gets, left.bytes, left.waves) >= 1
        if complete:
            flags = segment.flags(projection.directory, (0, 0))
            for i in run.done:
                flags[i] |= CACHED
            gets = segment.root.contract.gets
            plan = plan_scan(chosen.routed, flags, projection.directory, (0, 0), READ_ALL, gets, left)
            plan = replace(plan, cached=[i for i in plan.cached if i not in run.done])
            complete = (yield from segment.scan(run, plan, scan, 0)) and plan.complete
            best = scan.contenders(most, query.without)
    run.receipt.rows = scan.rows
    if len(best) < run.wanted and (not seen() or scan.is_full()):
        complete = False
    many = segment.root.filters[projection.field].many
    exact = seen() and not many
    least = len(best) if many else scan.matched
    rows = scan.matched if exact else max(least, round(sum(selection.rows)))
    recall = None
    if segment.root.filter_promises and not query.distinct:
        promise = segment.filter_promise(query, by_chunks=True)
        all_seen = seen() and len(best) < query.top_k
        recall = 1.0 if all_seen else expected_recall(promise, sum(selection.rows), held(chosen.routed, run.done))
    return Candidates(best, rerank, complete, recall, lambda: None if rerank else recall, matched=Matched(rows, exact))
