"""Everything of an index but its codes: which rows lie in which block, in what order, and how queries find them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vantage.format import (
    Centres,
    Contract,
    Directory,
    IdPages,
    IndexSection,
    LrsqSection,
    LseSection,
    Objects,
    Point,
    Root,
    VectorPages,
    aligned,
)
from vantage.prepare import Prepared, prepare
from vantage.route import LseRouter

from .partition import Partition
from .rows import F32, Ints, Rows

P = npt.NDArray[np.uint32]
_NOTHING = memoryview(b"")


def stored_centres(centres: F32, metric: str) -> tuple[Centres, F32]:
    """(section, what it decodes to): i8 with a scale a block. Residuals go to what is stored, so nothing is lost."""
    top = np.abs(centres).max(1)
    scale = np.where(top > 0, top / 127, 1).astype(np.float32)
    values = np.clip(np.rint(centres / scale[:, None]), -127, 127).astype(np.int8)
    decoded = values.astype(np.float32) * scale[:, None]
    padded = np.zeros((len(centres), aligned(centres.shape[1], 16)), np.int8)
    padded[:, : centres.shape[1]] = values
    bias = -0.5 * np.einsum("ij,ij->i", decoded, decoded) if metric == "l2" else np.zeros(len(centres))
    section = Centres(memoryview(padded.tobytes()), memoryview(scale), memoryview(bias.astype(np.float32)))
    return section, decoded


@dataclass(frozen=True)
class Shape:
    """Blocks in file order. copy i32 (N): block of the row's copy, or -1. centres: as stored, decoded."""

    partition: Partition
    copy: npt.NDArray[np.int32]
    router: LseSection
    centre_section: Centres
    centres: F32

    @property
    def blocks(self) -> int:
        return self.partition.blocks

    def members(self) -> list[Ints]:
        """Source rows of each block: home rows, then copies, each by rising number."""
        out = []
        home_order, home_ends = _grouped(self.partition.home, self.blocks)
        copy_order, copy_ends = _grouped(self.copy, self.blocks)
        for b in range(self.blocks):
            out.append(
                np.concatenate(
                    [home_order[home_ends[b] : home_ends[b + 1]], copy_order[copy_ends[b] : copy_ends[b + 1]]]
                )
            )
        return out

    def sizes(self) -> Ints:
        """Rows in each block, copies included."""
        return np.bincount(self.partition.home, minlength=self.blocks) + np.bincount(
            self.copy[self.copy >= 0], minlength=self.blocks
        )

    def holds(self, rows: npt.NDArray[np.int32], read: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """bool (Q, k): whether a block that holds rows (Q, k) is read; read bool (Q, B)."""
        each = np.arange(len(rows))[:, None]
        copy = self.copy[rows]
        found: npt.NDArray[np.bool_] = (read[each, self.partition.home[rows]] | ((copy >= 0) & read[each, copy])) & (
            rows >= 0
        )
        return found


def _grouped(block: npt.NDArray[np.int32], blocks: int) -> tuple[Ints, Ints]:
    order = np.argsort(block, kind="stable")
    order = order[np.count_nonzero(block < 0) :]
    return order, np.concatenate([[0], np.cumsum(np.bincount(block[block >= 0], minlength=blocks))])


def index_section(rows: Rows, blocks: int, places: int, shards: int = 1, vector_kind: str = "f32") -> IndexSection:
    """The index section of an index of these rows."""
    return IndexSection(
        rows.metric, rows.dimension, rows.count, blocks, shards, rows.spool.id_kind, vector_kind, "lrsq", "lse",
        rows.scale, places,
    )  # fmt: skip


def prepared(rows: Rows, wanted: Ints) -> list[Prepared]:
    """Stored rows as queries, through the edge's own preparation."""
    section = index_section(rows, 1, rows.count)
    return [prepare(v.tolist(), section) for v in rows.spool.gather(wanted)]


def probabilities(router: LseSection, index: IndexSection, queries: list[Prepared]) -> P:
    """u32 (Q, B) in 2^-20, by the edge's own router."""
    route = LseRouter(router, index)
    return np.stack([np.frombuffer(route.probabilities(q), np.uint32) for q in queries])


def trial_root(rows: Rows, shape: Shape, axes: int, rotation: bytes, codec: LrsqSection, k: int) -> Root:
    """A root good enough to scan with: nothing of it says where blocks lie."""
    sizes = array("I", shape.sizes().tolist())
    index = index_section(rows, shape.blocks, int(sum(sizes)))
    directory = Directory(
        _NOTHING, _NOTHING, _NOTHING, _NOTHING, memoryview(sizes), _NOTHING, _NOTHING, _NOTHING, _NOTHING
    )
    return Root(
        index, {"attributes": []}, Objects([], [], 0), directory, shape.centre_section, axes, memoryview(rotation),
        shape.router, codec, Contract(k, 6, 0.5, (Point(k, 0, 0.5, 0, 0),)),
        VectorPages(_NOTHING, _NOTHING, _NOTHING), IdPages(_NOTHING, _NOTHING),
    )  # fmt: skip
