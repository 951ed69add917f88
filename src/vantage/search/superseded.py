"""Rows of an extent that no longer count: dead ones, and those of whose ids the log has a row."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Set
from dataclasses import dataclass

from .. import kernels
from ..format import GROUP, OpenBlock, OpenChunk, Root, aligned, damaged, id_at, pack_ids
from ..format.log import Id

SLOTS_MIN = 1024


class IdTable:
    """Hashes of ids, for `kernels.ids_in`; more come, none go. kind: of the ids."""

    def __init__(self, kind: str) -> None:
        self.kind, self.count, self.slots = kind, 0, bytearray(8 * SLOTS_MIN)

    def add(self, ids: Collection[Id], every: Collection[Id]) -> None:
        """Adds ids; `every`: they, and all that were added before."""
        if 16 * (self.count + len(ids)) > len(self.slots):  # at most half of it is used
            self.slots, self.count, ids = bytearray(32 << max(1, len(every)).bit_length()), 0, every
        if self.kind == "i64":
            width, plane = 8, array("q", (i for i in ids if isinstance(i, int))).tobytes()
        else:
            width, plane = pack_ids([i for i in ids if isinstance(i, bytes)])
        self.count += kernels.ids_add(plane, width, len(ids), self.slots)


@dataclass(frozen=True)
class Superseded:
    """Ids whose rows in the generation may not answer. slots: of an IdTable that has them, and perhaps others."""

    ids: Set[Id] = frozenset()
    slots: bytes | bytearray = b""

    def __bool__(self) -> bool:
        return bool(self.ids)


def gone_in(
    data: bytes | memoryview, opened: OpenBlock | OpenChunk, superseded: Superseded, root: Root, where: str
) -> int:  # fmt: skip
    """A bit for each row of an extent that answers nothing: it is dead, or its id is one of these."""
    gone = superseded_in(data, opened, superseded, root.index.id_kind, where)
    if root.dead is not None:
        n = opened.at.n
        found = bytearray(aligned(n, GROUP) // 8)
        if kernels.dead_rows(data, opened.at.rows, n, root.dead.bits, found):
            gone |= int.from_bytes(found, "little")
    return gone


def superseded_in(
    data: bytes | memoryview, opened: OpenBlock | OpenChunk, superseded: Superseded, kind: str, where: str
) -> int:  # fmt: skip
    """A bit for each row of an extent whose id is one of these."""
    if not superseded:
        return 0
    n, plane = opened.at.n, memoryview(data)[opened.at.ids :]
    found = bytearray(aligned(n, GROUP) // 8)
    try:
        if not kernels.ids_in(plane, opened.id_width, n, superseded.slots, found):
            return 0
    except ValueError as error:
        raise damaged(where, f"its ids are damaged ({error})") from None
    out = bits = int.from_bytes(found, "little")
    while bits:  # few have the hash of one
        i = (bits & -bits).bit_length() - 1
        if id_at(plane, opened.id_width, n, i, kind, where) not in superseded.ids:
            out &= ~(1 << i)
        bits &= bits - 1
    return out
