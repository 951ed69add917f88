"""Blocks -> what to read, within the budget. No I/O; prices, bounds and the model of time live here."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from . import kernels
from .errors import LimitError
from .format import READ_BYTES_MAX, RERANK_MAX, Contract, Directory, Point
from .route import Routed

LANES = 6  # connections a Worker may hold open (Cloudflare docs, Workers limits, 2026-11)
ROUND_MS = 40.0  # first byte of an R2 read, design.md, 2026-11
LANE_BYTES_PER_MS = 60_000.0  # 60 MB/s a lane, design.md, 2026-11
CLASS_B_USD = 0.36e-6  # one R2 read, 2026-11
STORAGE_USD_PER_GB_MONTH = 0.015  # R2, 2026-11
REQUEST_USD = 0.30e-6  # one Worker request past the included 10 M, 2026-11

RANGE_BYTES_MAX = READ_BYTES_MAX  # a longer range is cut: the most that the buffer in the Wasm heap grows to
SPLIT_BYTES = 128 << 10  # a shorter range is not split over idle lanes: that would gain a millisecond
SHARED_GAP = 32 << 10  # half a millisecond of a lane, where a GET takes 40: bridged in a batch
SHORT_BYTES = 512 << 10  # nine milliseconds of a lane: not worth a plan of fewer ranges
LONGEST_SHARE = 16  # measured: the tail of waits falls by a quarter for 3% more bytes
SPARSE = 4  # fewer than one block in so many with a probability: a plan is made of those and the gaps between them
SMALL_BYTES = 16 << 20  # of scan blocks: the price 0 then reads every block, also those that the router gives nothing
STARTS_SHARD, CACHED = 1, 2  # flags of a block, as kernels.plan_ranges knows them
PRICE_BITS = 24  # a price is in units of 2^-44 of probability a byte


@dataclass(frozen=True)
class Budget:
    """The most a query may spend. The defaults fit the free plan's 50 subrequests.

    waves: routing pages, blocks, blocks again, full vectors, attributes. ms: of time, None: as long as it takes.
    """

    gets: int = 48
    bytes: int = 64 << 20
    waves: int = 5
    ms: int | None = None


@dataclass(frozen=True)
class Limits:
    """The most of one request, all its vectors together; who runs a service may lower them. exact: whether it is on."""

    vectors: int = 256
    top_k: int = 1000
    rerank: int = RERANK_MAX
    gets: int = 1000  # as they are sent; the platform allows a paid Worker 10,000
    bytes: int = 1 << 30
    exact: bool = True


@dataclass(frozen=True)
class Range:
    """Blocks first up to last (excluded), lying together in one shard."""

    shard: int
    first: int
    last: int
    offset: int
    size: int


@dataclass(frozen=True)
class Plan:
    """ranges to read in one wave; cached blocks to scan; complete is False when the budget cut it."""

    ranges: list[Range]
    cached: list[int]
    price: int
    complete: bool

    @property
    def bytes(self) -> int:
        return sum(r.size for r in self.ranges)


def wave_ms(sizes: Sequence[int]) -> float:
    """Modelled milliseconds of a wave of reads: 40 a round, and the fullest of six lanes, longest first, at 60 MB/s."""
    if not sizes:
        return 0.0
    lanes = [0] * LANES
    for size in sorted(sizes, reverse=True):
        lanes[lanes.index(min(lanes))] += size
    return ROUND_MS * -(-len(sizes) // LANES) + max(lanes) / LANE_BYTES_PER_MS


def block_range(directory: Directory, first: int, last: int) -> Range:
    """The range of blocks first up to last, of one shard."""
    shard = bisect_right(directory.shard_blocks, first) - 1
    offset = directory.offset[first]
    return Range(shard, first, last, offset, directory.offset[last - 1] + directory.size[last - 1] - offset)


def price_of(contract: Contract, recall: float | None) -> int:
    """The price that reaches `recall` at the contract's k: the target's when None.

    Linear between measured points. Raises LimitError above the best point, which it names.
    """
    recall = contract.target if recall is None else recall
    points = sorted((p for p in contract.points if p.k == contract.k), key=lambda p: p.recall)
    if recall > points[-1].recall:
        best = int(points[-1].recall * 1000) / 1000
        raise LimitError(
            "recall", recall, best, hint="ask for less, or build the index with a higher --recall", param="recall"
        )
    return round(between([(p.recall, float(p.price)) for p in points], recall, clamp=True) or 0.0)


def recall_estimate(contract: Contract, price: int, k: int) -> float | None:
    """Measured mean recall@k at this price, linear between points; None where nothing was measured."""
    by_k: dict[int, list[Point]] = {}
    for p in contract.points:
        by_k.setdefault(p.k, []).append(p)
    low, high = max((n for n in by_k if n <= k), default=None), min((n for n in by_k if n >= k), default=None)
    if high is None:
        return None
    ends = [
        (float(n), between(sorted((float(p.price), p.recall) for p in by_k[n]), float(price), clamp=False))
        for n in sorted({n for n in (low, high) if n is not None})
    ]
    known = [(n, r) for n, r in ends if r is not None]
    return between(known, float(k), clamp=True) if len(known) == len(ends) else None


def between(points: list[tuple[float, float]], x: float, *, clamp: bool) -> float | None:
    """y at x, linear between points (x, y) by rising x; outside the nearest one's if clamp, else None."""
    if not points or not clamp and not points[0][0] <= x <= points[-1][0]:
        return None
    x = max(points[0][0], min(points[-1][0], x))
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if x0 <= x <= x1:
            return y0 if x1 == x0 else y0 + (y1 - y0) * ((x - x0) / (x1 - x0))
    return points[0][1]


