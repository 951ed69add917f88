"""Writes projections: the codes of all rows once more, in the order of each field that can be filtered by."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from vantage.format import (
    CHUNK_ROWS,
    GROUP,
    VECTOR_BYTES,
    Centres,
    Directory,
    FilterField,
    Projection,
    aligned,
    pack_chunk,
    pack_columns,
    pack_ids,
)
from vantage.format.columns import Values

from ..blocks.layout import centre_at
from ..ingest.attributes import spot_bytes
from ..ingest.rows import F32, Ints, Rows
from ..progress import Progress
from ..slots import Slots, objects_of
from ..write.contents import Contents, RowTable
from ..write.ids import ids_as_bytes
from ..write.objects import ObjectList
from ..write.shard import Shards
from .codes import RowCodes
from .columns import I64, Column, lists_of
from .declare import Declared

SHARE_MAX = 0.6  # of the bytes of an index, that projections which nobody named may add
ROW_BYTES = 24  # of a row in a chunk beside its codes, about: factors, number, check, id, columns
PAGE_CHUNKS = 512
BUCKET_ROWS, BUCKETS_MIN, BUCKETS_MAX = 192, 64, 4096  # of numbers with many values


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
    home = np.repeat(np.arange(len(table.homes)), table.homes)  # by row number
    some = [i for i, column in enumerate(columns) if column.name in projected]
    out = []
    for done, i in enumerate(some, 1):
        out.append(write_projection(i, columns, codes, rows, table, home, centres, objects))
        progress(done / len(some))
    return tuple(out)


def bucket_ends(
    keys: npt.NDArray[np.signedinteger], rows: I64, numeric: bool, paged: bool, worth: int = BUCKET_ROWS
) -> I64:
    """Where buckets of sorted keys end (n), rows (n): of each. A value of CHUNK_ROWS rows is its own, rarer ones share;
    of numbers and hashes with many values all buckets hold about as many rows, `worth` where they may, but for one that
    is a bucket of its own; paged: there may be any number of them.
    """
    most = most_buckets(int(rows.sum()), worth, paged)
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


def most_buckets(rows: int, worth: int, paged: bool) -> int:
    """Of so many rows with numbers, about `worth` of them a bucket."""
    most = max(BUCKETS_MIN, rows // worth)
    return most if paged else min(BUCKETS_MAX, most)


def is_numeric(field: FilterField) -> bool:
    """Whether its values tell nothing by themselves, so that buckets need not be of one each."""
    return field.hashed or field.kind in ("integer", "number", "time")


def bucket_rows(field: FilterField, rows: int, paged: bool) -> int:
    """How many rows a value has that is a bucket of its own, and a bucket of several, where rows are seen in turn."""
    most = most_buckets(rows, BUCKET_ROWS, paged)
    return max(1, rows // most) if is_numeric(field) and field.distinct > most else CHUNK_ROWS


def write_projection(
    place: int, columns: Sequence[Column], codes: RowCodes, rows: Rows, table: RowTable, home: Ints,
    centres: Centres | None, objects: ObjectList, worth: int = BUCKET_ROWS,
) -> Projection:  # fmt: skip
    """Of a field, by its place. home i64 (N): blocks by position. centres: of all blocks, where it is to have pages.
    worth: rows of a bucket.
    """
    column = columns[place]
    keys, own = np.unique(column.values()[1], return_counts=True)
    ends = bucket_ends(keys, own, is_numeric(column.field), centres is not None, worth)
    begins = np.append(0, ends[:-1]) if len(ends) else ends
    low, high = (keys[begins].tolist(), keys[ends - 1].tolist()) if len(ends) else ([], [])
    whole = write_segment(place, low, high, columns, codes, rows, table, home, centres, objects)
    return whole if centres is None else write_pages(whole, objects)


def write_segment(
    place: int, low: Sequence[int], high: Sequence[int], columns: Sequence[Column], codes: RowCodes, rows: Rows,
    table: RowTable, home: Ints, centres: Centres | None, objects: ObjectList,
) -> Projection:  # fmt: skip
    """Writes the chunks of rows in buckets that hold all their keys; a projection of one segment. home i64 (N): blocks
    by position.
    """
    column = columns[place]
    source, values = column.values()
    pairs = np.searchsorted(np.array(high, np.int64), values) * rows.count + table.number[source]
    del source, values
    nulls = len(high) * rows.count + table.number[column.counts == 0].astype(np.int64)
    pairs = np.unique(np.concatenate([pairs, nulls]))  # of lists, a row once in a bucket
    bucket, number = np.divmod(pairs, rows.count)
    starts = np.searchsorted(bucket, np.arange(len(high) + 2))
    cuts, first = [0], [0]
    for begin, end in pairwise(starts.tolist()):
        n = -(-(end - begin) // CHUNK_ROWS)
        cuts += [begin + (end - begin) * (j + 1) // n for j in range(n)]
        first.append(len(cuts) - 1)
    shards = Shards(objects, 0, f"projection-{place}")
    for begin, end in pairwise(cuts):
        data = _chunk(number[begin:end], columns, codes, rows, table, home, centres)
        shards.add(data, len(data))
    sizes = np.diff(cuts).tolist()
    directory = Directory(
        array("I", range(len(sizes))), array("I", sizes), array("I", sizes), (shards.close(),)
    )  # fmt: skip
    blocks = home[number[np.array(cuts[:-1], np.int64)]].tolist()
    return Projection(place, low, high, [first[: len(high) + 1]], blocks, directory)


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


def write_pages(whole: Projection, objects: ObjectList) -> Projection:
    """The projection of the pages that the chunks of one are written into."""
    (begins,), n, chunks = whole.first, len(whole.low), len(whole.block)
    valued = begins[n]
    cuts = [*page_starts(begins), *range(valued, chunks, PAGE_CHUNKS), chunks]
    shards = Shards(objects, 0, f"projection-{whole.field}-pages")
    low, high, rows = list[int](), list[int](), list[int]()
    for a, b in pairwise(cuts):
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
        shards.add(data, len(data))
        rows.append(own.at_home)
    directory = Directory(array("I", range(len(rows))), array("I", rows), array("I", rows), (shards.close(),))
    return Projection(whole.field, low, high, [range(len(low) + 1)], [whole.block[a] for a in cuts[:-1]], directory)


def _chunk(
    number: Ints, columns: Sequence[Column], codes: RowCodes, rows: Rows, table: RowTable, home: Ints,
    centres: Centres | None,
) -> bytes:  # fmt: skip
    """The rows of these numbers; centres: of all blocks, where chunks have those of their own."""
    source = table.source[number]
    own = Slots(
        table.stored[number], codes.codes[number], codes.f[number], codes.h[number], table.checks[number],
        table.spots[number] if table.by_row else table.spots[number, :0], objects_of(ids_as_bytes(rows, source)),
    )  # fmt: skip
    keys = [(one.field.many, lists_of(*one.some(source))) for one in columns]
    return packed_chunk(own, home[number], keys, codes.ranges, rows.stored.id_kind, centres)


def packed_chunk(
    own: Slots, home: Ints, keys: Sequence[tuple[bool, Values]], ranges: F32, id_kind: str, centres: Centres | None
) -> bytes:
    """A chunk of rows. home i64 (n): their blocks; keys: of each field whether its values are lists, and those of the
    rows; ranges f32 (B, 4): of all blocks; centres: of all blocks, where chunks have those of their own.
    """
    n, width = own.codes.shape
    padded = aligned(n, GROUP)
    blocks, of = np.unique(home, return_inverse=True)
    groups = np.zeros((padded, width), np.uint8)
    groups[:n] = own.codes

    def column(values: npt.NDArray[np.generic]) -> bytes:
        return values.tobytes() + bytes((padded - n) * values.itemsize)

    planes = [
        groups.reshape(-1, GROUP, width).transpose(0, 2, 1).tobytes(),
        column(own.f), column(own.h), column(own.number), column(of.astype(np.uint8)),
    ]  # fmt: skip
    tail = [column(own.check), *(column(np.ascontiguousarray(spots)) for spots in own.spot.T)]
    ids = own.id.tolist()
    id_width, id_plane = pack_ids(ids) if id_kind == "bytes" else (8, b"".join(ids))
    table = b""
    if centres is not None:
        each = [centre_at(centres, block) for block in blocks.tolist()]
        numbers = [c.scale for c in each] + [c.bias for c in each]
        table = struct.pack(f"<{len(numbers)}f", *numbers) + b"".join(c.row for c in each)
    return pack_chunk(
        n, id_width, blocks.tolist(), ranges[blocks].astype(np.float32).tobytes(), table, planes, pack_columns(keys),
        [*tail, id_plane],
    )  # fmt: skip
