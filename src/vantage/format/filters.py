"""The filters section: which attributes can be filtered by, what their values are, and the sorted texts they have."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

from .layout import ATTRIBUTES_MAX, Cursor, damaged

FIELD_KINDS = ("text", "integer", "number", "boolean", "time")
TEXT_BYTES_MAX = 1 << 20  # of one
TEXTS_MAX = 1 << 20  # of an attribute
TEXT_KEYS = 1 << 31  # keys of texts are below
IN_BLOCKS, MANY, HASHED, KEYED = 1, 2, 4, 8  # flags of a field
ROW_BYTES_MAX = 4096.0  # of a column: 255 values of a row, of eight bytes and a code each
_FILTERS = struct.Struct("<II")
_FIELD = struct.Struct("<IBBxxIIqqIf")


@dataclass(frozen=True)
class FilterField:
    """An attribute that can be filtered by; it is known in columns by its place in the section.

    attribute: its number in the schema. kind: of its values, or where `many`, of those of its lists. in_blocks: scan
    blocks have a column of it. rows: that have a value. distinct: values, of lists of their elements. low, high: the
    least and the largest key (vantage.filter.keys), 0 where there is none; there may be none so far out any more where
    rows were deleted. texts: sorted, ends u32 (n + 1) and bytes. totals u32 (n): rows that have each text.
    hashed: keys of texts are their hashes, which compare as equal or not, and there are no texts here.
    row_bytes: what its column takes of a row in a block, about.
    keys u32 (n): those of the texts, rising, with room between them for texts to come; none where they are their ranks.
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
    keys: Any = ()

    @property
    def ranked(self) -> bool:
        """Whether its keys are those of texts that are listed here."""
        return self.kind == "text" and not self.hashed

    def text(self, key: int) -> bytes:
        """The text of a key. Raises DamagedError where there is none."""
        if not self.is_key(key):
            raise damaged("root.bin, section filters", f"field {self.attribute} has no text of key {key}")
        return self.text_at(self.ranks(key, key)[0])

    def text_at(self, rank: int) -> bytes:
        """The text of a rank."""
        return bytes(self.texts[self.ends[rank] : self.ends[rank + 1]])

    def is_key(self, key: int) -> bool:
        """Whether there is a text of this key."""
        return len(self.ranks(key, key)) == 1

    def ranks(self, low: int, high: int) -> range:
        """The ranks of the texts with keys from low to high."""
        keys: Any = self.keys or range(len(self.ends) - 1)
        return range(bisect_left(keys, low), bisect_right(keys, high))

    def key(self, rank: int) -> int:
        """The key of the text of a rank; of -1 and of one past the last, one that is beyond all texts."""
        if not self.keys:
            return rank
        if rank < 0:
            return int(self.keys[0]) - 1
        return int(self.keys[rank]) if rank < len(self.keys) else int(self.keys[-1]) + 1

    def rank(self, text: bytes, *, after: bool) -> int:
        """How many texts are below this one; with `after`, or equal to it."""
        find = bisect_right if after else bisect_left
        return find(range(len(self.ends) - 1), text, key=self.text_at)

    def with_texts(self, texts: Sequence[bytes], keys: Any = ()) -> FilterField:
        """The same with these texts, sorted; without totals."""
        ends = array("I", accumulate(map(len, texts), initial=0))
        return replace(self, ends=ends, texts=b"".join(texts), distinct=len(texts), totals=(), keys=keys)


def pack_filters(fields: tuple[FilterField, ...]) -> bytes:
    """The section of filters."""
    out = _FILTERS.pack(len(fields), 0)
    for f in fields:
        flags = IN_BLOCKS * f.in_blocks | MANY * f.many | HASHED * f.hashed | KEYED * bool(f.keys)
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
        out += struct.pack(f"<{len(f.totals) + len(f.keys)}I", *f.totals, *f.keys)
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
        if kind >= len(FIELD_KINDS) or flags > IN_BLOCKS + MANY + HASHED + KEYED or known > rows or low > high:
            raise damaged(label, f"field {attribute} of kind {kind}, {known} of {rows} rows, from {low} to {high}")
        if not 0 <= row_bytes <= ROW_BYTES_MAX:
            raise damaged(label, f"field {attribute} takes {row_bytes} bytes of a row")
        is_text = FIELD_KINDS[kind] == "text"
        ranked = is_text and not flags & HASHED
        keyed = flags & KEYED
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
        keys: Any = cursor.column("I", texts) if keyed else ()
        if keyed and (not texts or keys[-1] >= TEXT_KEYS or any(a >= b for a, b in pairwise(keys))):
            raise damaged(label, f"the keys of the texts of field {attribute} do not rise up to {TEXT_KEYS}")
        field = FilterField(
            attribute, FIELD_KINDS[kind], bool(flags & MANY), bool(flags & IN_BLOCKS), known, distinct, low, high,
            ends, data, totals, bool(flags & HASHED), row_bytes, keys,
        )  # fmt: skip
        if any(field.text_at(i) >= field.text_at(i + 1) for i in range(texts - 1)):
            raise damaged(label, f"the texts of field {attribute} are not sorted")
        fields.append(field)
    cursor.end()
    return tuple(fields)
