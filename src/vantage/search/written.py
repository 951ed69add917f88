"""Rows of the log in a listing: which are still to come, and where they stand between the rows of the generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .filtered import Selection
from .fresh import FreshRows
from .rows import id_hash
from .walk import Listed, Walk

UPCOMING_ROWS = 4096  # that are put in order at a time
TEXT_BYTES = 1024  # of a text that decide where a row in the log stands, so that a cursor can hold them
BEFORE_ALL = -1  # instead of a hash: of a row of the generation, as those come first among equals


class Mark(NamedTuple):
    """The last row of a page: its value, by which the listing goes, None without one, and the hash of its id."""

    value: int | bytes | None
    id_hash: int


class Written(NamedTuple):
    """A row in the log that a listing comes to: its mark, and its place among those rows."""

    mark: Mark
    place: int


def bits_of(mask: int) -> list[int]:
    """The numbers of the bits that are set."""
    return [i for i, bit in enumerate(reversed(f"{mask:b}")) if bit == "1"]


def upcoming(
    fresh: FreshRows, walk: Walk, selection: Selection | None, behind: Mark | None, most: int
) -> list[Written]:
    """The first `most` rows in the log behind a mark, in the order of a walk: by its field, those without a value last,
    and among equals by the hashes of their ids. With distinct the first of each value.
    """
    places, out = bits_of(fresh.taken(selection)), list[Written]()
    values = None if walk.field is None else fresh.first_values(walk.field)
    for low in range(0, len(places), UPCOMING_ROWS):
        for place in places[low : low + UPCOMING_ROWS]:
            value = None if values is None else values[place]
            out.append(Written(Mark(_cut(value), id_hash(fresh.rows.ids[place])), place))
        out = _in_order(out, walk, behind)[:most]
    return out


def _in_order(rows: list[Written], walk: Walk, behind: Mark | None) -> list[Written]:
    """Those behind a mark; see `upcoming`."""
    rows.sort(key=lambda row: row.mark.id_hash)
    there = [row for row in rows if row.mark.value is not None]
    there.sort(key=lambda row: row.mark.value, reverse=walk.falling)  # type: ignore[arg-type, return-value]
    out, last = list[Written](), behind
    for row in [*there, *(row for row in rows if row.mark.value is None)]:
        if last is None or _before(last, row.mark, walk):
            out.append(row)
            last = row.mark if walk.distinct else behind
    return out


def mark_of(fresh: FreshRows, walk: Walk, listed: Listed) -> Mark:
    """Of a row of the generation. Its key is that of a list's chunks where the walk goes by no field: no value then."""
    value: int | bytes | None = None
    if walk.field is not None and listed.key is not None:
        field = fresh.root.filters[walk.field]
        value = field.text(listed.key) if field.ranked else listed.key
    return Mark(_cut(value), BEFORE_ALL)


def merged(
    fresh: FreshRows, walk: Walk, found: Sequence[Listed], rows: Sequence[Written], ended: bool
) -> list[tuple[Listed | Written, Mark]]:
    """Rows of the generation, and those in the log up to the last of them; all of these if the walk ended there."""
    out, at = list[tuple[Listed | Written, Mark]](), 0
    for one in found:
        mark = mark_of(fresh, walk, one)
        while walk.field is not None and at < len(rows) and _before(rows[at].mark, mark, walk):
            out.append((rows[at], rows[at].mark))
            at += 1
        out.append((one, mark))
        if walk.distinct:
            while at < len(rows) and rows[at].mark.value == mark.value:
                at += 1
    if ended:
        out += [(row, row.mark) for row in rows[at:]]
    return out


def _cut(value: int | bytes | None) -> int | bytes | None:
    return value[:TEXT_BYTES] if isinstance(value, bytes) else value


def _before(one: Mark, other: Mark, walk: Walk) -> bool:
    """Whether a mark stands before another; with distinct, none before one of its own value."""
    a, b = one.value, other.value
    if a == b:
        return not walk.distinct and one.id_hash < other.id_hash
    if a is None or b is None:
        return b is None
    return (a < b) != walk.falling  # type: ignore[operator]
