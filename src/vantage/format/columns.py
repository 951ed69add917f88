"""The plane of columns: what the rows of a block have of each field, as keys, packed by what the block holds of them.

A u32 count of columns, a head for each, then their bodies one after the other, and four bytes of padding. The body of a
column of n rows: keys as unsigned differences from `base`, of `width` bytes.
- ABSENT: none; the column is not in this plane.
- TABLE: the `entries` distinct keys, rising; then a code of `bits` for each row, from the lowest bit of a byte up: with
  NULLS 0 for no value and i + 1 for entry i, else i.
- PLAIN: with NULLS a bit for each row that has a value, then a key for each row.
- LISTS: the distinct keys, a u8 count of values for each row, and the code i of each value of each row in turn.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

from .layout import BLOCK_ROWS_MAX, Cursor, damaged

ABSENT, TABLE, PLAIN, LISTS = range(4)
NULLS = 1  # a flag
BITS_MAX = 16
VALUES_MAX = 255  # of a row's list
PADDING = 4  # so that four bytes can be read at any code
_COUNT = struct.Struct("<I")
COLUMN = struct.Struct("<BBBBIq")  # coding, flags, bits, width, entries, base
_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}

Values = Sequence[Sequence[int]]  # the keys of each row: none, one, or those of a list


def pack_columns(columns: Sequence[tuple[bool, Values] | None]) -> bytes:
    """The plane of columns (many, values of the rows) of as many rows each; None: a field without a column here.

    Keys of a row are rising. Raises ValueError for a list of more than VALUES_MAX.
    """
    heads, bodies = [], []
    for column in columns:
        head, body = (COLUMN.pack(ABSENT, 0, 0, 0, 0, 0), b"") if column is None else _pack_column(*column)
        heads.append(head)
        bodies.append(body)
    return _COUNT.pack(len(heads)) + b"".join(heads) + b"".join(bodies) + bytes(PADDING)


def _pack_column(many: bool, values: Values) -> tuple[bytes, bytes]:
    keys = sorted({key for row in values for key in row})
    base, span = (keys[0], keys[-1] - keys[0]) if keys else (0, 0)
    width = next(w for w in _CODES if span < 1 << (8 * w))
    table = struct.pack(f"<{len(keys)}{_CODES[width]}", *(key - base for key in keys))
    code_of = {key: code for code, key in enumerate(keys)}
    nulls = not many and not all(values)
    bits = max(0, len(keys) + nulls - 1).bit_length()
    if many:
        if max(map(len, values), default=0) > VALUES_MAX:
            raise ValueError(f"a row has {max(map(len, values))} values, the limit is {VALUES_MAX}")
        if bits > BITS_MAX:
            raise ValueError(f"{len(keys)} values in a block, the limit is {1 << BITS_MAX}")
        codes = [code_of[key] for row in values for key in row]
        body = table + bytes(map(len, values)) + _pack_bits(codes, bits)
        return COLUMN.pack(LISTS, 0, bits, width, len(keys), base), body
    flags = NULLS * nulls
    plain_bytes = nulls * -(-len(values) // 8) + width * len(values)
    if bits > BITS_MAX or len(table) + -(-len(values) * bits // 8) >= plain_bytes > 0:
        body = _pack_bits([len(row) for row in values], 1) if nulls else b""
        body += struct.pack(f"<{len(values)}{_CODES[width]}", *(row[0] - base if row else 0 for row in values))
        return COLUMN.pack(PLAIN, flags, 0, width, 0, base), body
    codes = [code_of[row[0]] + nulls if row else 0 for row in values]
    return COLUMN.pack(TABLE, flags, bits, width, len(keys), base), table + _pack_bits(codes, bits)


def _pack_bits(codes: Sequence[int], bits: int) -> bytes:
    """Codes of so many bits, one after the other from the lowest bit up."""
    if not bits or not codes:
        return b""
    digits = "".join([f"{code:0{bits}b}" for code in reversed(codes)])  # read at once: adding up would be quadratic
    return int(digits, 2).to_bytes(-(-len(codes) * bits // 8), "little")


def unpack_columns(plane: bytes | memoryview, n: int, label: str) -> list[Values | None]:
    """The keys of n rows in each column; None where the plane has none. Raises DamagedError as the kernel refuses."""
    cursor = Cursor(memoryview(plane), label)
    (count,) = cursor.unpack(_COUNT)
    if n > BLOCK_ROWS_MAX or count > len(plane) // COLUMN.size:
        raise damaged(label, f"{count} columns of {n} rows")
    heads = [cursor.unpack(COLUMN) for _ in range(count)]
    out = [_unpack_column(cursor, head, n) for head in heads]
    cursor.take(PADDING)
    cursor.end()
    return out


def keys_in(plane: bytes | memoryview, n: int, number: int, label: str) -> Values:
    """The keys of n rows in one column. Raises DamagedError, also where the plane has none."""
    cursor = Cursor(memoryview(plane), label)
    (count,) = cursor.unpack(_COUNT)
    if n > BLOCK_ROWS_MAX or not number < count <= len(plane) // COLUMN.size:
        raise damaged(label, f"{count} columns of {n} rows, of which number {number} is wanted")
    heads = [cursor.unpack(COLUMN) for _ in range(count)]
    for coding, flags, bits, width, entries, _ in heads[:number]:
        if coding == PLAIN:
            cursor.take(bool(flags) * -(-n // 8) + n * width)
        elif coding != ABSENT:
            cursor.take(entries * width)
            cursor.take(-(-(sum(cursor.take(n)) if coding == LISTS else n) * bits // 8))
    values = _unpack_column(cursor, heads[number], n)
    if values is None:
        raise damaged(label, f"it has no column {number}")
    return values


def _unpack_column(cursor: Cursor, head: tuple[int, ...], n: int) -> Values | None:
    coding, flags, bits, width, entries, base = head
    nulls = flags & NULLS if coding != LISTS else 0
    if coding > LISTS or flags > NULLS or bits > BITS_MAX or (coding != ABSENT and width not in _CODES):
        raise damaged(cursor.label, f"a column of coding {coding}, flags {flags}, {bits} bits, width {width}")
    if coding == ABSENT:
        return None

    def keys(n: int) -> list[int]:
        return [base + v for v in cursor.take(n * width).cast(_CODES[width])]  # type: ignore[call-overload]

    if coding == PLAIN:
        there = _unpack_bits(cursor, n, 1) if nulls else [1] * n
        return [[key] * here for key, here in zip(keys(n), there, strict=True)]
    if entries > 1 << BITS_MAX:
        raise damaged(cursor.label, f"a column of {entries} entries")
    table = keys(entries)
    if any(a >= b for a, b in pairwise(table)):
        raise damaged(cursor.label, "the keys of a column do not rise")
    counts = list(cursor.take(n)) if coding == LISTS else [1] * n
    codes = _unpack_bits(cursor, sum(counts), bits)
    if codes and max(codes) >= entries + nulls:
        raise damaged(cursor.label, f"a column has code {max(codes)}, of {entries} entries")
    if coding == TABLE:
        return [[table[code - nulls]] if code >= nulls else [] for code in codes]
    out, at = [], 0
    for here in counts:
        out.append([table[code] for code in codes[at : at + here]])
        at += here
    return out


def _unpack_bits(cursor: Cursor, count: int, bits: int) -> list[int]:
    whole = int.from_bytes(cursor.take(-(-count * bits // 8)), "little")
    if not bits:
        return [0] * count
    digits = f"{whole & ((1 << count * bits) - 1):0{count * bits}b}"
    return [int(digits[at - bits : at], 2) for at in range(count * bits, 0, -bits)]
