"""Facets: how many rows have which values, of all rows or of those that a filter takes; exact, or between two bounds.

The root knows how many rows have each text, each bucket of counts and each bucket of a projection. What it does not
say is counted in columns, of the fewest bytes of chunks or blocks that hold all rows that may count; where those are
too many, it lies between bounds that follow from the counts of each block.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

from .. import kernels
from ..cost import Budget, wave_ms
from ..errors import InputError, LimitError
from ..filter.bounds import Count, in_bucket, rows_taken, total, without_value
from ..filter.facet import OUTSIDE, Facet, keys_of, parse_facets
from ..format import (
    COLUMNS_PLANE,
    GROUP,
    Directory,
    FilterField,
    Projection,
    Root,
    aligned,
    damaged,
    open_block,
    open_chunk,
    plane_of,
)
from ..read.waves import Steps
from ..receipt import Receipt
from . import scan
from .filtered import Matched, Selection, select
from .plan import Plan, plan_extents
from .projected import bases, in_blocks, runs
from .query import Answer, Query
from .segment import Segment

FREE_BYTES = 8 << 20  # of reads that nobody has to ask for
ANY = Budget(gets=1 << 30, bytes=1 << 60)  # what exact counts cost, whatever it is
TABLE_MAX = 1 << 16  # entries of a column's table


@dataclass(frozen=True)
class FacetQuery:
    """What to count: facets and filter as JSON has them (vantage.filter.facet, vantage.filter.parse).

    exact: refused where the budget does not allow to count. within: of the matches of this query alone, whose filter
    and budget are those here.
    """

    facets: Any
    filter: Any = None
    exact: bool = False
    budget: Budget = field(default_factory=Budget)
    within: Query | None = None


@dataclass(frozen=True)
class Counted:
    """A facet, counted. values: of `top` a key each, most rows first; of a histogram the number of a bucket each.

    other: rows with other values; of lists each such value counts. missing: rows without one.
    """

    facet: Facet
    values: list[tuple[int, Count]]
    other: Count
    missing: Count

    @property
    def exact(self) -> bool:
        """Whether all of it was counted."""
        return all(count.exact for count in (self.other, self.missing, *(count for _, count in self.values)))


@dataclass(frozen=True)
class FacetAnswer:
    """facets in the order asked for. matched: rows that the filter takes, or matches of the query. complete is False
    where time or a budget cut what was to be read.
    """

    facets: list[Counted]
    matched: Matched
    complete: bool
    receipt: Receipt


class Bucket(NamedTuple):
    """Rows with a key from low to high; chunks [first, last) of a projection hold them, none where both are 0."""

    low: int
    high: int
    held: Count
    first: int = 0
    last: int = 0


class Tally:
    """Rows of a facet as they are counted: by key, or by the number of a bucket; rows: that have a value."""

    def __init__(self, facet: Facet) -> None:
        self.facet, self.rows = facet, 0
        self.counts: dict[int, int] = {}

    def add(self, pairs: Iterable[tuple[int, int]], rows: int) -> None:
        """Pairs of a key and how many of so many rows have it."""
        place, counts = (None if self.facet.top else self.facet.bucket), self.counts
        for key, count in pairs:
            at = key if place is None else place(key)
            counts[at] = counts.get(at, 0) + count
        self.rows += rows

    def counted(self, missing: int) -> Counted:
        """All of it. missing: rows without a value."""
        facet, counts = self.facet, self.counts
        if not facet.top:
            values = [(i, Count.exactly(counts.get(i, 0))) for i in range(len(facet.starts) - 1)]
            return Counted(facet, values, Count.exactly(counts.get(OUTSIDE, 0)), Count.exactly(missing))
        best = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
        rest = sum(count for _, count in best[facet.top :])
        values = [(key, Count.exactly(count)) for key, count in best[: facet.top]]
        return Counted(facet, values, Count.exactly(rest), Count.exactly(missing))


@dataclass(frozen=True)
class Reading:
    """Extents in whose columns some facets are counted: blocks, or chunks of the projection of a field."""

    facets: list[int]
    directory: Directory
    rendition: int
    projection: int | None
    extents: frozenset[int]
    plan: Plan

    @property
    def sizes(self) -> list[int]:
        """Bytes of each GET."""
        return [r.size for r in self.plan.ranges]


class ColumnScan:
    """Counts values in the columns of a reading: of rows at home in blocks, or of all in chunks. taken: that count."""

    def __init__(self, segment: Segment, reading: Reading, selection: Selection | None, tallies: list[Tally]) -> None:
        self.segment, self.reading, self.selection, self.tallies = segment, reading, selection, tallies
        self.directory, self.has_planes = reading.directory, reading.projection is None
        self.taken, self.rows, self.scratch = 0, 0, bytearray()

    def block(self, place: int, data: bytes | memoryview, *, keep: bool) -> None:
        del keep
        if place not in self.reading.extents:  # read only because it lies between others
            return
        root, extent = self.segment.root, self.directory.extent(place, self.reading.rendition)
        index, n = root.index, extent.rows
        where = f"{self.segment.keys[extent.object]}, block {extent.block}"
        code_bytes = root.codecs[root.renditions[self.reading.rendition].codec].code_bytes
        sizes = n, extent.size, code_bytes
        if self.has_planes:
            opened = open_block(data, *sizes, index.dimension, index.by_row, where, index.metric)
            plane = plane_of(data, opened.planes, COLUMNS_PLANE, where)
        else:
            at = open_chunk(data, *sizes, index.blocks, index.by_row, where, index.metric).at
            plane = memoryview(data)[at.columns : at.columns_end]
        bits = (1 << self.directory.homes[place]) - 1  # they come first
        if self.selection is not None:
            program = self.selection.program.data
            bits &= int.from_bytes(scan.rows_taken(plane, n, len(root.filters), program, where), "little")
        self.rows += n
        self.taken += bits.bit_count()
        if bits:
            mask = bits.to_bytes(aligned(n, GROUP) // 8, "little")
            for tally in self.tallies:
                self._count(tally, plane, n, mask, where)

    def _count(self, tally: Tally, plane: memoryview, n: int, mask: bytes, where: str) -> None:
        size = 8 + 16 * max(n, min(TABLE_MAX, len(plane)))
        if len(self.scratch) < size:
            self.scratch = bytearray(size)
        fields, place = self.segment.root.filters, tally.facet.field
        try:
            pairs = kernels.column_counts(plane, n, len(fields), place, mask, self.scratch)
        except ValueError as error:
            raise damaged(where, f"its columns are damaged ({error})") from None
        rows, *flat = memoryview(self.scratch)[: 8 + 16 * pairs].cast("q").tolist()
        if fields[place].kind == "text" and flat and not 0 <= min(flat[::2]) <= max(flat[::2]) < fields[place].distinct:
            raise damaged(where, f"a text that is none of {fields[place].distinct}")
        tally.add(zip(flat[::2], flat[1::2], strict=True), rows)

    def settle(self) -> None:
        """Nothing of an extent is kept."""


@dataclass(frozen=True)
class FacetPlan:
    """How facets are counted: those that no reading names by what the root says. tallies: what the root says of each.

    missing: rows without a value, where the root says it. bounded: facets that are not counted; wanted: what that would
    take.
    """

    asked: FacetQuery
    selection: Selection | None
    facets: tuple[Facet, ...]
    tallies: list[Tally]
    missing: list[int | None]
    readings: list[Reading]
    bounded: set[int]
    wanted: list[Reading]

    @property
    def nbytes(self) -> int:
        """Of all reads."""
        return sum(reading.plan.bytes for reading in self.readings)


def plan_facets(segment: Segment, asked: FacetQuery, budget: Budget) -> FacetPlan:
    """What to read, nothing of which is read yet. Raises InputError or LimitError for what is not to be had."""
    root = segment.root
    _check_filterable(root)
    selection = select(asked.filter, root, segment.homes)
    facets = parse_facets(asked.facets, root.filters, root.names, selection.node if selection else None)
    tallies, missing = [Tally(facet) for facet in facets], list[int | None]([None] * len(facets))
    unread, together = list[tuple[list[int], list[Place]]](), list[int]()
    for i, facet in enumerate(facets):
        if facet.rest is not None:
            together.append(i)
            continue
        cut = _known(segment, facet, tallies[i])
        if all(bucket.last for bucket in cut):
            missing[i] = facet.nulls * (root.index.rows - root.filters[facet.field].rows)
            if cut:
                chunks = [c for bucket in cut for c in range(bucket.first, bucket.last)]
                unread.append(([i], [Place(_projection(segment, facet), 0, chunks)]))
        else:
            tallies[i] = Tally(facet)
            together.append(i)
    if together:
        unread.append((together, list(_places(segment, selection, together, facets))))
    left = budget if asked.exact else replace(budget, bytes=min(budget.bytes, FREE_BYTES))
    readings, bounded, wanted = list[Reading](), set[int](), list[Reading]()
    for numbers, places in unread:
        ways = [_reading(segment, numbers, place, left.gets) for place in places]
        best = min(ways, key=lambda way: (wave_ms(way.sizes), way.plan.bytes), default=None)
        if best is not None and _fits(best, left):
            left = replace(left, gets=left.gets - len(best.sizes), bytes=left.bytes - best.plan.bytes)
            readings.append(best)
            continue
        if asked.exact or not (root.counts or all(facets[i].rest is None for i in numbers)):
            raise _too_much(", ".join(facets[i].name for i in numbers)[:200], best, left, asked.exact)
        bounded.update(numbers)
        wanted += [] if best is None else [best]
    return FacetPlan(asked, selection, facets, tallies, missing, readings, bounded, wanted)


def _check_filterable(root: Root) -> None:
    if not root.filters:
        hint = "build it with --filter"
        raise InputError("no attribute of this index is filterable, and so none has facets", hint=hint, param="facets")


def _fits(reading: Reading, left: Budget) -> bool:
    sizes = reading.sizes
    return not sizes or (len(sizes) <= left.gets and reading.plan.bytes <= left.bytes and left.waves >= 1)


def _too_much(names: str, best: Reading | None, left: Budget, exact: bool) -> InputError:
    nearest = 'ask for those of the nearest rows, {"within": {"vector": [...]}}'
    param = "exact" if exact else "facets"
    if best is None:
        what = f"{names} cannot be counted in this index, which has too many blocks"
        return InputError(what, hint=nearest, param=param)
    more = "raise the budget" if exact else 'send "exact": true with a budget for it'
    return LimitError(
        f"what counting {names} reads", f"{best.plan.bytes} bytes in {len(best.sizes)} GETs",
        f"{left.bytes} in {left.gets}", hint=f"{more}, narrow the filter, or {nearest}", param=param,
    )  # fmt: skip


def _projection(segment: Segment, facet: Facet) -> Projection | None:
    return next((p for p in segment.root.projections if p.field == facet.field), None)


def _buckets(segment: Segment, facet: Facet) -> Iterator[Bucket]:
    """How many rows the root says to have a value of a facet's field, as finely as it does."""
    root, own, projection = segment.root, segment.root.filters[facet.field], _projection(segment, facet)
    if own.kind == "text":
        for rank, rows in enumerate(own.totals):
            yield Bucket(rank, rank, Count.exactly(rows))
    elif projection is not None:
        rows = projection.directory.rows
        for j, (low, high) in enumerate(zip(projection.low, projection.high, strict=True)):
            a, b = projection.first[j], projection.first[j + 1]
            yield Bucket(low, high, Count.exactly(sum(rows[a:b])), a, b)
    elif root.counts is not None:
        counts = root.counts.fields[facet.field]
        for low, high, n in zip(counts.low, counts.high, counts.totals, strict=True):
            yield Bucket(low, high, Count.exactly(n))
    elif own.rows:
        yield Bucket(own.low, own.high, Count.exactly(own.rows))


