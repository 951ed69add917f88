"""Fits a router to blocks, orders these, and measures what routing alone would read, on rows held out for tuning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from vantage.cost import LANE_BYTES_PER_MS
from vantage.format import LseSection, RouterSection
from vantage.search.prepare import Prepared

from ..blocks.layout import Layout, index_section, quantize_centres
from ..blocks.order import EXACT_BLOCKS_MAX, file_order, file_order_by_centres
from ..blocks.partition import Partition
from ..ingest.rows import Ints, Rows
from ..neighbours.graph import Graph
from ..progress import Progress
from ..routers import ROUTERS
from ..routers.training import TrainingSet, renumber
from ..simulate.edge import HeldOutQueries, P, Pages, page_bytes, prepare_rows, probabilities
from ..simulate.measure import Reads, Scanned, block_bytes, planner, price_for
from .options import Options

TUNE_QUERIES = 500  # of the tuning rows, for parameters of routers
FIRST_QUERIES = 50  # which show soon that a price is far too high
ROUTED_SHARE = 0.25  # of the loss that the target allows, what the code may take in the first stage
OPENINGS = 0.1  # a query: as a cold isolate opens the index, and then answers ten
ORDER_QUERIES = 4000
ORDER_SHARE = 14  # rows for one of them, where that makes fewer: 16 a block

# Stands where the router is still to be fitted.
_NO_SECTION = LseSection(8, 1, 1.0, 1.0, memoryview(b""), memoryview(b""), memoryview(b""))


@dataclass(frozen=True)
class Task:
    """What every stage of the choice works with. queries, neighbours: see TrainingSet.

    deep: some of the rows that promises are measured on, with neighbours for k above the contract's. scanned: how many
    blocks of the largest probability are scanned for a query; None: all.
    """

    rows: Rows
    sample: Ints
    tune: HeldOutQueries
    queries: Ints
    neighbours: Graph
    id_bytes: float
    k: int
    options: Options
    tried: list[dict[str, Any]]
    progress: Progress
    deep: Scanned | None = None
    scanned: int | None = None

    @property
    def routed_recall(self) -> float:
        """What routing must reach while the code is not yet known."""
        return self.options.recall + (1 - self.options.recall) * ROUTED_SHARE

    @cached_property
    def order_queries(self) -> list[Prepared]:
        """Rows of the sample as queries, whose probes order the blocks."""
        most = min(ORDER_QUERIES, -(-len(self.sample) // ORDER_SHARE))
        rng = np.random.default_rng([self.options.seed, 4])
        return prepare_rows(self.rows, np.sort(rng.choice(self.sample, most, replace=False)))

    def training_set(self, base: Partition, copy: npt.NDArray[np.int32]) -> TrainingSet:
        return TrainingSet(self.rows, self.sample, base, copy, self.queries, self.neighbours, self.options.seed)


def fit_router(
    task: Task, base: Partition, copy: npt.NDArray[np.int32], router: str, progress: Progress
) -> tuple[Layout, Ints]:
    """A router fitted to these blocks, which are then ordered by its co-probes of the sample: (layout, order).

    Many blocks are ordered by their centres, whatever the router: it would have to say a probability of each for many.
    """
    rows, fit = task.rows, ROUTERS[router]
    few = task.tune.take(task.tune.spread(TUNE_QUERIES))
    index = index_section(rows, base.blocks, rows.count, router)
    many = base.blocks > EXACT_BLOCKS_MAX
    order: Ints | None = None  # one for all candidates: it hardly depends on them, and of few is found again at the end
    if many:
        order = file_order_by_centres(rows, task.sample, base.centres, task.options.seed)
    plain = Layout(base, copy, router, _NO_SECTION, *quantize_centres(base.centres, rows.metric))

    def ms(task: Task, tried: Layout, p: P) -> float:
        """Infinite where all that has a probability is too little: a router that is too sharp is not cheap."""
        reads = plan_routing(task, tried, p, few)
        reached = tried.holds(few.truth.rows[:, : task.k], reads.blocks).mean() >= task.routed_recall
        return float(reads.ms.mean()) if reached else np.inf

    known = list[tuple[RouterSection, float]]()

    def cost(section: RouterSection) -> float:
        nonlocal order
        again = next((cost for one, cost in known if one == section), None)
        if again is not None:
            return again
        p = probabilities(router, section, index, few.queries)
        order = file_order(p) if order is None else order
        known.append((section, ms(task, reorder(plain, order), p[:, order]) + opening_ms(section)))
        return known[-1][1]

    section = fit.fit(task.training_set(base, copy), cost, progress)
    if not many:
        order = file_order(probabilities(router, section, index, task.order_queries))
    assert order is not None
    layout = replace(reorder(plain, order), section=fit.reorder(section, order))
    if fit.tune is None:
        return layout, order

    # What a page leaves out no price brings back: it is chosen for more recall than the target.
    strict = replace(task, options=replace(task.options, recall=task.routed_recall))

    def whole_cost(section: RouterSection) -> float:
        p = probabilities(router, section, index, few.queries)
        return ms(strict, replace(layout, section=section), p) + opening_ms(section)

    return replace(
        layout, section=fit.tune(layout.section, task.training_set(layout.partition, layout.copy), whole_cost)
    ), order


def reorder(layout: Layout, order: Ints) -> Layout:
    """Blocks, copies and centres with block order[i] as number i; the router's section is left as it was."""
    centres = layout.centre_section

    def moved(column: memoryview, dtype: type) -> memoryview:
        return memoryview(np.ascontiguousarray(np.frombuffer(column, dtype).reshape(len(order), -1)[order]).reshape(-1))

    section = type(centres)(
        moved(centres.table, np.uint8), moved(centres.scale, np.float32), moved(centres.bias, np.float32)
    )
    return replace(
        layout, partition=layout.partition.reordered(order), copy=renumber(layout.copy, order),
        centre_section=section, centres=layout.centres[order],
    )  # fmt: skip


