"""What the filters of an index become as rows come and go: keys of new texts, fields, counts, segments of projections.

A flush calls `grow` with the rows that it writes and those that go, writes its blocks with the columns that it gives,
and then `grow_projections`, which writes the chunks of the same rows.
"""

from __future__ import annotations

import json
import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vantage.errors import DamagedError, InputError
from vantage.filter.facet import values_of
from vantage.format import (
    CHUNK_ROWS,
    Centres,
    ChunkObjects,
    Counts,
    Directory,
    FieldCounts,
    FilterField,
    Places,
    Projection,
    Root,
    damaged,
    first_of_pages,
)
from vantage.format.columns import BITS_MAX
from vantage.format.directory import PLACES
from vantage.format.filters import TEXT_KEYS

from ..ingest.rows import Ints, Rows
from ..write.contents import RowTable
from ..write.objects import ObjectList
from .codes import RowCodes
from .columns import TEXT_BYTES_MAX, Column, column_of, text_keys
from .counts import STEP, most_buckets, write_tables
from .projections import BUCKET_ROWS, write_projection, write_segment
from .projections import BUCKETS_MAX as PROJECTED_MAX

END_STEP = 1 << 12  # between the keys of texts before all others, and behind: room for many, in many flushes
LATER_ROWS = 48  # of a bucket of later pages: most have one chunk, which is all that a value of few rows then reads
FULL = 4  # times the rows that a bucket of its own is worth: more do not join


class CannotGrow(InputError):
    """Why rows cannot come and go in an index that stays as it is otherwise: all of it is to be written anew."""


class Buckets(NamedTuple):
    """Buckets of keys, rising and apart. old: of each the bucket that it was, -1 for a new one."""

    low: list[int]
    high: list[int]
    old: list[int]

    def of(self, keys: npt.NDArray[np.integer]) -> Ints:
        """The buckets that keys are in."""
        out: Ints = np.searchsorted(np.asarray(self.high, np.int64), keys)
        return out


@dataclass(frozen=True)
class Grown:
    """The filters of an index with the rows that came. columns: keys of the rows that are written, by source row, of
    the fields as they are now; buckets: of each projection of chunks.
    """

    columns: list[Column]
    counts: Counts
    buckets: list[Buckets]

    @property
    def fields(self) -> tuple[FilterField, ...]:
        """What the root says of them."""
        return tuple(column.field for column in self.columns)


