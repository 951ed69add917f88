"""Projections: the scan planes of all rows once more, in the order of an attribute, in chunks with a directory.

Of a large index the root has a directory of pages, and each page the directory of some chunks, in the same layout.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise
from math import isfinite
from typing import Any, NamedTuple

from .block import H_MAX
from .directory import PLACES, Directory, Places
from .index import IndexSection
from .layout import GROUP, ID_WIDTH_MAX, NUMBER_MAX, Cursor, aligned, damaged, finite
from .objects import OBJECTS_MAX, SPOT_BYTES

CHUNK_ROWS = 64
CHUNK_BLOCKS_MAX = 256
# A chunk: this header, the number of each block that its rows are at home in (u32), the ranges of each (4 f32); code
# groups, f (u8), h (u8), row numbers (u32), the place of each row's block in the chunk (u8), columns, checks (u32),
# spots where rows have some (three columns of u32), ids. All but columns and ids padded to GROUP rows. Where the root
# has no centres, those of the blocks stand behind the ranges: scale (f32), bias (f32), then a row of i8 of each.
CHUNK = struct.Struct("<IIII")  # rows, blocks, id width (0: offsets), bytes of columns
PAGED, SEGMENTED = 1, 2  # flags: directories are of pages; chunks are in segments
CHUNK_PAGE_BYTES_MAX = 1 << 16
_PROJECTIONS = struct.Struct("<II")
_PROJECTION = struct.Struct("<IIII")
_SEGMENTS = struct.Struct("<II")
_SEGMENT = struct.Struct("<5I")
SEGMENTS_MAX = 8
BUCKETS_MAX = 1 << 20


class ChunkObjects(NamedTuple):
    """The objects that the chunks of a segment of pages lie in: `total` of them from the number `first` on. Pages were
    written before objects were numbered anew: there the first one has the number `called`.
    """

    first: int
    total: int
    called: int


@dataclass(frozen=True)
class Projection:
    """All rows by the value of a field, in segments: those of a build, and those that came later. In a segment they are
    in buckets of keys, and in a bucket by their home block.

    field: its place in the section of filters. low, high i64 (n): the least and the largest key of each bucket, rising.
    first: of each segment u32 (n + 1), the first chunk of each bucket; those from the last of these on are of rows
    without a value. block u32 (C): the home block of each chunk's first row. directory: of the chunks, in this order.
    Of a large index the root has pages in the place of chunks, each as a bucket of its own; a value may go on in the
    next one of its segment. Segments have pages of their own, so that keys rise inside of each alone. What was read of
    pages has their chunks in turn. objects: of each segment of pages; none: as pages call them. until (n + S): the last
    block that the rows of each bucket, and those of each segment without a value, can be at home in; none: the last of
    all.
    """

    field: int
    low: Any
    high: Any
    first: Sequence[Any]
    block: Any
    directory: Directory
    until: Sequence[int] = ()
    objects: Sequence[ChunkObjects] = ()

    def chunks(self, bucket: int) -> list[range]:
        """Of each segment the chunks of a bucket, or behind the last one those of rows without a value."""
        if bucket < len(self.low):
            return [range(own[bucket], own[bucket + 1]) for own in self.first]
        ends = [*(own[0] for own in self.first[1:]), len(self.block)]
        return [range(own[bucket], end) for own, end in zip(self.first, ends, strict=True)]

    @property
    def pages(self) -> list[tuple[int, int]]:
        """Of each segment how many pages have values, and how many have rows without one."""
        return [
            (own[-1] - own[0], len(nulls)) for own, nulls in zip(self.first, self.chunks(len(self.low)), strict=True)
        ]

    def segment(self, page: int) -> int:
        """That of a page."""
        return bisect_right([own[0] for own in self.first], page) - 1

    def keys(self, page: int) -> tuple[int, ...]:
        """The least and the largest key of a page; none of one of rows without a value."""
        segment = self.segment(page)
        own = self.first[segment]
        if page >= own[-1]:
            return ()
        bucket = page - own[0] + sum(other[-1] - other[0] for other in self.first[:segment])
        return self.low[bucket], self.high[bucket]

    def pack(self, *, segmented: bool = False, paged: bool = False) -> bytes:
        """segmented: it says how many segments it has; paged: of pages."""
        n, chunks = len(self.low), len(self.block)
        packed, first = self.directory.pack(), [*chain.from_iterable(self.first)]
        head = _PROJECTION.pack(self.field, n, chunks, len(packed))
        if segmented:
            head += _SEGMENTS.pack(len(self.first), 0)
        if segmented and paged:
            first = [*chain.from_iterable((*pages, *of) for pages, of in zip(self.pages, self.objects, strict=True))]
        columns = struct.pack(f"<{2 * n}q{len(first) + chunks}I", *self.low, *self.high, *first, *self.block)
        out = head + columns + packed
        return out + bytes(-len(out) % 8)


def pack_projections(projections: Sequence[Projection], *, paged: bool) -> bytes:
    """The section of projections; paged: their directories are of pages."""
    segmented = any(len(p.first) > 1 or p.objects for p in projections)
    head = _PROJECTIONS.pack(len(projections), PAGED * paged | SEGMENTED * segmented)
    return head + b"".join(p.pack(segmented=segmented, paged=paged) for p in projections)


def unpack_projections(
    body: memoryview, fields: int, blocks: int, sizes: tuple[int, ...], paged: bool, label: str
) -> tuple[Projection, ...]:
    """Of an index of so many fields and blocks, and objects of these sizes; one a field at most."""
    cursor, out = Cursor(body, label), list[Projection]()
    count, flags = cursor.unpack(_PROJECTIONS)
    if count > fields or flags & ~SEGMENTED != PAGED * paged:
        raise damaged(label, f"{count} projections of {fields} fields, with flags {flags}")
    for _ in range(count):
        out.append(_taken(cursor, fields, blocks, sizes, paged, bool(flags & SEGMENTED)))
        if len(out) > 1 and out[-1].field <= out[-2].field:
            raise damaged(label, f"a projection of field {out[-1].field} after that of {out[-2].field}")
        if paged and max(out[-1].directory.places[0].whole) > CHUNK_PAGE_BYTES_MAX:
            raise damaged(label, f"a page of chunks is over {CHUNK_PAGE_BYTES_MAX} bytes")
    cursor.end()
    return tuple(out)


def unpack_chunk_page(
    page: bytes | memoryview, of: Projection, number: int, blocks: int, sizes: tuple[int, ...], label: str
) -> Projection:
    """The directory of chunks of a page of a projection, by its number there. Raises DamagedError where it is not what
    the root says of it.
    """
    cursor, objects = Cursor(memoryview(page), label), None
    if of.objects:
        objects = of.objects[of.segment(number)]
        sizes = (0,) * objects.called + sizes[objects.first : objects.first + objects.total]
    own = _taken(cursor, of.field + 1, blocks, sizes, False)
    cursor.end()
    if objects is not None:
        own = replace(own, directory=_renumbered(own.directory, objects))
    keys = (own.low[0], own.high[-1]) if len(own.low) else ()
    if own.field != of.field or of.keys(number) != keys or own.directory.at_home != of.directory.rows[number]:
        raise damaged(label, f"its chunks are not those that the root says, of field {of.field}")
    if own.block[0] != of.block[number] or (keys and own.first[0][-1] != len(own.block)):
        raise damaged(label, "its chunks begin in another block, or are in no bucket")
    return own


def _renumbered(directory: Directory, objects: ChunkObjects) -> Directory:
    [places] = directory.places
    numbers = array("I", [number - objects.called + objects.first for number in places.object])
    return replace(directory, places=(replace(places, object=numbers),))


def first_of_pages(pages: Iterable[tuple[int, int]]) -> list[array[int]]:
    """`first` of a projection of pages, so many with and without values in each segment."""
    columns, start = list[Sequence[int]](), 0
    for valued, others in pages:
        columns.append(range(start, start + valued + 1))
        start += valued + others
    return _apart(columns)


def _apart(columns: Sequence[Sequence[int]]) -> list[array[int]]:
    """`first` of segments whose buckets are their own: those of each are behind those of the segments before."""
    starts = [*accumulate((len(own) - 1 for own in columns), initial=0)]
    return [
        array("I", [own[0]] * start + [*own] + [own[-1]] * (starts[-1] - end))
        for own, (start, end) in zip(columns, pairwise(starts), strict=True)
    ]


def _taken(
    cursor: Cursor, fields: int, blocks: int, sizes: tuple[int, ...], pages: bool, segmented: bool = False
) -> Projection:
    """The one at the cursor, of chunks, or of pages; segmented: it says how many segments it has."""
    start, label = cursor.at, cursor.label
    field, n, chunks, size = cursor.unpack(_PROJECTION)
    if field >= fields or max(n, chunks) > BUCKETS_MAX:
        raise damaged(label, f"a projection of field {field} with {n} buckets")
    segments, zero = cursor.unpack(_SEGMENTS) if segmented else (1, 0)
    if not 1 <= segments <= SEGMENTS_MAX or zero:
        raise damaged(label, f"a projection of field {field} with {segments} segments, the limit is {SEGMENTS_MAX}")
    low, high = cursor.column("q", n), cursor.column("q", n)
    objects = list[ChunkObjects]()
    if pages and segmented:
        first, objects = _taken_segments(cursor, segments, n, chunks, len(sizes))
    else:
        first = [cursor.column("I", n + 1) for _ in range(segments)]
    block = cursor.column("I", chunks)
    fall = any(a > b for a, b in zip(low, high, strict=True))
    if pages:  # a bucket may go on in the next page
        starts = [*accumulate((own[-1] - own[0] for own in first), initial=0)] if segmented else [0, n]
        parts = [column[a:b] for column in (low, high) for a, b in pairwise(starts)]
        fall = fall or any(a > b for part in parts for a, b in pairwise(part))
    if fall or (not pages and any(a >= b for a, b in zip(high, low[1:], strict=False))):
        raise damaged(label, f"the buckets of field {field} do not rise")
    every = [*chain.from_iterable(first), chunks]
    none = not segmented and any(a == b for a, b in pairwise(first[0]))
    if none or every[0] or any(a > b for a, b in pairwise(every)):
        raise damaged(label, f"the buckets of field {field} have no chunks, or more than there are")
    if pages and not segmented and first[0][n] != n:
        raise damaged(label, f"a bucket of field {field} has several pages")
    if chunks and max(block) >= blocks:
        raise damaged(label, f"a chunk of field {field} is of block {max(block)} of {blocks}")
    directory = Directory.taken(Cursor(cursor.take(size), label), chunks, 1, sizes)
    if len(directory) != chunks:
        raise damaged(label, f"{len(directory)} chunks of field {field}, not {chunks}")
    cursor.take((start - cursor.at) % 8)
    return Projection(field, low, high, first, block, directory, objects=objects)


def _taken_segments(
    cursor: Cursor, segments: int, n: int, chunks: int, objects: int
) -> tuple[list[array[int]], list[ChunkObjects]]:
    """(first, objects) of segments of pages, n with values of `chunks` in all, at the cursor."""
    pages, out = list[tuple[int, int]](), list[ChunkObjects]()
    for _ in range(segments):
        valued, others, *own = cursor.unpack(_SEGMENT)
        pages.append((valued, others))
        out.append(ChunkObjects(*own))
        if out[-1].first + out[-1].total > objects or out[-1].called > OBJECTS_MAX:
            raise damaged(cursor.label, f"chunks in {own[1]} objects from {own[0]} on, called {own[2]}, of {objects}")
    if [sum(column) for column in zip(*pages, strict=True)] != [n, chunks - n]:
        raise damaged(cursor.label, f"{pages} pages of segments, with and without values, are not {n} of {chunks}")
    return first_of_pages(pages), out


def joined_pages(pages: Sequence[Projection], segments: Sequence[int], until: Sequence[int], blocks: int) -> Projection:
    """One projection of the chunks of several pages, in order and of one field.

    segments: of each page. until: likewise the last block that rows of its last bucket can be at home in. blocks: of
    the index.
    """
    columns, nulls, ends, at = dict[int, list[int]](), dict[int, int](), list[int](), 0
    for page, segment, last in zip(pages, segments, until, strict=True):
        first = columns.setdefault(segment, [at])
        if len(page.low):
            first += [at + end for end in page.first[0][1:]]
            ends += [*[blocks - 1] * (len(page.low) - 1), last]
        at += len(page.block)
        nulls[segment] = last  # of rows without a value, where there are any
    ends += nulls.values()
    every = [page.directory for page in pages]
    places = [directory.places[0] for directory in every]

    def column(code: str, name: str) -> array[int]:
        return array(code, chain.from_iterable(getattr(p, name) for p in places))

    rows = array("I", chain.from_iterable(directory.rows for directory in every))
    homes = array("I", chain.from_iterable(directory.homes for directory in every))
    directory = Directory(
        array("I", range(len(rows))), rows, homes,
        (Places(*(column("Q" if name == "offset" else "I", name) for name in PLACES)),),
    )  # fmt: skip
    return Projection(
        pages[0].field, list(chain.from_iterable(page.low for page in pages)),
        list(chain.from_iterable(page.high for page in pages)), _apart([*columns.values()]),
        list(chain.from_iterable(page.block for page in pages)), directory, ends,
    )  # fmt: skip


@dataclass(frozen=True)
class ChunkPlanes:
    """Byte offsets in a chunk of n rows, from its start; columns end at columns_end. centres: of a chunk that has some,
    their scales, biases and rows, else where codes are.
    """

    n: int
    ranges: int
    centres: int
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


def chunk_planes(n: int, blocks: int, code_bytes: int, columns: int, by_row: bool, centre: int) -> ChunkPlanes:
    """Where things are in a chunk of n rows of so many blocks, with so many bytes of columns, and of each centre; 0
    where it has none.
    """
    padded = aligned(n, GROUP)
    ranges = CHUNK.size + 4 * blocks
    centres = ranges + 16 * blocks
    codes = centres + (8 + centre) * blocks * bool(centre)
    f = codes + padded * code_bytes
    rows = f + 2 * padded
    homes = rows + 4 * padded
    plane = homes + padded
    checks = plane + aligned(columns, 4)
    spots = checks + 4 * padded
    ids = spots + SPOT_BYTES * padded * by_row
    end = plane + columns
    return ChunkPlanes(n, ranges, centres, codes, f, f + padded, rows, homes, plane, end, checks, spots, ids)


def pack_chunk(
    n: int,
    width: int,
    blocks: Sequence[int],
    ranges: bytes,
    centres: bytes,
    planes: Sequence[bytes],
    columns: bytes,
    tail: Sequence[bytes],
) -> bytes:
    """ranges f32 (blocks, 4); centres: none, or scale and bias f32 (blocks), then the rows of i8; planes: code groups,
    f, h, row numbers, places of blocks; tail: checks, spots, ids.
    """
    head = CHUNK.pack(n, len(blocks), width, len(columns))
    table = struct.pack(f"<{len(blocks)}I", *blocks) + ranges + centres
    return head + table + b"".join(planes) + columns + bytes(-len(columns) % 4) + b"".join(tail)


def open_chunk(
    data: bytes | memoryview, rows: int, size: int, code_bytes: int, index: IndexSection, paged: bool, label: str
) -> OpenChunk:
    """Checks a chunk of `size` bytes against what the directory says of it; paged: it has centres."""
    if len(data) < max(size, CHUNK.size):
        raise damaged(label, f"{len(data)} bytes are no chunk of {size}")
    n, count, width, columns = CHUNK.unpack_from(data)
    if n != rows or not 1 <= count <= CHUNK_BLOCKS_MAX:
        raise damaged(label, f"it says {n} rows of {count} blocks, the directory {rows}")
    blocks, centre = index.blocks, aligned(index.dimension, GROUP) * paged
    at = chunk_planes(n, count, code_bytes, columns, index.by_row, centre)
    if size < at.ids:
        raise damaged(label, f"{size} bytes for {n} rows")
    numbers = memoryview(data)[CHUNK.size : at.ranges].cast("I")
    if max(numbers) >= blocks:
        raise damaged(label, f"rows of block {max(numbers)} of {blocks}")
    if n and max(memoryview(data)[at.homes : at.homes + n]) >= count:
        raise damaged(label, f"a row is of none of its {count} blocks")
    if paged:
        finite(label, memoryview(data)[at.centres : at.centres + 8 * count].cast("f"))
    ranges = memoryview(data)[at.ranges : at.centres].cast("f").tolist()
    for part, most in (0, NUMBER_MAX), (2, H_MAX[index.metric]):
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
