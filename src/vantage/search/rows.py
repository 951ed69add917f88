"""Rows of one generation: found by id, their vectors and attributes read by number."""

from __future__ import annotations

import struct
from bisect import bisect_right
from hashlib import sha256
from typing import Any, NamedTuple

from ..cost import Budget
from ..errors import DamagedError, InputError, NotFoundError
from ..format import (
    ATTRIBUTE_ROW_BYTES_MAX,
    ID_PAGE_ROWS,
    READ_BYTES_MAX,
    VECTOR_BYTES,
    Root,
    Spot,
    attribute_bytes,
    attributes_of,
    damaged,
    id_entry,
    part_key,
    shard_key,
    spot_at,
)
from ..read.gather import Span, plan_gather
from ..read.waves import Item, Steps, Wave
from .rank import is_sound

ATTRIBUTE_RANGES = 6  # of whole attribute blocks, where that is enough
ATTRIBUTES_BYTES_MAX = 4 << 20  # of one request's attributes, as counted below; its vectors have equal shares
PART_BYTES = 64  # what a list, object or text takes in memory beside its characters
# Rows read alone: what is bridged between them is at most the larger of this share of their bytes and so many a row.
BRIDGED_SHARE, BRIDGED_BYTES = 0.2, 8 << 10


def id_hash(identifier: int | bytes) -> int:
    """The u64 that ids.bin is sorted by: the first 8 bytes of the SHA-256 of the id (an i64 as 8 bytes)."""
    raw = struct.pack("<q", identifier) if isinstance(identifier, int) else identifier
    return int.from_bytes(sha256(raw).digest()[:8], "little")


class IdEntry(NamedTuple):
    """A row by its id: its number, the CRC-32C of its vector, and where its attributes are in an index by row."""

    row: int
    check: int
    spot: Spot | None


class StoredRows:
    """Where the rows of a generation lie; every method is steps of a query (see waves.together)."""

    def __init__(self, name: str, generation: str, root: Root) -> None:
        self.name, self.generation, self.root = name, generation, root

    def shard(self, number: int) -> str:
        """The key of a shard."""
        return f"{self.name}/{shard_key(self.generation, number)}"

    def _shard_of(self, block: int) -> str:
        return self.shard(bisect_right(self.root.directory.shard_blocks, block) - 1)

    def find(self, identifier: int | bytes) -> Steps[IdEntry | None]:
        """The row of an id: one GET for a page of ids. None where there was no time for it.

        The hash is 64 bits wide, and the builder refuses two ids with one hash. Raises InputError for an id of the
        wrong kind, NotFoundError where no row has it.
        """
        root = self.root
        if isinstance(identifier, int) != (root.index.id_kind == "i64"):
            raise InputError(
                f"ids of {self.name!r} are {root.index.id_kind}", hint="send an id of that kind", param="id"
            )
        missing = NotFoundError(f"there is no row with id {_readable(identifier)!r}", hint="check the id", param="id")
        if isinstance(identifier, int) and not -(1 << 63) <= identifier < 1 << 63:
            raise missing
        pages, own_hash = root.id_pages, id_hash(identifier)
        page = bisect_right(pages.first_hash, own_hash) - 1
        if page < 0:
            raise missing
        rows = min(ID_PAGE_ROWS, root.index.rows - page * ID_PAGE_ROWS)
        key, data = f"{self.name}/{self.generation}/ids.bin", bytearray()
        start, length = page * ID_PAGE_ROWS * id_entry(root.index), rows * id_entry(root.index)
        item = Item(key, start, length, root.objects.ids, pages.crc[page], f"page {page}")
        if not (yield Wave([item], [Span(key, start, length, [0])], lambda _, views: data.extend(views[0]))):
            return None
        view = memoryview(data)
        hashes = view[: 8 * rows].cast("Q")
        at = bisect_right(hashes, own_hash) - 1
        if at < 0 or hashes[at] != own_hash:
            raise missing
        row, check = (
            struct.unpack_from("<I", view, 8 * rows + 4 * at)[0],
            struct.unpack_from("<I", view, 12 * rows + 4 * at)[0],
        )
        if row >= root.index.rows:
            raise DamagedError(f"{key}: row {row} of {root.index.rows}", hint="build the index again")
        return IdEntry(row, check, spot_at(view[16 * rows :], rows, at) if root.index.by_row else None)

    def vectors(self, checks: dict[int, int], budget: Budget) -> Steps[dict[int, bytes]]:
        """Full vectors of rows, verified by their checks; {} when the budget or the time does not allow the wave.

        budget: what is left of it.
        """
        pages, index = self.root.vectors, self.root.index
        width = VECTOR_BYTES[index.vector_kind] * index.dimension
        items = []
        for row, check in checks.items():
            page = bisect_right(pages.first_row, row) - 1
            part = pages.part[page]
            key, at = f"{self.name}/{part_key(self.generation, part)}", pages.offset[page]
            at += (row - pages.first_row[page]) * width
            items.append(Item(key, at, width, self.root.objects.parts[part], check, f"the vector of row {row}"))
        vectors = yield from _gather(items, budget)
        for item, vector in zip(items, vectors or [], strict=vectors is not None):
            if not is_sound(vector, index.vector_kind):
                raise damaged(item.key, f"{item.what} holds a number that is not finite, or too large")
        return dict(zip(checks, vectors, strict=True)) if vectors is not None else {}

    def attributes(
        self, spots: dict[int, Spot | None], budget: Budget, room: int | None
    ) -> Steps[dict[int, dict[str, Any]]]:
        """Attributes of rows, the first ones first: of as many as budget, time and room allow.

        spots: the rows, each with where its attributes are in an index by row. budget: what is left of it. room: bytes
        of their JSON with the names, each list, object and text counting PART_BYTES more; None: as many as it takes. At
        most so many are held.
        """
        names, directory = [a["name"] for a in self.root.schema["attributes"]], self.root.directory
        if not names:
            return {row: {} for row in spots}
        rows, first, by_row = list(spots), directory.first_row, self.root.index.by_row
        home = [bisect_right(first, row) - 1 for row in rows]
        own = sum(len(name.encode()) + 4 for name in names)  # in a reply, with quotes, colon and comma
        left = room
        takers: dict[tuple[int, Spot], list[int]] = {}  # (block, bytes of its attribute block) -> numbers of rows
        for i, (row, b) in enumerate(zip(rows, home, strict=True)):
            spot = spots[row] or Spot(0, directory.attribute_size[b], directory.attribute_crc[b])
            if not 1 < spot.size <= (ATTRIBUTE_ROW_BYTES_MAX if by_row else READ_BYTES_MAX):
                raise damaged(f"{self._shard_of(b)}, block {b}", f"{spot.size} bytes of attributes of row {row}")
            if spot.offset + spot.size > directory.attribute_size[b]:
                where = f"bytes {spot.offset} to {spot.offset + spot.size} of {directory.attribute_size[b]}"
                raise damaged(f"{self._shard_of(b)}, block {b}", f"attributes of row {row} are at {where}")
            if left is not None and by_row:
                left -= spot.size + own
                if left < 0:
                    break
            takers.setdefault((b, spot), []).append(i)
        items = []
        for b, spot in takers:
            shard = bisect_right(directory.shard_blocks, b) - 1
            what = f"attributes of row {rows[takers[b, spot][0]]}" if by_row else f"attributes of block {b}"
            items.append(
                Item(
                    self.shard(shard), directory.attribute_offset[b] + spot.offset, spot.size,
                    self.root.objects.shards[shard], spot.crc, what,
                )
            )  # fmt: skip
        items, spans = _fitting(items, budget, by_row)
        numbers_of, kept = list(takers.values()), _Kept(own, room)

        def use(numbers: list[int], views: list[memoryview]) -> None:
            for number, whole in zip(numbers, views, strict=True):
                for i in numbers_of[number]:
                    row, b, view = rows[i], home[i], whole
                    if not by_row:
                        view = attribute_bytes(whole, first[b + 1] - first[b], row - first[b], items[number].what)
                    kept.add(i, bytes(view))

        if items:
            yield Wave(items, spans, use)
        return {
            rows[i]: attributes_of(data, names, f"{self._shard_of(home[i])}, attributes of row {rows[i]}")
            for i, data in sorted(kept.held.items())
        }