def _known(segment: Segment, facet: Facet, tally: Tally) -> list[Bucket]:
    """Counts what is known of buckets whose rows are all in one place; the others."""
    cut = []
    for bucket in _buckets(segment, facet):
        if not facet.takes_some(bucket.low, bucket.high):
            continue
        one = bucket.low == bucket.high if facet.top else _parts(facet, bucket.low, bucket.high)[1]
        if one:
            tally.add([(bucket.low, bucket.held.rows)], bucket.held.rows)
        else:
            cut.append(bucket)
    return cut


def _parts(facet: Facet, low: int, high: int) -> tuple[dict[int, float], bool]:
    """Shares of the keys from low to high by the bucket of a histogram; and whether all of them count, in one."""
    first, last = bisect_right(facet.starts, low), bisect_right(facet.starts, high)
    shares: dict[int, float] = {}
    for a, b in pairwise((low, *facet.starts[first:last], high + 1)):
        if facet.takes_some(a, b - 1):
            place = facet.bucket(a)
            shares[place] = shares.get(place, 0.0) + (b - a) / (high - low + 1)
    return shares, first == last and facet.takes_all(low, high)


class Place(NamedTuple):
    """Extents where rows are that may count: blocks in a rendition, or chunks of a projection."""

    projection: Projection | None
    rendition: int
    extents: Sequence[int]


