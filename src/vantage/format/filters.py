"""The filters section: which attributes can be filtered by, what their values are, and the sorted texts they have."""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .layout import ATTRIBUTES_MAX, Cursor, damaged

FIELD_KINDS = ("text", "integer", "number", "boolean", "time")
TEXT_BYTES_MAX = 1 << 20  # of one
TEXTS_MAX = 1 << 20  # of an attribute
IN_BLOCKS, MANY, HASHED = 1, 2, 4  # flags of a field
ROW_BYTES_MAX = 4096.0  # of a column: 255 values of a row, of eight bytes and a code each
_FILTERS = struct.Struct("<II")
_FIELD = struct.Struct("<IBBxxIIqqIf")


@dataclass(frozen=True)
class FilterField:
    """An attribute that can be filtered by; it is known in columns by its place in the section.

    attribute: its number in the schema. kind: of its values, or where `many`, of those of its lists. in_blocks: scan
    blocks have a column of it. rows: that have a value. distinct: values, of lists of their elements. low, high: the
    least and the largest key (vantage.filter.keys), 0 where there is none. texts: sorted, ends u32 (n + 1) and bytes.
    totals u32 (n): rows that have each text.
    hashed: keys of texts are their hashes, which compare as equal or not, and there are no texts here.
    row_bytes: what its column takes of a row in a block, about.
    """

    attribute: int
    kind: str
    many: bool
    in_blocks: bool
    rows: int
    distinct: int
    low: int
    high: int
    ends: Any = (0,)
    texts: bytes | memoryview = b""
    totals: Any = ()
    hashed: bool = False
    row_bytes: float = 0.0

    def text(self, rank: int) -> bytes:
        """The text of a rank."""
        return bytes(self.texts[self.ends[rank] : self.ends[rank + 1]])

    def rank(self, text: bytes, *, after: bool) -> int:
        """How many texts are below this one; with `after`, or equal to it."""
        find = bisect_right if after else bisect_left
        return find(range(len(self.ends) - 1), text, key=self.text)


def pack_filters(fields: tuple[FilterField, ...]) -> bytes:
    """The section of filters."""
    out = _FILTERS.pack(len(fields), 0)
    for f in fields:
        flags = IN_BLOCKS * f.in_blocks | MANY * f.many | HASHED * f.hashed
        out += _FIELD.pack(
            f.attribute,
            FIELD_KINDS.index(f.kind),
            flags,
            f.rows,
            f.distinct,
            f.low,
            f.high,
            len(f.ends) - 1,
            f.row_bytes,
        )
    for f in fields:
        out += struct.pack(f"<{len(f.ends)}I", *f.ends) + bytes(f.texts) + bytes(-len(f.texts) % 4)
        out += struct.pack(f"<{len(f.totals)}I", *f.totals)
    return out


def unpack_filters(body: memoryview, attributes: int, rows: int, label: str) -> tuple[FilterField, ...]:
    """Fields of an index of so many attributes and rows; views into body. Raises DamagedError where they are none."""
    cursor = Cursor(body, label)
    count, _ = cursor.unpack(_FILTERS)
    if count > ATTRIBUTES_MAX:
        raise damaged(label, f"{count} fields, the limit is {ATTRIBUTES_MAX}")
    heads = [cursor.unpack(_FIELD) for _ in range(count)]
    if any(a[0] >= b[0] for a, b in pairwise(heads)) or any(head[0] >= attributes for head in heads):
        raise damaged(label, f"its fields are not of the {attributes} attributes, in their order")
    fields = []
    for attribute, kind, flags, known, distinct, low, high, texts, row_bytes in heads:
        if kind >= len(FIELD_KINDS) or flags > IN_BLOCKS + MANY + HASHED or known > rows or low > high:
            raise damaged(label, f"field {attribute} of kind {kind}, {known} of {rows} rows, from {low} to {high}")
        if not 0 <= row_bytes <= ROW_BYTES_MAX:
            raise damaged(label, f"field {attribute} takes {row_bytes} bytes of a row")
        is_text = FIELD_KINDS[kind] == "text"
        ranked = is_text and not flags & HASHED
        if texts > TEXTS_MAX or texts != distinct * ranked or (flags & (MANY | HASHED) and not is_text):
            raise damaged(label, f"field {attribute} has {texts} texts, of {distinct} values")
        ends = cursor.column("I", texts + 1)
        if ends[0] or any(not 0 <= b - a <= TEXT_BYTES_MAX for a, b in pairwise(ends)):
            raise damaged(label, f"the texts of field {attribute} are out of order or too long")
        data = cursor.take(ends[texts])
        cursor.take(-ends[texts] % 4)
        totals = cursor.column("I", texts)
        if texts and (max(totals) > known or (sum(totals) != known and not flags & MANY)):
            raise damaged(label, f"the texts of field {attribute} have {sum(totals)} rows, of {known}")
        field = FilterField(
            attribute, FIELD_KINDS[kind], bool(flags & MANY), bool(flags & IN_BLOCKS), known, distinct, low, high,
            ends, data, totals, bool(flags & HASHED), row_bytes,
        )  # fmt: skip
        if any(field.text(i) >= field.text(i + 1) for i in range(texts - 1)):
            raise damaged(label, f"the texts of field {attribute} are not sorted")
        fields.append(field)
    cursor.end()
    return tuple(fields)
