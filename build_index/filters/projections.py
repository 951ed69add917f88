"""Writes projections: the codes of all rows once more, in the order of each field that can be filtered by."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from vantage.format import (
    CHUNK_ROWS,
    GROUP,
    VECTOR_BYTES,
    Centres,
    Directory,
    Places,
    Projection,
    Root,
    Values,
    aligned,
    damaged,
    id_at,
    open_chunk,
    pack_chunk,
    pack_columns,
    pack_ids,
    unpack_columns,
)

from ..blocks.layout import centre_at
from ..ingest.attributes import spot_bytes
from ..ingest.rows import F32, Ints, Rows
from ..progress import Progress
from ..write.contents import U32, Contents, RowTable
from ..write.ids import ids_as_bytes
from ..write.objects import ObjectList
from ..write.shard import Shards
from .codes import RowCodes
from .columns import I64, U8, Column, lists_of
from .declare import Declared

SHARE_MAX = 0.6  # of the bytes of an index, that projections which nobody named may add
ROW_BYTES = 24  # of a row in a chunk beside its codes, about: factors, number, check, id, columns
PAGE_CHUNKS = 512
BUCKET_ROWS, BUCKETS_MIN, BUCKETS_MAX = 192, 64, 4096  # of numbers with many values
ID = struct.Struct("<q")


def to_project(
    columns: Sequence[Column], declared: Sequence[Declared], contents: Contents, table: RowTable, paged: bool
) -> frozenset[str]:
    """Names of the columns that get a projection: those that were named, and of the others the first ones that together
    take at most SHARE_MAX of what the index takes without, those with texts in the root before those with hashes.
    paged: chunks have the centres of their blocks.
    """
    asked = {one.name: one.asked for one in declared}
    left, out = SHARE_MAX * plain_bytes(contents, table), set[str]()
    for column in sorted(columns, key=lambda column: column.field.hashed):
        left -= projection_bytes(column, contents, table, paged)
        if asked[column.name] or left >= 0:
            out.add(column.name)
    return frozenset(out)


def plain_bytes(contents: Contents, table: RowTable) -> int:
    """What the objects of an index take without projections, about."""
    rows, slots = contents.rows, sum(map(len, table.members)) * len(table.renditions)
    vectors = rows.count * rows.dimension * VECTOR_BYTES[contents.vector_kind]
    attributes = int(table.attribute_bytes.sum()) * (1 + any(r.attributes for r in table.renditions))
    return vectors + slots * _own_bytes(contents) + attributes


def projection_bytes(column: Column, contents: Contents, table: RowTable, paged: bool) -> float:
    """Likewise what the projection of a column takes. paged: chunks have the centres of their blocks."""
    rows, centres = contents.rows, 0.0
    if paged:
        chunks = min(1.0, 1 / CHUNK_ROWS + len(table.members) * column.field.distinct / rows.count)  # a row
        centres = (8 + rows.dimension) * chunks
    return (_own_bytes(contents) + centres) * column.places


def _own_bytes(contents: Contents) -> int:
    """Of a row in a block or a chunk."""
    stored, names = contents.rows.stored, contents.attributes.names
    return contents.choice.codec.code_bytes + ROW_BYTES + spot_bytes(stored, names)


def write_projections(
    columns: Sequence[Column],
    projected: Collection[str],
    codes: RowCodes,
    rows: Rows,
    table: RowTable,
    centres: Centres | None,
    objects: ObjectList,
    progress: Progress,
) -> tuple[Projection, ...]:
    """Of the columns with these names. centres: of a large index, whose directories are in pages."""
    coded = Coded(columns, codes, rows, table, np.repeat(np.arange(len(table.homes)), table.homes))
    some = [i for i, column in enumerate(columns) if column.name in projected]
    out = []
    for done, i in enumerate(some, 1):
        out.append(_write(i, coded, centres, objects))
        progress(done / len(some))
    return tuple(out)


def bucket_ends(keys: npt.NDArray[np.signedinteger], rows: I64, numeric: bool, paged: bool) -> I64:
    """Where buckets of sorted keys end (n), rows (n): of each. A value of CHUNK_ROWS rows is its own, rarer ones share;
    of numbers and hashes with many values all buckets hold about as many rows, but for one that is a bucket of its own;
    paged: there may be any number of them.
    """
    most = min(len(keys) if paged else BUCKETS_MAX, max(BUCKETS_MIN, int(rows.sum()) // BUCKET_ROWS))
    if numeric and len(keys) > most:
        rank = (np.cumsum(rows) - rows) * most // rows.sum()
        heavy = rows * most > rows.sum()  # a value that is a bucket of its own
        return np.append(np.flatnonzero((np.diff(rank) > 0) | heavy[1:] | heavy[:-1]) + 1, len(keys))
    ends, held = list[int](), 0
    for i, n in enumerate(rows.tolist()):
        if n >= CHUNK_ROWS and held:
            ends.append(i)
            held = 0
        held += n
        if held >= CHUNK_ROWS:
            ends.append(i + 1)
            held = 0
    return np.array([*ends, len(keys)] if held else ends, np.int64)


@dataclass(frozen=True)
class ChunkRows:
    """Rows as chunks have them: codes u8 (n, c), f and h u8 (n), number and checks u32 (n), block i64 (n), where they
    are at home; ranges f32 (n, 4), of the extent there; spots u32 (n, 3), None where chunks have none; ids as chunks
    have them, text_ids where these are bytes; columns: of each field, whether there are lists, and each row's keys.
    """

    codes: U8
    f: U8
    h: U8
    number: U32
    block: Ints
    ranges: F32
    checks: U32
    spots: U32 | None
    ids: list[bytes]
    text_ids: bool
    columns: list[tuple[bool, Values]]

    def some(self, which: Ints) -> ChunkRows:
        """Those at these places (m), in this order."""
        at = which.tolist()
        return ChunkRows(
            self.codes[which], self.f[which], self.h[which], self.number[which], self.block[which], self.ranges[which],
            self.checks[which], None if self.spots is None else self.spots[which], [self.ids[i] for i in at],
            self.text_ids, [(many, [values[i] for i in at]) for many, values in self.columns],
        )  # fmt: skip

    @classmethod
    def joined(cls, parts: Sequence[ChunkRows]) -> ChunkRows:
        """All rows of some, one at least."""
        codes, f, h, number, block, ranges, checks = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("codes", "f", "h", "number", "block", "ranges", "checks")
        )
        spots = [part.spots for part in parts if part.spots is not None]
        columns = zip(*(part.columns for part in parts), strict=True)
        return cls(
            codes, f, h, number, block, ranges, checks, np.concatenate(spots) if spots else None,
            [one for part in parts for one in part.ids], parts[0].text_ids,
            [(own[0][0], [keys for _, values in own for keys in values]) for own in columns],
        )  # fmt: skip


@dataclass(frozen=True)
class Coded:
    """Rows with their codes, for chunks to be made of. columns: of all fields; home i64 (N): blocks, by position."""

    columns: Sequence[Column]
    codes: RowCodes
    rows: Rows
    table: RowTable
    home: Ints

    def places(self, field: int, high: npt.NDArray[np.signedinteger]) -> tuple[Ints, Ints]:
        """(bucket, position) of every row in every bucket that it has a value in, or behind the last one without a
        value, rising. high (n): the largest key of each bucket.
        """
        column, count = self.columns[field], self.rows.count
        source, values = column.values()
        pairs = np.searchsorted(high, values) * count + self.table.number[source]
        del source, values
        nulls = len(high) * count + self.table.number[column.counts == 0].astype(np.int64)
        bucket, position = np.divmod(
            np.unique(np.concatenate([pairs, nulls])), count
        )  # of lists, a row once in a bucket
        return bucket, position

    def at(self, position: Ints) -> ChunkRows:
        """Rows of these positions."""
        table, codes, source = self.table, self.codes, self.table.source[position]
        block = self.home[position]
        return ChunkRows(
            codes.codes[position], codes.f[position], codes.h[position], table.stored[position], block,
            codes.ranges[block], table.checks[position], table.spots[position] if table.by_row else None,
            ids_as_bytes(self.rows, source), self.rows.stored.id_kind == "bytes",
            [(one.field.many, lists_of(*one.some(source))) for one in self.columns],
        )  # fmt: skip


def _write(place: int, coded: Coded, centres: Centres | None, objects: ObjectList) -> Projection:
    column = coded.columns[place]
    keys, own = np.unique(column.values()[1], return_counts=True)
    numeric = column.field.hashed or column.field.kind in ("integer", "number", "time")
    ends = bucket_ends(keys, own, numeric, centres is not None)
    begins = np.append(0, ends[:-1]) if len(ends) else ends
    low, high = keys[begins] if len(ends) else keys, keys[ends - 1] if len(ends) else keys
    whole = write_segment(place, low.tolist(), high.tolist(), coded, centres, objects)
    return whole if centres is None else _write_pages(whole, objects)


def write_segment(
    place: int, low: Sequence[int], high: Sequence[int], coded: Coded, centres: Centres | None, objects: ObjectList
) -> Projection:
    """Writes the chunks of rows in these buckets; a projection of one segment."""
    bucket, position = coded.places(place, np.asarray(high, np.int64))
    starts = np.searchsorted(bucket, np.arange(len(high) + 2)).tolist()
    cuts, first = [0], [0]
    for a, b in pairwise(starts):
        cuts += chunk_cuts(a, b)
        first.append(len(cuts) - 1)
    shards = Shards(objects, 0, len(cuts) - 1, f"projection-{place}")
    for chunk, (a, b) in enumerate(pairwise(cuts)):
        data = pack_rows(coded.at(position[a:b]), centres)
        shards.add(chunk, data, len(data))
    blocks = coded.home[position[np.array(cuts[:-1], np.int64)]].tolist()
    return Projection(
        place, low, high, [first[: len(high) + 1]], blocks, chunk_directory(np.diff(cuts).tolist(), shards.close())
    )


def chunk_cuts(low: int, high: int) -> list[int]:
    """Where the chunks of rows [low, high) of a bucket end: as few as can be, of as many rows each."""
    n = -(-(high - low) // CHUNK_ROWS)
    return [low + (high - low) * (j + 1) // n for j in range(n)]


def chunk_directory(sizes: Sequence[int], places: Places) -> Directory:
    """Of chunks of so many rows."""
    return Directory(array("I", range(len(sizes))), array("I", sizes), array("I", sizes), (places,))


def page_starts(first: Sequence[int]) -> list[int]:
    """The first chunks of pages of buckets whose chunks begin at `first`, the end of the last one with them: only a
    bucket that begins its page goes on in the next, so that most pages have one value or few rows of each.
    """
    cuts, at = list[int](), 0
    while at < first[-1]:
        cuts.append(at)
        start = first[bisect_right(first, at + PAGE_CHUNKS) - 1]
        at = start if start > at else at + PAGE_CHUNKS
    return cuts


def _write_pages(whole: Projection, objects: ObjectList) -> Projection:
    """The projection of the pages that the chunks of one are written into."""
    (begins,), n, chunks = whole.first, len(whole.low), len(whole.block)
    valued = begins[n]
    cuts = [*page_starts(begins), *range(valued, chunks, PAGE_CHUNKS), chunks]
    shards = Shards(objects, 0, len(cuts) - 1, f"projection-{whole.field}-pages")
    low, high, rows = list[int](), list[int](), list[int]()
    for page, (a, b) in enumerate(pairwise(cuts)):
        own = whole.directory.some(range(a, b))
        directory = replace(own, block=array("I", range(b - a)))
        inside = range(0, 0)
        if a < valued:
            inside = range(bisect_right(begins, a) - 1, bisect_left(begins, b))
            low.append(whole.low[inside[0]])
            high.append(whole.high[inside[-1]])
        first = [max(0, begins[j] - a) for j in inside] + [b - a] * bool(inside) or [0]
        part = Projection(
            whole.field, [whole.low[j] for j in inside], [whole.high[j] for j in inside], [first], whole.block[a:b],
            directory,
        )  # fmt: skip
        data = part.pack()
        shards.add(page, data, len(data))
        rows.append(own.at_home)
    directory = Directory(array("I", range(len(rows))), array("I", rows), array("I", rows), (shards.close(),))
    return Projection(whole.field, low, high, [range(len(low) + 1)], [whole.block[a] for a in cuts[:-1]], directory)


def pack_rows(rows: ChunkRows, centres: Centres | None) -> bytes:
    """A chunk of rows, which are in the order of blocks, and in a block in that of extents. centres: of all blocks,
    where chunks have those of their own.
    """
    n, c = rows.codes.shape
    padded = aligned(n, GROUP)
    other = np.ones(n, bool)
    other[1:] = (rows.block[1:] != rows.block[:-1]) | (rows.ranges[1:] != rows.ranges[:-1]).any(1)
    blocks = rows.block[other].tolist()
    groups = np.zeros((padded, c), np.uint8)
    groups[:n] = rows.codes

    def column(values: npt.NDArray[np.generic]) -> bytes:
        return values.tobytes() + bytes((padded - n) * values.itemsize)

    planes = [
        groups.reshape(-1, GROUP, c).transpose(0, 2, 1).tobytes(), column(rows.f), column(rows.h),
        column(rows.number), column((np.cumsum(other) - 1).astype(np.uint8)),
    ]  # fmt: skip
    tail = [column(rows.checks)]
    if rows.spots is not None:
        tail += [column(np.ascontiguousarray(spots)) for spots in rows.spots.T]
    width, id_plane = pack_ids(rows.ids) if rows.text_ids else (8, b"".join(rows.ids))
    own = b""
    if centres is not None:
        each = [centre_at(centres, block) for block in blocks]
        numbers = [c.scale for c in each] + [c.bias for c in each]
        own = struct.pack(f"<{len(numbers)}f", *numbers) + b"".join(c.row for c in each)
    ranges = rows.ranges[other].astype(np.float32).tobytes()
    return pack_chunk(n, width, blocks, ranges, own, planes, pack_columns(rows.columns), [*tail, id_plane])


def numbers_of(root: Root, n: int, data: bytes, label: str) -> tuple[Ints, Ints]:
    """(numbers, blocks) of the n rows of a chunk, whose checksum is right. Raises DamagedError where it is none."""
    opened = open_chunk(data, n, len(data), root.codec.code_bytes, root.index, root.paged, label)
    blocks, homes = np.array(opened.blocks, np.int64), np.frombuffer(data, np.uint8, n, opened.at.homes)
    return np.frombuffer(data, np.uint32, n, opened.at.rows).astype(np.int64), blocks[homes]


def unpack_rows(root: Root, n: int, data: bytes, label: str) -> ChunkRows:
    """All of them."""
    index, code_bytes = root.index, root.codec.code_bytes
    opened = open_chunk(data, n, len(data), code_bytes, index, root.paged, label)
    at, padded, view = opened.at, aligned(n, GROUP), memoryview(data)
    blocks, homes = np.array(opened.blocks, np.int64), np.frombuffer(data, np.uint8, n, at.homes)
    groups = np.frombuffer(data, np.uint8, padded * code_bytes, at.codes).reshape(-1, code_bytes, GROUP)
    columns = unpack_columns(view[at.columns : at.columns_end], n, label)
    if len(columns) != len(root.filters) or any(column is None for column in columns):
        raise damaged(label, "a column is missing")
    spots = None
    if index.by_row:
        spots = np.frombuffer(data, np.uint32, 3 * padded, at.spots).reshape(3, padded)[:, :n].T
    ids = [id_at(view[at.ids :], opened.id_width, n, j, index.id_kind, label) for j in range(n)]
    return ChunkRows(
        groups.transpose(0, 2, 1).reshape(-1, code_bytes)[:n],
        np.frombuffer(data, np.uint8, n, at.f), np.frombuffer(data, np.uint8, n, at.h),
        np.frombuffer(data, np.uint32, n, at.rows), blocks[homes],
        np.frombuffer(data, np.float32, 4 * len(blocks), at.ranges).reshape(-1, 4)[homes],
        np.frombuffer(data, np.uint32, n, at.checks), spots,
        [one if isinstance(one, bytes) else ID.pack(one) for one in ids], index.id_kind == "bytes",
        [(field.many, column or []) for field, column in zip(root.filters, columns, strict=True)],
    )  # fmt: skip