@dataclass(frozen=True)
class Items:
    """What the planner chooses from, in file order: candidates, and between them the gaps that a range may bridge.

    p, size u32 and flags u8 of each, as kernels.plan_ranges takes them; at: its first byte; first: its first block.
    """

    p: array[int]
    size: array[int] | memoryview
    flags: bytearray
    at: Sequence[int]
    first: Sequence[int]


def items_of(
    routed: Routed,
    flags: bytearray,
    size: array[int] | memoryview,
    offset: array[int] | memoryview,
    shard_blocks: Sequence[int] | memoryview,
) -> Items:
    """All blocks, or where few have a probability, those and the gaps between them: linear in what the router names.

    size, offset, shard_blocks: as in Directory. A gap is one item without value; one that no range may span starts a
    new object.
    """
    blocks, named = len(size), len(routed.p) - routed.p.count(0)
    numbers = range(blocks) if routed.blocks is None else routed.blocks
    if not named or SPARSE * named >= blocks:
        every = routed.p
        if routed.blocks is not None:
            every = array("I", bytes(4 * blocks))
            for b, value in zip(numbers, routed.p, strict=True):
                every[b] = value
        return Items(every, size, flags, offset, range(blocks))
    items: list[tuple[int, int, int, int, int]] = []  # p, bytes, flags, first byte, first block
    after, shard_end = 0, 0  # the block after the last item, and the end of its shard
    for b, value in zip(numbers, routed.p, strict=True):
        if not value:
            continue
        starts = b >= shard_end
        if starts:
            shard_end = shard_blocks[bisect_right(shard_blocks, b)]
        elif b > after:
            gap = offset[b] - offset[after]
            if gap > RANGE_BYTES_MAX:
                starts = True
            else:
                items.append((0, gap, CACHED, offset[after], after))
        items.append((value, size[b], (flags[b] & CACHED) | (STARTS_SHARD if starts else 0), offset[b], b))
        after = b + 1
    p, sizes, marks, at, first = zip(*items, strict=True)
    return Items(array("I", p), array("I", sizes), bytearray(marks), at, first)


def plan_scan(routed: Routed, flags: bytearray, directory: Directory, price: int, gets: int, budget: Budget) -> Plan:
    """At most `gets` ranges that maximise probability minus price times bytes, exactly; then within the budget.

    flags (B): STARTS_SHARD; CACHED: no value to a range, but its bytes count when bridged. A cached
    block is scanned where it would be worth reading: measured, that finds more than the ranges alone.
    """
    size = directory.size
    items = items_of(routed, flags, size, directory.offset, directory.shard_blocks)
    numbers = range(len(size)) if routed.blocks is None else routed.blocks
    cached = [
        b
        for b, value in zip(numbers, routed.p, strict=True)
        if flags[b] & CACHED and value << PRICE_BITS >= price * size[b]
    ]
    most = min(gets, budget.gets)
    if budget.waves < 1 or most < 1 or budget.bytes <= 0:
        wanted = any(
            not flags[b] & CACHED and (value << PRICE_BITS) > price * size[b]
            for b, value in zip(numbers, routed.p, strict=True)
        )
        return Plan([], cached, price, not wanted)
    limit, complete = price, True
    if most < gets:  # the budget cuts when the contract's plan has more ranges
        out, scratch = array("I", bytes(8 * gets)), bytearray(len(items.p) * (gets + 1))
        complete = kernels.plan_ranges(items.p, items.size, items.flags, price, gets, out, scratch) <= most
    while True:
        pairs = ranges_of(items.p, items.size, items.flags, items.at, limit, most)
        ranges = [block_range(directory, items.first[a], items.first[b - 1] + 1) for a, b in pairs]
        if len(ranges) <= budget.gets and sum(r.size for r in ranges) <= budget.bytes:
            return Plan(ranges, cached, price, complete)
        complete, limit = False, limit + limit // 4 + 1
        if limit >> 32 or limit * sum(items.size) >> 60:  # past what the kernel takes: no block fits the budget
            return Plan([], cached, price, False)


