"""How many rows of each block a filter is expected to take, from counts: exact for single values, else nearly."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from operator import mul

from .. import kernels
from ..format import FieldCounts, FilterField
from .parse import Negation, Node, Term
from .program import Span, complement, spans_of

SHARE_MIN = 1e-9  # of rows that there may be: less of them is as good as one
# Of a field, by its place, with a key in the spans: rows of each block (B) that are at home in it; 0 is sure.
RowsOf = Callable[[int, Sequence[Span]], Sequence[float]]


def expected_rows(
    node: Node, fields: Sequence[FilterField], rows_of: RowsOf, homes: Sequence[int], live: int | None = None
) -> list[float]:
    """Of each block, of the rows at home in it (B): terms count as independent of each other.

    live: of all these rows, those that are not dead; None: all.
    """
    shares = _shares(node, fields, rows_of, homes, sum(homes) if live is None else live)
    return list(map(mul, shares, homes))


def _shares(node: Node, fields: Sequence[FilterField], rows_of: RowsOf, homes: Sequence[int], live: int) -> list[float]:
    """Of the rows at home in each block (B); 0 only where it is sure that there is none."""
    if isinstance(node, Term):
        rows = rows_of(node.field, spans_of(node, fields[node.field]))
        return [min(1.0, max(SHARE_MIN, n / home)) if n and home else 0.0 for n, home in zip(rows, homes, strict=True)]
    if isinstance(node, Negation) and isinstance(node.part, Term) and not fields[node.part.field].many:
        return _others(node.part, fields[node.part.field], rows_of, homes, live)
    if isinstance(node, Negation):  # counts are rounded: no block is sure to hold none that a negation takes
        parts = zip(_shares(node.part, fields, rows_of, homes, live), homes, strict=True)
        return [max(1.0 - share, 0.5 / home) if home else 0.0 for share, home in parts]
    shares = [_shares(part, fields, rows_of, homes, live) for part in node.parts]
    join = _either if node.either else _both
    out = shares[0]
    for part in shares[1:]:
        out = list(map(join, out, part))
    return out


def _others(term: Term, field: FilterField, rows_of: RowsOf, homes: Sequence[int], live: int) -> list[float]:
    """Shares of rows with other values than those of a term, or none: more is known of them than that the rest is so
    many.
    """
    rows = rows_of(term.field, complement(spans_of(term, field), field.low, field.high))
    without = 1.0 - field.rows / max(1, live)
    shares = [n / home + without if home else 0.0 for n, home in zip(rows, homes, strict=True)]
    return [min(1.0, max(SHARE_MIN, share)) if share else 0.0 for share in shares]


def _both(a: float, b: float) -> float:
    return max(SHARE_MIN, a * b) if a and b else 0.0


def _either(a: float, b: float) -> float:
    return a + b - a * b


def rows_within(spans: Sequence[Span], counts: FieldCounts, distinct: int, blocks: int) -> array[float]:
    """f32 (B): rows with a key in the spans, those of a bucket spread evenly between its least and its largest key; a
    single key is taken for one of the `distinct` values, of which all buckets have as many.
    """
    weights = array("f", bytes(4 * len(counts.low)))
    for j, share in counts.touched(spans, distinct):
        weights[j] = share
    out = array("f", bytes(4 * blocks))
    kernels.sum_counts(counts.table, weights, out)
    return out
