"""How many blocks millions of rows should lie in, what should route them, and in how many bytes.

    python -m bench.research.many_blocks SOURCE [--metric cosine] [--blocks 9144,18284] [--routers two-level,lse,mlp]
        [--bytes 585000,1170000,2097152]

Blocks by k-means, two SOAR copies a row. A line a router: what 500 held-out rows read as queries, of codes of 5 bits a
dimension and at the price at which the blocks read hold 0.9625 of their hundred neighbours, which a build asks of
routing alone for 0.95. `lse` is a table of one centroid a block, `mlp` a network of each number of bytes at most.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np

from build_index.blocks.copies import COPY_RULES
from build_index.blocks.kmeans import partition
from build_index.ingest.open import open_source
from build_index.ingest.rows import scale_rows
from build_index.ingest.staging import stage
from build_index.neighbours.graph import neighbour_graph
from build_index.neighbours.truth import hold_out, truth_of
from build_index.progress import SILENT
from build_index.routers import ROUTERS, lse, mlp
from build_index.simulate.edge import HeldOutQueries, prepare_rows
from build_index.tune.draft import NEAR, TRAINING_QUERIES, draw_sample
from build_index.tune.fit import Task, fit_router, plan_routing, probabilities_of
from build_index.tune.options import Options

COPIES, K = 2.0, 100


def main() -> None:
    """A line a number of blocks and router."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--metric", default="cosine")
    parser.add_argument("--blocks", default="9144,18284")
    parser.add_argument("--routers", default="two-level,lse,mlp")
    parser.add_argument("--bytes", default="585000,1170000,2097152")
    asked = parser.parse_args()
    options, none = Options(), np.empty(0, np.int64)
    with (
        tempfile.TemporaryDirectory(dir=asked.source.parent) as scratch,
        stage(open_source([asked.source], attributes=[]), Path(scratch), metric=asked.metric) as staging,
    ):
        rows = scale_rows(staging, asked.metric)
        held = hold_out(rows.count, options.seed)
        tune = HeldOutQueries(prepare_rows(rows, held.tuning), held.tuning, truth_of(rows, held.tuning, K))
        sample = draw_sample(rows, held, options)
        task = Task(rows, sample, tune, none, np.empty((0, NEAR), np.int32), 8.0, K, options, [], SILENT)
        for blocks in map(int, asked.blocks.split(",")):
            base = partition(rows, sample, blocks, options.seed)
            copies = COPY_RULES["soar"](rows, base).best(COPIES)
            if not len(task.queries):
                rng = np.random.default_rng([options.seed, 5])
                queries = np.sort(rng.choice(sample, min(TRAINING_QUERIES, len(sample)), replace=False))
                near = neighbour_graph(
                    rows, queries, NEAR, seed=options.seed, memory_bytes=options.memory_bytes, partition=base
                )
                task = replace(task, queries=queries, neighbours=near)
            for router in asked.routers.split(","):
                for most in map(int, asked.bytes.split(",") if router == "mlp" else ["0"]):
                    began = time.process_time()
                    one = replace(ROUTERS["lse"], fit=partial(lse.fit, subs=1))
                    with patch.dict(ROUTERS, lse=one), patch.object(mlp, "BYTES_MAX", most):
                        layout, _ = fit_router(task, base, copies, router, SILENT)
                    reads = plan_routing(task, layout, probabilities_of(rows, layout, tune.queries), tune)
                    print(
                        f"{rows.count:,} rows, {blocks:,} blocks, {router}, {len(layout.section.pack()):,} bytes: "
                        f"{reads.gets:.1f} GETs, {reads.nbytes / 1e6:.1f} MB, {reads.ms.mean():.0f} ms, "
                        f"{reads.blocks.sum(1).mean():.0f} blocks; {time.process_time() - began:.0f} s of CPU",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