def plan_blocks(directory: Directory, wanted: Sequence[int], flags: bytearray, budget: Budget) -> Plan:
    """Reads of given blocks, the most wanted first: all of them, or as many as the budget allows.

    Cached ones are scanned from memory. Gaps are bridged as far as the number of GETs demands; no range is over
    RANGE_BYTES_MAX where it has two blocks.
    """
    cached, unread = [b for b in wanted if flags[b] & CACHED], [b for b in wanted if not flags[b] & CACHED]
    take = len(unread) if budget.waves >= 1 else 0
    while take:
        some = sorted(unread[:take])
        for gap in (SPLIT_BYTES, 4 * SPLIT_BYTES, RANGE_BYTES_MAX):
            ranges = _covering(directory, some, gap)
            if len(ranges) <= budget.gets and sum(r.size for r in ranges) <= budget.bytes:
                return Plan(ranges, cached, 0, take == len(unread))
        take = 3 * take // 4
    return Plan([], cached, 0, not unread)


def _covering(directory: Directory, blocks: list[int], gap: int) -> list[Range]:
    """Ranges that hold these blocks, in rising order, with gaps of at most so many bytes bridged."""
    ranges: list[Range] = []
    for b in blocks:
        one = block_range(directory, b, b + 1)
        if ranges and ranges[-1].shard == one.shard:
            last = ranges[-1]
            size = one.offset + one.size - last.offset
            if one.offset - last.offset - last.size <= gap and size <= RANGE_BYTES_MAX:
                ranges[-1] = Range(last.shard, last.first, b + 1, last.offset, size)
                continue
        ranges.append(one)
    return ranges