def _reading(segment: Segment, numbers: list[int], place: Place, gets: int) -> Reading:
    """The reads of a place, in so many GETs where that can be."""
    projection, rendition, extents = place
    directory = segment.resident if projection is None else projection.directory
    assert directory is not None
    flags = segment.flags(directory, (rendition, rendition))
    plan = plan_extents(directory, rendition, extents, flags, replace(ANY, gets=gets))
    if not plan.complete:
        plan = plan_extents(directory, rendition, extents, flags, ANY)
    return Reading(
        numbers, directory, rendition, None if projection is None else projection.field, frozenset(extents), plan
    )


def _places(
    segment: Segment, selection: Selection | None, numbers: list[int], facets: Sequence[Facet]
) -> Iterator[Place]:
    """Where all rows that a filter takes are, each once, with the columns of these facets."""
    root, resident = segment.root, segment.resident
    rows = selection.rows if selection is not None else ()
    inside = all(root.filters[facets[i].field].in_blocks for i in numbers)
    inside = inside and (selection is None or in_blocks(selection, root))
    if resident is not None and (inside or (rows and not any(rows))):
        extents = [i for i, block in enumerate(resident.block) if not rows or rows[block]]
        sizes = [sum(place.whole) for place in resident.places]
        yield Place(None, sizes.index(min(sizes)), extents)
    for base in bases(selection.node, root) if selection is not None else ():
        found = runs(base)
        if len(found) <= 1 or not root.filters[base.projection.field].many:  # else rows are there several times
            yield Place(base.projection, 0, [c for a, b in found for c in range(a, b)])
    if not inside:
        for projection in root.projections:
            if not root.filters[projection.field].many:
                yield Place(projection, 0, range(len(projection.block)))


