"""What finding blocks by groups costs a query: bytes beside those of k-means that compares every row with every block.

    python -m bench.research.partition DATA [--sets wordnet,sift] [--rows N] [--blocks 512,1024] [--share 0.68]
        [--ways all,groups]

DATA holds wordnet/ and sift/; --rows draws that many rows of each set. A line is one way to find so many blocks, and
SOAR copies for `share` of the rows: every row compared with every block, or with blocks of its nearest groups. GETs and
MB are those of plans of at most six and of twelve ranges, nothing cached, at the price that reaches a routed recall@100
of 0.9625 on the rows held out for calibration, with codes of 5 bits a dimension and the untrained router lse, which is
tuned on the rows held out for tuning. Inertia is the mean squared distance of a row to the centre of its home; the
largest block is over the mean. Seconds are those of the CPU, for blocks and copies.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np

from bench.common import rows_of
from build_index.blocks import nearest
from build_index.blocks.copies import soar
from build_index.blocks.kmeans import partition
from build_index.blocks.layout import Layout
from build_index.blocks.partition import CHUNK_BYTES, Partition
from build_index.ingest.rows import Ints, Rows
from build_index.neighbours.truth import HeldOut, hold_out, truth_of
from build_index.progress import SILENT
from build_index.simulate.edge import HeldOutQueries, prepare_rows
from build_index.simulate.measure import Reads, block_bytes, planner, price_for
from build_index.tune.fit import Task, fit_router, middle_code, probabilities_of
from build_index.tune.options import Options
from vantage.format import BLOCKS_MAX

K, ROUTED_RECALL, ID_BYTES = 100, 0.9625, 8.0
RANGES = (6, 12)

WAYS = {"all": BLOCKS_MAX + 1, "groups": 1}  # how many blocks are grouped


def asked_of(rows: Rows, numbers: Ints) -> HeldOutQueries:
    return HeldOutQueries(prepare_rows(rows, numbers), numbers, truth_of(rows, numbers, K))


def reads_of(task: Task, layout: Layout, asked: HeldOutQueries, ranges: int) -> Reads:
    """Plans of so many ranges at most, at the highest price that reaches the routed recall."""
    p = probabilities_of(task.rows, layout, asked.queries)
    planned = planner(p, block_bytes(layout.sizes(), middle_code(task.rows), ID_BYTES, task.rows.dimension), ranges)

    def recall(price: int) -> float:
        return float(layout.holds(asked.truth.rows[:, :K], planned(price, slice(None)).blocks).mean())

    return planned(price_for(recall, ROUTED_RECALL) or 0, slice(None))


def inertia(rows: Rows, base: Partition) -> float:
    total = 0.0
    for low, x in rows.chunks(CHUNK_BYTES):
        total += float(((x - base.centres[base.home[low : low + len(x)]]) ** 2).sum())
    return total / rows.count


def compare(rows: Rows, ways: list[str], counts: list[int], share: float) -> None:
    """Prints the lines of a set."""
    held: HeldOut = hold_out(rows.count, 0)
    options = Options()
    sample, none = np.setdiff1d(np.arange(rows.count), held.all), np.empty(0, np.int64)
    tune, asked = asked_of(rows, held.tuning), asked_of(rows, held.calibration)
    task = Task(rows, sample, tune, none, np.empty((0, K), np.int32), ID_BYTES, K, options, [], SILENT)
    heads = "".join(f"{f'{n} ranges: GETs':>16}{'MB':>8}" for n in RANGES)
    print(f"{'blocks':>7}  {'compared with':14}{'inertia':>9}{'largest':>9}{'CPU s':>8}{heads}", flush=True)
    for blocks in counts:
        for way in ways:
            began = time.process_time()
            with patch.object(nearest, "GROUPED_BLOCKS", WAYS[way]):
                base = partition(rows, sample, blocks, 0)
                copy = soar(rows, base).best(share)
            took = time.process_time() - began
            largest = np.bincount(base.home).max() * blocks / rows.count
            layout, _ = fit_router(task, base, copy, "lse", SILENT)
            found = [reads_of(task, layout, asked, n) for n in RANGES]
            cells = "".join(f"{reads.gets:16.2f}{reads.nbytes / 1e6:8.3f}" for reads in found)
            print(f"{blocks:7}  {way:14}{inertia(rows, base):9.5f}{largest:9.2f}{took:8.0f}{cells}", flush=True)


def main() -> None:
    """Prints a table a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="wordnet,sift")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--blocks", default="512,1024")
    parser.add_argument("--share", type=float, default=0.68)
    parser.add_argument("--ways", default=",".join(WAYS))
    options = parser.parse_args()
    for name in options.sets.split(","):
        with rows_of(options.data, name, options.rows) as rows:
            print(f"\n{name}: {rows.count:,} rows, {options.share} copies a row")
            counts = [int(n) for n in options.blocks.split(",")]
            compare(rows, options.ways.split(","), counts, options.share)


if __name__ == "__main__":
    main()
