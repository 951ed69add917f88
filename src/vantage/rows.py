"""Rows of one generation: found by id, their vectors and attributes read by number."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from .errors import DamagedError, InputError, NotFoundError
from .format import ID_ENTRY_BYTES, ID_PAGE_ROWS, VECTOR_BYTES, Root, attributes_at, part_key, shard_key
from .plan import Budget, Span, plan_gather
from .rank import Match, decode
from .stats import Receipt
from .waves import Item, Steps, Want

ATTRIBUTE_RANGES = 6


def id_hash(identifier: int | bytes) -> int:
    """The u64 that ids.bin is sorted by: the first 8 bytes of the SHA-256 of the id (an i64 as 8 bytes)."""
    raw = struct.pack("<q", identifier) if isinstance(identifier, int) else identifier
    return int.from_bytes(sha256(raw).digest()[:8], "little")


class Rows:
    """Where the rows of a generation lie; every method is steps of a query (see waves.together)."""

    def __init__(self, name: str, generation: str, root: Root) -> None:
        self.name, self.generation, self.root = name, generation, root

    def shard(self, number: int) -> str:
        """The key of a shard."""
        return f"{self.name}/{shard_key(self.generation, number)}"

    def find(self, identifier: int | bytes) -> Steps[tuple[int, int]]:
        """(row, CRC-32C of its vector) of an id: one GET for a page of ids.

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
        pages, wanted = root.id_pages, id_hash(identifier)
        page = bisect_right(pages.first_hash, wanted) - 1
        if page < 0:
            raise missing
        rows = min(ID_PAGE_ROWS, root.index.rows - page * ID_PAGE_ROWS)
        key, found = f"{self.name}/{self.generation}/ids.bin", bytearray()
        start, length = page * ID_PAGE_ROWS * ID_ENTRY_BYTES, rows * ID_ENTRY_BYTES
        item = Item(key, start, length, root.objects.ids, pages.crc[page], f"page {page}")
        yield Want([item], [Span(key, start, length, [0])], lambda _, views: found.extend(views[0]))
        view = memoryview(found)
        hashes = view[: 8 * rows].cast("Q")
        at = bisect_right(hashes, wanted) - 1
        if at < 0 or hashes[at] != wanted:
            raise missing
        row, check = (column[at] for column in (view[8 * rows : 12 * rows].cast("I"), view[12 * rows :].cast("I")))
        if row >= root.index.rows:
            raise DamagedError(f"{key}: row {row} of {root.index.rows}", hint="build the index again")
        return row, check

    def vectors(self, checks: dict[int, int], budget: Budget, receipt: Receipt) -> Steps[dict[int, bytes]]:
        """Full vectors of rows, verified by their checks; {} when the budget does not allow the wave."""
        pages, index = self.root.vectors, self.root.index
        width = VECTOR_BYTES[index.vector_kind] * index.dimension
        items = []
        for row, check in checks.items():
            page = bisect_right(pages.first_row, row) - 1
            part = pages.part[page]
            key, at = f"{self.name}/{part_key(self.generation, part)}", pages.offset[page]
            at += (row - pages.first_row[page]) * width
            items.append(Item(key, at, width, self.root.objects.parts[part], check, f"the vector of row {row}"))
        found = yield from _gather(items, budget.gets, budget, receipt)
        return dict(zip(checks, found, strict=True)) if found is not None else {}

    def attributes(self, rows: Iterable[int], budget: Budget, receipt: Receipt) -> Steps[dict[int, dict[str, Any]]]:
        """Attributes by row; {} when the budget does not allow the wave."""
        names, directory = [a["name"] for a in self.root.schema["attributes"]], self.root.directory
        home = {row: bisect_right(directory.first_row, row) - 1 for row in rows}
        if not names:
            return {row: {} for row in home}
        order, items = sorted(set(home.values())), []
        for b in order:
            shard = bisect_right(directory.shard_blocks, b) - 1
            items.append(
                Item(
                    self.shard(shard), directory.attribute_offset[b], directory.attribute_size[b],
                    self.root.objects.shards[shard], directory.attribute_crc[b], f"attributes of block {b}",
                )
            )  # fmt: skip
        found = yield from _gather(items, max(ATTRIBUTE_RANGES, len({i.key for i in items})), budget, receipt)
        if found is None:
            return {}
        data, first = dict(zip(order, found, strict=True)), directory.first_row
        return {
            row: attributes_at(
                data[b], first[b + 1] - first[b], row - first[b], names,
                f"{self.name}/{self.generation}: attributes of block {b}",
            )
            for row, b in home.items()
        }  # fmt: skip

    def dress(
        self, matches: list[Match], vectors: dict[int, bytes], with_vectors: bool, with_attributes: bool,
        budget: Budget, receipt: Receipt,
    ) -> Steps[bool]:  # fmt: skip
        """Attributes and vectors of the matches, when asked for; whether all could be read. vectors: those at hand."""
        whole = True
        if with_vectors and matches:
            missing = {m.row: m.check for m in matches if m.row not in vectors}
            vectors = vectors | (yield from self.vectors(missing, budget, receipt))
            for m in matches:
                if m.row in vectors:
                    m.vector = decode(vectors[m.row], self.root.index.vector_kind)
            whole &= all(m.vector is not None for m in matches)
        if with_attributes and matches:
            found = yield from self.attributes((m.row for m in matches), budget, receipt)
            for m in matches:
                m.attributes = found.get(m.row)
            whole &= all(m.attributes is not None for m in matches)
        return whole


def _gather(items: list[Item], gets: int, budget: Budget, receipt: Receipt) -> Steps[list[bytes] | None]:
    """The bytes of scattered items in one wave of so many GETs where that is enough; None past the budget."""
    if not items:
        return []
    left = budget.gets - receipt.gets
    if receipt.waves >= budget.waves or left < 1:
        return None
    room, places = budget.bytes - receipt.bytes, [item[:3] for item in items]
    spans = plan_gather(places, min(gets, left), room) or plan_gather(places, left, room)
    if spans is None:
        return None
    out: list[bytes] = [b""] * len(items)

    def use(numbers: list[int], views: list[memoryview]) -> None:
        for number, view in zip(numbers, views, strict=True):
            out[number] = bytes(view)

    yield Want(items, spans, use)
    return out


def _readable(identifier: int | bytes) -> int | str:
    return identifier if isinstance(identifier, int) else identifier.decode(errors="replace")
