"""Facets of rows in the log, and what they and the ids that the log has make of the counts of a generation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import LimitError
from ..filter.bounds import Count
from ..filter.facet import DISTINCT_MAX, Facet
from ..format import FilterField
from .segment import Segment
from .tally import Counted, Tally

if TYPE_CHECKING:
    from .facets import FacetPlan


@dataclass(frozen=True)
class Written:
    """What the log has for facets. tallies: of each; rows: that count; superseded: ids whose rows of the generation do
    not. fields: of the index, with texts that the log alone has; numbers: of such a field the new key of each old one.
    """

    tallies: list[Tally]
    rows: int
    superseded: int
    fields: Sequence[FilterField]
    numbers: Mapping[int, Mapping[int, int]]


def written(segment: Segment, plan: FacetPlan) -> Written:
    """Counted in memory. Raises LimitError where the log has more values than may be counted one by one."""
    fresh, filters, tallies = segment.fresh, segment.root.filters, [Tally(facet) for facet in plan.facets]
    if fresh is None or not fresh.ids:
        return Written(tallies, 0, 0, filters, {})
    taken = fresh.taken(plan.selection)
    fields = with_texts(filters, plan.facets, (fresh.field_values(facet.field, taken) for facet in plan.facets))
    for tally in tallies:
        add_values(tally, fields[tally.facet.field], fresh.field_values(tally.facet.field, taken))
    _check_distinct(sum(len(tally.counts) for tally in tallies if tally.facet.top))
    numbers = {
        i: {old.key(rank): new.rank(old.text_at(rank), after=False) for rank in range(len(old.ends) - 1)}
        for i, (old, new) in enumerate(zip(filters, fields, strict=True))
        if new is not old
    }
    return Written(tallies, taken.bit_count(), len(fresh.ids), fields, numbers)


def fields_of(segment: Segment, names: Any) -> Sequence[FilterField]:
    """Those of an index; in an empty one histograms of attributes of these names divide the range that the log has."""
    fresh, fields = segment.fresh, segment.root.filters
    if fresh is None or not segment.root.is_empty:
        return fields
    out = list[FilterField]()
    for i, field in enumerate(fields):
        if field.kind == "text" or not isinstance(names, Mapping) or segment.root.names[field.attribute] not in names:
            out.append(field)
            continue
        keys = [key for row in fresh.field_values(i, fresh.live) for key in row]
        out.append(replace(field, rows=len(keys), low=min(keys), high=max(keys)) if keys else field)
    return out


def with_texts(
    fields: Sequence[FilterField], facets: Sequence[Facet], values: Iterable[Iterable[Sequence[Any]]]
) -> Sequence[FilterField]:
    """The fields of an index, those of some facets with all texts of these values of rows. Raises LimitError."""
    out = list(fields)
    for facet, rows in zip(facets, values, strict=True):
        field = out[facet.field]
        if not field.ranked:
            continue
        texts = set[bytes]()
        for row in rows:
            texts.update(row)
            _check_distinct(len(texts))
        new = {t for t in texts if field.rank(t, after=False) == field.rank(t, after=True)}
        if new:
            out[facet.field] = field.with_texts(sorted(new | {field.text_at(i) for i in range(len(field.ends) - 1)}))
    return out


def _check_distinct(count: int) -> None:
    if count > DISTINCT_MAX:
        what = "the number of values to count, with those in the log,"
        hint = "filter, ask for a histogram, or for fewer facets"
        raise LimitError(what, f"over {DISTINCT_MAX}", DISTINCT_MAX, hint=hint, param="facets")


def add_values(tally: Tally, field: FilterField, rows: Iterable[Sequence[Any]]) -> None:
    """Counts the values of rows. Raises LimitError."""
    known = dict[bytes, int]()  # keys of texts
    for row in rows:
        if field.ranked:
            known |= {text: field.key(field.rank(text, after=False)) for text in row if text not in known}
        keys = [known[text] for text in row] if field.ranked else row
        tally.add([(key, 1) for key in keys], bool(keys))
        _check_distinct(len(tally.counts))


def with_log(base: Counted, more: Tally, numbers: Mapping[int, int], log: Written) -> Counted:
    """Bounds of a generation with the rows of the log, where some of those counted may have been superseded."""
    if not log.superseded:
        return base
    facet, counts = base.facet, more.counts
    if not facet.top:
        values = [(i, _more(count, counts.get(i, 0), log)) for i, count in base.values]
        other = _more(base.other, sum(counts.values()) - sum(counts.get(i, 0) for i, _ in values), log)
        return Counted(facet, values, other, _more(base.missing, log.rows - more.rows, log))
    known = {numbers.get(key, key): count for key, count in base.values}
    # A value that is not shown may have as many rows as the others together.
    rest = base.other if base.other.high else Count.exactly(0)
    for key in counts.keys() - known.keys():
        known[key] = Count(0, 0, rest.high)
    shown = sorted(
        ((key, _more(count, counts.get(key, 0), log)) for key, count in known.items()),
        key=lambda one: (-one[1].rows, one[0]),
    )
    cut = shown[facet.top :]
    low, high = sum(count.low for _, count in cut), sum(count.high for _, count in cut)
    other = Count(rest.rows + sum(count.rows for _, count in cut), low, rest.high + high)
    return Counted(facet, shown[: facet.top], other, _more(base.missing, log.rows - more.rows, log))


def _more(count: Count, rows: int, log: Written) -> Count:
    return Count(count.rows + rows, max(0, count.low - log.superseded) + rows, count.high + rows)
