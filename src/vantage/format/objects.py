"""The objects of an index by number, and where the rows are in them: full vectors, facts and attributes, ids."""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress, islice, pairwise
from operator import ne, sub
from typing import Any

from .index import IndexSection
from .layout import VECTOR_BYTES, Cursor, damaged

_OBJECTS = struct.Struct("<II")
OBJECTS_MAX = 1 << 16
KEY_BYTES_MAX = 200
NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
KEY = re.compile(rf"(\.\./{NAME}/)?{NAME}(/{NAME}){{0,2}}")


@dataclass(frozen=True)
class Objects:
    """Objects by number: bytes, and keys below the generation's folder, or `../{generation}/` and below another's.

    A generation may name objects of another one, so what did not change is not written again.
    """

    keys: tuple[str, ...]
    sizes: tuple[int, ...]

    def pack(self) -> bytes:
        texts = [key.encode() for key in self.keys]
        ends = [0]
        for text in texts:
            ends.append(ends[-1] + len(text))
        n = len(texts)
        return _OBJECTS.pack(n, 0) + struct.pack(f"<{n}Q{n + 1}I", *self.sizes, *ends) + b"".join(texts)

    @classmethod
    def unpack(cls, body: memoryview, label: str) -> Objects:
        """Views into body. Raises DamagedError where a key may not be that of an object, or stands there twice."""
        cursor = Cursor(body, label)
        n, _ = cursor.unpack(_OBJECTS)
        if n > OBJECTS_MAX:
            raise damaged(label, f"{n} objects, the limit is {OBJECTS_MAX}")
        sizes, ends = cursor.column("Q", n), cursor.column("I", n + 1)
        texts = bytes(cursor.take(ends[n]))
        cursor.end()
        if ends[0] or any(not 0 < b - a <= KEY_BYTES_MAX for a, b in pairwise(ends)):
            raise damaged(label, "the keys of its objects are out of order, empty or too long")
        keys = tuple(texts[a:b].decode("latin-1") for a, b in pairwise(ends))
        for key in keys:
            if not KEY.fullmatch(key):
                raise damaged(label, f"{key!r} is no key of an object")
        if len(set(keys)) < n:
            raise damaged(label, "an object stands there twice")
        return cls(keys, tuple(sizes))

    def resolve(self, name: str, generation: str) -> tuple[str, ...]:
        """The whole keys, in the bucket, of the objects of a generation of the index `name`."""
        own = f"{name}/{generation}/" if name else f"{generation}/"
        other = f"{name}/" if name else ""
        return tuple(other + key[3:] if key.startswith("../") else own + key for key in self.keys)


_ROW_PAGES = struct.Struct("<II")
PAGES_FREE, PAGE_ROWS_MIN = 4096, 256  # more than so many pages have on average so many rows
SPOT_BYTES = 12  # of a row: u32 offset, size and CRC-32C of its attributes
CHECK_BYTES = 4


@dataclass(frozen=True)
class RowPages:
    """Where rows are, by number, in pages of consecutive numbers; it says nothing of the blocks that hold them.

    first_row u32 (P + 1), from 0 to N. Of page p: its full vectors lie one after the other from vector_offset[p] of
    object vector_object[p] on. Its facts, columns of u32, are `facts_bytes` at fact_offset[p] of fact_object[p], with
    CRC-32C fact_crc[p]: the check of each row (CRC-32C of its full vector), and with attributes their offset from
    attribute_offset[p] in object attribute_object[p], their size and their CRC-32C.
    """

    first_row: Any
    vector_object: Any
    vector_offset: Any
    fact_object: Any
    fact_offset: Any
    fact_crc: Any
    attribute_object: Any
    attribute_offset: Any

    def pack(self) -> bytes:
        n = len(self.vector_object)
        return _ROW_PAGES.pack(n, 0) + struct.pack(
            f"<{3 * n}Q{5 * n + 1}I",
            *self.vector_offset, *self.fact_offset, *self.attribute_offset,
            *self.first_row, *self.vector_object, *self.fact_object, *self.fact_crc, *self.attribute_object,
        )  # fmt: skip

    @classmethod
    def unpack(
        cls, body: memoryview, index: IndexSection, attributes: bool, sizes: tuple[int, ...], label: str
    ) -> RowPages:
        """Views into body. sizes: of the objects. Raises DamagedError for a page that is empty or outside of one."""
        cursor = Cursor(body, label)
        n, _ = cursor.unpack(_ROW_PAGES)
        if n > PAGES_FREE + index.rows // PAGE_ROWS_MIN:
            raise damaged(label, f"{n} pages for {index.rows} rows")
        vector_offset, fact_offset, attribute_offset = (cursor.column("Q", n) for _ in range(3))
        first_row = cursor.column("I", n + 1)
        vector_object, fact_object, fact_crc, attribute_object = (cursor.column("I", n) for _ in range(4))
        cursor.end()
        pages = cls(
            first_row, vector_object, vector_offset, fact_object, fact_offset, fact_crc, attribute_object,
            attribute_offset,
        )  # fmt: skip
        if first_row[0] or first_row[n] != index.rows:
            raise damaged(label, f"its pages hold {first_row[n]} rows, the index section says {index.rows}")
        rows = list(map(sub, islice(first_row, 1, None), first_row))
        if min(rows, default=1) <= 0:
            raise damaged(label, f"page {rows.index(min(rows))} has {min(rows)} rows")
        width = VECTOR_BYTES[index.vector_kind] * index.dimension
        parts = [
            ("vectors", vector_object, vector_offset, width),
            ("facts", fact_object, fact_offset, facts_bytes(1, attributes)),
        ]
        if attributes:
            parts.append(("attributes", attribute_object, attribute_offset, 2))
        for what, number, offset, each in parts:
            if n and (max(number) >= len(sizes) or not _fit(number, offset, rows, each, sizes)):
                raise damaged(label, f"the {what} of a page end outside of an object")
        return pages

    def page_of(self, row: int) -> int:
        """The page that holds a row."""
        return bisect_right(self.first_row, row) - 1


