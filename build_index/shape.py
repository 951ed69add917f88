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
    Objects,
    Point,
    Root,
    Rotation,
    RouterSection,
    TwoLevelSection,
    VectorPages,
    aligned,
)
from vantage.search.prepare import Prepared, prepare
from vantage.search.route import ROUTERS

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
    """Blocks in file order. copy i32 (N, E): blocks of the row's copies, -1 for none. centres: as stored, decoded."""

    partition: Partition
    copy: npt.NDArray[np.int32]
    router: str
    section: RouterSection
    centre_section: Centres
    centres: F32

    @property
    def blocks(self) -> int:
        return self.partition.blocks

    def members(self) -> list[Ints]:
        """Source rows of each block: home rows, then copies, each by rising number."""
        home_order, home_ends = _grouped(self.partition.home, np.arange(len(self.partition.home)), self.blocks)
        row, column = np.nonzero(self.copy >= 0)
        copy_order, copy_ends = _grouped(self.copy[row, column], row, self.blocks)
        return [
            np.concatenate([home_order[home_ends[b] : home_ends[b + 1]], copy_order[copy_ends[b] : copy_ends[b + 1]]])
            for b in range(self.blocks)
        ]

    @property
    def copies(self) -> int:
        return int((self.copy >= 0).sum())

    def sizes(self) -> Ints:
        """Rows in each block, copies included."""
        return np.bincount(self.partition.home, minlength=self.blocks) + np.bincount(
            self.copy[self.copy >= 0], minlength=self.blocks
        )

    def holds(self, rows: npt.NDArray[np.int32], read: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """bool (Q, k): whether a block that holds rows (Q, k) is read; read bool (Q, B)."""
        each = np.arange(len(rows))[:, None]
        found = read[each, self.partition.home[rows]]
        for copy in self.copy.T:
            found |= (copy[rows] >= 0) & read[each, copy[rows]]
        out: npt.NDArray[np.bool_] = found & (rows >= 0)
        return out


def _grouped(block: npt.NDArray[np.int32], rows: Ints, blocks: int) -> tuple[Ints, Ints]:
    """(rows by block, each by rising number; where each block's begin)."""
    order = np.lexsort((rows, block))
    return rows[order], np.concatenate([[0], np.cumsum(np.bincount(block, minlength=blocks))])


def index_section(
    rows: Rows,
    blocks: int,
    places: int,
    router: str = "lse",
    shards: int = 1,
    vector_kind: str = "f32",
    codec: str = "lrsq",
    by_row: bool = False,
) -> IndexSection:
    """The index section of an index of these rows."""
    return IndexSection(
        rows.metric, rows.dimension, rows.count, blocks, shards, rows.spool.id_kind, vector_kind, codec, router,
        rows.scale, places, by_row, memoryview(rows.origin),
    )  # fmt: skip


def prepared(rows: Rows, wanted: Ints) -> list[Prepared]:
    """Stored rows as queries, through the edge's own preparation."""
    section = index_section(rows, 1, rows.count)
    return [prepare(v.tolist(), section) for v in rows.spool.gather(wanted)]


def probabilities(router: str, section: RouterSection, index: IndexSection, queries: list[Prepared]) -> P:
    """u32 (Q, B) in 2^-20, by the edge's own router."""
    route, out = ROUTERS[router](section, index).route, np.zeros((len(queries), index.blocks), np.uint32)
    for p, query in zip(out, queries, strict=True):
        routed = route(query)
        p[slice(None) if routed.blocks is None else np.asarray(routed.blocks)] = routed.p
    return out


def page_bytes(router: str, section: RouterSection, index: IndexSection, queries: list[Prepared]) -> list[int] | None:
    """Bytes of the routing page that each query reads first, nothing cached; None where the router is in memory."""
    if not isinstance(section, TwoLevelSection):
        return None
    page = ROUTERS[router](section, index).page
    return [section.size[page(query)] for query in queries]


def trial_root(rows: Rows, shape: Shape, rotation: Rotation, codec: LrsqSection, k: int) -> Root:
    """A root good enough to scan with: nothing of it says where blocks lie."""
    sizes = array("I", shape.sizes().tolist())
    index = index_section(rows, shape.blocks, int(sum(sizes)), shape.router)
    directory = Directory(
        _NOTHING, _NOTHING, _NOTHING, _NOTHING, memoryview(sizes), _NOTHING, _NOTHING, _NOTHING, _NOTHING
    )
    return Root(
        index, {"attributes": []}, Objects([], [], 0), directory, shape.centre_section, rotation,
        shape.section, codec, Contract(k, 6, 0.5, (Point(k, 0, 0.5, 0, 0),)),
        VectorPages(_NOTHING, _NOTHING, _NOTHING), IdPages(_NOTHING, _NOTHING),
    )  # fmt: skip
