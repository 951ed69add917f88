"""Clusters of a BEC-tree beside k-means of as many: how near rows are to their middle, and to whom they lie with.

    python -m bench.research.clusters DATA [--sets wordnet,sift] [--rows 20000] [--k 16,64,256]

spread: mean squared distance of a row to its cluster's mean, of that to the mean of all. together: share of a row's 10
nearest rows that are in its cluster. largest: rows of the largest cluster over the mean. prefix: nodes of the tree at
the level of as many clusters, with no regard to what a split is worth.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from bench.common import MEMORY, rows_of
from build_index.clusters.cluster import tree_over
from build_index.ingest.open import open_source
from build_index.ingest.rows import F32, scale_rows
from build_index.ingest.staging import stage
from build_index.neighbours.graph import neighbour_graph

NEAR = 10


def line(what: str, x: F32, label: npt.NDArray[np.integer], near: npt.NDArray[np.integer], seconds: float) -> None:
    """Prints a row of the table."""
    size = np.bincount(label)
    total = np.zeros((len(size), x.shape[1]))
    np.add.at(total, label, x)
    mean = (total / np.maximum(size, 1)[:, None]).astype(np.float32)
    spread = ((x - mean[label]) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    together = (label[near] == label[:, None])[near >= 0].mean()
    print(
        f"{what:16}{(size > 0).sum():9}{spread:9.3f}{together:10.3f}{size.max() / len(x) * (size > 0).sum():9.1f}"
        f"{seconds:9.1f}", flush=True,
    )  # fmt: skip


def main() -> None:
    """Prints a table a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="wordnet,sift")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--k", default="16,64,256")
    options = parser.parse_args()
    for name in options.sets.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            with rows_of(options.data, name) as whole:
                drawn = np.sort(np.random.default_rng(11).choice(whole.count, options.rows, replace=False))
                np.save(Path(scratch, "rows.npy"), whole.stored.gather(drawn))
                metric = whole.metric
            with stage(open_source([Path(scratch, "rows.npy")]), Path(scratch), metric=metric) as few:
                rows = scale_rows(few, metric)
                x = rows.slice(0, rows.count)
                near = neighbour_graph(rows, np.arange(rows.count), NEAR, seed=0, memory_bytes=MEMORY)
                began = time.monotonic()
                made = tree_over(rows, 0, MEMORY)
                grown = time.monotonic() - began
                print(f"\n{name}: {rows.count} rows; a tree of {made.leaves} leaves, made once in {grown:.0f} s")
                print(f"{'':16}{'clusters':>9}{'spread':>9}{'together':>10}{'largest':>9}{'seconds':>9}")
                for k in map(int, options.k.split(",")):
                    began = time.monotonic()
                    kmeans = faiss.Kmeans(rows.dimension, k, niter=20, seed=1)
                    kmeans.train(x)
                    line("k-means", x, kmeans.index.search(x, 1)[1][:, 0], near, time.monotonic() - began)
                    began = time.monotonic()
                    line("bec-tree", x, made.labels(k=k), near, time.monotonic() - began)
                    line("bec-tree, prefix", x, made.labels(level=k.bit_length() - 1), near, 0.0)


if __name__ == "__main__":
    main()