def grow(
    root: Root, records: Sequence[bytes], home: Ints, moved: int, gone: Sequence[tuple[bytes, int]], objects: ObjectList
) -> Grown:
    """The filters of an index with rows that come, and without rows that go. Its counts have their tables; those of a
    large one are written.

    records, home i64 (n): the attributes as JSON of the rows that are written, and the blocks that they are at home in;
    the first `moved` of them are in the index already. gone: attributes, and the block, -1 where nobody can guess it.
    Raises CannotGrow, DamagedError.
    """
    if root.counts is None:
        raise CannotGrow("it has no counts of values", hint="compact it whole")
    written, old = _values(root, records), _values(root, [record for record, _ in gone])
    left = np.array([block for _, block in gone], np.int64)
    columns, counts, buckets = list[Column](), list[FieldCounts](), list[Buckets]()
    blocks = root.index.blocks
    most = most_buckets(blocks, len(root.filters), root.paged)
    for i, (field, own) in enumerate(zip(root.filters, root.counts.fields, strict=True)):
        values = written[i]
        grown = _with_new_texts(field, {text for row in values for text in row}) if field.ranked else field
        every, added, dropped = (_column(root, grown, some) for some in (values, values[moved:], old[i]))
        _check_blocks(every)
        placed = place_keys(own.low, own.high, own.totals, added, most, max(CHUNK_ROWS, field.rows // most))
        counted = _counted(own, placed, every, moved, home, dropped, left, blocks, [root.index.rows, i])
        columns.append(replace(every, field=_field(grown, own, counted, placed, added, dropped)))
        counts.append(counted)
    for projection in root.known_projections:
        rows = [sum(sum(projection.directory.rows[c] for c in chunks) for chunks in projection.chunks(j))
                for j in range(len(projection.low))]  # fmt: skip
        column = columns[projection.field]
        buckets.append(place_keys(projection.low, projection.high, rows, column, 2 * PROJECTED_MAX, BUCKET_ROWS))
    grown_counts = replace(root.counts, fields=tuple(counts))
    return Grown(columns, write_tables(grown_counts, blocks, objects) if root.paged else grown_counts, buckets)


def _values(root: Root, records: Sequence[bytes]) -> list[list[list[Any]]]:
    """Of each field, of each of these rows, the values as keys, of texts with ranks their UTF-8: as queries see them
    while they are in the log. Raises CannotGrow.
    """
    out: list[list[list[Any]]] = [[] for _ in root.filters]
    for record in records:
        values = json.loads(record)
        for own, field in zip(out, root.filters, strict=True):
            try:
                own.append(values_of(field, values[field.attribute], "a row"))
            except DamagedError as error:
                raise CannotGrow(error.message, hint="write the row again") from None
    return out


def _column(root: Root, field: FilterField, values: Sequence[Sequence[Any]]) -> Column:
    name = root.names[field.attribute]
    if field.ranked:
        key_of = text_keys(field)
        try:
            values = [[key_of(text) for text in row] for row in values]
        except KeyError as error:
            raise damaged("root.bin, section filters", f"{name!r} does not have the text {error}") from None
    return column_of(name, field, [*chain.from_iterable(values)], [len(row) for row in values])


def _check_blocks(column: Column) -> None:
    """Raises CannotGrow where a block could have more values than the table of its column has room for."""
    if column.field.many and column.field.in_blocks and len(np.unique(column.keys)) > 1 << BITS_MAX:
        raise CannotGrow(f"{column.name!r} has too many new values for a block", hint="compact more often")


def with_room(column: Column) -> Column:
    """The same, the keys of its texts with room between them for texts to come."""
    field = column.field
    texts = {field.text_at(rank) for rank in range(len(field.ends) - 1)}
    if not texts:
        return column
    grown = _with_new_texts(replace(field, ends=(0,), texts=b"", totals=(), keys=()), texts)
    grown = replace(grown, totals=field.totals, low=grown.key(0), high=grown.key(len(texts) - 1))
    return replace(column, field=grown, keys=np.array(grown.keys, np.int64)[column.keys])


def _with_new_texts(field: FilterField, texts: Collection[bytes]) -> FilterField:
    """The same with these texts too; those that are new have keys between those of their neighbours, and totals of 0.
    Raises CannotGrow where there is no key left between, or the root no room.
    """
    name, known = f"attribute {field.attribute}", len(field.ends) - 1
    by_place = dict[int, list[bytes]]()
    for text in sorted(texts):
        rank = field.rank(text, after=False)
        if rank == known or field.text_at(rank) != text:
            by_place.setdefault(rank, []).append(text)
    if not by_place:
        return field
    every, keys, totals = list[bytes](), array("I"), list[int]()
    for rank in range(known + 1):
        own = by_place.get(rank, [])
        low, high = field.key(rank - 1) if rank else -1, field.key(rank) if rank < known else TEXT_KEYS
        if high - low <= len(own):
            raise CannotGrow(f"there is no key between two texts of {name} for a new one", hint="compact it whole")
        step = (high - low) / (len(own) + 1)
        if known and rank == known:
            high = low + (len(own) + 1) * min(int(step), END_STEP)
        elif known and not rank:
            low = high - (len(own) + 1) * min(int(step), END_STEP)
        keys.extend(low + (high - low) * (j + 1) // (len(own) + 1) for j in range(len(own)))
        every, totals = every + own, totals + [0] * len(own)
        if rank < known:
            every.append(field.text_at(rank))
            keys.append(field.key(rank))
            totals.append(field.totals[rank])
    if sum(map(len, every)) + 4 * len(every) > TEXT_BYTES_MAX:
        raise CannotGrow(f"{name} has too many texts for the root to list", hint="compact it whole")
    return replace(field.with_texts(every, keys), totals=totals)


def place_keys(
    low: Sequence[int], high: Sequence[int], rows: Sequence[int], column: Column, most: int, worth: int
) -> Buckets:
    """Buckets that have the keys of a column too: those between two go to the one of several keys beside them that has
    fewer rows, or are buckets of their own where they are so many rows, the others are full, or of a single key; as
    long as there are no more than `most` in all. rows (n): of each bucket; worth: that a bucket should have.
    """
    keys, own = np.unique(column.values()[1], return_counts=True)
    out = Buckets(list(low), list(high), list(range(len(low))))
    gap = np.asarray(
        np.searchsorted(np.asarray(low, np.int64), keys, side="right"), np.int64
    )  # between bucket gap - 1 and this one
    outside = (gap == 0) | (keys > np.concatenate([[0], np.asarray(high, np.int64)])[gap])
    for place in np.unique(gap[outside])[::-1].tolist():  # so that places before stay what they are
        own_keys, own_rows = keys[outside & (gap == place)], own[outside & (gap == place)]
        total, beside = int(own_rows.sum()), [j for j in (place - 1, place) if 0 <= j < len(low)]
        wide = [j for j in beside if out.low[j] < out.high[j] and rows[j] < FULL * worth]
        free = most - len(out.low)
        if beside and (free < 1 or (wide and total < worth)):
            j = min(wide or beside, key=lambda j: rows[j])
            out.low[j], out.high[j] = min(out.low[j], int(own_keys[0])), max(out.high[j], int(own_keys[-1]))
            continue
        parts = min(max(1, total // worth), max(1, free), len(own_keys))
        part = (np.cumsum(own_rows) - own_rows) * parts // total
        starts = np.flatnonzero(np.append(True, part[1:] != part[:-1]))
        out.low[place:place] = own_keys[starts].tolist()
        out.high[place:place] = own_keys[np.append(starts[1:], len(own_keys)) - 1].tolist()
        out.old[place:place] = [-1] * len(starts)
    return out


def _once(column: Column, buckets: Buckets) -> tuple[Ints, Ints]:
    """(row, bucket) of every value of a column; of lists, each bucket once a row."""
    row, keys = column.values()
    pairs = np.unique(row.astype(np.int64) * max(1, len(buckets.low)) + buckets.of(keys))
    rows, bucket = np.divmod(pairs, max(1, len(buckets.low)))
    return rows, bucket


def _counted(
    own: FieldCounts, buckets: Buckets, every: Column, moved: int, home: Ints, dropped: Column, left: Ints, blocks: int,
    seed: Sequence[int],
) -> FieldCounts:  # fmt: skip
    """Counts of a field with the rows that came and without those that went: totals are exact. A block's number is the
    old one with the difference, rounded at random so that it is right in the mean, however often single rows come; and
    never back at 0 unless no row at all is left, as nobody knows that the last one went.
    """
    n = len(buckets.low)
    old, totals = np.array(buckets.old, np.int64), np.zeros(n, np.int64)
    before = np.frombuffer(bytes(own.table), np.uint8).reshape(-1, blocks)
    codes = np.zeros((n, blocks), np.uint8)
    codes[old >= 0], totals[old >= 0] = before[old[old >= 0]], np.asarray(own.totals, np.int64)[old[old >= 0]]
    table = np.where(codes > 0, STEP ** (codes.astype(np.float64) - 1), 0)
    came, went = np.zeros((n, blocks), np.int64), np.zeros((n, blocks), np.int64)
    rows, there = _once(every, buckets)
    new = rows >= moved
    np.add.at(totals, there[new], 1)
    np.add.at(came, (there[new], home[rows[new]]), 1)
    gone, bucket = _once(dropped, buckets)
    np.add.at(totals, bucket, -1)
    np.add.at(went, (bucket[left[gone] >= 0], left[gone[left[gone] >= 0]]), 1)
    if (totals < 0).any():
        raise damaged("root.bin, section counts", f"fewer rows have {every.name!r} than were deleted")
    draw = np.random.default_rng(seed).random((n, blocks))
    exact = np.maximum(table + came - went, 1)
    below = np.floor(np.log(exact) / np.log(STEP))
    up = (exact - STEP**below) / (STEP ** (below + 1) - STEP**below) > draw
    changed = np.minimum(1 + below + up, 255).astype(np.uint8)
    codes = np.where((came > 0) | ((went > 0) & (table > 0)), changed, codes)
    codes[there, home[rows]] = np.maximum(codes[there, home[rows]], 1)
    codes[totals == 0] = 0
    return FieldCounts(buckets.low, buckets.high, totals.tolist(), codes.tobytes(), about=True)


def _field(
    field: FilterField, before: FieldCounts, counts: FieldCounts, buckets: Buckets, added: Column, dropped: Column
) -> FilterField:
    """What the root says of a field. distinct: as many as are known without a look at all rows."""
    came, went = int((added.counts > 0).sum()), int((dropped.counts > 0).sum())
    keys = np.unique(added.values()[1]).tolist()
    low, high = (field.low, field.high) if field.rows else (keys[0], keys[-1]) if keys else (0, 0)
    if keys:
        low, high = min(low, keys[0]), max(high, keys[-1])
    field = replace(field, rows=field.rows + came - went, low=low, high=high)
    if field.ranked:
        totals = np.array(field.totals, np.int64)
        for column, sign in (added, 1), (dropped, -1):
            some, rows = np.unique(column.values()[1], return_counts=True)
            ranks = [field.ranks(key, key)[0] for key in some.tolist()]
            totals[ranks] += sign * rows
        return replace(field, totals=totals.tolist())
    if all(a == b for a, b in zip(counts.low, counts.high, strict=True)):
        return replace(field, distinct=sum(map(bool, counts.totals)))
    at = [bisect_right(before.low, key) - 1 for key in keys]
    new = sum(j < 0 or key > before.high[j] for j, key in zip(at, keys, strict=True))
    return replace(field, distinct=field.distinct + new)


def first_segments(projections: Sequence[Projection], count: int) -> tuple[Projection, ...]:
    """Projections without the segments behind the first `count`."""
    out = []
    for p in projections:
        end = p.first[count][0] if count < len(p.first) else len(p.block)
        p = replace(
            p, first=p.first[:count], block=p.block[:end], directory=p.directory.some(range(end)),
            objects=p.objects[:count],
        )  # fmt: skip
        if p.objects:
            valued = sum(valued for valued, _ in p.pages)
            p = replace(p, low=p.low[:valued], high=p.high[:valued], first=first_of_pages(p.pages))
        out.append(p)
    return tuple(out)


def with_objects(root: Root) -> tuple[Projection, ...]:
    """The projections of a root, those of pages with the objects that their chunks lie in: of a build those that have
    its names, and the numbers that it gave them.
    """
    if not root.paged:
        return root.projections
    names, out = [key.rpartition("/")[2] for key in root.objects.keys], list[Projection]()
    for p in root.projections:
        if not p.objects:
            own = [n for n, name in enumerate(names) if re.fullmatch(rf"projection-{p.field}-\d+\.bin", name)]
            if own != [*range(own[0], own[0] + len(own))]:
                raise damaged("root.bin, section objects", f"objects of a projection are apart: {own}"[:200])
            p = replace(p, objects=(ChunkObjects(own[0], len(own), own[0]),))
        out.append(p)
    return tuple(out)


def grow_projections(
    projections: Sequence[Projection], grown: Grown, codes: RowCodes, rows: Rows, table: RowTable, blocks: Ints,
    centres: Centres, objects: ObjectList,
) -> tuple[Projection, ...]:  # fmt: skip
    """The projections with one segment more, of all the rows that were written: those of `grown`.

    codes, table: of these rows, in blocks that have the numbers `blocks` among those of `centres`.
    """
    total = len(centres.scale)
    ranges = np.zeros((total, 4), np.float32)
    ranges[blocks] = codes.ranges
    codes, home = replace(codes, ranges=ranges), np.repeat(blocks, table.homes)
    if grown.counts.paged:

        def written(field: int) -> Projection:
            return write_projection(field, grown.columns, codes, rows, table, home, centres, objects, LATER_ROWS)

        return tuple(_with_pages(old, written, objects) for old in projections)
    out = []
    for old, (low, high, was) in zip(projections, grown.buckets, strict=True):
        new = write_segment(old.field, low, high, grown.columns, codes, rows, table, home, None, objects)
        known = [j for j, own in enumerate(was) if own >= 0]
        before = [bisect_left(known, j) for j in range(len(was) + 1)]  # of its buckets, those there were
        start = len(old.block)
        first = [*([own[j] for j in before] for own in old.first), [start + chunk for chunk in new.first[0]]]
        directory = _followed(old.directory, new.directory)
        out.append(Projection(old.field, low, high, first, [*old.block, *new.block], directory))
    return tuple(out)


def _with_pages(old: Projection, written: Callable[[int], Projection], objects: ObjectList) -> Projection:
    """A projection of pages with one segment more, which written(field) writes."""
    begun = len(objects.sizes)
    new = written(old.field)
    own = ChunkObjects(begun, new.directory.places[0].object[0] - begun, begun)
    return Projection(
        old.field, [*old.low, *new.low], [*old.high, *new.high], first_of_pages([*old.pages, *new.pages]),
        [*old.block, *new.block], _followed(old.directory, new.directory), objects=(*old.objects, own),
    )  # fmt: skip


def _followed(one: Directory, other: Directory) -> Directory:
    """The chunks of one directory, and those of another behind them."""

    def both(name: str) -> array[int]:
        code = "Q" if name == "offset" else "I"
        return array(code, [*getattr(one.places[0], name), *getattr(other.places[0], name)])

    rows = array("I", [*one.rows, *other.rows])
    return Directory(array("I", range(len(rows))), rows, rows, (Places(*map(both, PLACES)),))