@dataclass
class _Reads:
    """For Segment.scan: what reads."""

    receipt: Receipt
    done: set[int]


def read(segment: Segment, plan: FacetPlan, reading: Reading, receipt: Receipt) -> Steps[int | None]:
    """Counts what a reading holds into the tallies of its facets; rows that the filter takes, None past the time."""
    counting = ColumnScan(segment, reading, plan.selection, [plan.tallies[i] for i in reading.facets])
    whole = yield from segment.scan(_Reads(receipt, set()), reading.plan, counting, reading.rendition)
    receipt.rows += counting.rows
    return counting.taken if whole else None


def answer(segment: Segment, plan: FacetPlan, taken: Sequence[int | None], receipt: Receipt) -> FacetAnswer:
    """taken: of each reading what `read` returned. Raises LimitError where time was up and the root knows no bounds."""
    root, bounded = segment.root, set(plan.bounded)
    rows = root.index.rows if plan.selection is None else None
    missing = list(plan.missing)
    for reading, count in zip(plan.readings, taken, strict=True):
        if count is None:
            bounded.update(reading.facets)
            continue
        for i in reading.facets:
            if missing[i] is None:
                rows, missing[i] = count, count - plan.tallies[i].rows
    out = []
    for i, facet in enumerate(plan.facets):
        known = missing[i]
        if i in bounded or known is None:
            out.append(_bounded(segment, facet))
            continue
        out.append(plan.tallies[i].counted(known))
        if facet.rest is None and not root.filters[facet.field].many:
            rows = plan.tallies[i].rows + known
    if rows is not None:
        return FacetAnswer(out, Matched(rows, True), None not in taken, receipt)
    expected = sum(plan.selection.rows) if plan.selection is not None else 0
    return FacetAnswer(out, Matched(round(expected), False), None not in taken, receipt)


