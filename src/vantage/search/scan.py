"""Planes -> contenders. One class for each codec, one interface, one table."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from operator import mul
from typing import Protocol

from .. import kernels
from ..format import CODECS, GROUP, RANGES_AT, Root, Spot, aligned, damaged, id_at, id_width, spot_at
from .prepare import Prepared
from .rotate import rotated

_ENTRY = struct.Struct("<iIII")  # score, row, block, index in the block
CONTENDERS_MIN = 300
SCORE_MAX = 1 << 30  # integer scores are cut there; those in their scale stay below, but for far rows under l2
COSINE_MAX = 16.0  # no cosine is over 1; the rest is room for what a coarse code leaves
BlockIds = dict[
    int, tuple[memoryview, int]
]  # what contenders need of a block: checks, spots, ids, and the width of ids


@dataclass(frozen=True)
class Contender:
    """A row that the scan kept: its integer score, its id, the CRC-32C of its full vector, and a block that has it.

    spot: where its attributes are, in an index by row.
    """

    score: int
    row: int
    check: int
    id: int | bytes
    block: int
    spot: Spot | None = None


class Scan(Protocol):
    """One query's scan: blocks in, in any order; the best rows out."""

    rows: int

    def block(self, number: int, data: bytes | memoryview, *, keep: bool) -> None:
        """Scans a verified block; keep says that `data` stays as it is until the end."""

    def settle(self) -> None:
        """Keeps of the blocks since the last call what their contenders' ids need; then their bytes may go."""

    def base(self, block: int) -> float:
        """The score of a block's centre."""

    def contenders(self, most: int) -> list[Contender]:
        """The best `most` rows, best first, ties by lower row number; ids read."""


class LrsqScan:
    """Every codec (see build_index.codecs): nibble tables once per query, then one kernel call per block.

    capacity: most contenders; name: of the generation, for errors; block_ids: shared by the scans of a batch; fine:
    leading segments with 16-bit tables, None as the codec says. A row of block b scores base_b + h + f * (sum of table
    entries), times query.unit, as an integer; base_b is <q, c_b> plus the centre's bias.
    """

    def __init__(
        self, root: Root, query: Prepared, capacity: int, name: str = "", block_ids: BlockIds | None = None, *,
        fine: int | None = None,
    ) -> None:  # fmt: skip
        self.root, self.query, self.name, self.rows = root, query, name, 0
        self.codec = root.codec
        weighted = array("f", map(mul, rotated(root.rotation, query.vector), self.codec.deviation))
        fine = self.codec.fine if fine is None else fine
        self.tables = bytearray(kernels.lrsq_tables_size(self.codec.code_bytes, fine))
        kernels.lrsq_tables(
            weighted, self.codec.fields, self.codec.starts, self.codec.levels, query.unit, fine, self.tables
        )
        self._dots = array("i", bytes(4 * root.index.blocks))
        kernels.matvec_i8(query.i16, root.centres.table, root.index.blocks, root.index.dimension, self._dots)
        self.capacity = capacity
        self.pool = bytearray(kernels.pool_size(capacity))
        kernels.pool_reset(self.pool, capacity)
        self._kept: dict[int, bytes | memoryview] = {}  # blocks whose bytes stay
        self._fresh: dict[int, tuple[bytes | memoryview, int]] = {}  # blocks of the buffer, with their id widths
        self._block_ids: BlockIds = {} if block_ids is None else block_ids

    def base(self, block: int) -> float:
        """<q, c> + bias of a block's centre."""
        centres = self.root.centres
        return self._dots[block] * (centres.scale[block] * self.query.i16_scale) + centres.bias[block]

    def block(self, number: int, data: bytes | memoryview, *, keep: bool) -> None:
        at = self.root.planes(number)
        if keep:  # checked when it came
            self._kept[number] = data
        else:
            self._fresh[number] = (data, id_width(data, at, self._where(number)))
        self.rows += kernels.lrsq_scan(
            data, RANGES_AT, at.codes, at.f, at.h, at.rows, at.n, self.base(number), number, self.tables, self.pool
        )

    def settle(self) -> None:
        for number in (self._blocks_kept() & self._fresh.keys()) - self._block_ids.keys():
            data, width = self._fresh[number]
            at = self.root.planes(number)
            self._block_ids[number] = (memoryview(bytes(data[at.checks :])), width)
        self._fresh.clear()

    def contenders(self, most: int) -> list[Contender]:
        best = [self._contender(entry) for entry in islice(self.entries(), most)]
        metric = self.root.index.metric
        limit = min(COSINE_MAX * self.query.unit, SCORE_MAX) if metric == "cosine" else SCORE_MAX
        for c in best:
            if not (c.score > -limit or metric == "l2") or c.score >= limit:
                raise damaged(self._where(c.block), f"gives row {c.row} a score that no row can have")
        return best

    def _blocks_kept(self) -> set[int]:
        """Blocks whose ids may still be asked for."""
        return {block for _, _, block, _ in self.entries()}

    def _contender(self, entry: tuple[int, int, int, int]) -> Contender:
        score, row, block, i = entry
        if row >= self.root.index.rows:
            raise damaged(self._where(block), f"holds row {row} of {self.root.index.rows}")
        at = self.root.planes(block)
        plane, width = self._block_ids.get(block) or self._ids_of(block)
        check = plane[4 * i : 4 * i + 4].cast("I")[0]
        spot = None
        if self.root.index.by_row:
            spot = spot_at(plane[at.spots - at.checks :], aligned(at.n, GROUP), i)
        ids = plane[at.ids - at.checks :]
        identifier = id_at(ids, width, at.n, i, self.root.index.id_kind, self._where(block))
        return Contender(score, row, check, identifier, block, spot)

    def _where(self, block: int) -> str:
        """What errors call a block."""
        shard = bisect_right(self.root.directory.shard_blocks, block) - 1
        return f"{self.name}/shard-{shard:05d}.bin, block {block}"

    def _ids_of(self, block: int) -> tuple[memoryview, int]:
        """(checks, spots and ids; id width) of a kept block."""
        data = self._kept[block]
        at = self.root.planes(block)
        self._block_ids[block] = (memoryview(data)[at.checks :], id_width(data, at, self._where(block)))
        return self._block_ids[block]

    def entries(self) -> Iterator[tuple[int, int, int, int]]:
        """(score, row, block, index in the block), best first."""
        return pool_entries(self.pool, self.capacity)


def pool_entries(pool: bytearray, capacity: int) -> Iterator[tuple[int, int, int, int]]:
    """(score, row, block, index in the block) of what a pool of this capacity keeps, best first."""
    out = bytearray(_ENTRY.size * capacity)
    count = kernels.pool_finish(pool, out)
    return _ENTRY.iter_unpack(memoryview(out)[: _ENTRY.size * count])


SCANS = dict.fromkeys(CODECS, LrsqScan)
