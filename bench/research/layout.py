"""What file order and range plan save: GETs, bytes and modelled time, with and without each part.

    python -m bench.research.layout DATA [--sets wordnet,sift] [--blocks 512] [--share 0.5]

DATA holds wordnet/ and sift/. One trained router with SOAR copies; scores are exact and a row takes 5 bits a dimension.
A line reads what reaches recall@100 0.95 on the held-out queries, off its own price curve: so it compares layouts, not
promises.
"""

from __future__ import annotations

import argparse
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.common import rows_of, task_of
from build_index.blocks import PARTITIONS
from build_index.blocks.copies import COPY_RULES
from build_index.blocks.layout import Layout, index_section
from build_index.ingest.queries import Queries, read_queries
from build_index.ingest.rows import Ints, Rows
from build_index.progress import SILENT
from build_index.simulate.edge import P
from build_index.simulate.measure import Reads, block_bytes, plans, price_for
from build_index.tune.fit import fit_router, middle_code, probabilities_of, reorder
from vantage import kernels
from vantage.cost import LANES
from vantage.format import aligned
from vantage.search import plan
from vantage.search.prepare import prepare

GOAL = 0.95
Way = Callable[[P, Ints, int], Reads]


def a_get_each(p: P, sizes: Ints, price: int) -> Reads:
    """Every block that is worth its price alone, each in a GET of its own."""
    read = (p.astype(np.int64) << plan.PRICE_BITS) > price * sizes
    return Reads(read, [sizes[one].tolist() for one in read])


def best_ranges(p: P, sizes: Ints, price: int) -> Reads:
    """The six ranges of most value, none split, however long."""
    at = np.cumsum([0, *map(aligned, sizes.tolist())])
    size, flags = array("I", sizes.tolist()), bytearray(len(sizes))
    out, scratch = array("I", bytes(8 * LANES)), bytearray(len(sizes) * (LANES + 1))
    read, ranges = np.zeros(p.shape, bool), []
    for i, one in enumerate(p):
        found = kernels.plan_ranges(memoryview(np.ascontiguousarray(one)), size, flags, price, LANES, out, scratch)
        pairs = [(out[2 * j], out[2 * j + 1]) for j in range(found)]
        for low, high in pairs:
            read[i, low:high] = True
        ranges.append([int(at[high - 1] + sizes[high - 1] - at[low]) for low, high in pairs])
    return Reads(read, ranges)


def halved(p: P, sizes: Ints, price: int) -> Reads:
    """The same, and idle lanes take halves; no plan of fewer ranges is weighed."""
    usual, plan.SHORT_BYTES = plan.SHORT_BYTES, 1 << 60
    try:
        return plans(p, sizes, price)
    finally:
        plan.SHORT_BYTES = usual


def show(
    what: str, layout: Layout, p: P, order: Ints, truth: np.ndarray, sizes_of: Callable[[Layout], Ints], way: Way
) -> None:
    """One line."""
    layout, p = reorder(layout, order), np.ascontiguousarray(p[:, order])
    sizes = sizes_of(layout)
    price = price_for(lambda at: float(layout.holds(truth, way(p, sizes, at).blocks).mean()), GOAL)
    reads = way(p, sizes, price or 0)
    ms = reads.ms
    print(
        f"{what:56}{reads.gets:7.2f}{reads.nbytes / 1e6:8.2f}{reads.blocks.sum(1).mean():8.1f}"
        f"{np.median(ms):8.1f}{np.quantile(ms, 0.99):8.1f}",
        flush=True,
    )


def compare(rows: Rows, asked: Queries, blocks: int, share: float) -> None:
    """Prints the table of one set."""
    task = task_of(rows)
    assert asked.neighbors is not None
    truth = asked.neighbors[:, :100]
    section = index_section(rows, 1, rows.count)
    queries = [prepare(v.tolist(), section) for v in asked.vectors]
    base = PARTITIONS["kmeans"](rows, task.sample, blocks, None, 0, SILENT)
    copies = COPY_RULES["soar"](rows, base)
    _, first = fit_router(task, base, copies.best(0), "lse", SILENT)
    layout, order = fit_router(task, base, copies.best(share), "trained", SILENT)
    p = probabilities_of(rows, layout, queries)
    number = np.argsort(order)  # where a block of the partition is now
    as_built, untouched = np.arange(blocks), number
    by_plain = number[first]

    def sizes_of(of: Layout) -> Ints:
        return block_bytes(of.sizes(), middle_code(rows), 8.0, rows.dimension)

    print(f"{'':56}   GETs      MB  blocks     p50     p99 ms")
    for what, how, way in (
        ("a GET a block", as_built, a_get_each),
        ("six ranges, blocks as the partition numbered them", untouched, best_ranges),
        ("six ranges, order of lse without copies", by_plain, best_ranges),
        ("six ranges, order found again after copies and training", as_built, best_ranges),
        ("  and idle lanes take halves of long ranges", as_built, halved),
        ("  and fewer, evener ranges are weighed (what is built)", as_built, plans),
    ):
        show(what, layout, p, how, truth, sizes_of, way)


def main() -> None:
    """Prints a table a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="wordnet,sift")
    parser.add_argument("--blocks", type=int, default=512)
    parser.add_argument("--share", type=float, default=0.5)
    options = parser.parse_args()
    for name in options.sets.split(","):
        with rows_of(options.data, name) as rows:
            print(f"\n{name}: {rows.count} rows, {options.blocks} blocks, {options.share} copies a row")
            asked = read_queries(options.data / name / "queries.parquet", None)
            compare(rows, asked, options.blocks, options.share)


if __name__ == "__main__":
    main()