def ranges_of(
    p: memoryview | array[int],
    size: memoryview | array[int],
    flags: bytearray,
    at: Sequence[int],
    price: int,
    most: int,
) -> list[tuple[int, int]]:
    """Which items to read, as at most `most` ranges [a, b), none over RANGE_BYTES_MAX; more only where that takes more.

    p, size u32 and flags u8 as in kernels.plan_ranges; at: the byte where each item begins in its object. The ranges of
    most value, exactly; lanes that are left take halves of the longest. Where a piece is long even so, plans of fewer
    ranges, whose pieces are even, are weighed against it: the bytes of the longest lane are a wait for all six.
    """
    out, scratch = array("I", bytes(8 * most)), bytearray(len(size) * (most + 1))
    best: list[tuple[int, int]] = []
    least: tuple[bool, int] | None = None
    sums: list[int] = []
    for count in range(most, 0, -1):
        found = kernels.plan_ranges(p, size, flags, price, count, out, scratch)
        pieces = _pieces([(out[2 * i], out[2 * i + 1]) for i in range(found)], size, flags, at, most)
        lengths = [at[b - 1] + size[b - 1] - at[a] for a, b in pieces]
        longest = max(lengths, default=0)
        if count == most and longest <= SHORT_BYTES:
            return pieces
        if not sums:
            idle = CACHED in flags or CACHED | STARTS_SHARD in flags  # has no value to a range
            valued = (0 if f & CACHED else v for v, f in zip(p, flags, strict=True)) if idle else p
            sums = [0, *accumulate(valued)]
        gain = sum(sums[b] - sums[a] for a, b in pieces)
        worth = (gain << PRICE_BITS) - price * (sum(lengths) + LANES * longest // LONGEST_SHARE)
        if least is not None and (len(pieces) <= most, worth) <= least:
            break  # fewer ranges than that are worth still less
        best, least = pieces, (len(pieces) <= most, worth)
    return best


def _pieces(
    ranges: list[tuple[int, int]], size: memoryview | array[int], flags: bytearray, at: Sequence[int], most: int
) -> list[tuple[int, int]]:
    """Ranges with the longest halved between items while fewer than `most`, and any over RANGE_BYTES_MAX cut."""

    def length(a: int, b: int) -> int:
        return at[b - 1] + size[b - 1] - at[a] if b - a > 1 else 0  # one item cannot be cut

    out, lengths = list(ranges), [length(a, b) for a, b in ranges]
    while out:
        long = max(lengths)
        i = lengths.index(long)
        if long <= (min(SPLIT_BYTES, RANGE_BYTES_MAX) if len(out) < most else RANGE_BYTES_MAX):
            break
        a, b = out[i]
        middle = end = bisect_left(at, at[a] + long // 2, a + 1, b - 1)
        while flags[end - 1] & CACHED:  # what has no value need not be read at a cut; the ends of a range have some
            end -= 1
        while flags[middle] & CACHED:
            middle += 1
        out[i : i + 1] = [(a, end), (middle, b)]
        lengths[i : i + 1] = [length(a, end), length(middle, b)]
    return out


@dataclass(frozen=True)
class Span:
    """Bytes offset up to offset + size of an object, that hold the items (offset, size) named by their numbers."""

    key: str
    offset: int
    size: int
    items: list[int]


def plan_gather(
    items: Sequence[tuple[str, int, int]], gets: int, bytes_max: int, bytes_wanted: float = math.inf
) -> list[Span] | None:
    """Reads for scattered items (object key, offset, size), neighbours merged where the model says it is quicker.

    Tries one round of lanes, two, ... and takes the least modelled time, of plans of at most bytes_wanted where there
    are any. None when no plan fits the budget, or an item is over RANGE_BYTES_MAX.
    """
    order = sorted(range(len(items)), key=lambda i: items[i])
    gaps = []  # (bytes between neighbours, position): a gap across objects can never be bridged
    for at in range(1, len(order)):
        (key0, offset0, size0), (key1, offset1, _) = items[order[at - 1]], items[order[at]]
        gaps.append((offset1 - offset0 - size0 if key0 == key1 else 1 << 62, at))
    gaps.sort(key=lambda g: (-g[0], g[1]))
    forced = sum(g[0] == 1 << 62 for g in gaps)
    best: tuple[tuple[bool, float], list[Span]] | None = None
    for most in range(LANES, gets + LANES, LANES):
        if best and not best[0][0] and ROUND_MS * most / LANES >= best[0][1]:
            break  # so many rounds alone take longer
        pieces = min(most, gets)
        cuts = sorted(at for gap, at in gaps[: max(pieces - 1, 0)] if gap > 0)
        if forced > len(cuts):
            continue
        spans = []
        for low, high in zip([0, *cuts], [*cuts, len(order)], strict=True):
            spans += _spans_of(items, order[low:high])
        nbytes = sum(s.size for s in spans)
        if len(spans) > gets or nbytes > bytes_max or max(s.size for s in spans) > RANGE_BYTES_MAX:
            continue
        cost = nbytes > bytes_wanted, wave_ms([s.size for s in spans])
        if best is None or cost < best[0]:
            best = (cost, spans)
        if most >= len(order):
            break
    return best[1] if best else None


def _spans_of(items: Sequence[tuple[str, int, int]], members: list[int]) -> list[Span]:
    """One span of these items, by rising offset in one object, or as many as RANGE_BYTES_MAX demands."""
    spans, start, end = list[Span](), 0, 0
    for at, i in enumerate(members):
        end = max(end, items[i][1] + items[i][2])
        if at > start and end - items[members[start]][1] > RANGE_BYTES_MAX:
            spans.append(span_of(items, members[start:at]))
            start, end = at, items[i][1] + items[i][2]
    return [*spans, span_of(items, members[start:])]


def plan_shared(items: Sequence[tuple[str, int, int]]) -> list[Span]:
    """Reads for what several queries want of (object key, offset, size), none of them twice in the list.

    What lies together, or apart by less than a GET is worth, is read together, up to RANGE_BYTES_MAX; idle lanes take
    halves of the longest.
    """
    order = sorted(range(len(items)), key=items.__getitem__)
    spans: list[Span] = []
    for i in order:
        key, offset, size = items[i]
        if spans and spans[-1].key == key:
            last = spans[-1]
            end = max(last.offset + last.size, offset + size)
            if offset - last.offset - last.size <= SHARED_GAP and end - last.offset <= RANGE_BYTES_MAX:
                spans[-1] = Span(key, last.offset, end - last.offset, [*last.items, i])
                continue
        spans.append(Span(key, offset, size, [i]))
    while spans and len(spans) < LANES:
        longest = max(spans, key=lambda s: s.size if len(s.items) > 1 else 0)
        middle = len(longest.items) // 2
        if longest.size <= SPLIT_BYTES or not middle:
            break
        at = spans.index(longest)
        spans[at : at + 1] = [span_of(items, half) for half in (longest.items[:middle], longest.items[middle:])]
    return spans


def span_of(items: Sequence[tuple[str, int, int]], members: list[int]) -> Span:
    """The span of these items, by rising offset in one object."""
    key, start, _ = items[members[0]]
    end = max(items[i][1] + items[i][2] for i in members)
    return Span(key, start, end - start, members)
