"""Merges the segments of a projection into one, without the rows that died, with the factors of blocks as they are."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import groupby, pairwise
from operator import itemgetter

import numpy as np

from vantage.format import (
    CHUNK_ROWS,
    Directory,
    Projection,
    damaged,
    open_chunk,
    unpack_columns,
)
from vantage.read.waves import Item

from ..bucket.rows import Stored, gather, is_dead
from ..ingest.rows import F32, Ints
from ..progress import Progress
from ..slots import Slots, Table, cut, in_range, joined, merged, objects_of, slots_of
from ..write.objects import ObjectList
from ..write.shard import Shards
from .counts import Counted
from .projections import packed_chunk

READ_CHUNKS = 256  # of a segment, at a time


def merge_segments(
    stored: Stored, projection: Projection, ranges: F32, counted: Counted, objects: ObjectList, progress: Progress
) -> Projection:
    """Writes the chunks of all segments as those of one, a few of each segment in memory at a time. ranges f32 (B, 4):
    of the new blocks. counted: takes the rows of a field that blocks have no column of.
    """
    root, n, place = stored.root, len(projection.low), projection.field
    block_bits, row_bits = (root.index.blocks - 1).bit_length(), (root.index.rows - 1).bit_length()
    bucket_of = np.zeros(len(projection.block), np.int64)
    for j in range(n + 1):
        for own in projection.chunks(j):
            bucket_of[own.start : own.stop] = j
    begins = [*(own[0] for own in projection.first), len(projection.block)]
    streams = [
        _rows(stored, projection, range(*ends), bucket_of << block_bits, row_bits, ranges) for ends in pairwise(begins)
    ]
    many, inside = [f.many for f in root.filters], root.filters[place].in_blocks
    shards = Shards(objects, 0, f"projection-{place}")
    sizes, blocks, used, first = array("I"), list[int](), list[int](), [0]
    seen, total = 0, sum(projection.directory.rows)
    for bucket, (key, *columns, keys) in _chunks(merged(streams), block_bits + row_bits):
        home, rows = key >> row_bits & (1 << block_bits) - 1, keys.tolist()
        if bucket < n:
            if used[-1:] != [bucket]:
                used.append(bucket)
                first.append(0)
            first[-1] = len(sizes) + 1
            if not inside:  # of a list, once: where its least value is
                ends = projection.low[bucket], projection.high[bucket]
                counted.add(place, home, [own[place] if ends[0] <= own[place][0] <= ends[1] else [] for own in rows])
        lists = [(several, [own[i] for own in rows]) for i, several in enumerate(many)]
        data = packed_chunk(Slots(*columns), home, lists, ranges, root.index.id_kind, None)
        shards.add(data, len(data))
        sizes.append(len(key))
        blocks.append(int(home[0]))
        seen += len(key)
        progress(seen / total)
    directory = Directory(array("I", range(len(sizes))), sizes, sizes, (shards.close(),))
    low, high = ([column[j] for j in used] for column in (projection.low, projection.high))
    return Projection(place, low, high, [first], blocks, directory)


def _rows(
    stored: Stored, projection: Projection, chunks: range, bucket_of: Ints, row_bits: int, ranges: F32
) -> Iterator[Table]:
    """Of chunks of a segment, the rows that live: a key that rises, of bucket, block and number; slots with factors in
    these ranges of blocks; and the values of all fields.
    """
    root, places = stored.root, projection.directory.places[0]
    for low in range(chunks.start, chunks.stop, READ_CHUNKS):
        some = range(low, min(low + READ_CHUNKS, chunks.stop))
        items = []
        for c in some:
            number, what = places.object[c], f"chunk {c} of field {projection.field}"
            key, whole = stored.keys[number], root.objects.sizes[number]
            items.append(Item(key, places.offset[c], places.size[c], whole, places.crc[c], what))
        tables = list[Table]()
        for i, data in gather(stored.store, items):
            label = f"{items[i].key}, {items[i].what}"
            opened = open_chunk(
                data, projection.directory.rows[some[i]], len(data), root.codec.code_bytes, root.index, False, label
            )
            at = opened.at
            slots = slots_of(
                data, at, opened.id_width, root.codec.code_bytes, root.index.id_kind, label, by_row=root.index.by_row
            )
            of = np.frombuffer(data, np.uint8, at.n, at.homes)
            home = np.array(opened.blocks, np.int64)[of]
            known = np.frombuffer(data, "<f4", 4 * len(opened.blocks), at.ranges).reshape(-1, 4)[of]
            new = ranges[home]
            slots = slots._replace(
                f=in_range(slots.f, known[:, :2], new[:, :2]), h=in_range(slots.h, known[:, 2:], new[:, 2:])
            )
            columns = unpack_columns(memoryview(data)[at.columns : at.columns_end], at.n, label)
            if len(columns) != len(root.filters) or any(column is None for column in columns):
                raise damaged(label, "a column is missing")
            keys = objects_of([*zip(*columns, strict=True)])
            order = (bucket_of[some[i]] | home) << row_bits | slots.number
            live = ~is_dead(root.dead, slots.number)
            tables.append(tuple(column[live] for column in (order, *slots, keys)))
        yield joined(tables)


def _chunks(tables: Iterator[Table], shift: int) -> Iterator[tuple[int, Table]]:
    """(bucket, rows) of chunks of rows whose key has the bucket behind so many bits."""

    def runs() -> Iterator[tuple[int, Table]]:
        for table in tables:
            bucket = table[0] >> shift
            ends = [0, *(np.flatnonzero(np.diff(bucket)) + 1).tolist(), len(bucket)]
            for low, high in pairwise(ends):
                yield int(bucket[low]), tuple(column[low:high] for column in table)

    for bucket, group in groupby(runs(), itemgetter(0)):
        for rows in cut((table for _, table in group), CHUNK_ROWS):
            yield bucket, rows