def probabilities_of(rows: Rows, layout: Layout, queries: list[Prepared], sharpness: float = 1.0) -> P:
    index = index_section(rows, layout.blocks, rows.count + layout.copies, layout.router)
    return probabilities(layout.router, layout.section, index, queries, sharpness)


def pages_of(rows: Rows, layout: Layout, queries: list[Prepared]) -> Pages | None:
    """See page_bytes."""
    index = index_section(rows, layout.blocks, rows.count + layout.copies, layout.router)
    return page_bytes(layout.router, layout.section, index, queries)


def plan_routing(task: Task, layout: Layout, p: P, of: HeldOutQueries) -> Reads:
    """Plans that reach the routed recall with exact scores: what the routing alone reads."""
    sizes = block_bytes(layout.sizes(), middle_code(task.rows), task.id_bytes, task.rows.dimension)

    planned, near = planner(p, sizes), of.truth.rows[:, : task.k]
    holders, reaching = layout.holders(near), dict[int, list[Reads]]()  # reaching: the last plans that did, by price

    @cache
    def recall(price: int) -> float:
        """Where the first queries miss so many that the others cannot make up for them: what it is at the most."""
        missed, low, high, parts = 0, 0, FIRST_QUERIES, list[Reads]()
        while low < len(p) and (near.size - missed) / near.size >= task.routed_recall:
            some = slice(low, high)
            parts.append(planned(price, some))
            read, own = parts[-1].blocks, holders[:, some]
            found = read.reshape(-1)[own + len(read[0]) * np.arange(len(read))[:, None]].any(0) & (near[some] >= 0)
            missed += found.size - np.count_nonzero(found)
            low, high = high, 2 * high
        if (near.size - missed) / near.size >= task.routed_recall:
            reaching.clear()
            reaching[price] = parts
        return (near.size - missed) / near.size

    price = price_for(recall, task.routed_recall) or 0
    parts = reaching.get(price) or [planned(price, slice(None))]
    blocks, ranges = np.concatenate([part.blocks for part in parts]), [one for part in parts for one in part.ranges]
    return Reads(blocks, ranges, pages_of(task.rows, layout, of.queries))


def opening_ms(section: RouterSection) -> float:
    """What the bytes that a router keeps resident cost a query: its share of an opening, which reads them in a lane."""
    return OPENINGS * len(section.pack()) / LANE_BYTES_PER_MS


def middle_code(rows: Rows) -> int:
    return max(8, rows.dimension * 5 // 8)
