"""Sends rows as queries through the edge's own preparation and routers, before anything is written."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vantage.format import (
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
)
from vantage.search.prepare import Prepared, prepare
from vantage.search.route import ROUTERS

from ..blocks.layout import Layout, index_section
from ..ingest.rows import Ints, Rows
from ..neighbours.truth import Truth

P = npt.NDArray[np.uint32]
_NOTHING = memoryview(b"")


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


def probabilities(router: str, section: RouterSection, index: IndexSection, queries: list[Prepared]) -> P:
    """u32 (Q, B) in 2^-20, by the edge's own router."""
    edge_router, out = ROUTERS[router](section, index), np.zeros((len(queries), index.blocks), np.uint32)
    for p, query in zip(out, queries, strict=True):
        routed = edge_router.probabilities(query)
        p[slice(None) if routed.blocks is None else np.asarray(routed.blocks)] = routed.p
    return out


def page_bytes(router: str, section: RouterSection, index: IndexSection, queries: list[Prepared]) -> list[int] | None:
    """Bytes of the routing page that each query reads first, nothing cached; None where the router is in memory."""
    if not isinstance(section, TwoLevelSection):
        return None
    page = ROUTERS[router](section, index).page
    return [section.size[page(query)] for query in queries]


def trial_root(rows: Rows, layout: Layout, rotation: Rotation, codec: LrsqSection, k: int) -> Root:
    """A root good enough to scan with: nothing of it says where blocks lie."""
    sizes = array("I", layout.sizes().tolist())
    index = index_section(rows, layout.blocks, int(sum(sizes)), layout.router)
    directory = Directory(
        _NOTHING, _NOTHING, _NOTHING, _NOTHING, memoryview(sizes), _NOTHING, _NOTHING, _NOTHING, _NOTHING
    )
    return Root(
        index, {"attributes": []}, Objects([], [], 0), directory, layout.centre_section, rotation,
        layout.section, codec, Contract(k, 6, 0.5, (Point(k, 0, 0.5, 0, 0),)),
        VectorPages(_NOTHING, _NOTHING, _NOTHING), IdPages(_NOTHING, _NOTHING),
    )  # fmt: skip
