"""The counts section: rows of each block with values in each bucket, and how scores lie around centres."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from vantage.errors import DamagedError
from vantage.format import BUCKETS_MAX, Counts, FieldCounts, Root, TablePages, damaged
from vantage.kernels import crc32c

from ..ingest.rows import F32, Ints, Rows
from ..kernels import matmul
from ..write.objects import ObjectList
from ..write.shard import Shards
from .columns import Column

STEP = 1.25  # between what two bytes of the table stand for
TABLE_BYTES_MAX = 256 << 10  # of all fields: they are resident, or of a large index half of one is read
CENTRE_BYTES_MAX = 1 << 20  # where they take more, counts are in pages
SAMPLED, NEAR = 200, 8  # rows that serve as queries, and their nearest blocks
FAR = 24  # blocks anywhere, for the logits of a router: filters may take what is far
SPREAD_MIN, SPREAD_LARGE = 1e-6, 1e6
SPREAD_MORE = 1.25  # of logits, which are surer of blocks than scores are (WordNet, values of half the rows)
# Rows by their numbers (Q) as queries -> f64 (Q, B): the logits of all blocks; None where the router gives none.
Logits = Callable[[Ints], npt.NDArray[np.float64] | None]


def count_rows(columns: Sequence[Column], home: Ints, blocks: int, paged: bool) -> tuple[FieldCounts, ...]:
    """Of each column; home i64 (N): the block that each source row is at home in."""
    most = most_buckets(blocks, len(columns), paged)
    return tuple(_count(column, home, blocks, most) for column in columns)


def most_buckets(blocks: int, fields: int, paged: bool) -> int:
    """Of a field, one of so many."""
    room = 2 * TABLE_BYTES_MAX // blocks if paged else TABLE_BYTES_MAX // max(1, blocks * fields)
    return min(BUCKETS_MAX, max(1, room))


def read_tables(root: Root, read: Callable[[int, int, int], bytes]) -> Counts | None:
    """The counts of a root with their tables, which read(object, offset, bytes) reads where they lie in pages. Raises
    DamagedError.
    """
    if root.counts is None or not root.counts.paged:
        return root.counts
    fields, blocks = list[FieldCounts](), root.index.blocks
    for field in root.counts.fields:
        pages = field.pages
        assert pages is not None
        table = read(pages.object, pages.offset, len(field.low) * blocks)
        if list(pages.crc) != _crcs(table, blocks):
            what = "counts of values are not what was written"
            raise DamagedError(f"{root.objects.keys[pages.object]}: {what}", hint="`vantage verify` tells more")
        fields.append(replace(field, table=table, pages=None))
    return replace(root.counts, fields=tuple(fields))


def write_tables(counts: Counts, blocks: int, objects: ObjectList) -> Counts:
    """The same with all tables in an object of their own."""
    shards, fields = Shards(objects, 0, "counts"), list[FieldCounts]()
    for field in counts.fields:
        shards.add(bytes(field.table), len(field.table))
    places = shards.close()
    for i, field in enumerate(counts.fields):
        pages = TablePages(places.object[i], places.offset[i], _crcs(field.table, blocks))
        fields.append(replace(field, table=b"", pages=pages))
    return replace(counts, fields=tuple(fields), paged=True)


def _crcs(table: bytes | memoryview, blocks: int) -> list[int]:
    return [crc32c(table[at : at + blocks]) for at in range(0, len(table), blocks)]


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


class Counted:
    """Rows of each block with a value in each bucket of counts, as they are seen.

    table u32 (n, B) of each field.
    """

    def __init__(self, fields: tuple[FieldCounts, ...], blocks: int) -> None:
        self.fields = fields
        self.high = [np.asarray(own.high, np.int64) for own in fields]
        self.table = [np.zeros((len(own.high), blocks), np.uint32) for own in fields]

    def add(self, field: int, home: Ints, keys: list[list[int]]) -> None:
        """Rows (n) at home in blocks, with these keys. Raises DamagedError for one that no bucket has."""
        high, table = self.high[field], self.table[field]
        rows = np.repeat(home, [len(own) for own in keys])
        first = np.repeat(np.arange(len(keys)), [len(own) for own in keys])
        bucket = np.searchsorted(high, np.array([key for own in keys for key in own], np.int64))
        if len(bucket) and bucket.max() >= len(high):
            raise damaged("root.bin, section counts", f"a row has a value of field {field} beyond all buckets")
        _, once = np.unique(first * max(1, len(high)) + bucket, return_index=True)
        np.add.at(table, (bucket[once], rows[once]), 1)

    def counts(self) -> tuple[FieldCounts, ...]:
        """As the root has them."""
        return tuple(
            FieldCounts(own.low, own.high, table.sum(1).tolist(), count_codes(table).tobytes())
            for own, table in zip(self.fields, self.table, strict=True)
        )


def count_codes(rows: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """The bytes that stand for so many rows each, as near as steps of a quarter are."""
    codes = 1 + np.rint(np.log(np.maximum(rows, 1)) / np.log(STEP))
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


def logit_spread(rows: Rows, members: Sequence[Ints], homes: Ints, logits: Logits, seed: int) -> float:
    """The deviation of the scores of rows around the logits that the router gives their blocks, in units of these: what
    is left of a line through both, in blocks near and far.
    """
    draw = np.random.default_rng([seed, 12])
    numbers = np.sort(draw.choice(rows.count, min(SAMPLED, rows.count), replace=False))
    queries, base = rows.take(numbers), logits(numbers)
    if rows.metric == "dot":
        queries = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-12)
    if base is None:  # nothing is asked of it
        return SPREAD_LARGE
    base = np.maximum(base, base[np.isfinite(base)].min())
    blocks = base.shape[1]
    near = np.argsort(-base, axis=1, kind="stable")[:, :NEAR]
    far = np.stack([draw.choice(blocks, min(FAR, blocks), replace=False) for _ in queries])
    some = np.concatenate([near, far], axis=1)
    sums = np.zeros((len(queries), 6))  # of each query: rows, logits, scores, and their products
    for block in np.unique(some):
        x = rows.take(members[block][: homes[block]])
        own = np.flatnonzero((some == block).any(1))
        if not len(x):
            continue
        score = matmul(queries[own], x).astype(np.float64)
        if rows.metric == "l2":
            score -= 0.5 * np.einsum("ij,ij->i", x, x)
        n, at = len(x), base[own, block]
        total, squares = score.sum(1), (score**2).sum(1)
        sums[own] += np.stack([np.full(len(own), n), n * at, total, n * at**2, at * total, squares], axis=1)
    n, a, s, aa, a_s, ss = np.maximum(sums[:, :1], 1).T[0], *sums[:, 1:].T
    xx, xy, yy = (aa - a * a / n).sum(), (a_s - a * s / n).sum(), (ss - s * s / n).sum()
    if xx <= 0 or xy <= 0:  # the router tells nothing
        return SPREAD_LARGE
    slope = xy / xx
    spread = SPREAD_MORE * np.sqrt(max(0.0, (yy - slope * xy) / n.sum())) / slope
    return float(np.clip(spread, SPREAD_MIN, SPREAD_LARGE))


def counts_of(
    columns: Sequence[Column], rows: Rows, members: Sequence[Ints], homes: Ints, centres: F32, seed: int,
    logits: Logits | None,
) -> Counts:  # fmt: skip
    """The section, its tables with it. members: source rows of each block, the first homes (B) of which are at home
    there; centres f32 (B, d): as stored; logits: those of an index whose root has no centres.
    """
    home = np.empty(rows.count, np.int64)
    for block, own in enumerate(members):
        home[own[: homes[block]]] = block
    shift, spread = 0.0, 0.0
    if logits is None:
        shift, spread = spread_of(rows, members, homes, centres, seed)
    else:
        spread = logit_spread(rows, members, homes, logits, seed)
    return Counts(count_rows(columns, home, len(members), logits is not None), shift, spread)
