"""Rows read by routing alone, on held-out queries: exact scores, no ranges, one threshold on probability over rows.

    python -m bench.research.routers DATA [--sets wordnet,sift] [--shares 0,0.5,1.0] [--routers centroids,lse,trained]
        [--asked 100000] [--steps 240]

DATA holds wordnet/ and sift/. A cell is the share of all rows, copies counted, that is read where the mean recall over
the held-out queries is reached: recall@1 0.90, recall@10 0.95, recall@100 0.95, as a threshold and at a fixed number of
blocks. Routers learn from rows of the base alone: --asked of them as questions, and `trained` in so many --steps. The
first line is k-means with the nearest centroid, without copies and without balance, as faiss makes it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from bench.common import MEMORY, cells, rows_of, task_of
from build_index.blocks import PARTITIONS
from build_index.blocks.copies import COPY_RULES
from build_index.blocks.graph_cut import VOTERS
from build_index.blocks.layout import index_section
from build_index.ingest.queries import Queries, read_queries
from build_index.ingest.rows import F32, Rows
from build_index.neighbours.graph import neighbour_graph
from build_index.progress import SILENT
from build_index.routers import trained
from build_index.simulate.edge import probabilities
from build_index.tune.draft import TRAINING_QUERIES
from build_index.tune.fit import fit_router
from vantage.search.prepare import prepare


def nearest_centroid(rows: Rows, queries: F32, truth: npt.NDArray[np.int32], blocks: int) -> str:
    """faiss k-means, the nearest centroids: what everybody has."""
    x = rows.slice(0, rows.count)
    kmeans = faiss.Kmeans(rows.dimension, blocks, niter=20, seed=1)
    kmeans.train(x)
    home = kmeans.assign(x)[1].astype(np.int32)
    centres = kmeans.centroids
    value = (queries @ centres.T - 0.5 * np.einsum("ij,ij->i", centres, centres)).astype(np.float64)
    if rows.metric == "cosine":
        value = (queries @ (centres / np.linalg.norm(centres, axis=1, keepdims=True)).T).astype(np.float64)
    return cells(value, np.bincount(home, minlength=blocks), home[truth][:, :, None], rows.count)


def measured(rows: Rows, asked: Queries, options: argparse.Namespace) -> None:
    """Prints the table of one set."""
    assert asked.neighbors is not None
    task = task_of(rows, options.asked)
    queries = [prepare(v.tolist(), index_section(rows, 1, rows.count)) for v in asked.vectors]
    print(f"{'':44}      by one threshold        a fixed number of blocks   seconds")
    print(f"{'% of rows read':44}" + 2 * "    r@1    r@10   r@100")
    plain = np.stack([np.asarray(q.vector, np.float32) for q in queries])
    print(
        f"{'k-means, nearest centroid':44}{nearest_centroid(rows, plain, asked.neighbors, options.blocks)}", flush=True
    )
    graph = None
    for name in options.partitions.split(","):
        if name != "kmeans" and graph is None:
            graph = neighbour_graph(rows, np.arange(rows.count), VOTERS, seed=0, memory_bytes=MEMORY)
        base = PARTITIONS[name](rows, task.sample, options.blocks, graph, 0, SILENT)
        copies = COPY_RULES["soar"](rows, base)
        for share in (float(s) for s in options.shares.split(",")):
            for router in options.routers.split(","):
                began = time.monotonic()
                layout, _ = fit_router(task, base, copies.best(share), router, SILENT)
                index = index_section(rows, layout.blocks, rows.count + layout.copies, router)
                p = probabilities(router, layout.section, index, queries)
                sizes = layout.sizes()
                held_in = np.concatenate([layout.partition.home[:, None], layout.copy], 1)[asked.neighbors]
                what = f"{name}, soar {share}, {router} ({len(layout.section.pack()) / 1e6:.2f} MB)"
                line = cells(p / np.maximum(sizes, 1), sizes, held_in, rows.count)
                print(f"{what:44}{line}{time.monotonic() - began:9.0f}", flush=True)


def main() -> None:
    """Prints a table a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    for name, default in (
        ("sets", "wordnet,sift"), ("partitions", "kmeans"), ("shares", "0,0.5,1.0"),
        ("routers", "centroids,lse,trained"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", default=default)
    for name, count in (("blocks", 1024), ("asked", TRAINING_QUERIES), ("steps", trained.STEPS)):
        parser.add_argument(f"--{name}", type=int, default=count)
    options = parser.parse_args()
    trained.STEPS = options.steps
    for name in options.sets.split(","):
        with rows_of(options.data, name) as rows:
            print(f"\n{name}: {rows.count} rows, {options.blocks} blocks")
            measured(rows, read_queries(options.data / name / "queries.parquet", None), options)


if __name__ == "__main__":
    main()
