"""A suite of filters made of an index's own attributes: values and ranges of all sizes, near queries and far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vantage.filter.facet import value_of
from vantage.filter.parse import Negation, Node, Term
from vantage.filter.program import spans_of

from ..ingest.rows import F32, Ints
from ..neighbours.exact import I32
from .columns import I64, Column

SHARES = (0.5, 0.1, 0.01, 0.001)  # of rows that values and ranges take, about
NEAR_OWN, NEAR_FAR = 20, 1000  # rows near a query: what is its own value, and which values are far
FAR_ROWS = 200  # of a value that can be far, or a twentieth of few rows
FAR_QUANTILE = 0.3  # of the values, by how many of the near rows have them
RANGED_MIN = 100  # distinct numbers that ranges are made of
VALUES_MAX = 1 << 16  # distinct, of an attribute that single values are drawn of
TIES = 16  # rows more than are asked for, as they may tie
TIE = 1e-6  # of a score: nearer ones tie
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Case:
    """A filter for a query: the family that it is of, its number, and the filter as JSON has it."""

    family: str
    query: int
    filter: dict[str, Any]


@dataclass(frozen=True)
class _Values:
    """Distinct keys of a column, rising, and the rows of each."""

    column: Column
    keys: I64
    rows: I64

    def equal(self, i: int) -> Any:
        """The value i as JSON has it."""
        return value_of(self.column.field, int(self.keys[i]))

    def among(self, rows: Ints) -> I64:
        """How many of these source rows have each value."""
        return np.bincount(np.searchsorted(self.keys, self.column.some(rows)[0]), minlength=len(self.keys))


def make_suite(columns: Sequence[Column], near: I32, rows: int, seed: int) -> list[Case]:
    """Filters for each query; near i32 (Q, n): the nearest source rows of each, best first. rows: of the index.

    Values and ranges are of any attribute; what is near or far, of the one whose values follow the vectors most.
    """
    draw = np.random.default_rng([seed, 13])
    values = [_values(column) for column in columns if not column.field.hashed]  # of those no text is known
    single = [v for v in values if 2 <= len(v.keys) <= VALUES_MAX]
    ranged = [v for v in values if v.column.field.kind in ("integer", "number", "time") and len(v.keys) >= RANGED_MIN]
    v = max(single, key=lambda one: _locality(one, near), default=None)
    out = list[Case]()
    for q, rows_near in enumerate(near):
        for share in SHARES:
            if one := _value(single, share, rows, draw):
                out.append(Case(f"value {share:.1%}".replace(".0%", "%"), q, one))
            if ranged:
                out.append(
                    Case(f"range {share:.1%}".replace(".0%", "%"), q, _range(ranged[q % len(ranged)], share, draw))
                )
        if v is None:
            continue
        name, seen = v.column.name, v.among(rows_near[:NEAR_OWN].astype(np.int64))
        own = v.equal(int(seen.argmax()))
        out += [Case("own value", q, {name: own}), Case("not own value", q, {name: {"$ne": own}})]
        seen = v.among(rows_near[:NEAR_FAR].astype(np.int64))
        least = v.rows >= min(FAR_ROWS, max(1, rows // 20), np.sort(v.rows)[-2])
        able = np.flatnonzero(least & (seen <= np.quantile(seen[least], FAR_QUANTILE)))
        out.append(Case("far value", q, {name: v.equal(int(draw.choice(able)))}))
        others = [w for w in single if w is not v]
        other = _value(others, 0.1, rows, draw)
        if other is None and (wide := [w for w in ranged if w is not v]):
            other = _range(wide[q % len(wide)], 0.1, draw)
        if other is not None:
            out.append(Case("own AND 10%", q, {name: own} | other))
    return out


def _locality(values: _Values, near: I32) -> float:
    """How much more often than others the rows near a query have its own value."""
    lifts = []
    for rows in near:
        seen = values.among(rows[:NEAR_OWN].astype(np.int64))
        own = int(seen.argmax())
        lifts.append(seen[own] / min(NEAR_OWN, len(rows)) - values.rows[own] / values.rows.sum())
    return float(np.mean(lifts))


def _values(column: Column) -> _Values:
    keys, rows = np.unique(column.values()[1], return_counts=True)
    return _Values(column, keys.astype(np.int64), rows)


def _value(values: Sequence[_Values], share: float, rows: int, draw: np.random.Generator) -> dict[str, Any] | None:
    """A value of about this share of all rows, of any of the attributes; None where none is within a factor of two."""
    able = [
        (v, int(i)) for v in values for i in np.flatnonzero(np.abs(np.log2(v.rows / (share * rows))) <= 1)[:64].tolist()
    ]
    if not able:
        return None
    v, i = able[int(draw.integers(len(able)))]
    return {v.column.name: v.equal(i)}


def _range(v: _Values, share: float, draw: np.random.Generator) -> dict[str, Any]:
    """From a value to another, with about this share of the rows that have one."""
    sums = np.cumsum(v.rows)
    begin = draw.random() * (1 - share) * sums[-1]
    low, high = np.searchsorted(sums, [begin, begin + share * sums[-1]])
    return {v.column.name: {"$gte": v.equal(int(low)), "$lte": v.equal(int(min(high, len(sums) - 1)))}}


def nearest_taken(
    chunks: Iterable[tuple[int, F32]], queries: F32, metric: str, without: Ints, suite: Sequence[Case],
    nodes: Sequence[Node | None], columns: Sequence[Column], k: int,
) -> tuple[list[tuple[I32, F32]], Ints]:  # fmt: skip
    """Of each case the k rows that its filter takes and that are nearest, or more where some may tie, best first with
    their scores; and how many rows it takes.

    chunks: (first row, vectors), in the scale of the queries; without (Q): the row that each query is, -1 for none,
    which is not among them. nodes: of the filters, whose columns are by row likewise; a None has no rows.
    """
    empty = np.empty(0, np.int32), np.empty(0, np.float32)
    best, counts = [empty for _ in suite], np.zeros(len(suite), np.int64)
    for low, x in chunks:
        scores = queries @ x.T
        if metric == "l2":
            scores -= 0.5 * np.einsum("ij,ij->i", x, x)
        for i, (case, node) in enumerate(zip(suite, nodes, strict=True)):
            if node is None:
                continue
            able = np.flatnonzero(rows_taken(node, columns, low, low + len(x)))
            able = able[able != without[case.query] - low]
            counts[i] += len(able)
            own = scores[case.query, able]
            if len(able) > k + TIES:
                some = np.argpartition(-own, k + TIES)[: k + TIES]
                able, own = able[some], own[some]
            number, value = np.concatenate([best[i][0], able.astype(np.int32) + low]), np.append(best[i][1], own)
            order = np.lexsort((number, -value))[: k + TIES]
            best[i] = number[order].astype(np.int32), value[order].astype(np.float32)
    return best, counts


def right_rows(best: tuple[I32, F32], wanted: int) -> I32:
    """Of the nearest rows of a case those that an answer of so many may have: more of them where some tie."""
    rows, scores = best
    last = scores[wanted - 1]
    return np.asarray(rows[scores >= last - TIE * abs(last)])


def rows_taken(node: Node, columns: Sequence[Column], low: int, high: int) -> Bools:
    """(high - low): which of these source rows a filter takes, whose terms are of these columns."""
    if isinstance(node, Negation):
        return ~rows_taken(node.part, columns, low, high)
    if not isinstance(node, Term):
        parts = [rows_taken(part, columns, low, high) for part in node.parts]
        both: Bools = (np.logical_or if node.either else np.logical_and).reduce(parts)
        return both
    column = columns[node.field]
    keys, counts = column.some(np.arange(low, high))
    inside = np.zeros(len(keys), bool)
    for first, last in spans_of(node, column.field):
        inside |= (keys >= first) & (keys <= last)
    sums = np.concatenate([[0], np.cumsum(inside)])
    ends = np.cumsum(counts, dtype=np.int64)
    some: Bools = np.greater(sums[ends], sums[ends - counts])
    return some
