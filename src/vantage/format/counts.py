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
PAGED, ABOUT = 1, 2  # flags: tables are not in the section; they are about right
_COUNTS = struct.Struct("<IffI")
_BUCKETS = struct.Struct("<II")
_PLACE = struct.Struct("<QII")


@dataclass(frozen=True)
class TablePages:
    """Where the table of a field is that the root does not hold: row j, of a bucket, is B bytes at offset + j B.

    object: its number. crc u32 (n): CRC-32C of each row.
    """

    object: int
    offset: int
    crc: Any


@dataclass(frozen=True)
class FieldCounts:
    """Of a field: buckets of keys, rising and apart, and of each a byte for every block.

    low, high i64 (n): the least and the largest key in a bucket. totals u32 (n): rows in it. table u8 (n, B): 0 for
    none, else i for about 1.25^(i - 1) rows; of a list, rows with any value there. pages: where it is instead, of a
    large index. about: rows have come and gone since it was made, so that of its numbers only 0 is sure.
    """

    low: Any
    high: Any
    totals: Any
    table: bytes | memoryview
    pages: TablePages | None = None
    about: bool = False

    def touched(self, spans: Sequence[tuple[int, int]], distinct: int) -> list[tuple[int, float]]:
        """(bucket, share of it) of those that keys in the spans, rising and apart, lie in: keys count as spread evenly
        between the least and the largest one of a bucket; a single key is taken for one of the `distinct` values, of
        which all buckets have as many.
        """
        out, at, values = list[tuple[int, float]](), 0, max(1, -(-distinct // max(1, len(self.low))))
        for j, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            while at < len(spans) and spans[at][1] < low:
                at += 1
            inside, single, i = 0, 0, at
            while i < len(spans) and spans[i][0] <= high:
                inside += min(high, spans[i][1]) - max(low, spans[i][0]) + 1
                single += spans[i][0] == spans[i][1]
                i += 1
            if inside:
                out.append((j, min(1.0, max(inside / (high - low + 1), single / values))))
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
        flags = PAGED * self.paged | ABOUT * any(f.about for f in self.fields)
        out = _COUNTS.pack(len(self.fields), self.shift, self.spread, flags)
        for f in self.fields:
            n = len(f.low)
            out += _BUCKETS.pack(n, 0) + struct.pack(f"<{2 * n}q", *chain(f.low, f.high))
            out += struct.pack(f"<{n}I", *f.totals)
            if f.pages is None:
                out += bytes(f.table) + bytes(-(4 * n + len(f.table)) % 8)
            else:
                p = f.pages
                out += _PLACE.pack(p.offset, p.object, 0) + struct.pack(f"<{n}I", *p.crc)
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
        if (
            count != fields
            or not SPREAD_MIN <= spread <= SPREAD_MAX
            or abs(shift) > SPREAD_MAX
            or flags > PAGED | ABOUT
        ):
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
            totals = cursor.column("I", n)
            if n and max(totals) > rows:
                raise damaged(label, f"{max(totals)} of {rows} rows in a bucket")
            about = bool(flags & ABOUT)
            if flags & PAGED:
                out.append(FieldCounts(low, high, totals, b"", _taken_pages(cursor, n, blocks, sizes), about))
            else:
                out.append(FieldCounts(low, high, totals, cursor.take(n * blocks), about=about))
                cursor.take(-n * (4 + blocks) % 8)
        cursor.end()
        return cls(tuple(out), shift, spread, bool(flags & PAGED))


def _taken_pages(cursor: Cursor, n: int, blocks: int, sizes: tuple[int, ...]) -> TablePages:
    """Those of a table of n buckets, at the cursor."""
    offset, number, _ = cursor.unpack(_PLACE)
    crc = cursor.column("I", n)
    if number >= len(sizes) or offset + n * blocks > sizes[number] or blocks > READ_BYTES_MAX:
        raise damaged(cursor.label, f"a table of {n} buckets at byte {offset} is outside of its object")
    return TablePages(number, offset, crc)
