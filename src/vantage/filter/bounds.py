"""How many rows of each block a filter takes at the least and at the most, and how many with a value, from counts.

A byte of the counts stands for numbers within 12% of each other, and of rows that two conditions take, only what both
numbers say is known (Fréchet): at least what is more than the block holds, at most the smaller one.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from operator import mul
from typing import NamedTuple

from .. import kernels
from ..format import Counts, FieldCounts, FilterField
from .expect import expected_rows, rows_within
from .parse import Negation, Node, Term
from .program import Span, spans_of

STEP = 1.25
ROUNDED = 1e-4  # more than f32 loses in a sum of counts
LOW, HIGH = STEP**-0.5 * (1 - ROUNDED), STEP**0.5 * (1 + ROUNDED)  # of what a byte stands for


class Count(NamedTuple):
    """rows: as many as there are, or about; surely from low to high of them."""

    rows: int
    low: int
    high: int

    @classmethod
    def exactly(cls, rows: int) -> Count:
        """A number that was counted."""
        return cls(rows, rows, rows)

    @property
    def exact(self) -> bool:
        """Whether there is no doubt."""
        return self.low == self.high

    def at_most(self, rows: int) -> Count:
        """The same, where there are surely no more than that."""
        return Count(min(self.rows, rows), min(self.low, rows), min(self.high, rows))

    def or_fewer(self, rows: int) -> Count:
        """The same, where perhaps up to so many of them do not count."""
        return Count(self.rows, max(0, self.low - rows), self.high)

    def or_none(self) -> Count:
        """The same, where perhaps only some of them count."""
        return Count(self.rows, 0, self.high)


def total(counts: Iterable[Count]) -> Count:
    """The sum."""
    rows = low = high = 0
    for count in counts:
        rows, low, high = rows + count.rows, low + count.low, high + count.high
    return Count(rows, low, high)


class Blocks(NamedTuple):
    """Rows that a filter takes of each block (B): at least, at most, and as expected."""

    low: list[float]
    high: list[float]
    rows: Sequence[float]


def rows_taken(node: Node, fields: Sequence[FilterField], counts: Counts, homes: Sequence[int], live: int) -> Blocks:
    """Of a filter in keys. homes (B): rows at home in each block, of which `live` are not dead."""

    def rows_of(field: int, spans: Sequence[Span]) -> Sequence[float]:
        return rows_within(spans, counts.fields[field], fields[field].distinct, len(homes))

    return Blocks(*_bounds(node, fields, counts, homes), expected_rows(node, fields, rows_of, homes, live))


def _bounds(
    node: Node, fields: Sequence[FilterField], counts: Counts, homes: Sequence[int]
) -> tuple[list[float], list[float]]:
    if isinstance(node, Term):
        field = fields[node.field]
        return _within(spans_of(node, field), counts.fields[node.field], field.many, homes)
    if isinstance(node, Negation):
        low, high = _bounds(node.part, fields, counts, homes)
        return [n - most for n, most in zip(homes, high, strict=True)], [n - a for n, a in zip(homes, low, strict=True)]
    low, high = _bounds(node.parts[0], fields, counts, homes)
    for part in node.parts[1:]:
        own_low, own_high = _bounds(part, fields, counts, homes)
        if node.either:
            low = list(map(max, low, own_low))
            high = [min(n, a + b) for n, a, b in zip(homes, high, own_high, strict=True)]
        else:
            low = [max(0, a + b - n) for n, a, b in zip(homes, low, own_low, strict=True)]
            high = list(map(min, high, own_high))
    return low, high


def _within(
    spans: Sequence[Span], counts: FieldCounts, many: bool, homes: Sequence[int]
) -> tuple[list[float], list[float]]:
    """Of rows with a key in the spans: those of buckets that lie inside are sure."""
    inside, touched, at = list[int](), list[int](), 0
    for low, high in zip(counts.low, counts.high, strict=True):
        while at < len(spans) and spans[at][1] < low:
            at += 1
        touched.append(at < len(spans) and spans[at][0] <= high)
        inside.append(touched[-1] and spans[at][0] <= low and high <= spans[at][1])
    most = [min(n, math.floor(HIGH * rows)) for n, rows in zip(homes, _sums(counts, touched, homes), strict=True)]
    if many:  # rows are in several buckets: as many as in the fullest one are sure
        sure = [0.0] * len(homes)
        for j in (j for j, own in enumerate(inside) if own):
            sure = list(map(max, sure, _sums(counts, [i == j for i in range(len(inside))], homes)))
    else:
        sure = list(_sums(counts, inside, homes))
    return [min(b, math.ceil(LOW * rows)) for b, rows in zip(most, sure, strict=True)], list(map(float, most))


def _sums(counts: FieldCounts, buckets: Sequence[int], homes: Sequence[int]) -> array[float]:
    """f32 (B): what the bytes of some buckets stand for."""
    out = array("f", bytes(4 * len(homes)))
    kernels.sum_counts(counts.table, array("f", map(float, buckets)), out)
    return out


def in_bucket(counts: FieldCounts, bucket: int, taken: Blocks, homes: Sequence[int]) -> Count:
    """Rows in a bucket of a field that a filter of other conditions takes."""
    one = _sums(counts, [j == bucket for j in range(len(counts.low))], homes)
    high = [min(n, math.floor(HIGH * rows)) for n, rows in zip(homes, one, strict=True)]
    low = [min(most, math.ceil(LOW * rows)) for most, rows in zip(high, one, strict=True)]
    return _both(Blocks(low, high, one), taken, homes).at_most(counts.totals[bucket])


def without_value(field: FilterField, counts: FieldCounts, taken: Blocks, homes: Sequence[int], live: int) -> Count:
    """Rows without a value of a field that a filter of other conditions takes."""
    low, high = _within(((field.low, field.high),), counts, field.many, homes)
    without = Blocks(
        [n - most for n, most in zip(homes, high, strict=True)], [n - a for n, a in zip(homes, low, strict=True)],
        [n * (1 - field.rows / max(1, live)) for n in homes],
    )  # fmt: skip
    return _both(without, taken, homes).at_most(live - field.rows)


def _both(a: Blocks, b: Blocks, homes: Sequence[int]) -> Count:
    """Rows that both take: as expected, where they are independent of each other."""
    low = sum(max(0, x + y - n) for x, y, n in zip(a.low, b.low, homes, strict=True))
    high = sum(map(min, a.high, b.high))
    rows = sum(x / n for x, n in zip(map(mul, a.rows, b.rows), homes, strict=True) if n)
    return Count(round(min(max(rows, low), high)), round(low), round(high))
