"""When a second round of ranges pays: blocks of more bytes, planned in one round of six ranges or in up to two.

    python -m bench.research.rounds DATA [--set wordnet] [--rows 30000] [--blocks 512]

Some rows of a set, routed by lse, at the routed recall of a build; the bytes of all blocks are multiplied, as if codes
were longer, until a query reads what one of millions of rows does. A line is the mean GETs, MB and modelled ms, their
p99, and the microseconds that a plan takes here. share: of its time, what a round counts against the probability that
it finds (vantage.search.plan.ROUND_SHARE). Five minutes on one core.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from bench.common import rows_of, task_of
from build_index.blocks import PARTITIONS
from build_index.blocks.copies import soar
from build_index.progress import SILENT
from build_index.simulate.measure import block_bytes, planner, price_for
from build_index.tune.fit import fit_router, middle_code, probabilities_of
from vantage.cost import LANES
from vantage.search import plan

K = 100
QUERIES = 300
COPIES = 0.35  # a row
TIMES = (1, 8, 16, 32)
SHARES = (1.0, plan.ROUND_SHARE, 0.0)


def main() -> None:
    """Prints a line a number of bytes, of GETs, and share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", default="wordnet")
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--blocks", type=int, default=512)
    options = parser.parse_args()
    with rows_of(options.data, options.set, options.rows) as rows:
        task = task_of(rows, 1000)
        task = replace(task, tune=task.tune.take(slice(0, QUERIES)))
        base = PARTITIONS["kmeans"](rows, task.sample, options.blocks, None, 0, SILENT)
        layout, _ = fit_router(task, base, soar(rows, base).best(COPIES), "lse", SILENT)
        p, near = probabilities_of(rows, layout, task.tune.queries), task.tune.truth.rows[:, :K]
        each = block_bytes(layout.sizes(), middle_code(rows), 8.0, rows.dimension)
        for times in TIMES:
            for gets, share in ((LANES, 1.0), *((plan.GETS_MAX, share) for share in SHARES)):
                planned, made, began = planner(p, times * each, gets), 0, time.process_time()

                def recall(price: int) -> float:
                    nonlocal made
                    made += len(p)
                    return float(layout.holds(near, planned(price, slice(None)).blocks).mean())  # noqa: B023

                with patch.object(plan, "ROUND_SHARE", share):
                    reads = planned(price_for(recall, task.routed_recall) or 0, slice(None))
                us = 1e6 * (time.process_time() - began) / (made + len(p))
                print(
                    f"{times:3} times the bytes, at most {gets:2} GETs, share {share:.2f}: {reads.gets:5.2f} GETs, "
                    f"{reads.nbytes / 1e6:6.2f} MB, {reads.ms.mean():6.1f} ms, p99 "
                    f"{np.quantile(reads.ms, 0.99):6.1f}, {us:4.0f} us a plan",
                    flush=True,
                )


if __name__ == "__main__":
    main()
