"""The counts section: how many rows at home in each block have which values, and how scores lie around a centre."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

from .layout import Cursor, damaged, finite

BUCKETS_MAX = 64  # of a field
SPREAD_MIN, SPREAD_MAX = 2.0**-24, 2.0**24
_COUNTS = struct.Struct("<Iff4x")
_BUCKETS = struct.Struct("<II")


@dataclass(frozen=True)
class FieldCounts:
    """Of a field: buckets of keys, rising and apart, and of each a byte for every block.

    low, high i64 (n): the least and the largest key in a bucket. totals u32 (n): rows in it. table u8 (n, B): 0 for
    none, else i for about 1.25^(i - 1) rows; of a list, rows with any value there.
    """

    low: Any
    high: Any
    totals: Any
    table: bytes | memoryview


@dataclass(frozen=True)
class Counts:
    """fields: in their order. shift, spread: of the scores of rows near a query, their mean above the score of their
    block's centre, and their deviation; under l2 both are shares of the distance from the centre.
    """

    fields: tuple[FieldCounts, ...]
    shift: float
    spread: float

    def pack(self) -> bytes:
        out = _COUNTS.pack(len(self.fields), self.shift, self.spread)
        for f in self.fields:
            n = len(f.low)
            out += _BUCKETS.pack(n, 0) + struct.pack(f"<{2 * n}q", *chain(f.low, f.high))
            out += struct.pack(f"<{n}I", *f.totals) + bytes(f.table) + bytes(-(4 * n + len(f.table)) % 8)
        return out

    @classmethod
    def unpack(cls, body: memoryview, fields: int, blocks: int, rows: int, label: str) -> Counts:
        """Views into body. Raises DamagedError where it is not of so many fields, blocks and rows."""
        cursor = Cursor(body, label)
        count, shift, spread = cursor.unpack(_COUNTS)
        finite(label, [shift, spread])
        if count != fields or not SPREAD_MIN <= spread <= SPREAD_MAX or abs(shift) > SPREAD_MAX:
            raise damaged(label, f"counts of {count} fields, there are {fields}; spread {spread}")
        out = []
        for _ in range(fields):
            n, _ = cursor.unpack(_BUCKETS)
            if n > BUCKETS_MAX:
                raise damaged(label, f"{n} buckets, the limit is {BUCKETS_MAX}")
            low, high = cursor.column("q", n), cursor.column("q", n)
            ends = [key for pair in zip(low, high, strict=True) for key in pair]
            if any(a > b for a, b in pairwise(ends)):
                raise damaged(label, "its buckets do not rise")
            totals = cursor.column("I", n)
            if n and max(totals) > rows:
                raise damaged(label, f"{max(totals)} of {rows} rows in a bucket")
            out.append(FieldCounts(low, high, totals, cursor.take(n * blocks)))
            cursor.take(-n * (4 + blocks) % 8)
        cursor.end()
        return cls(tuple(out), shift, spread)
