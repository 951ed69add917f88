"""Projections: the scan planes of all rows once more, in the order of an attribute, in chunks with a directory."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Any

from .block import H_MAX
from .directory import Directory
from .layout import GROUP, ID_WIDTH_MAX, NUMBER_MAX, Cursor, aligned, damaged
from .objects import SPOT_BYTES

CHUNK_ROWS = 64
CHUNK_BLOCKS_MAX = 256
# A chunk: this header, the number of each block that its rows are at home in (u32), the ranges of each (4 f32); code
# groups, f (u8), h (u8), row numbers (u32), the place of each row's block in the chunk (u8), columns, checks (u32),
# spots where rows have some (three columns of u32), ids. All but columns and ids padded to GROUP rows.
CHUNK = struct.Struct("<IIII")  # rows, blocks, id width (0: offsets), bytes of columns
_PROJECTIONS = struct.Struct("<I4x")
_PROJECTION = struct.Struct("<IIII")
BUCKETS_MAX = 1 << 20


@dataclass(frozen=True)
class Projection:
    """All rows by the value of a field, in buckets of keys, and in a bucket by their home block.

    field: its place in the section of filters. low, high i64 (n): the least and the largest key of each bucket, rising.
    first u32 (n + 1): its first chunk; those from the last of these on are of rows without a value. block u32 (C): the
    home block of each chunk's first row. directory: of the chunks, in this order.
    """

    field: int
    low: Any
    high: Any
    first: Any
    block: Any
    directory: Directory

    def pack(self) -> bytes:
        n, chunks = len(self.low), len(self.block)
        packed = self.directory.pack()
        head = _PROJECTION.pack(self.field, n, chunks, len(packed))
        columns = struct.pack(f"<{2 * n}q{n + 1 + chunks}I", *self.low, *self.high, *self.first, *self.block)
        out = head + columns + packed
        return out + bytes(-len(out) % 8)


def pack_projections(projections: Sequence[Projection]) -> bytes:
    """The section of projections."""
    return _PROJECTIONS.pack(len(projections)) + b"".join(p.pack() for p in projections)


def unpack_projections(
    body: memoryview, fields: int, blocks: int, sizes: tuple[int, ...], label: str
) -> tuple[Projection, ...]:
    """Of an index of so many fields and blocks, and objects of these sizes; one a field at most."""
    cursor, out = Cursor(body, label), list[Projection]()
    (count,) = cursor.unpack(_PROJECTIONS)
    if count > fields:
        raise damaged(label, f"{count} projections of {fields} fields")
    for _ in range(count):
        start = cursor.at
        field, n, chunks, size = cursor.unpack(_PROJECTION)
        if field >= fields or (out and field <= out[-1].field) or max(n, chunks) > BUCKETS_MAX:
            raise damaged(label, f"a projection of field {field} with {n} buckets")
        low, high = cursor.column("q", n), cursor.column("q", n)
        first, block = cursor.column("I", n + 1), cursor.column("I", chunks)
        keys = [key for pair in zip(low, high, strict=True) for key in pair]
        if any(a > b for a, b in pairwise(keys)) or any(a == b for a, b in zip(high, low[1:], strict=False)):
            raise damaged(label, f"the buckets of field {field} do not rise")
        if first[0] or first[n] > chunks or any(a >= b for a, b in pairwise(first)):
            raise damaged(label, f"the buckets of field {field} have no chunks, or more than there are")
        if chunks and max(block) >= blocks:
            raise damaged(label, f"a chunk of field {field} is of block {max(block)} of {blocks}")
        directory = Directory.taken(Cursor(cursor.take(size), label), chunks, 1, sizes)
        if len(directory) != chunks:
            raise damaged(label, f"{len(directory)} chunks of field {field}, not {chunks}")
        cursor.take((start - cursor.at) % 8)
        out.append(Projection(field, low, high, first, block, directory))
    cursor.end()
    return tuple(out)


@dataclass(frozen=True)
class ChunkPlanes:
    """Byte offsets in a chunk of n rows, from its start; columns end at columns_end."""

    n: int
    ranges: int
    codes: int
    f: int
    h: int
    rows: int
    homes: int
    columns: int
    columns_end: int
    checks: int
    spots: int
    ids: int


@dataclass(frozen=True)
class OpenChunk:
    """What the head of a chunk says: where its columns are, the width of its ids, and the blocks of its rows."""

    at: ChunkPlanes
    id_width: int
    blocks: Sequence[int]


def chunk_planes(n: int, blocks: int, code_bytes: int, columns: int, by_row: bool) -> ChunkPlanes:
    """Where things are in a chunk of n rows of so many blocks, with so many bytes of columns."""
    padded = aligned(n, GROUP)
    ranges = CHUNK.size + 4 * blocks
    codes = ranges + 16 * blocks
    f = codes + padded * code_bytes
    rows = f + 2 * padded
    homes = rows + 4 * padded
    plane = homes + padded
    checks = plane + aligned(columns, 4)
    spots = checks + 4 * padded
    ids = spots + SPOT_BYTES * padded * by_row
    return ChunkPlanes(n, ranges, codes, f, f + padded, rows, homes, plane, plane + columns, checks, spots, ids)


def pack_chunk(
    n: int,
    width: int,
    blocks: Sequence[int],
    ranges: bytes,
    planes: Sequence[bytes],
    columns: bytes,
    tail: Sequence[bytes],
) -> bytes:
    """ranges f32 (blocks, 4); planes: code groups, f, h, row numbers, places of blocks; tail: checks, spots, ids."""
    head = CHUNK.pack(n, len(blocks), width, len(columns))
    table = struct.pack(f"<{len(blocks)}I", *blocks) + ranges
    return head + table + b"".join(planes) + columns + bytes(-len(columns) % 4) + b"".join(tail)


def open_chunk(
    data: bytes | memoryview, rows: int, size: int, code_bytes: int, blocks: int, by_row: bool, label: str, metric: str
) -> OpenChunk:
    """Checks a chunk of `size` bytes against what the directory says of it; blocks: of the index."""
    if len(data) < max(size, CHUNK.size):
        raise damaged(label, f"{len(data)} bytes are no chunk of {size}")
    n, count, width, columns = CHUNK.unpack_from(data)
    if n != rows or not 1 <= count <= CHUNK_BLOCKS_MAX:
        raise damaged(label, f"it says {n} rows of {count} blocks, the directory {rows}")
    at = chunk_planes(n, count, code_bytes, columns, by_row)
    if size < at.ids:
        raise damaged(label, f"{size} bytes for {n} rows")
    numbers = memoryview(data)[CHUNK.size : at.ranges].cast("I")
    if max(numbers) >= blocks:
        raise damaged(label, f"rows of block {max(numbers)} of {blocks}")
    if n and max(memoryview(data)[at.homes : at.homes + n]) >= count:
        raise damaged(label, f"a row is of none of its {count} blocks")
    ranges = memoryview(data)[at.ranges : at.codes].cast("f").tolist()
    for part, most in (0, NUMBER_MAX), (2, H_MAX[metric]):
        low, step = ranges[part::4], ranges[part + 1 :: 4]
        if isfinite(sum(low) + sum(step)) and max(map(abs, low)) + 255 * max(map(abs, step)) < most:
            continue  # the usual case, without a look at each
        if not all(abs(a) < most and abs(a + 255 * b) < most for a, b in zip(low, step, strict=True)):
            raise damaged(label, "a factor range is not finite, or too large")
    ids = n * width
    if not width:
        ids = 4 * (n + 1)
        ids += struct.unpack_from("<I", data, at.ids + 4 * n)[0] if size >= at.ids + ids else 0
    if width > ID_WIDTH_MAX or size != at.ids + ids:
        raise damaged(label, f"ids of width {width} do not fit")
    return OpenChunk(at, int(width), numbers)
