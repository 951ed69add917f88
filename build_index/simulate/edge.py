"""Sends rows as queries through the edge's own preparation and routers, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vantage import kernels
from vantage.format import (
    Centres,
    Contract,
    Directory,
    IdPages,
    IndexSection,
    LrsqSection,
    Objects,
    Places,
    Point,
    Rendition,
    Root,
    Rotation,
    RouterSection,
    RowPages,
    TwoLevelSection,
)
from vantage.search.prepare import Prepared, prepare
from vantage.search.route import ROUTERS

from ..blocks.layout import Layout, index_section
from ..ingest.rows import Ints, Rows
from ..neighbours.truth import Truth

P = npt.NDArray[np.uint32]
_NOTHING = memoryview(b"")
NOWHERE = Directory(_NOTHING, _NOTHING, _NOTHING, (Places(*[_NOTHING] * 5),))  # of no block
EXTENT_BYTES = 12 + 2 * 24  # of a block in the directory of a routing page, in two renditions


@dataclass(frozen=True)
class HeldOutQueries:
    """HeldOutQueries-out rows as queries, with their exact neighbours."""

    queries: list[Prepared]
    rows: Ints
    truth: Truth

    def spread(self, n: int) -> slice:
        """About n of them, evenly: a source may be sorted."""
        return slice(0, None, max(1, len(self.rows) // n))

    def take(self, some: slice) -> HeldOutQueries:
        return HeldOutQueries(self.queries[some], self.rows[some], self.truth[some])


def prepare_rows(rows: Rows, numbers: Ints) -> list[Prepared]:
    """Stored rows as queries, through the edge's own preparation."""
    section = index_section(rows, 1, rows.count)
    return [prepare(v.tolist(), section) for v in rows.stored.gather(numbers)]


def probabilities(
    router: str, section: RouterSection, index: IndexSection, queries: list[Prepared], sharpness: float = 1.0
) -> P:
    """u32 (Q, B) in 2^-20, by the edge's own router."""
    edge_router, out = ROUTERS[router](section, index), np.zeros((len(queries), index.blocks), np.uint32)
    for p, query in zip(out, queries, strict=True):
        routed = edge_router.probabilities(replace(query, sharpness=sharpness))
        p[slice(None) if routed.blocks is None else np.asarray(routed.blocks)] = routed.p
    return out


def logits(
    router: str, section: RouterSection, index: IndexSection, queries: list[Prepared]
) -> npt.NDArray[np.float64] | None:
    """f64 (Q, B), by the edge's own router; None where it gives none."""
    edge_router = ROUTERS[router](section, index)
    each = [edge_router.logits(query) for query in queries]
    return None if not each or each[0] is None else np.array(each, np.float64)


Pages = list[list[int]]  # of each query the bytes of the routing pages that it reads first, side by side


def page_bytes(router: str, section: RouterSection, index: IndexSection, queries: list[Prepared]) -> Pages | None:
    """What each query reads first, nothing cached; None where the router is in memory."""
    if not isinstance(section, TwoLevelSection):
        return None
    pages = ROUTERS[router](section, index).pages
    each = TwoLevelSection.block_bytes(section.bits, section.subs, index.dimension)
    sizes = [size + size // each * EXTENT_BYTES for size in map(len, section.pages)]
    return [[sizes[page] for page in pages(query)] for query in queries]


def trial_root(rows: Rows, layout: Layout, rotation: Rotation, codec: LrsqSection, k: int) -> Root:
    """A root good enough to scan with: nothing of it says where blocks lie."""
    index = index_section(rows, layout.blocks, int(layout.sizes().sum()), layout.router)
    return Root(
        index, {"attributes": []}, Objects((), ()), (Rendition(0, False),), NOWHERE, rotation, layout.section,
        (codec,), Contract(k, 6, 0.5, (Point(k, 0, 0.5, 0, 0),)), RowPages(*[_NOTHING] * 8),
        (IdPages(0, 0, _NOTHING, _NOTHING),),
    )  # fmt: skip


def bases(query: Prepared, centres: Centres, dimension: int) -> npt.NDArray[np.float64]:
    """f64 (B): the score of each block's centre, as vantage.search.scan computes it."""
    dots = np.zeros(len(centres.scale), np.int32)
    kernels.matvec_i8(query.i16, centres.table, len(dots), dimension, dots)
    scale, bias = (np.asarray(column, np.float64) for column in (centres.scale, centres.bias))
    return dots * (scale * query.i16_scale) + bias
