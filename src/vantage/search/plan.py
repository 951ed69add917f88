"""Extents of blocks -> what to read, within the budget. No I/O."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import accumulate

from .. import kernels
from ..cost import LANE_BYTES_PER_MS, LANES, ROUND_MS, Budget, wave_ms
from ..format import Directory
from ..read.cache import CACHED, STARTS_OBJECT
from ..read.gather import RANGE_BYTES_MAX, SPLIT_BYTES
from .route.common import Routed

SHORT_BYTES = 512 << 10  # nine milliseconds of a lane: not worth a plan of fewer ranges
LONGEST_SHARE = 16  # measured: the tail of waits falls by a quarter for 3% more bytes
SPARSE = 4  # fewer than one extent in so many with a probability: a plan is made of those and the gaps between them
GETS_MAX = 2 * LANES  # of a plan: one round, or two where that is quicker
CUTS_MAX = 64  # ranges, as many as the kernel plans
LANES_BYTES_PER_MS = LANES * LANE_BYTES_PER_MS
ROUND_BYTES = round(ROUND_MS * LANE_BYTES_PER_MS)  # of a lane, that take as long as a round: 2.4 MB
# Of its time, what a round counts against the probability that it finds, where one round cannot hold the plan: routers
# are too sure of what fewer ranges hold. From 20 MB a query on that takes 5% less time (bench/research/rounds.py).
# Where one round does, it would read the hardest queries in two, for a p99 of 100 ms instead of 86 (WordNet).
ROUND_SHARE = 1 / 3
SMALL_BYTES = 16 << 20  # of scan blocks: the price 0 then reads every block, also those that the router gives nothing
# An extent behind the first one of its block counts for one part in so many of the block's probability beside that of
# its rows. Those of rows that came by a flush are small, and one range of six over what a few rows have would gain
# little: by their rows alone 0.37 of the right answers among 200 new rows of 45,200 were found, and 0.83 among 10,000.
LATER_SHARE = 10
READ_ALL = 1  # the price at which all that has a probability is read, and nothing between for its own sake
PRICE_BITS = 24  # a price is in units of 2^-44 of probability a byte


@dataclass(frozen=True)
class Range:
    """Extents first up to last (excluded), lying together in one object."""

    object: int
    first: int
    last: int
    offset: int
    size: int


@dataclass(frozen=True)
class Plan:
    """ranges to read in one wave; cached extents to scan; complete is False when the budget cut it."""

    ranges: list[Range]
    cached: list[int]
    price: int
    complete: bool

    @property
    def bytes(self) -> int:
        return sum(r.size for r in self.ranges)


def rows_of(plan: Plan, directory: Directory, without: Set[int] = frozenset()) -> int:
    """Distinct rows that a plan is sure to scan, dead ones too: those at home in its extents, but for some of these."""
    homes = directory.homes
    inside = {i for r in plan.ranges for i in range(r.first, r.last)}
    inside.update(plan.cached)
    return sum(homes[i] for i in inside - without)


def range_of(directory: Directory, rendition: int, first: int, last: int) -> Range:
    """The range of extents first up to last, of one object."""
    p = directory.places[rendition]
    return Range(
        p.object[first], first, last, p.offset[first], p.offset[last - 1] + p.whole[last - 1] - p.offset[first]
    )


def ranges_in(directory: Directory, rendition: int, pairs: Sequence[tuple[int, int]]) -> list[Range]:
    """Extents [a, b) as ranges of a rendition: split where an object ends, or RANGE_BYTES_MAX."""
    ends, out, left = directory.ends(rendition), list[Range](), list(reversed(pairs))
    while left:
        a, b = left.pop()
        end = min(b, ends[bisect_right(ends, a)])
        one = range_of(directory, rendition, a, end)
        if one.size > RANGE_BYTES_MAX and end - a > 1:
            left += [((a + end) // 2, b), (a, (a + end) // 2)]
            continue
        out.append(one)
        if end < b:
            left.append((end, b))
    return out


@dataclass(frozen=True)
class Items:
    """What the planner chooses from, in file order: candidates, and between them the gaps that a range may bridge.

    p, size u32 and flags u8 of each, as kernels.plan_ranges takes them; at: its first byte; first: its first extent.
    """

    p: array[int]
    size: array[int] | memoryview
    flags: bytearray
    at: Sequence[int]
    first: Sequence[int]


def spread(routed: Routed, directory: Directory, *, worth: bool = True) -> Routed:
    """Probabilities of extents instead of blocks: those of a block have shares of its own, by their rows.

    worth: extents behind the first one of a block, of rows that came later, count for more, see LATER_SHARE. Else the
    shares add up to the block's, as plans under filters want them, which read until a share of the answers is there.
    """
    numbers: Sequence[int] = range(len(routed.p)) if routed.blocks is None else routed.blocks
    if directory.single or list(numbers) == list(directory.block):
        return routed if directory.single else Routed(routed.p, None, routed.directory, routed.complete)
    p_of = dict(zip(numbers, routed.p, strict=True))
    columns = zip(directory.block, directory.rows, directory.block_rows, directory.later, strict=True)
    p = [
        max(1, p_of[b] * (LATER_SHARE * n + (worth and later) * rows) // (LATER_SHARE * rows))
        if p_of.get(b) and rows
        else 0
        for b, n, rows, later in columns
    ]
    return Routed(array("I", p), None, routed.directory, routed.complete)


def items_of(
    routed: Routed,
    flags: bytearray,
    size: array[int] | memoryview,
    offset: array[int] | memoryview,
    ends: Sequence[int],
) -> Items:
    """All extents, or where few have a probability, those and the gaps between them: linear in what the router names.

    size, offset: of extents; ends: the extent after the last of each object, rising, the number of all of them last. A
    gap is one item without value; one that no range may span starts a new object.
    """
    count, named = len(size), len(routed.p) - routed.p.count(0)
    numbers = range(count) if routed.blocks is None else routed.blocks
    if not named or SPARSE * named >= count:
        every = routed.p
        if routed.blocks is not None:
            every = array("I", bytes(4 * count))
            for b, value in zip(numbers, routed.p, strict=True):
                every[b] = value
        return Items(every, size, flags, offset, range(count))
    items: list[tuple[int, int, int, int, int]] = []  # p, bytes, flags, first byte, first extent
    after, object_end = 0, 0  # the extent after the last item, and the end of its object
    for b, value in zip(numbers, routed.p, strict=True):
        if not value:
            continue
        starts = b >= object_end
        if starts:
            object_end = ends[bisect_right(ends, b)]
        elif b > after:
            gap = offset[b] - offset[after]
            if gap > RANGE_BYTES_MAX:
                starts = True
            else:
                items.append((0, gap, CACHED, offset[after], after))
        items.append((value, size[b], (flags[b] & CACHED) | (STARTS_OBJECT if starts else 0), offset[b], b))
        after = b + 1
    p, sizes, marks, at, first = zip(*items, strict=True)
    return Items(array("I", p), array("I", sizes), bytearray(marks), at, first)


def plan_scan(
    routed: Routed,
    flags: bytearray,
    directory: Directory,
    renditions: tuple[int, int],
    price: int,
    gets: int,
    budget: Budget,
) -> Plan:
    """At most `gets` ranges that maximise probability minus price times bytes, exactly; then within the budget.

    routed: of extents. flags (n), as Segment.flags gives them: STARTS_OBJECT; CACHED: no value to a range, but its
    bytes count when bridged. A cached extent is scanned where it would be worth reading: measured, that finds more than
    the ranges alone.
    renditions: the one that prices are for, whose bytes without planes decide which extents are read, as those were
    priced, and the one that they are read in.
    """
    priced, read = renditions
    size, offset = directory.places[priced].size, directory.places[priced].offset
    items = items_of(routed, flags, size, offset, directory.ends(priced))
    numbers = range(len(size)) if routed.blocks is None else routed.blocks
    held = CACHED in flags or CACHED | STARTS_OBJECT in flags
    cached = [
        b
        for b, value in (zip(numbers, routed.p, strict=True) if held else ())
        if flags[b] & CACHED and value << PRICE_BITS >= price * size[b]
    ]
    most = min(gets, budget.gets)
    if budget.waves < 1 or most < 1 or budget.bytes <= 0:
        more = any(
            not flags[b] & CACHED and (value << PRICE_BITS) > price * size[b]
            for b, value in zip(numbers, routed.p, strict=True)
        )
        return Plan([], cached, price, not more)
    limit, complete = price, True
    if most < gets:  # the budget cuts when the contract's plan has more ranges
        rounds = -(-len(ranges_of(items.p, items.size, items.flags, items.at, price, gets)) // LANES)
        count = min(gets, LANES * max(rounds, 1))
        out, scratch = array("I", bytes(8 * count)), bytearray(len(items.p) * (count + 1))
        complete = kernels.plan_ranges(items.p, items.size, items.flags, price, count, out, scratch) <= most
    while True:
        pairs = ranges_of(items.p, items.size, items.flags, items.at, limit, most)
        ranges = ranges_in(directory, read, [(items.first[a], items.first[b - 1] + 1) for a, b in pairs])
        if len(ranges) <= budget.gets and sum(r.size for r in ranges) <= budget.bytes:
            return Plan(ranges, cached, price, complete)
        complete, limit = False, limit + limit // 4 + 1
        if limit >> 32 or limit * sum(items.size) >> 60:  # past what the kernel takes: no extent fits the budget
            return Plan([], cached, price, False)


def plan_extents(
    directory: Directory, rendition: int, extents: Sequence[int], flags: bytearray, budget: Budget
) -> Plan:
    """Reads of given extents, the most wanted first: all of them, or as many as the budget allows.

    Cached ones are scanned from memory. Gaps are bridged as far as the number of GETs demands; no range is over
    RANGE_BYTES_MAX where it has two extents.
    """
    cached, unread = [b for b in extents if flags[b] & CACHED], [b for b in extents if not flags[b] & CACHED]
    take = len(unread) if budget.waves >= 1 else 0
    while take:
        some = sorted(unread[:take])
        for gap in (SPLIT_BYTES, 4 * SPLIT_BYTES, RANGE_BYTES_MAX):
            ranges = _covering(directory, rendition, some, gap)
            if len(ranges) <= budget.gets and sum(r.size for r in ranges) <= budget.bytes:
                return Plan(ranges, cached, 0, take == len(unread))
        take = 3 * take // 4
    return Plan([], cached, 0, not unread)


def _covering(directory: Directory, rendition: int, extents: list[int], gap: int) -> list[Range]:
    """Ranges that hold these extents, in rising order, with gaps of at most so many bytes bridged."""
    ranges: list[Range] = []
    for b in extents:
        one = range_of(directory, rendition, b, b + 1)
        if ranges and ranges[-1].object == one.object:
            last = ranges[-1]
            size = one.offset + one.size - last.offset
            if one.offset - last.offset - last.size <= gap and size <= RANGE_BYTES_MAX:
                ranges[-1] = Range(last.object, last.first, b + 1, last.offset, size)
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

    p, size u32 and flags u8 as in kernels.plan_ranges; at: the byte where each item begins in its object. One round of
    lanes, or more where the probability that they find, at this price for their time, is worth the wait. Only where a
    lane reads for longer than a round would take is another one weighed, so that most plans are made once. Ranges that
    have to be cut take as many GETs as they have pieces, and plans of as many ranges are weighed against them.
    """
    sums: list[int] = []

    def worth(pieces: list[tuple[int, int]]) -> tuple[int, float]:
        gain, ms = _gain(pieces, p, flags, sums), wave_ms(_lengths(pieces, size, at))
        counted = ms - (1 - share) * ROUND_MS * -(-len(pieces) // LANES)
        return (gain << PRICE_BITS) - price * round(counted * LANES_BYTES_PER_MS), -ms

    count = min(LANES, most)
    best = _even_ranges(p, size, flags, at, price, count, sums)
    share = ROUND_SHARE if len(best) > LANES else 1.0
    while count < CUTS_MAX:
        if len(best) <= count and (count >= most or max(_lengths(best, size, at), default=0) <= ROUND_BYTES):
            break
        count = min(count + LANES, CUTS_MAX, max(most, LANES * -(-len(best) // LANES)))
        more = _even_ranges(p, size, flags, at, price, count, sums)
        best = max(best, more, key=worth)
    return best


def _even_ranges(
    p: memoryview | array[int],
    size: memoryview | array[int],
    flags: bytearray,
    at: Sequence[int],
    price: int,
    most: int,
    sums: list[int],
) -> list[tuple[int, int]]:
    """The `most` ranges of most value, exactly; lanes that are left take halves of the longest.

    Where a piece is long even so, plans of fewer ranges in as many rounds, whose pieces are even, are weighed against
    it: the bytes of the longest lane are a wait for all six.
    """
    out, scratch = array("I", bytes(8 * most)), bytearray(len(size) * (most + 1))
    best: list[tuple[int, int]] = []
    least: tuple[bool, int] | None = None
    for count in range(most, (most - 1) // LANES * LANES, -1):
        ranges = kernels.plan_ranges(p, size, flags, price, count, out, scratch)
        pieces = _pieces([(out[2 * i], out[2 * i + 1]) for i in range(ranges)], size, flags, at, most)
        lengths = _lengths(pieces, size, at)
        longest = max(lengths, default=0)
        if count == most and longest <= SHORT_BYTES:
            return pieces
        worth = (_gain(pieces, p, flags, sums) << PRICE_BITS) - price * (
            sum(lengths) + LANES * longest // LONGEST_SHARE
        )
        if least is not None and (len(pieces) <= most, worth) <= least:
            break  # fewer ranges than that are worth still less
        best, least = pieces, (len(pieces) <= most, worth)
    return best


def _lengths(pieces: list[tuple[int, int]], size: memoryview | array[int], at: Sequence[int]) -> list[int]:
    """Bytes of each."""
    return [at[b - 1] + size[b - 1] - at[a] for a, b in pieces]


def _gain(pieces: list[tuple[int, int]], p: memoryview | array[int], flags: bytearray, sums: list[int]) -> int:
    """The probability that is read. sums: of what lies before each item, filled where it is empty."""
    if not sums:
        idle = CACHED in flags or CACHED | STARTS_OBJECT in flags  # has no value to a range
        valued = (0 if f & CACHED else v for v, f in zip(p, flags, strict=True)) if idle else p
        sums += [0, *accumulate(valued)]
    return sum(sums[b] - sums[a] for a, b in pieces)


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
