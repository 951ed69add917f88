"""Planes -> contenders. One class a codec, one interface, one table."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from operator import mul
from typing import Protocol

from . import kernels
from .errors import DamagedError
from .format import GROUP, RANGES_AT, Root, aligned, block_planes, id_at, id_width
from .prepare import Prepared

_ENTRY = struct.Struct("<iIII")  # score, row, block, index in the block
_U32 = struct.Struct("<I")
CONTENDERS_MIN = 300


@dataclass(frozen=True)
class Contender:
    """A row that the scan kept: its integer score, its id, and the CRC-32C of its full vector."""

    score: int
    row: int
    check: int
    id: int | bytes


class Scan(Protocol):
    """One query's scan: blocks in, in any order; the best rows out."""

    rows: int

    def block(self, number: int, data: bytes | memoryview, *, keep: bool) -> None:
        """Scans a verified block; keep says that `data` stays as it is until the end."""

    def settle(self) -> None:
        """Keeps of the blocks since the last call what their contenders' ids need; then their bytes may go."""

    def contenders(self) -> list[Contender]:
        """The best rows, best first, ties by lower row number; ids read."""


class LrsqScan:
    """lrsq (see build_index.codecs.lrsq): nibble tables once a query, then one kernel call a block.

    capacity: most contenders. The score of a row in block b is base_b + h + f * (sum of table entries), base_b = <q, c_b>
    plus the centre's bias, times query.unit, as an integer.
    """

    def __init__(self, root: Root, query: Prepared, capacity: int) -> None:
        self.root, self.query, self.rows = root, query, 0
        self.codec = root.codec
        rotated = array("f", bytes(4 * root.axes))
        d = root.index.dimension
        kernels.dot_f16(query.vector, root.rotation, 0, 2 * d, root.axes, d, rotated)
        weighted = array("f", map(mul, rotated, self.codec.deviation))
        self.tables = bytearray(kernels.lrsq_tables_size(self.codec.code_bytes))
        kernels.lrsq_tables(
            weighted, self.codec.fields, self.codec.starts, self.codec.levels, query.unit, self.tables
        )
        self._dots = array("i", bytes(4 * root.index.blocks))
        kernels.matvec_i8(query.i16, root.centres.table, root.index.blocks, d, self._dots)
        self.capacity = capacity
        self.pool = bytearray(kernels.pool_size(capacity))
        kernels.pool_reset(self.pool, capacity)
        self._ids: dict[int, tuple[bytes | memoryview, int]] = {}  # block -> its checks and ids, id width
        self._fresh: dict[int, tuple[bytes | memoryview, int]] = {}

    def base(self, block: int) -> float:
        """<q, c> + bias of a block's centre."""
        centres = self.root.centres
        return self._dots[block] * (centres.scale[block] * self.query.i16_scale) + centres.bias[block]

    def block(self, number: int, data: bytes | memoryview, *, keep: bool) -> None:
        n = self.root.directory.rows[number]
        planes = block_planes(n, self.codec.code_bytes)
        width = id_width(data, planes, f"block {number}")
        self.rows += kernels.lrsq_scan(
            data, RANGES_AT, planes.codes, planes.f, planes.h, planes.rows, n, self.base(number), number, self.tables, self.pool
        )  # fmt: skip
        (self._ids if keep else self._fresh)[number] = (memoryview(data)[planes.checks :], width)

    def settle(self) -> None:
        live = {block for _, _, block, _ in self.entries()}
        self._ids |= {b: (bytes(plane), width) for b, (plane, width) in self._fresh.items() if b in live}
        self._fresh.clear()

    def contenders(self) -> list[Contender]:
        rows, kind, directory = self.root.index.rows, self.root.index.id_kind, self.root.directory
        out = []
        for score, row, block, i in self.entries():
            if row >= rows:
                raise DamagedError(f"block {block} holds row {row} of {rows}", hint="build the index again")
            plane, width = self._ids[block]
            (check,) = _U32.unpack_from(plane, 4 * i)
            n = directory.rows[block]
            ids = memoryview(plane)[4 * aligned(n, GROUP) :]
            out.append(Contender(score, row, check, id_at(ids, width, n, i, kind, f"block {block}")))
        return out

    def entries(self) -> Iterator[tuple[int, int, int, int]]:
        """(score, row, block, index in the block), best first."""
        out = bytearray(_ENTRY.size * self.capacity)
        count = kernels.pool_finish(self.pool, out)
        return _ENTRY.iter_unpack(memoryview(out)[: _ENTRY.size * count])




SCANS = {"lrsq": LrsqScan}
