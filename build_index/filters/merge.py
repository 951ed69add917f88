"""Merges the segments of a projection into one, without the rows that died, with the factors of blocks as they are."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from vantage.format import (
    CHUNK_ROWS,
    Centres,
    Directory,
    Projection,
    damaged,
    open_chunk,
    unpack_chunk_page,
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
from .projections import bucket_rows, packed_chunk, write_pages

READ_CHUNKS = 256  # of a segment, at a time
# Rows of a projection are merged by these, big-endian, as one string of bytes: those without a value come last.
ORDER = np.dtype([("last", "u1"), ("key", ">u8"), ("block", ">u4"), ("number", ">u4")])
RUN, PLACE = np.dtype([("run", "S9"), ("place", "S8")]), np.dtype([("run", "S9"), ("place", ">u8")])
SIGN = np.uint64(1 << 63)


def merge_segments(
    stored: Stored, projection: Projection, ranges: F32, centres: Centres | None, counted: Counted,
    objects: ObjectList, progress: Progress,
) -> Projection:  # fmt: skip
    """Writes the rows of all segments as those of one, in buckets like those of a build. Holds a few chunks of each
    segment, the rows of a bucket of several keys, and the directory.

    ranges f32 (B, 4): of the new blocks; centres: of a large index, whose directories are in pages. counted: takes the
    rows of a field that blocks have no column of.
    """
    root, place = stored.root, projection.field
    field, many = root.filters[place], [f.many for f in root.filters]
    total = sum(projection.directory.rows)
    worth = bucket_rows(field, total, root.paged)
    streams = [_rows(stored, projection, segment, ranges) for segment in range(len(projection.first))]
    shards = Shards(objects, 0, f"projection-{place}")
    sizes, blocks, low, high, first, seen = array("I"), list[int](), list[int](), list[int](), [0], 0
    for ends, group in groupby(_buckets(merged(streams), worth), itemgetter(0)):
        for order, *columns, keys in cut((table for _, table in group), CHUNK_ROWS):
            home, rows = order.view(ORDER)["block"].astype(np.int64), keys.tolist()
            if ends and not field.in_blocks:  # of a list, once: where its least value is
                counted.add(place, home, [own[place] if ends[0] <= own[place][0] <= ends[1] else [] for own in rows])
            lists = [(several, [own[i] for own in rows]) for i, several in enumerate(many)]
            data = packed_chunk(Slots(*columns), home, lists, ranges, root.index.id_kind, centres)
            shards.add(data, len(data))
            sizes.append(len(rows))
            blocks.append(int(home[0]))
            seen += len(rows)
            progress(min(1.0, seen / total))
        if ends:
            low.append(ends[0])
            high.append(ends[1])
            first.append(len(sizes))
    directory = Directory(array("I", range(len(sizes))), sizes, sizes, (shards.close(),))
    whole = Projection(place, low, high, [first], blocks, directory)
    return whole if centres is None else write_pages(whole, objects)


def _buckets(tables: Iterator[Table], worth: int) -> Iterator[tuple[tuple[int, ...], Table]]:
    """(least and largest key, none of rows without one; rows) of buckets, in turn: a key of `worth` rows is a bucket of
    its own, which may come in pieces, and rarer ones share. A row is in a bucket once.
    """
    rest, going = list[Table](), None  # what is looked at with the rows to come; the key of the last piece
    for table in chain(tables, (None,)):
        every = rest if table is None else [*rest, table]
        if not every:
            return
        rows = joined(every)
        own, run = rows[0].view(ORDER), rows[0].view(RUN)["run"]
        key, last, begin, start = (own["key"] ^ SIGN).view(np.int64).tolist(), own["last"].tolist(), 0, 0
        for end in [*(np.flatnonzero(run[1:] != run[:-1]) + 1).tolist(), len(run)]:
            alone = last[start] or end - start >= worth or run[start] == going
            if end == len(run) and not alone and table is not None:
                break  # more rows of this key may come
            if alone and begin < start:
                yield (key[begin], key[start - 1]), _by_block(rows, begin, start)
                begin = start
            if alone:
                yield (() if last[start] else (key[start], key[start])), _some(rows, begin, end)
                begin, going = end, run[start]
            elif end - begin >= worth or end == len(run):
                yield (key[begin], key[end - 1]), _by_block(rows, begin, end)
                begin = end
            start = end
        rest = [_some(rows, begin, len(run))] if begin < len(run) else []


def _some(rows: Table, begin: int, end: int) -> Table:
    """Those from `begin` up to `end`."""
    return tuple(column[begin:end] for column in rows)


def _by_block(rows: Table, begin: int, end: int) -> Table:
    """Some of the rows, each once, by block and number."""
    place = rows[0].view(PLACE)["place"][begin:end]
    _, first = np.unique(place, return_index=True)
    return tuple(column[begin:end][first] for column in rows)


def _rows(stored: Stored, projection: Projection, segment: int, ranges: F32) -> Iterator[Table]:
    """The rows of a segment that live, once for each key in their bucket, in order: `ORDER` as one string of bytes;
    slots with factors in these ranges of blocks; and the values of all fields.
    """
    rest = list[Table]()  # of a bucket of several keys that may go on
    for part in _parts(stored, projection, segment):
        bucket_of = np.searchsorted(np.asarray(part.first[0]), np.arange(len(part.block)), "right") - 1
        ends = [*zip(part.low, part.high, strict=True), ()]
        for low in range(0, len(part.block), READ_CHUNKS):
            some = range(low, min(low + READ_CHUNKS, len(part.block)))
            table = joined([*rest, *_chunks(stored, part, some, [ends[j] for j in bucket_of[some]], ranges)])
            by_order = np.argsort(table[0], kind="stable")
            table, last, at = tuple(column[by_order] for column in table), ends[bucket_of[some[-1]]], len(by_order)
            if last and last[0] < last[1]:
                at = int(np.searchsorted(table[0], _order(last[0], np.zeros(1, np.int64), np.zeros(1, np.int64))[0]))
            yield _some(table, 0, at)
            rest = [_some(table, at, len(by_order))]
    yield from rest


def _parts(stored: Stored, projection: Projection, segment: int) -> Iterator[Projection]:
    """A segment as projections of its chunks alone, in turn: of a large index those of its pages."""
    root, first = stored.root, projection.first[segment]
    end = projection.first[segment + 1][0] if segment + 1 < len(projection.first) else len(projection.block)
    some = range(first[0], end)
    if not root.paged:
        own = [chunk - first[0] for chunk in first]
        block, directory = projection.block[first[0] : end], projection.directory.some(some)
        yield Projection(projection.field, projection.low, projection.high, [own], block, directory)
        return
    items = _items(stored, projection, some, "page")
    for i, data in gather(stored.store.read, items):
        label = f"{items[i].key}, {items[i].what}"
        yield unpack_chunk_page(data, projection, some[i], root.index.blocks, root.objects.sizes, label)


def _items(stored: Stored, projection: Projection, some: range, what: str) -> list[Item]:
    """Chunks, or pages of chunks, of a projection."""
    places, out = projection.directory.places[0], list[Item]()
    for c in some:
        number, label = places.object[c], f"{what} {c} of field {projection.field}"
        whole = stored.root.objects.sizes[number]
        out.append(Item(stored.keys[number], places.offset[c], places.size[c], whole, places.crc[c], label))
    return out


def _chunks(
    stored: Stored, part: Projection, some: range, ends: Sequence[tuple[int, ...]], ranges: F32
) -> Iterator[Table]:
    """Rows of chunks. ends: of the bucket of each; none where its rows have no value."""
    root, items = stored.root, _items(stored, part, some, "chunk")
    index, code_bytes = root.index, root.codec.code_bytes
    for i, data in gather(stored.store.read, items):
        label, n = f"{items[i].key}, {items[i].what}", part.directory.rows[some[i]]
        opened = open_chunk(data, n, len(data), code_bytes, index, root.paged, label)
        at = opened.at
        slots = slots_of(data, at, opened.id_width, code_bytes, index.id_kind, label, by_row=index.by_row)
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
        keys, which = np.zeros(n, np.int64), np.arange(n)
        if ends[i]:
            low, high = ends[i]
            own = [[key for key in row if low <= key <= high] for row in columns[part.field] or ()]
            if not all(own):
                raise damaged(label, "a row has no value of its bucket")
            keys, which = np.array([key for row in own for key in row], np.int64), np.repeat(which, [*map(len, own)])
        order = _order(keys if ends[i] else None, home[which], slots.number[which])
        live = ~is_dead(root.dead, slots.number[which])
        every = *slots, objects_of([*zip(*columns, strict=True)])
        yield order[live], *(column[which[live]] for column in every)


def _order(keys: Ints | int | None, block: Ints, number: npt.NDArray[np.integer]) -> npt.NDArray[np.bytes_]:
    """S17 (n): what rows are merged by. None: of rows without a value."""
    out = np.zeros(len(block), ORDER)
    out["last"] = keys is None
    if keys is not None:
        out["key"] = np.asarray(keys, np.int64).view(np.uint64) ^ SIGN
    out["block"], out["number"] = block, number
    return out.view(f"S{ORDER.itemsize}")