class _Kept:
    """What is kept of rows that arrive in any order: the first ones, as many as there is room for."""

    def __init__(self, own: int, room: int | None) -> None:
        self.held: dict[int, bytes] = {}
        self._own, self._left, self._end = own, room, 1 << 32

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
        parts = data.count(b"[") + data.count(b"{") + data.count(b'"') // 2
        return len(data) + self._own + PART_BYTES * parts


def _fitting(items: list[Item], budget: Budget, by_row: bool) -> tuple[list[Item], list[Span]]:
    """As many of the first items as one wave may read within the budget, and how."""
    gets, room = budget.gets, budget.bytes
    if budget.waves < 1 or gets < 1:
        return [], []

    def plan(count: int) -> list[Span] | None:
        ranges = [item[:3] for item in items[:count]]
        if by_row:
            nbytes = sum(size for _, _, size in ranges)
            return plan_gather(ranges, gets, room, nbytes + max(BRIDGED_SHARE * nbytes, BRIDGED_BYTES * count))
        few = min(max(ATTRIBUTE_RANGES, len({key for key, _, _ in ranges})), gets)
        return plan_gather(ranges, few, room) or plan_gather(ranges, gets, room)

    count, over = len(items), len(items) + 1
    spans = plan(count) if items else None
    if spans is None:  # between what fits and what does not
        count, over = 0, len(items)
        while over - count > 1:
            middle = (count + over) // 2
            fitting = plan(middle)
            count, over, spans = (count, middle, spans) if fitting is None else (middle, over, fitting)
    return items[:count], spans or []


def _gather(items: list[Item], budget: Budget) -> Steps[list[bytes] | None]:
    """The bytes of scattered items in one wave; None past budget or time."""
    if not items:
        return []
    if budget.waves < 1 or budget.gets < 1:
        return None
    spans = plan_gather([item[:3] for item in items], budget.gets, budget.bytes)
    if spans is None:
        return None
    out: list[bytes] = [b""] * len(items)

    def use(numbers: list[int], views: list[memoryview]) -> None:
        for number, view in zip(numbers, views, strict=True):
            out[number] = bytes(view)

    return out if (yield Wave(items, spans, use)) else None


def _readable(identifier: int | bytes) -> int | str:
    return identifier if isinstance(identifier, int) else identifier.decode(errors="replace")
