"""The counts section: rows of each block with values in each bucket, and how scores lie around centres."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vantage.format import BUCKETS_MAX, Counts, FieldCounts

from ..ingest.rows import F32, Ints, Rows
from ..kernels import matmul
from .columns import I64, Column

TABLE_BYTES_MAX = 256 << 10  # of all fields: they are resident
CENTRE_BYTES_MAX = 1 << 20  # likewise
SAMPLED, NEAR = 200, 8  # rows that serve as queries, and their nearest blocks
SPREAD_MIN = 1e-6


def count_rows(columns: Sequence[Column], home: Ints, blocks: int) -> tuple[FieldCounts, ...]:
    """Of each column; home i64 (N): the block that each source row is at home in."""
    most = min(BUCKETS_MAX, max(1, TABLE_BYTES_MAX // max(1, blocks * len(columns))))
    return tuple(_count(column, home, blocks, most) for column in columns)


def _count(column: Column, home: Ints, blocks: int, most: int) -> FieldCounts:
    row, values = column.values()
    keys, rows = np.unique(values, return_counts=True)
    bucket = np.minimum(np.cumsum(rows) - rows, max(0, rows.sum() - 1)) * most // max(1, rows.sum())
    if len(keys) <= most:
        bucket = np.arange(len(keys))
    _, starts = np.unique(bucket, return_index=True)
    low, high = keys[starts], keys[np.append(starts[1:], len(keys)) - 1] if len(keys) else keys
    of, block = np.searchsorted(low, values, side="right") - 1, home[row]
    if column.field.many:  # a row counts once in a bucket
        _, once = np.unique(row * len(low) + of, return_index=True)
        of, block = of[once], block[once]
    table = np.bincount(of * blocks + block, minlength=len(low) * blocks)
    totals = np.bincount(of, minlength=len(low)).tolist()
    return FieldCounts(low.tolist(), high.tolist(), totals, count_codes(table).tobytes())


def count_codes(rows: I64) -> npt.NDArray[np.uint8]:
    """The bytes that stand for so many rows each, as near as steps of a quarter are."""
    codes = 1 + np.rint(np.log(np.maximum(rows, 1)) / np.log(1.25))
    return np.where(rows > 0, np.minimum(codes, 255), 0).astype(np.uint8)


def spread_of(rows: Rows, members: Sequence[Ints], homes: Ints, centres: F32, seed: int) -> tuple[float, float]:
    """(mean, deviation) of the scores of rows of near blocks, above those of their block's centre; under l2 as shares
    of the distance from the centre.
    """
    draw = np.random.default_rng([seed, 11])
    queries = rows.take(np.sort(draw.choice(rows.count, min(SAMPLED, rows.count), replace=False)))
    if rows.metric == "dot":
        queries = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-12)
    base = matmul(queries, centres)
    if rows.metric == "l2":
        base = base - 0.5 * np.einsum("ij,ij->i", centres, centres)
    near = np.argsort(-base, axis=1, kind="stable")[:, :NEAR]
    total = np.zeros(3)
    for block in np.unique(near):
        x = rows.take(members[block][: homes[block]])
        if not len(x):
            continue
        own = np.flatnonzero((near == block).any(1))
        score = matmul(queries[own], x).astype(np.float64)
        if rows.metric == "l2":
            score -= 0.5 * np.einsum("ij,ij->i", x, x)
        above = score - base[own, block][:, None]
        if rows.metric == "l2":
            squares = np.einsum("ij,ij->i", queries[own], queries[own]) - 2 * base[own, block]
            above /= np.sqrt(np.maximum(squares, 1e-9))[:, None]
        total += above.size, above.sum(), (above**2).sum()
    mean = total[1] / max(total[0], 1)
    return float(mean), float(max(SPREAD_MIN, np.sqrt(max(0.0, total[2] / max(total[0], 1) - mean**2))))


def counts_of(
    columns: Sequence[Column], rows: Rows, members: Sequence[Ints], homes: Ints, centres: F32, seed: int
) -> Counts:
    """The section. members: source rows of each block, the first homes (B) of which are at home there; centres f32 (B,
    d): as stored.
    """
    home = np.empty(rows.count, np.int64)
    for block, own in enumerate(members):
        home[own[: homes[block]]] = block
    shift, spread = spread_of(rows, members, homes, centres, seed)
    return Counts(count_rows(columns, home, len(members)), shift, spread)
