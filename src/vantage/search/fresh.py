"""Fresh rows: what the log says behind a generation, kept so that it is scanned, filtered and looked up in memory."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from heapq import nsmallest
from typing import Any, NamedTuple

from ..errors import DamagedError
from ..filter.facet import values_of
from ..filter.program import compile_filter, resolve
from ..format import VECTOR_BYTES, FilterField, Root, damaged, pack_columns
from ..format.log import Id
from ..log.tail import DELETE, PATCH, Tail, members_of, packed_members
from .filtered import Selection
from .prepare import Prepared
from .rank import Match, best_first, comparable, lengths_of, products, score_of
from .rows import json_bytes
from .scan import rows_taken
from .superseded import IdTable, Superseded

ROW_BYTES = 250  # of a row and of an id beside vector and attributes: its columns, and its places in tables
GONE = -1  # instead of a place: an id without a row
BOUND_SHARE = 1e-9  # more than f64 rounds a product by
DEAD_ROWS = 1024  # that may be there beside as many as are live
CHUNK_ROWS, LIST_ROWS = (
    8192,
    256,
)  # of a chunk of columns; of one with lists, so that it holds no more values than one may


class BaseRow(NamedTuple):
    """A row of the generation: its vector as it is stored, and its attributes by name."""

    vector: bytes
    attributes: Mapping[str, Any]


class _Chunk(NamedTuple):
    """Columns of n rows, as a block has them. fields: with the texts of these rows alone, whose ranks their keys are;
    values: of each field, of each row, what the keys stand for.
    """

    n: int
    fields: tuple[FilterField, ...]
    plane: memoryview
    values: list[list[list[Any]]]


class _Rows:
    """Rows in the order in which they were written, dead ones too; more come, none change.

    vectors: as they are stored, one after the other; compared: the same as kernels take them. attributes: JSON
    objects, or b"". chunks: columns of the first of the rows, made when a filter first asks.
    """

    def __init__(self, root: Root) -> None:
        self.root, self.ids = root, list[Id]()
        self.vectors, self.attributes, self.lengths = bytearray(), list[bytes](), array("d")
        self.compared = bytearray() if root.index.vector_kind == "i8" else self.vectors
        self.shortest = self.longest = 0.0  # of lengths
        self.chunks: list[_Chunk] = []

    def add(self, ids: Sequence[Id], vectors: bytes, attributes: Sequence[bytes]) -> None:
        """Raises DamagedError, and adds nothing, for a vector that no row can have."""
        index = self.root.index
        data, kind = comparable(vectors, index.vector_kind)
        lengths = lengths_of(data, len(ids), kind, index.dimension)
        for identifier, length in zip(ids, lengths, strict=True):
            if length == math.inf:
                raise damaged(told(identifier), "its vector holds a number that is not finite, or too large")
        self.vectors += vectors
        if self.compared is not self.vectors:
            self.compared += data
        self.ids += ids
        self.attributes += attributes
        if lengths:
            self.shortest = min(lengths) if not self.lengths else min(self.shortest, min(lengths))
            self.longest = max(self.longest, max(lengths))
        self.lengths.extend(lengths)

    def vector(self, place: int) -> bytes:
        """As it is stored."""
        width = VECTOR_BYTES[self.root.index.vector_kind] * self.root.index.dimension
        return bytes(memoryview(self.vectors)[place * width : (place + 1) * width])

    def compared_vector(self, place: int) -> bytes:
        """As kernels take it."""
        width = len(self.compared) // len(self.ids)
        return bytes(memoryview(self.compared)[place * width : (place + 1) * width])

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
        most = LIST_ROWS if any(field.many for field in fields) else CHUNK_ROWS
        for first in range(packed, len(self.ids), most):
            values: list[list[list[Any]]] = [[] for _ in fields]
            for place in range(first, min(first + most, len(self.ids))):
                members, where = self.members(place), told(self.ids[place])
                for own, field in zip(values, fields, strict=True):
                    own.append(values_of(field, members.get(names[field.attribute]), where))
            self.chunks.append(_packed(fields, values))
        while len(self.chunks) > 1 and self.chunks[-2].n < min(2 * self.chunks[-1].n, most - self.chunks[-1].n + 1):
            last, before = self.chunks.pop(), self.chunks.pop()
            self.chunks.append(_packed(fields, [a + b for a, b in zip(before.values, last.values, strict=True)]))
        return self.chunks


def _packed(fields: Sequence[FilterField], values: list[list[list[Any]]]) -> _Chunk:
    """The columns of some rows by the code of blocks, so that what a filter takes cannot differ."""
    own, columns = list[FilterField](), list[tuple[bool, list[list[int]]]]()
    for field, rows in zip(fields, values, strict=True):
        if field.ranked:
            texts = sorted({text for row in rows for text in row})
            rank = {text: i for i, text in enumerate(texts)}
            own.append(field.with_texts(texts))
            columns.append((field.many, [[rank[text] for text in row] for row in rows]))
        else:
            own.append(field)
            columns.append((field.many, rows))
    return _Chunk(len(values[0]), tuple(own), memoryview(pack_columns(columns)), values)


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
            mask = rows_taken(chunk.plane, chunk.n, len(fields), program.data, "rows of the log")
            bits |= int.from_bytes(mask, "little") << at
            at += chunk.n
        return bits & self.live

    @property
    def nbytes(self) -> int:
        """About what it holds."""
        rows = self.rows
        return len(rows.vectors) + sum(map(len, rows.attributes)) + ROW_BYTES * (len(rows.ids) + len(self.places))

    def values(self, field: int, place: int) -> Sequence[Any]:
        """What a row has of a field: keys, of texts with ranks their UTF-8."""
        for chunk in self.rows.columns(self.count):
            if place < chunk.n:
                return chunk.values[field][place]
            place -= chunk.n
        raise AssertionError(place)

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
        found = products(rows.compared, kind, self.count, query, index)
        if worst is None:
            places = [i for i in range(self.count) if mask[i >> 3] >> (i & 7) & 1]
        else:  # most rows are seen here alone
            bound = worst
            if sign < 0:
                if index.metric == "cosine":  # below it no row is better, however long it is
                    bound = min(worst * rows.shortest, worst * rows.longest)
                    bound = bound - BOUND_SHARE * abs(bound) if rows.shortest else -math.inf
                places = [i for i, v in enumerate(found) if v >= bound and mask[i >> 3] >> (i & 7) & 1]
            else:
                places = [i for i, v in enumerate(found) if v < bound and mask[i >> 3] >> (i & 7) & 1]
        some = list[tuple[float, int]]()
        for i in places:
            score = sign * score_of(found[i], rows.lengths[i], partial(rows.compared_vector, i), kind, query, index)
            if worst is None or score < sign * worst:
                some.append((score, i))
        if query.distinct is not None:
            best: dict[Any, tuple[float, int]] = {}
            for one in sorted(some):
                best.setdefault(next(iter(self.values(query.distinct, one[1])), None), one)
            some = list(best.values())
        for score, place in nsmallest(most, some):
            yield Match(self.rows.ids[place], self.first + place, 0, sign * score)

    def merged(self, matches: list[Match], query: Prepared, most: int, without: int | None, taken: int) -> list[Match]:
        """The best of the matches of the generation, best first, and of the rows of the bits `taken`."""
        if not taken:
            return matches
        worst = matches[-1].score if len(matches) == most and query.distinct is None else None
        every = best_first([*matches, *self.best(query, taken, most, worst, without)], self.root.index)
        if query.distinct is None:
            return every[:most]
        field, by_value = self.root.filters[query.distinct], dict[Any, Match]()
        for match in every:
            if match.contender is None:
                value = next(iter(self.values(query.distinct, match.row - self.first)), None)
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
        for place in places:
            room -= json_bytes(self.rows.attributes[place])
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
        """The same up to the end of a tail that goes on from here, whose vectors of these rows may go then.

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
        rows.add(ids, b"".join(vectors), attributes)
        self.table.add(new, places)
        count = self.count + len(ids)
        live |= ((1 << len(ids)) - 1) << self.count
        grown = replace(self, seq=tail.next - 1, places=places, live=live, count=count)
        return grown if count <= 2 * grown.live_rows + DEAD_ROWS else grown._without_dead()

    def _without_dead(self) -> FreshRows:
        """The same in rows of its own, all of which are live."""
        rows, own = _Rows(self.root), [place for place in range(self.count) if self.live >> place & 1]
        old = self.rows
        rows.add(
            [old.ids[place] for place in own], b"".join(map(old.vector, own)), [old.attributes[place] for place in own]
        )
        places = dict.fromkeys(self.places, GONE) | {identifier: place for place, identifier in enumerate(rows.ids)}
        return replace(self, places=places, live=(1 << len(own)) - 1, count=len(own), rows=rows)
