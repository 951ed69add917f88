"""The counts section: how many rows at home in each block have which values, and how scores lie around a block."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

from .layout import READ_BYTES_MAX, Cursor, damaged, finite

BUCKETS_MAX = 64  # of a field
SPREAD_MIN, SPREAD_MAX = 2.0**-24, 2.0**24
PAGED = 1  # a flag: tables are not in the section
_COUNTS = struct.Struct("<IffI")
_BUCKETS = struct.Struct("<II")
_PLACE = struct.Struct("<QII")


@dataclass(frozen=True)
class TablePages:
    """Where the table of a field is that the root does not hold: row j, of a bucket, is B bytes at offset + j B.

    object: its number. rows u32 (n): of the index, that have a value in each bucket. crc u32 (n): CRC-32C of each row.
    """

    object: int
    offset: int
    rows: Any
    crc: Any


@dataclass(frozen=True)
class FieldCounts:
    """Of a field: buckets of keys, rising and apart, and of each a byte for every block.

    low, high i64 (n): the least and the largest key in a bucket. table u8 (n, B): 0 for none, else i for about
    1.25^(i - 1) rows; of a list, rows with any value there. pages: where it is instead, of a large index.
    """

    low: Any
    high: Any
    table: bytes | memoryview
    pages: TablePages | None = None

    def touched(self, spans: Sequence[tuple[int, int]]) -> list[tuple[int, float]]:
        """(bucket, share of it) of those that keys in the spans, rising and apart, lie in: keys count as spread evenly
        between the least and the largest one of a bucket.
        """
        out, at = list[tuple[int, float]](), 0
        for j, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            while at < len(spans) and spans[at][1] < low:
                at += 1
            inside, i = 0, at
            while i < len(spans) and spans[i][0] <= high:
                inside += min(high, spans[i][1]) - max(low, spans[i][0]) + 1
                i += 1
            if inside:
                out.append((j, inside / (high - low + 1)))
        return out


@dataclass(frozen=True)
class Counts:
    """fields: in their order. paged: of all of them the root has no table.

    shift, spread: of the scores of rows near a query, their mean above the score of their block's centre, and their
    deviation; under l2 both are shares of the distance from the centre. paged: of the logits that the router gives
    blocks, in whose units shift (0) and spread are.
    """

    fields: tuple[FieldCounts, ...]
    shift: float
    spread: float
    paged: bool = False

    def pack(self) -> bytes:
        out = _COUNTS.pack(len(self.fields), self.shift, self.spread, PAGED * self.paged)
        for f in self.fields:
            n = len(f.low)
            out += _BUCKETS.pack(n, 0) + struct.pack(f"<{2 * n}q", *chain(f.low, f.high))
            if f.pages is None:
                out += bytes(f.table) + bytes(-len(f.table) % 8)
            else:
                p = f.pages
                out += _PLACE.pack(p.offset, p.object, 0) + struct.pack(f"<{2 * n}I", *p.rows, *p.crc)
        return out

    @classmethod
    def unpack(
        cls, body: memoryview, fields: int, blocks: int, rows: int, sizes: tuple[int, ...], label: str
    ) -> Counts:
        """Views into body. Raises DamagedError where it is not of so many fields, blocks and rows, or where a table is
        not inside of an object of these sizes.
        """
        cursor = Cursor(body, label)
        count, shift, spread, flags = cursor.unpack(_COUNTS)
        finite(label, [shift, spread])
        if count != fields or not SPREAD_MIN <= spread <= SPREAD_MAX or abs(shift) > SPREAD_MAX or flags > PAGED:
            raise damaged(label, f"counts of {count} fields, there are {fields}; spread {spread}, flags {flags}")
        out = []
        for _ in range(fields):
            n, _ = cursor.unpack(_BUCKETS)
            if n > BUCKETS_MAX:
                raise damaged(label, f"{n} buckets, the limit is {BUCKETS_MAX}")
            low, high = cursor.column("q", n), cursor.column("q", n)
            ends = [key for pair in zip(low, high, strict=True) for key in pair]
            if any(a > b for a, b in pairwise(ends)):
                raise damaged(label, "its buckets do not rise")
            if flags & PAGED:
                out.append(FieldCounts(low, high, b"", _taken_pages(cursor, n, blocks, rows, sizes)))
            else:
                out.append(FieldCounts(low, high, cursor.take(n * blocks)))
                cursor.take(-n * blocks % 8)
        cursor.end()
        return cls(tuple(out), shift, spread, bool(flags & PAGED))


def _taken_pages(cursor: Cursor, n: int, blocks: int, rows: int, sizes: tuple[int, ...]) -> TablePages:
    """Those of a table of n buckets, at the cursor."""
    offset, number, _ = cursor.unpack(_PLACE)
    own, crc = cursor.column("I", n), cursor.column("I", n)
    if number >= len(sizes) or offset + n * blocks > sizes[number] or blocks > READ_BYTES_MAX:
        raise damaged(cursor.label, f"a table of {n} buckets at byte {offset} is outside of its object")
    if n and max(own) > rows:
        raise damaged(cursor.label, f"a bucket of {max(own)} rows, there are {rows}")
    return TablePages(number, offset, own, crc)
