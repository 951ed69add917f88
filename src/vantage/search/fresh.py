"""Fresh rows: what the log says behind a generation, kept so that it is scanned, filtered and looked up in memory."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from heapq import nsmallest
from itertools import compress
from typing import Any, NamedTuple

from ..errors import DamagedError
from ..filter.facet import values_of
from ..filter.program import compile_filter, resolve
from ..format import VECTOR_BYTES, FilterField, Root, damaged, keys_in, pack_columns, unpack_columns
from ..format.log import Id
from ..log.tail import DELETE, PATCH, Tail, members_of, packed_members
from .filtered import Selection
from .prepare import Prepared
from .rank import Match, best_first, comparable, lengths_of, products, score_of
from .rows import json_bytes, names_bytes
from .scan import rows_taken
from .superseded import IdTable, Superseded

ROW_BYTES = 100  # of a row, and of an id, beside vector and attributes: as objects of Wasm, and places in tables
VALUE_BYTES = 16  # of a field of a row in columns, beside texts
FIRST_ROWS = 256  # of a scan, all of which get a score
WHERE = "rows of the log"  # of errors
Values = Sequence[Sequence[Any]]  # of rows
GONE = -1  # instead of a place: an id without a row
BOUND_SHARE = 1e-9  # more than f64 rounds a product by
BLOCK_BYTES = 256 << 10  # of vectors that lie together
ADDED_ROWS = 256  # whose vectors are joined at a time
DEAD_BYTES = 1 << 20  # of rows, that may be there beside as much as is live
# Of a chunk of columns: rows, and values, which are objects while it is packed; and rows of one with lists, so that it
# holds no more values than one may.
CHUNK_ROWS, CHUNK_VALUES, LIST_ROWS = 8192, 16384, 256
VALUES_MAX = 1 << 16  # of a chunk, of however few rows


class BaseRow(NamedTuple):
    """A row of the generation: its vector as it is stored, and its attributes by name."""

    vector: bytes
    attributes: Mapping[str, Any]


class _Chunk(NamedTuple):
    """Columns of n rows, as a block has them. fields: with texts of these rows alone, whose ranks are their keys."""

    n: int
    fields: tuple[FilterField, ...]
    plane: memoryview

    def values(self, field: int) -> Values:
        """What each row has of a field: keys, of texts with ranks their UTF-8."""
        return _told(self.fields[field], keys_in(self.plane, self.n, field, WHERE))

    def every(self) -> list[Values]:
        """The same of each field."""
        columns = unpack_columns(self.plane, self.n, WHERE)
        return [_told(own, keys) for own, keys in zip(self.fields, columns, strict=True) if keys is not None]


def _told(field: FilterField, keys: Values) -> Values:
    """Keys of rows, or the texts that they stand for."""
    if not field.ranked:
        return keys
    texts = [field.text_at(rank) for rank in range(len(field.ends) - 1)]
    return [[texts[rank] for rank in row] for row in keys]


class _Blocks:
    """Vectors of one width in bytes, in blocks of so many bytes or one vector, which do not move as more come."""

    def __init__(self, width: int) -> None:
        self.width, self.rows = width, max(1, BLOCK_BYTES // width)  # rows of a block
        self.blocks = list[bytearray]()

    def add(self, vectors: bytes | memoryview) -> None:
        """One after the other."""
        view, full = memoryview(vectors), self.rows * self.width
        while view:
            if not self.blocks or len(self.blocks[-1]) == full:
                self.blocks.append(bytearray())
            room = full - len(self.blocks[-1])
            self.blocks[-1] += view[:room]
            view = view[room:]

    def row(self, place: int) -> bytes:
        """One of them."""
        block, i = divmod(place, self.rows)
        return bytes(memoryview(self.blocks[block])[i * self.width : (i + 1) * self.width])

    def first(self, rows: int) -> Iterator[tuple[bytearray, int]]:
        """The blocks of the first so many, and how many each has of them."""
        for block in self.blocks[: -(-rows // self.rows)]:
            yield block, min(rows, self.rows)
            rows -= self.rows

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.blocks))


class _Rows:
    """Rows in the order in which they were written, dead ones too; more come, none change.

    vectors: as they are stored; compared: the same as kernels take them. attributes: JSON
    objects, or b"". chunks: columns of the first of the rows, made when a filter first asks.
    """

    def __init__(self, root: Root) -> None:
        self.root, self.ids = root, list[Id]()
        kind, d = root.index.vector_kind, root.index.dimension
        self.vectors, self.attributes, self.lengths = _Blocks(VECTOR_BYTES[kind] * d), list[bytes](), array("d")
        self.attributes_bytes = self.dead_bytes = 0  # dead_bytes: of rows that are not the last of their ids
        self.compared = _Blocks(VECTOR_BYTES["f32"] * d) if kind == "i8" else self.vectors
        self.shortest = self.longest = 0.0  # of lengths
        self.chunks: list[_Chunk] = []

    def add(self, ids: Sequence[Id], vectors: Sequence[bytes | memoryview], attributes: Sequence[bytes]) -> None:
        """Raises DamagedError, and adds nothing, for a vector that no row can have."""
        index, lengths = self.root.index, list[float]()
        pieces = [vectors[low : low + ADDED_ROWS] for low in range(0, len(ids), ADDED_ROWS)]  # no second copy of all
        for piece in pieces:
            data, kind = comparable(b"".join(piece), index.vector_kind)
            lengths += lengths_of(data, len(piece), kind, index.dimension)
        for identifier, length in zip(ids, lengths, strict=True):
            if length == math.inf:
                raise damaged(told(identifier), "its vector holds a number that is not finite, or too large")
        for piece in pieces:
            self.vectors.add(joined := b"".join(piece))
            if self.compared is not self.vectors:
                self.compared.add(comparable(joined, index.vector_kind)[0])
        self.ids += ids
        self.attributes += attributes
        self.attributes_bytes += sum(map(len, attributes))
        if lengths:
            self.shortest = min(lengths) if not self.lengths else min(self.shortest, min(lengths))
            self.longest = max(self.longest, max(lengths))
        self.lengths.extend(lengths)

    def nbytes(self, place: int) -> int:
        """About what a row takes."""
        return ROW_BYTES + self.vectors.width + len(self.attributes[place])

    def vector(self, place: int) -> bytes:
        """As it is stored."""
        return self.vectors.row(place)

    def members(self, place: int) -> dict[str, Any]:
        """The attributes that a row has, by name. Raises DamagedError."""
        return members_of(self.attributes[place], told(self.ids[place]))

    def columns(self, rows: int) -> list[_Chunk]:
        """Chunks that hold the first `rows` rows, and perhaps more. Each is half as large as the one before or less,
        so that there are few, and a row is packed few times, or it is as large as one may be.
        """
        fields, names = self.root.filters, self.root.names
        packed = sum(chunk.n for chunk in self.chunks)
        if packed >= rows:
            return self.chunks
        many = any(field.many for field in fields)
        most = LIST_ROWS if many else max(LIST_ROWS, min(CHUNK_ROWS, CHUNK_VALUES // len(fields)))
        most = max(1, min(most, VALUES_MAX // len(fields)))
        for first in range(packed, len(self.ids), most):
            values: list[list[list[Any]]] = [[] for _ in fields]
            for place in range(first, min(first + most, len(self.ids))):
                members, where = self.members(place), told(self.ids[place])
                for own, field in zip(values, fields, strict=True):
                    own.append(values_of(field, members.get(names[field.attribute]), where))
            self.chunks.append(_packed(fields, values))
        while len(self.chunks) > 1 and self.chunks[-2].n < min(2 * self.chunks[-1].n, most - self.chunks[-1].n + 1):
            last, before = self.chunks.pop(), self.chunks.pop()
            both = zip(before.every(), last.every(), strict=True)
            self.chunks.append(_packed(fields, [[*one, *more] for one, more in both]))
        return self.chunks


def _packed(fields: Sequence[FilterField], values: Sequence[Values]) -> _Chunk:
    """The columns of some rows by the code of blocks, so that what a filter takes cannot differ."""
    own, columns = list[FilterField](), list[tuple[bool, Values]]()
    for field, rows in zip(fields, values, strict=True):
        if field.ranked:
            texts = sorted({text for row in rows for text in row})
            rank = {text: i for i, text in enumerate(texts)}
            own.append(field.with_texts(texts))
            columns.append((field.many, [[rank[text] for text in row] for row in rows]))
        else:
            own.append(field)
            columns.append((field.many, rows))
    return _Chunk(len(values[0]), tuple(own), memoryview(pack_columns(columns)))


def _of_values(rows: Iterable[tuple[float, int]], values: Sequence[Any], most: int) -> list[tuple[float, int]]:
    """The first row of each value, of the first `most` values that there are. rows: (score, place)."""
    first: dict[Any, tuple[float, int]] = {}
    for one in rows:
        first.setdefault(values[one[1]], one)
        if len(first) == most:
            break
    return list(first.values())


def told(identifier: Id) -> str:
    """What errors call a fresh row."""
    return f"row {identifier if isinstance(identifier, int) else identifier.decode(errors='replace')!r} in the log"


@dataclass(frozen=True)
class FreshRows:
    """The log up to `seq`, over a generation: a snapshot, which what is written later leaves as it is; `rows`
    and `table` may have more.

    places: of each id that the log has, where its row is among `rows`, or GONE. live: a bit for each of the first
    `count` rows that is the last one of its id. A fresh row has the number of the generation's rows and its place: so
    among equal scores it comes behind those of the generation, and live rows are in the order of their last writes,
    those of one segment in that of their ids.
    """

    root: Root
    seq: int
    places: Mapping[Id, int]
    live: int
    count: int
    rows: _Rows
    table: IdTable

    @classmethod
    def none(cls, root: Root, seq: int) -> FreshRows:
        """Of a log without a segment yet."""
        return cls(root, seq, {}, 0, 0, _Rows(root), IdTable(root.index.id_kind))

    @property
    def ids(self) -> Set[Id]:
        """All that the log has: no row of the generation with one of these may answer."""
        return self.places.keys()

    @property
    def superseded(self) -> Superseded:
        """Of the generation's rows those of `ids`."""
        return Superseded(self.ids, self.table.slots)

    @property
    def first(self) -> int:
        """The number of the row at place 0."""
        return self.root.index.rows

    @property
    def live_rows(self) -> int:
        """How many there are."""
        return self.live.bit_count()

    def place(self, identifier: Id) -> int | None:
        """Where the row of an id is, GONE where it is deleted, None where the log does not have the id."""
        return self.places.get(identifier)

    def taken(self, selection: Selection | None) -> int:
        """A bit for each live row that a filter takes."""
        if selection is None or not self.live:
            return self.live
        fields, bits, at = self.root.filters, 0, 0
        ranked = any(fields[i].ranked for i in selection.program.columns)
        for chunk in self.rows.columns(self.count):
            program = selection.program
            if ranked:
                program = compile_filter(resolve(selection.parsed, chunk.fields), chunk.fields)
            mask = rows_taken(chunk.plane, chunk.n, len(fields), program.data, WHERE)
            bits |= int.from_bytes(mask, "little") << at
            at += chunk.n
        return bits & self.live

    @property
    def attribute_bytes(self) -> int:
        """Mean bytes of a row's attributes."""
        return -(-self.rows.attributes_bytes // max(1, len(self.rows.ids)))

    @property
    def nbytes(self) -> int:
        """About what it holds, with the columns that a filter will ask for."""
        rows = self.rows
        row = ROW_BYTES + VALUE_BYTES * len(self.root.filters)
        vectors = rows.vectors.nbytes + (rows.compared.nbytes if rows.compared is not rows.vectors else 0)
        texts = rows.attributes_bytes * (1 + any(field.kind == "text" for field in self.root.filters))
        return vectors + texts + row * len(rows.ids) + ROW_BYTES * len(self.places)

    def best(self, query: Prepared, taken: int, most: int, worst: float | None, without: int | None) -> Iterator[Match]:
        """The best `most` of the rows of the bits `taken`; of each value the best alone, where the query says so.

        worst: a score that theirs must be better than. without: the number of a row that is left out.
        """
        rows, index = self.rows, self.root.index
        kind = "f32" if index.vector_kind == "i8" else index.vector_kind
        sign = 1.0 if index.metric == "l2" else -1.0
        if without is not None and without >= self.first:
            taken &= ~(1 << (without - self.first))
        mask = taken.to_bytes(-(-self.count // 8), "little")
        found = list[float]()
        for block, n in rows.compared.first(self.count):
            found += products(block, kind, n, query, index)
        values = None if query.distinct is None else self.first_values(query.distinct)
        limit, some, low = math.inf if worst is None else sign * worst, list[tuple[float, int]](), 0
        while low < self.count:  # most rows are seen here alone: those before them have better ones
            high = min(self.count, max(2 * low, FIRST_ROWS))
            if sign < 0:
                bound = -limit
                if index.metric == "cosine" and limit < math.inf:  # below it no row is better, however long it is
                    bound = min(bound * rows.shortest, bound * rows.longest)
                    bound = bound - BOUND_SHARE * abs(bound) if rows.shortest else -math.inf
                places = [i for i, v in enumerate(found[low:high], low) if v >= bound and mask[i >> 3] >> (i & 7) & 1]
            else:
                places = [i for i, v in enumerate(found[low:high], low) if v < limit and mask[i >> 3] >> (i & 7) & 1]
            for i in places:
                score = sign * score_of(found[i], rows.lengths[i], partial(rows.compared.row, i), kind, query, index)
                if score < limit:
                    some.append((score, i))
            some = nsmallest(most, some) if values is None else _of_values(sorted(some), values, most)
            if len(some) == most:
                limit = min(limit, some[-1][0])
            low = high
        for score, place in some:
            yield Match(self.rows.ids[place], self.first + place, 0, sign * score)

    def field_values(self, field: int, taken: int) -> Iterator[Sequence[Any]]:
        """What rows of the bits `taken` have of a field, in order: keys, of texts with ranks their UTF-8."""
        every = (values for chunk in self.rows.columns(self.count) for values in chunk.values(field))
        return compress(every, (bit == "1" for bit in reversed(f"{taken:b}")))

    def first_values(self, field: int) -> list[Any]:
        """Of each row, dead ones too, in order, the first that it has of a field, or None."""
        return [next(iter(values), None) for values in self.field_values(field, (1 << self.count) - 1)]

    def merged(self, matches: list[Match], query: Prepared, most: int, without: int | None, taken: int) -> list[Match]:
        """The best of the matches of the generation, best first, and of the rows of the bits `taken`."""
        if not taken:
            return matches
        worst = matches[-1].score if len(matches) == most and query.distinct is None else None
        every = best_first([*matches, *self.best(query, taken, most, worst, without)], self.root.index)
        if query.distinct is None:
            return every[:most]
        field, by_value = self.root.filters[query.distinct], dict[Any, Match]()
        values = self.first_values(query.distinct)
        for match in every:
            if match.contender is None:
                value = values[match.row - self.first]
            else:
                value = match.contender.key
                if value is not None and field.ranked:
                    value = field.text(value)
            by_value.setdefault(value, match)
        return list(by_value.values())[:most]

    def attributes(self, places: Iterable[int], room: int) -> tuple[dict[int, dict[str, Any]], int]:
        """Those of rows, by place, as many of the first as there is room for; and the room that is left.

        room: as of StoredRows.attributes. Raises DamagedError.
        """
        out: dict[int, dict[str, Any]] = {}
        own = names_bytes(self.root.names)
        for place in places:
            room -= own + json_bytes(self.rows.attributes[place])
            if room < 0:
                return out, 0
            members = self.rows.members(place)
            out[place] = {name: members.get(name) for name in self.root.names}
        return out, room

    def unresolved(self, tail: Tail) -> list[Id]:
        """Ids that `followed` needs rows of the generation for: those that were patched."""
        return [
            i for i, fresh in tail.rows.items() if fresh.seq > self.seq and fresh.kind == PATCH and i not in self.places
        ]

    def followed(self, tail: Tail, base: Mapping[Id, BaseRow | None]) -> FreshRows:
        """The same up to the end of a tail that goes on from here, whose rows may go then.

        base: of the ids that are `unresolved`, None where the generation has no row.
        """
        changes = sorted((fresh.seq, i) for i, fresh in tail.rows.items() if fresh.seq > self.seq)
        if not changes:
            return self if self.seq == tail.next - 1 else replace(self, seq=tail.next - 1)
        shape, index = tail.shape, self.root.index
        if shape is None or (index.dimension, index.id_kind, index.vector_kind) != tuple(shape):
            raise DamagedError(f"the log has rows of {shape}", hint="a writer took it for the log of another index")
        if len(self.rows.ids) != self.count:
            raise ValueError("it was followed already")
        places, live, rows = dict(self.places), self.live, self.rows
        new = [identifier for _, identifier in changes if identifier not in places]
        ids, vectors, attributes = list[Id](), list[bytes | memoryview](), list[bytes]()
        for _, identifier in changes:
            fresh = tail.rows[identifier]
            before, vector, own = places.get(identifier), fresh.vector, fresh.attributes
            if before is not None and before != GONE:
                live &= ~(1 << before)
                rows.dead_bytes += rows.nbytes(before)
                vector = vector or (b"" if fresh.kind == DELETE else rows.vector(before))
            places[identifier] = GONE
            if fresh.kind == DELETE or (fresh.kind == PATCH and before == GONE):
                continue
            if fresh.kind == PATCH:
                row = base[identifier] if before is None else BaseRow(rows.vector(before), rows.members(before))
                if row is None:
                    continue
                vector = row.vector
                own = packed_members({**row.attributes, **members_of(own, told(identifier))})
            places[identifier] = self.count + len(ids)
            ids.append(identifier)
            vectors.append(vector)
            attributes.append(own)
        rows.add(ids, vectors, attributes)
        self.table.add(new, places)
        count = self.count + len(ids)
        live |= ((1 << len(ids)) - 1) << self.count
        grown = replace(self, seq=tail.next - 1, places=places, live=live, count=count)
        every = (ROW_BYTES + rows.vectors.width) * count + rows.attributes_bytes
        return grown if 2 * rows.dead_bytes <= every + DEAD_BYTES else grown._without_dead()

    def _without_dead(self) -> FreshRows:
        """The same in rows of its own, all of which are live."""
        rows, own = _Rows(self.root), [place for place in range(self.count) if self.live >> place & 1]
        old = self.rows
        rows.add(
            [old.ids[place] for place in own],
            [*map(old.vector, own)],
            [old.attributes[place] for place in own],
        )
        places = dict.fromkeys(self.places, GONE) | {identifier: place for place, identifier in enumerate(rows.ids)}
        return replace(self, places=places, live=(1 << len(own)) - 1, count=len(own), rows=rows)
