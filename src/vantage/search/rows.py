"""Rows of one generation: found by id, their vectors and attributes read by number."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple

from ..cost import Budget
from ..errors import DamagedError, InputError, NotFoundError
from ..format import (
    ATTRIBUTE_ROW_BYTES_MAX,
    CHECK_BYTES,
    ID_PAGE_ROWS,
    VECTOR_BYTES,
    Root,
    Spot,
    attributes_of,
    damaged,
    facts_bytes,
    id_entry,
    spot_at,
)
from ..read.gather import Span, plan_gather, plan_near
from ..read.waves import Item, Steps, Wave
from .rank import is_sound

ATTRIBUTES_BYTES_MAX = 4 << 20  # of one request's attributes, as counted below; its vectors have equal shares
PART_BYTES = 64  # what a list, object or text takes in memory beside its characters
# Rows read alone: what is bridged between them is at most the larger of this share of their bytes and so many a row.
BRIDGED_SHARE, BRIDGED_BYTES = 0.2, 8 << 10


def id_hash(identifier: int | bytes) -> int:
    """The u64 that ids.bin is sorted by: the first 8 bytes of the SHA-256 of the id (an i64 as 8 bytes)."""
    raw = struct.pack("<q", identifier) if isinstance(identifier, int) else identifier
    return int.from_bytes(sha256(raw).digest()[:8], "little")


class IdEntry(NamedTuple):
    """A row by its id: its number, the CRC-32C of its vector, and where its attributes are, where it has any."""

    row: int
    check: int
    spot: Spot | None


@dataclass(frozen=True)
class StoredRow:
    """A row as it is stored; vector and attributes None where they were not wanted, or the budget ended before."""

    id: int | bytes
    vector: list[float] | None
    attributes: dict[str, Any] | None


class StoredRows:
    """Where the rows of a segment lie, by number; every method is steps of a query (see waves.run_together)."""

    def __init__(self, name: str, keys: Sequence[str], root: Root) -> None:
        self.name, self.keys, self.root = name, keys, root

    def find(self, identifier: int | bytes) -> Steps[IdEntry | None]:
        """The row of an id: one GET for a page of each segment of ids. None where there was no time for it.

        The hash is 64 bits wide, and the builder refuses two ids with one hash. Raises InputError for an id of the
        wrong kind, NotFoundError where no row has it.
        """
        found = yield from self.find_many([identifier], Budget())
        if identifier not in found:
            return None
        entry = found[identifier]
        if entry is None:
            raise no_row(identifier)
        return entry

    def find_many(self, identifiers: Sequence[int | bytes], budget: Budget) -> Steps[dict[int | bytes, IdEntry | None]]:
        """The rows of ids, None for one that no row has, in one wave; without those whose pages of ids the budget or
        the time does not allow. Raises InputError for an id of the wrong kind.
        """
        root, segments, out = self.root, self.root.id_pages, dict[int | bytes, IdEntry | None]()
        wanted: dict[tuple[int, int], list[tuple[int, int | bytes]]] = {}  # (hash, id) by segment and page
        unread: dict[int | bytes, int] = {}  # pages that may have an id
        for identifier in dict.fromkeys(identifiers):
            if isinstance(identifier, int) != (root.index.id_kind == "i64"):
                what = f"ids of {self.name!r} are {root.index.id_kind}"
                raise InputError(what, hint="send an id of that kind", param="id")
            if isinstance(identifier, int) and not -(1 << 63) <= identifier < 1 << 63:
                out[identifier] = None
                continue
            hashed = id_hash(identifier), identifier
            pages = [(s, bisect_right(segments[s].first_hash, hashed[0]) - 1) for s in reversed(range(len(segments)))]
            pages = [place for place in pages if place[1] >= 0]
            unread[identifier] = len(pages)
            for place in pages:
                wanted.setdefault(place, []).append(hashed)
        places, entry, items = list(wanted), id_entry(bool(root.names)), list[Item]()
        for s, page in places:
            own = segments[s]
            start = own.offset + page * ID_PAGE_ROWS * entry
            items.append(self._item(own.object, start, own.rows_of(page) * entry, own.crc[page], f"page {page}"))

        def use(arrived: list[int], views: list[memoryview]) -> None:
            for number, view in zip(arrived, views, strict=True):
                for own_hash, identifier in wanted[places[number]]:
                    unread[identifier] -= 1
                    if (found := self._entry(view, own_hash, items[number].key)) is not None:
                        out[identifier] = found

        fitting, spans = _fitting(items, budget, _plan_close)
        if fitting:
            yield Wave(fitting, spans, use)
        return {identifier: None for identifier, left in unread.items() if not left} | out

    def _entry(self, page: memoryview, own_hash: int, key: str) -> IdEntry | None:
        """That of a hash in a page of ids, where its row is not dead."""
        root = self.root
        rows = len(page) // id_entry(bool(root.names))
        hashes = page[: 8 * rows].cast("Q")
        at = bisect_right(hashes, own_hash) - 1
        if at < 0 or hashes[at] != own_hash:
            return None
        row, check = (struct.unpack_from("<I", page, column * rows + 4 * at)[0] for column in (8, 12))
        if row >= root.index.rows:
            raise DamagedError(f"{key}: row {row} of {root.index.rows}", hint="build the index again")
        if root.dead is not None and row in root.dead:
            return None
        return IdEntry(row, check, spot_at(page[16 * rows :], rows, at) if root.names else None)

    def vectors(self, checks: dict[int, int], budget: Budget) -> Steps[dict[int, bytes]]:
        """Full vectors of rows, verified by their checks; {} when the budget or the time does not allow the wave.

        budget: what is left of it.
        """
        items = [self._vector(row, check) for row, check in checks.items()]
        vectors = yield from _gather(items, budget)
        for item, vector in zip(items, vectors or [], strict=vectors is not None):
            self._check(item, vector)
        return dict(zip(checks, vectors, strict=True)) if vectors is not None else {}

    def first_vectors(self, checks: dict[int, int], budget: Budget) -> Steps[dict[int, bytes]]:
        """The same of as many of the first rows as the budget allows: all, or a half, a quarter and so on."""
        count, vectors = len(checks), dict[int, bytes]()
        while count and not vectors:
            vectors = yield from self.vectors(dict(islice(checks.items(), count)), budget)
            count //= 2
        return vectors

    def spots(self, rows: list[int], budget: Budget) -> Steps[dict[int, Spot]]:
        """Where the attributes of rows are, from the facts of their pages; {} as in `vectors`."""
        pages, wanted = self.root.rows, sorted({self.root.rows.page_of(row) for row in rows})
        items = []
        for p in wanted:
            nbytes = facts_bytes(pages.first_row[p + 1] - pages.first_row[p], True)
            item = self._item(
                pages.fact_object[p], pages.fact_offset[p], nbytes, pages.fact_crc[p], f"facts of page {p}"
            )
            items.append(item)
        read = yield from _gather(items, budget)
        if read is None:
            return {}
        facts, out = dict(zip(wanted, read, strict=True)), {}
        for row in rows:
            p = pages.page_of(row)
            count = pages.first_row[p + 1] - pages.first_row[p]
            out[row] = spot_at(memoryview(facts[p])[CHECK_BYTES * count :], count, row - pages.first_row[p])
        return out

    def attributes(self, spots: dict[int, Spot], budget: Budget, room: int | None) -> Steps[dict[int, dict[str, Any]]]:
        """Attributes of rows, the first ones first: of as many as budget, time and room allow.

        spots: the rows, each with where its attributes are. budget: what is left of it. room: bytes of their JSON with
        the names, each list, object and text counting PART_BYTES more; None: as many as it takes. At most so many are
        held.
        """
        names = self.root.names
        if not names:
            return {row: {} for row in spots}
        kept, left = _Kept(names, room), room
        rows, items = list[int](), list[Item]()
        for row, spot in spots.items():
            item = self._text(row, spot)
            if left is not None:
                left -= spot.size + kept.own
                if left < 0:
                    break
            rows.append(row)
            items.append(item)
        fitting, spans = _fitting(items, budget, _plan_close)
        if fitting:

            def use(numbers: list[int], views: list[memoryview]) -> None:
                for number, view in zip(numbers, views, strict=True):
                    kept.add(number, bytes(view))

            yield Wave(fitting, spans, use)
        return {
            rows[i]: attributes_of(data, names, f"{items[i].key}, {items[i].what}")
            for i, data in sorted(kept.held.items())
        }

    def parsed(
        self, rows: list[int], texts: Iterable[tuple[int, str, bytes]], room: int | None
    ) -> dict[int, dict[str, Any]]:
        """Attributes of rows that were read with blocks: of the first ones that there is room for.

        texts: of each its position in rows, what errors call its block, and the JSON.
        """
        names, where = self.root.names, dict[int, str]()
        kept = _Kept(names, room)
        for i, block, text in texts:
            where[i] = block
            kept.add(i, text)
        return {
            rows[i]: attributes_of(data, names, f"{where[i]}, attributes of row {rows[i]}")
            for i, data in sorted(kept.held.items())
        }

    def whole(
        self, entries: Sequence[IdEntry], budget: Budget, room: int
    ) -> Steps[dict[int, tuple[bytes, dict[str, Any]]]]:
        """Vectors and attributes of rows, verified, in one wave, of as many of the first as budget, time and room
        allow.

        entries: by rising row; so what lies between is not read by several calls. room: bytes of JSON that are held at
        once, or one row.
        """
        names, items, width = self.root.names, list[Item](), 1 + bool(self.root.names)
        for entry in entries:
            if entry.spot is not None:
                room -= entry.spot.size
                if items and room < 0:
                    break
            items.append(self._vector(entry.row, entry.check))
            if entry.spot is not None:
                items.append(self._text(entry.row, entry.spot))
        parts: list[bytes | None] = [None] * len(items)

        def use(numbers: list[int], views: list[memoryview]) -> None:
            for number, view in zip(numbers, views, strict=True):
                parts[number] = bytes(view)

        fitting, spans = _fitting(items, budget, plan_near, width)
        if fitting:
            yield Wave(fitting, spans, use)
        out = dict[int, tuple[bytes, dict[str, Any]]]()
        for entry, at in zip(entries, range(0, len(items), width), strict=False):
            vector, text = parts[at], parts[at + width - 1]
            if vector is None or text is None:
                break
            self._check(items[at], vector)
            where = f"{items[at + width - 1].key}, {items[at + width - 1].what}"
            out[entry.row] = vector, attributes_of(text, names, where) if names else {}
        return out

    def _vector(self, row: int, check: int) -> Item:
        """The full vector of a row."""
        pages, index = self.root.rows, self.root.index
        width, page = VECTOR_BYTES[index.vector_kind] * index.dimension, pages.page_of(row)
        at = pages.vector_offset[page] + (row - pages.first_row[page]) * width
        return self._item(pages.vector_object[page], at, width, check, f"the vector of row {row}")

    def _check(self, item: Item, vector: bytes) -> None:
        """Raises DamagedError for a vector that no row can have."""
        if not is_sound(vector, self.root.index.vector_kind):
            raise damaged(item.key, f"{item.what} holds a number that is not finite, or too large")

    def _text(self, row: int, spot: Spot) -> Item:
        """The attributes of a row as JSON. Raises DamagedError for a spot that none can have."""
        pages, where = self.root.rows, f"attributes of row {row}"
        p = pages.page_of(row)
        number, at = pages.attribute_object[p], pages.attribute_offset[p] + spot.offset
        if not 1 < spot.size <= ATTRIBUTE_ROW_BYTES_MAX:
            raise damaged(self.keys[number], f"{spot.size} bytes of {where}")
        if at + spot.size > self.root.objects.sizes[number]:
            raise damaged(self.keys[number], f"{where} end at byte {at + spot.size}, outside of the object")
        return self._item(number, at, spot.size, spot.crc, where)

    def _item(self, number: int, offset: int, size: int, crc: int, what: str) -> Item:
        """Bytes of an object, by its number."""
        return Item(self.keys[number], offset, size, self.root.objects.sizes[number], crc, what)


def _gather(items: list[Item], budget: Budget) -> Steps[list[bytes] | None]:
    """The bytes of scattered items in one wave; None past budget or time."""
    if not items:
        return []
    if budget.waves < 1 or budget.gets < 1:
        return None
    spans = plan_gather([item[:3] for item in items], budget.gets, budget.bytes)
    return None if spans is None else (yield from _read(items, spans))


def _read(items: list[Item], spans: list[Span]) -> Steps[list[bytes] | None]:
    """The bytes of items by these spans; None past time."""
    out: list[bytes] = [b""] * len(items)

    def use(numbers: list[int], views: list[memoryview]) -> None:
        for number, view in zip(numbers, views, strict=True):
            out[number] = bytes(view)

    return out if (yield Wave(items, spans, use)) else None


class _Kept:
    """What is kept of rows that arrive in any order: the first ones, as many as there is room for."""

    def __init__(self, names: list[str], room: int | None) -> None:
        self.held: dict[int, bytes] = {}
        self.own = names_bytes(names)
        self._left, self._end = room, 1 << 32

    def add(self, i: int, data: bytes) -> None:
        """The JSON of row i; what is last goes where there is no more room."""
        if self._left is None:
            self.held[i] = data
        elif i < self._end:
            self.held[i] = data
            self._left -= self._nbytes(data)
            while self._left < 0:
                self._end = max(self.held)
                self._left += self._nbytes(self.held.pop(self._end))

    def _nbytes(self, data: bytes) -> int:
        return self.own + json_bytes(data)


def names_bytes(names: list[str]) -> int:
    """What the names of attributes take in each row of a reply, with quotes, colon and comma."""
    return sum(len(name.encode()) + 4 for name in names)


def json_bytes(data: bytes) -> int:
    """What JSON counts against the room for attributes."""
    return len(data) + PART_BYTES * (data.count(b"[") + data.count(b"{") + data.count(b'"') // 2)


Ranges = Sequence[tuple[str, int, int]]


def _plan_close(ranges: Ranges, gets: int, bytes_max: int) -> list[Span] | None:
    """The quickest plan of those that read little between what is wanted."""
    nbytes = sum(size for _, _, size in ranges)
    return plan_gather(ranges, gets, bytes_max, nbytes + max(BRIDGED_SHARE * nbytes, BRIDGED_BYTES * len(ranges)))


def _fitting(
    items: list[Item], budget: Budget, planner: Callable[[Ranges, int, int], list[Span] | None], together: int = 1
) -> tuple[list[Item], list[Span]]:
    """As many of the first items as one wave may read within the budget, and how; so many `together` or none."""
    if budget.waves < 1 or budget.gets < 1:
        return [], []

    def plan(count: int) -> list[Span] | None:
        return planner([item[:3] for item in items[: count * together]], budget.gets, budget.bytes)

    count, over = len(items) // together, len(items) // together + 1
    spans = plan(count) if items else None
    if spans is None:  # between what fits and what does not
        count, over = 0, len(items) // together
        while over - count > 1:
            middle = (count + over) // 2
            fitting = plan(middle)
            count, over, spans = (count, middle, spans) if fitting is None else (middle, over, fitting)
    return items[: count * together], spans or []


def no_row(identifier: int | bytes) -> NotFoundError:
    """That no row has an id."""
    readable = identifier if isinstance(identifier, int) else identifier.decode(errors="replace")
    return NotFoundError(f"there is no row with id {readable!r}", hint="check the id", param="id")
