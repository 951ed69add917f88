"""Facets: how many rows have which values, of all rows or of those that a filter takes; exact, or between two bounds.

The root knows how many rows have each text, each bucket of counts and each bucket of a projection. What it does not
say is counted in columns, of the fewest bytes of chunks or blocks that hold all rows that may count; where those are
too many, it lies between bounds that follow from the counts of each block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ..cost import Budget, wave_ms
from ..errors import InputError, LimitError
from ..filter.facet import Facet, parse_facets, values_of
from ..format import FilterField, Projection, Root
from ..read.cache import CACHED
from ..read.waves import Steps
from ..receipt import Receipt
from .filtered import BASES_MAX, Matched, Selection, select
from .known import add_known, bounded, projection_of
from .log_facets import add_values, fields_of, with_log, with_texts, written
from .plan import plan_extents
from .projected import known_bases, runs
from .query import Answer, Query
from .segment import Segment
from .tally import ColumnScan, Counted, Reading, Tally

FREE_BYTES = 8 << 20  # of reads that nobody has to ask for
ANY = Budget(gets=1 << 30, bytes=1 << 60)  # what exact counts cost, whatever it is


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
class FacetAnswer:
    """facets in the order asked for. fields: of the index, with the texts that their keys stand for. matched: rows that
    the filter takes, or matches of the query. complete is False where time or a budget cut what was to be read.
    """

    facets: list[Counted]
    fields: Sequence[FilterField]
    matched: Matched
    complete: bool
    receipt: Receipt


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
    facets = parse_facets(
        asked.facets, fields_of(segment, asked.facets), root.names, selection.node if selection else None
    )
    tallies, missing = [Tally(facet) for facet in facets], list[int | None]([None] * len(facets))
    unread, together = list[tuple[list[int], list[Place]]](), list[int]()
    for i, facet in enumerate(facets):
        if facet.rest is not None:
            together.append(i)
            continue
        if segment.fresh is not None and segment.fresh.ids:  # the root counts rows that do not count any more
            together.append(i)
            continue
        cut = add_known(segment, facet, tallies[i])
        if all(bucket.chunks for bucket in cut):
            missing[i] = facet.nulls * (root.live_rows - root.filters[facet.field].rows)
            if cut:
                chunks = sorted(c for bucket in cut for own in bucket.chunks for c in own)
                unread.append(([i], [Place(projection_of(segment, facet), 0, chunks)]))
        else:
            tallies[i] = Tally(facet)
            together.append(i)
    if together:
        unread.append((together, list(_places(segment, selection, together, facets))))
    left = budget if asked.exact else replace(budget, bytes=min(budget.bytes, FREE_BYTES))
    readings, about, wanted = list[Reading](), set[int](), list[Reading]()
    for numbers, places in unread:
        ways = [_reading(segment, numbers, place, left.gets) for place in places]
        best = min(ways, key=lambda way: (wave_ms(way.sizes), way.plan.bytes), default=None)
        if best is not None and _fits(best, left):
            left = replace(left, gets=left.gets - len(best.sizes), bytes=left.bytes - best.plan.bytes)
            readings.append(best)
            continue
        if asked.exact or not ((root.counts and not root.paged) or all(facets[i].rest is None for i in numbers)):
            raise _too_much(", ".join(facets[i].name for i in numbers)[:200], best, left, asked.exact)
        about.update(numbers)
        wanted += [] if best is None else [best]
    return FacetPlan(asked, selection, facets, tallies, missing, readings, about, wanted)


def plan_within(segment: Segment, asked: FacetQuery) -> FacetPlan:
    """The same of the matches of a query, whose reads it plans itself."""
    root = segment.root
    _check_filterable(root)
    if asked.exact:
        raise InputError("facets of the matches of a query are exact", hint="leave exact out", param="exact")
    selection = select(asked.filter, root, ())
    facets = parse_facets(asked.facets, root.filters, root.names, selection.node if selection else None)
    return FacetPlan(asked, selection, facets, [Tally(facet) for facet in facets], [], [], set(), [])


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
    inside = inside and (selection is None or selection.in_blocks(root))
    if resident is not None and (inside or (rows and not any(rows))):
        extents = [i for i, block in enumerate(resident.block) if not rows or rows[block]]
        sizes = [sum(place.whole) for place in resident.places]
        yield Place(None, sizes.index(min(sizes)), extents)
    for base in known_bases(selection, root)[:BASES_MAX] if selection is not None else ():
        found = runs(base)
        buckets = {run.keys for run in found}
        if len(buckets) <= 1 or not root.filters[base.projection.field].many:  # else rows are there several times
            yield Place(base.projection, 0, [c for run in found for c in range(run.first, run.end)])
    every = next((p for p in root.known_projections if not root.filters[p.field].many), None)
    if every is not None and not inside:
        yield Place(every, 0, range(len(every.block)))


@dataclass
class _Reads:
    """For Segment.scan: what reads."""

    receipt: Receipt
    done: set[int]


def read(segment: Segment, plan: FacetPlan, reading: Reading, receipt: Receipt) -> Steps[int | None]:
    """Counts what a reading holds into the tallies of its facets; rows that the filter takes, None past the time."""
    counting = ColumnScan(segment, reading, plan.selection, [plan.tallies[i] for i in reading.facets])
    reads, directory, rendition = reading.plan, reading.directory, reading.rendition
    flags = segment.flags(directory, (rendition, rendition))
    if not all(flags[i] & CACHED for i in reads.cached):  # others took their room while this one waited for its own
        reads = plan_extents(directory, rendition, sorted(reading.extents), flags, plan.asked.budget)
    whole = yield from segment.scan(_Reads(receipt, set()), reads, counting, rendition)
    receipt.rows += counting.rows
    return counting.taken if whole and reads.complete else None


def answer(segment: Segment, plan: FacetPlan, taken: Sequence[int | None], receipt: Receipt) -> FacetAnswer:
    """taken: of each reading what `read` returned. Raises LimitError where time was up and the root knows no bounds."""
    root, about = segment.root, set(plan.bounded)
    rows = root.live_rows if plan.selection is None else None
    missing = list(plan.missing)
    for reading, count in zip(plan.readings, taken, strict=True):
        if count is None:
            about.update(reading.facets)
            continue
        for i in reading.facets:
            if missing[i] is None:
                rows, missing[i] = count, count - plan.tallies[i].rows
    log = written(segment, plan)
    out = []
    for i, (facet, more) in enumerate(zip(plan.facets, log.tallies, strict=True)):
        known, tally = missing[i], plan.tallies[i]
        if i in about or known is None:
            out.append(with_log(bounded(segment, facet), more, log.numbers.get(facet.field, {}), log))
            continue
        if facet.rest is None and not root.filters[facet.field].many:
            rows = tally.rows + known
        tally.number_anew(log.numbers.get(facet.field, {}))
        tally.add_all(more)
        out.append(tally.counted(known + log.rows - more.rows))
    complete, counted = None not in taken, any(count is not None for count in taken)
    if rows is not None and (counted or not log.superseded):
        return FacetAnswer(out, log.fields, Matched(rows + log.rows, True), complete, receipt)
    expected = sum(plan.selection.rows) if plan.selection is not None else root.live_rows
    return FacetAnswer(out, log.fields, Matched(round(expected) + log.rows, False), complete, receipt)


def of_matches(segment: Segment, plan: FacetPlan, found: Answer) -> FacetAnswer:
    """Of the matches of a query that has their attributes; those whose attributes were cut are left out."""
    some = [m.attributes for m in found.matches if m.attributes is not None]
    values = [
        [values_of(segment.root.filters[f.field], own.get(f.name), "a row") for own in some] for f in plan.facets
    ]  # fmt: skip
    fields = with_texts(segment.root.filters, plan.facets, values)
    for tally, rows in zip(plan.tallies, values, strict=True):
        add_values(tally, fields[tally.facet.field], rows)
    out = [tally.counted(len(some) - tally.rows) for tally in plan.tallies]
    complete = found.complete and len(some) == len(found.matches)
    return FacetAnswer(out, fields, Matched(len(some), True), complete, found.receipt)