def _bounded(segment: Segment, facet: Facet) -> Counted:
    """What follows from the counts of blocks; where there are conditions on no other field, from those of all rows."""
    root, own = segment.root, segment.root.filters[facet.field]
    if facet.rest is None:
        missing = Count.exactly(facet.nulls * (root.index.rows - own.rows))
        return _placed(facet, _buckets(segment, facet), missing)
    if root.counts is None:
        what = f"what was read for {facet.name!r} when time was up"
        raise LimitError(what, "a part", "all of it", hint="allow more milliseconds", param="budget.ms")
    homes, counts = segment.homes, root.counts.fields[facet.field]
    taken = rows_taken(facet.rest, root.filters, root.counts, homes)
    missing = without_value(own, counts, taken, homes) if facet.nulls else Count.exactly(0)
    buckets = list[Bucket]()
    for j, (low, high) in enumerate(zip(counts.low, counts.high, strict=True)):
        if facet.takes_some(low, high):
            count = in_bucket(counts, j, taken, homes)
            buckets += _texts(own, low, high, count) if own.kind == "text" else [Bucket(low, high, count)]
    return _placed(facet, buckets, missing)


def _texts(own: FilterField, low: int, high: int, count: Count) -> Iterator[Bucket]:
    """What a bucket says of each of its texts, whose rows are known."""
    if not 0 <= low <= high < own.distinct:
        raise damaged("root.bin, section counts", f"a bucket of texts {low} to {high} of {own.distinct}")
    every = sum(own.totals[low : high + 1]) or 1
    for rank in range(low, high + 1):
        rows = own.totals[rank]
        part = count if low == high else Count(round(count.rows * rows / every), 0, count.high)
        yield Bucket(rank, rank, part.at_most(rows))


def _placed(facet: Facet, buckets: Iterable[Bucket], missing: Count) -> Counted:
    """Buckets as values or buckets of a histogram: rows of one that is cut may be in any of its parts."""
    places: dict[int, list[Count]] = {}
    for low, high, count, _, _ in buckets:
        if not facet.takes_some(low, high):
            continue
        if facet.top:
            own = count if low == high else count.or_none()
            places.setdefault(low if low == high else OUTSIDE, []).append(own)
            continue
        shares, whole = _parts(facet, low, high)
        for place, share in shares.items():
            own = count if whole else Count(round(count.rows * share), 0, count.high)
            places.setdefault(place, []).append(own)
    if not facet.top:
        values = [(i, total(places.get(i, ()))) for i in range(len(facet.starts) - 1)]
        return Counted(facet, values, total(places.get(OUTSIDE, ())), missing)
    rest = places.pop(OUTSIDE, [])
    best = sorted(((key, total(own)) for key, own in places.items()), key=lambda one: (-one[1].rows, one[0]))
    best = [(key, count) for key, count in best if count.high]
    return Counted(facet, best[: facet.top], total([*rest, *(count for _, count in best[facet.top :])]), missing)


def plan_within(segment: Segment, asked: FacetQuery) -> FacetPlan:
    """The same of the matches of a query, whose reads it plans itself."""
    root = segment.root
    _check_filterable(root)
    if asked.exact:
        raise InputError("facets of the matches of a query are exact", hint="leave exact out", param="exact")
    selection = select(asked.filter, root, ())
    facets = parse_facets(asked.facets, root.filters, root.names, selection.node if selection else None)
    return FacetPlan(asked, selection, facets, [Tally(facet) for facet in facets], [], [], set(), [])


def of_matches(segment: Segment, plan: FacetPlan, found: Answer) -> FacetAnswer:
    """Of the matches of a query that has their attributes; those whose attributes were cut are left out."""
    some = [m.attributes for m in found.matches if m.attributes is not None]
    for tally in plan.tallies:
        for attributes in some:
            keys = keys_of(segment.root.filters[tally.facet.field], attributes.get(tally.facet.name))
            tally.add([(key, 1) for key in keys], bool(keys))
    out = [tally.counted(len(some) - tally.rows) for tally in plan.tallies]
    complete = found.complete and len(some) == len(found.matches)
    return FacetAnswer(out, Matched(len(some), True), complete, found.receipt)