def _fit(number: Sequence[int], offset: Sequence[int], rows: Sequence[int], each: int, sizes: Sequence[int]) -> bool:
    """Whether pages end in their objects: of rows of `each` bytes, from an offset of the object of a number on.

    The last page of a run in one object, and the farthest other one as if it were the longest; else all one by one.
    """
    longest = max(rows) * each
    changes = compress(range(1, len(number)), map(ne, number, islice(number, 1, None)))
    for low, high in pairwise([0, *changes, len(number)]):
        size, last = sizes[number[low]], high - 1
        others = max(offset[low:last], default=0) + longest <= size
        others = others or all(o + n * each <= size for o, n in zip(offset[low:last], rows[low:last], strict=True))
        if not others or offset[last] + rows[last] * each > size:
            return False
    return True


def facts_bytes(rows: int, attributes: bool) -> int:
    """Bytes of the facts of a page of so many rows."""
    return rows * (CHECK_BYTES + SPOT_BYTES * attributes)


ID_PAGE_ROWS = 4096
ID_ENTRY_BYTES = 16  # in each page: u64 hash column, u32 row column, u32 check column (CRC-32C of the full vector)
ID_SEGMENTS_MAX = 8
_ID_PAGES = struct.Struct("<IIII")
_MORE_IDS = struct.Struct("<II")


def id_entry(attributes: bool) -> int:
    """Bytes of a row in an object of ids: with its spot, three columns of u32 more, where rows have attributes."""
    return ID_ENTRY_BYTES + SPOT_BYTES * attributes


@dataclass(frozen=True)
class IdPages:
    """A segment of ids: pages of ID_PAGE_ROWS entries (hash of the id, row, check, spot) sorted by hash, of `rows` rows
    from `offset` of an object on.

    first_hash u64 (P), crc u32 (P).
    """

    object: int
    rows: int
    first_hash: Any
    crc: Any
    offset: int = 0

    def __len__(self) -> int:
        """Pages."""
        return len(self.crc)

    def rows_of(self, page: int) -> int:
        """Entries of a page."""
        return min(ID_PAGE_ROWS, self.rows - page * ID_PAGE_ROWS)

    def columns(self) -> bytes:
        """first_hash and crc, as the section has them."""
        n = len(self)
        return struct.pack(f"<{n}Q{n}I", *self.first_hash, *self.crc)


def pack_id_pages(segments: Sequence[IdPages], rows: int) -> bytes:
    """The section of segments of ids, oldest first, of an index of so many numbers of rows."""
    first, *others = segments
    out = _ID_PAGES.pack(len(first), ID_PAGE_ROWS, first.object, first.offset) + first.columns()
    if others or first.rows != rows:
        out += _MORE_IDS.pack(first.rows, len(others))
        for own in others:
            out += _ID_PAGES.pack(len(own), own.rows, own.object, own.offset) + own.columns()
    return out


def unpack_id_pages(
    body: memoryview, index: IndexSection, dead: int, attributes: bool, sizes: tuple[int, ...], label: str
) -> tuple[IdPages, ...]:
    """Views into body. sizes: of the objects. Raises DamagedError for pages that are outside of one, and for segments
    that cannot hold all rows but the dead ones.
    """
    cursor = Cursor(body, label)
    n, page_rows, *where = cursor.unpack(_ID_PAGES)
    columns = cursor.column("Q", n), cursor.column("I", n)
    rows, more = index.rows, 0
    if cursor.at < len(body):
        rows, more = cursor.unpack(_MORE_IDS)
    if page_rows != ID_PAGE_ROWS:
        raise damaged(label, f"{n} pages of {page_rows} ids in {len(body)} bytes for {rows} rows")
    if more >= ID_SEGMENTS_MAX:
        raise damaged(label, f"{more} segments of ids behind the first one, the limit is {ID_SEGMENTS_MAX - 1}")
    segments = [_segment(rows, n, where, columns, attributes, sizes, label)]
    for _ in range(more):
        n, rows, *where = cursor.unpack(_ID_PAGES)
        columns = cursor.column("Q", n), cursor.column("I", n)
        segments.append(_segment(rows, n, where, columns, attributes, sizes, label))
    cursor.end()
    total = sum(own.rows for own in segments)
    if not index.rows - dead <= total <= index.rows:
        raise damaged(label, f"ids of {total} rows, of {index.rows} of which {dead} are dead")
    return tuple(segments)


def _segment(
    rows: int, pages: int, where: Sequence[int], columns: tuple[Any, Any], attributes: bool, sizes: tuple[int, ...],
    label: str,
) -> IdPages:  # fmt: skip
    number, offset = where
    size = sizes[number] if number < len(sizes) else -1
    if pages != -(-rows // ID_PAGE_ROWS) or offset + rows * id_entry(attributes) > size:
        raise damaged(label, f"{pages} pages of {ID_PAGE_ROWS} ids in {size} bytes for {rows} rows")
    return IdPages(number, rows, *columns, offset)
