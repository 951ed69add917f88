"""What the root says of a facet without a read: rows by text and by bucket, and under a filter what these bound."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from ..errors import LimitError
from ..filter.bounds import Count, in_bucket, rows_taken, total, without_value
from ..filter.facet import OUTSIDE, Facet
from ..format import FilterField, Projection, Root, damaged
from .segment import Segment
from .tally import Counted, Tally


class Bucket(NamedTuple):
    """Rows with a key from low to high; chunks [first, last) of a projection hold them, none where both are 0."""

    low: int
    high: int
    held: Count
    first: int = 0
    last: int = 0


def projection_of(segment: Segment, facet: Facet) -> Projection | None:
    """That of a facet's field."""
    return next((p for p in segment.root.known_projections if p.field == facet.field), None)


def _buckets(segment: Segment, facet: Facet) -> Iterator[Bucket]:
    """How many rows the root says to have a value of a facet's field, as finely as it does. Chunks may have dead rows
    besides, so then only what the counts say too is exact.
    """
    root, own, projection = segment.root, segment.root.filters[facet.field], projection_of(segment, facet)
    if own.kind == "text":
        for rank, rows in enumerate(own.totals):
            yield Bucket(rank, rank, Count.exactly(rows))
    elif projection is not None:
        rows, dead, counted = projection.directory.rows, root.dead.count if root.dead else 0, _counted(root, facet)
        for j, (low, high) in enumerate(zip(projection.low, projection.high, strict=True)):
            a, b = projection.first[j], projection.first[j + 1]
            held = Count.exactly(sum(rows[a:b])).or_fewer(dead)
            if dead and (low, high) in counted:
                held = Count.exactly(counted[low, high])
            yield Bucket(low, high, held, a, b)
    elif root.counts is not None:
        counts = root.counts.fields[facet.field]
        for low, high, n in zip(counts.low, counts.high, counts.totals, strict=True):
            yield Bucket(low, high, Count.exactly(n))
    elif own.rows:
        yield Bucket(own.low, own.high, Count.exactly(own.rows))


def _counted(root: Root, facet: Facet) -> dict[tuple[int, int], int]:
    """Rows by the ends of the buckets that the counts have of a facet's field."""
    if root.counts is None:
        return {}
    own = root.counts.fields[facet.field]
    return {(low, high): n for low, high, n in zip(own.low, own.high, own.totals, strict=True)}


def add_known(segment: Segment, facet: Facet, tally: Tally) -> list[Bucket]:
    """Counts what is known for sure of buckets whose rows are all in one place; the others."""
    cut = []
    for bucket in _buckets(segment, facet):
        if not facet.takes_some(bucket.low, bucket.high):
            continue
        one = bucket.low == bucket.high if facet.top else _parts(facet, bucket.low, bucket.high)[1]
        if one and bucket.held.exact:
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


def bounded(segment: Segment, facet: Facet) -> Counted:
    """What follows from the counts of blocks; where there are conditions on no other field, from those of all rows."""
    root, own = segment.root, segment.root.filters[facet.field]
    if facet.rest is None:
        missing = Count.exactly(facet.nulls * (root.live_rows - own.rows))
        return _placed(facet, _buckets(segment, facet), missing)
    if root.counts is None or root.paged:
        what = f"what was read for {facet.name!r} when time was up"
        raise LimitError(what, "a part", "all of it", hint="allow more milliseconds", param="budget.ms")
    homes, counts, dead = segment.homes, root.counts.fields[facet.field], root.dead.count if root.dead else 0
    taken = rows_taken(facet.rest, root.filters, root.counts, homes, root.live_rows)
    missing = Count.exactly(0)
    if facet.nulls:
        missing = without_value(own, counts, taken, homes, root.live_rows).or_fewer(dead)
    buckets = list[Bucket]()
    for j, (low, high) in enumerate(zip(counts.low, counts.high, strict=True)):
        if facet.takes_some(low, high):
            count = in_bucket(counts, j, taken, homes).or_fewer(dead)  # homes are of dead rows too
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
