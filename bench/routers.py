"""Rows read by routing alone, on held-out queries: exact scores, no ranges, one threshold on probability over rows.

    python bench/routers.py DATA [--sets wordnet,sift] [--shares 0,0.5,1.0] [--routers centroids,lse,trained]
        [--asked 100000] [--steps 240]

DATA holds wordnet/ and sift/. A cell is the share of all rows, copies counted, that is read where the mean recall over
the held-out queries is reached: recall@1 0.90, recall@10 0.95, recall@100 0.95, as a threshold and at a fixed number of
blocks. Routers learn from rows of the base alone: --asked of them as questions, and `trained` in so many --steps. The
first line is k-means with the nearest centroid, without copies and without balance, as faiss makes it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from build_index.blocks import PARTITIONS
from build_index.blocks.copies import SPILLS
from build_index.blocks.graph_cut import VOTERS
from build_index.blocks.shape import index_section
from build_index.ingest.queries import Queries, read_queries
from build_index.ingest.rows import F32, Ints, Rows, scaled_rows
from build_index.ingest.source import open_source
from build_index.ingest.staging import spool
from build_index.neighbours.graph import neighbour_graph
from build_index.neighbours.truth import hold_out, truth_of
from build_index.routers import trained
from build_index.simulate.edge import prepared, probabilities
from build_index.tune.choose import ASKED
from build_index.tune.fit import Held, Task, fitted
from build_index.tune.options import Options
from vantage.search.prepare import prepare

GOALS = ((1, 0.90), (10, 0.95), (100, 0.95))
MEMORY = 2 << 30
METRICS = {"wordnet": "cosine", "sift": "l2"}
Bools = npt.NDArray[np.bool_]


def held_by(places: npt.NDArray[np.int32], read: Bools) -> Bools:
    """bool (Q, k): whether a block of places i32 (Q, k, E), -1 for none, is read, bool (Q, B)."""
    each = np.arange(len(places))[:, None, None]
    return ((places >= 0) & read[each, places]).any(2)


def threshold(value: npt.NDArray[np.float64], sizes: Ints, places: npt.NDArray[np.int32], goal: float) -> float:
    """Mean rows read where blocks of a value over one threshold, the same for all queries, reach the goal."""
    cuts = np.sort(value, axis=None)
    low, high = 0, len(cuts) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if held_by(places, value >= cuts[middle]).mean() >= goal else (low, middle - 1)
    return float(((value >= cuts[low]) * sizes).sum(1).mean())


def fixed(value: npt.NDArray[np.float64], sizes: Ints, places: npt.NDArray[np.int32], goal: float) -> float:
    """Mean rows read where the best n blocks of each query reach the goal, between two whole n."""
    rank = np.argsort(np.argsort(-value, axis=1, kind="stable"), axis=1)
    before = (0.0, 0.0)
    for n in range(1, value.shape[1] + 1):
        now = float(held_by(places, rank < n).mean()), float(((rank < n) * sizes).sum(1).mean())
        if now[0] >= goal:
            return before[1] + (now[1] - before[1]) * (goal - before[0]) / (now[0] - before[0])
        before = now
    return before[1]


def cells(value: npt.NDArray[np.float64], sizes: Ints, places: npt.NDArray[np.int32], rows: int) -> str:
    """Three columns by a threshold, three at a fixed number of blocks, in % of rows."""
    found = [way(value, sizes, places[:, :k], goal) for way in (threshold, fixed) for k, goal in GOALS]
    return "".join(f"{100 * read / rows:8.2f}" for read in found)


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


@contextmanager
def rows_of(data: Path, name: str, count: int | None = None) -> Iterator[Rows]:
    """A set of DATA, or so many of its rows, drawn."""
    folder, metric = data / name, METRICS[name]
    source = open_source(sorted(folder.glob("part-*.parquet")) or [folder / "base.parquet"], attributes=[])
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        spooled = stack.enter_context(spool(source, scratch / "all", metric=metric))
        if count is not None:
            some = np.sort(np.random.default_rng(0).choice(spooled.rows, min(count, spooled.rows), replace=False))
            np.save(scratch / "some.npy", np.concatenate([spooled.vectors(int(i), int(i) + 1) for i in some]))
            spooled = stack.enter_context(spool(open_source([scratch / "some.npy"]), scratch / "some", metric=metric))
        yield scaled_rows(spooled, metric)


def task_of(rows: Rows, asked: int = ASKED) -> Task:
    """What routers are fitted with: rows held out for tuning, and `asked` rows as questions with their neighbours."""
    held = hold_out(rows.count, 0)
    tune = Held(prepared(rows, held.tune), held.tune, truth_of(rows, held.tune, 100))
    sample = np.setdiff1d(np.arange(rows.count), held.all)
    learners = np.sort(np.random.default_rng(5).choice(sample, min(asked, len(sample)), replace=False))
    near = neighbour_graph(rows, learners, 100, seed=0, memory_bytes=MEMORY)
    return Task(
        rows, sample, tune, learners, near, 8.0, 100, Options(memory_bytes=MEMORY), [], lambda phase, done: None
    )


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
        base = PARTITIONS[name](rows, task.sample, options.blocks, graph, 0, lambda done: None)
        copies = SPILLS["soar"](rows, base)
        for share in (float(s) for s in options.shares.split(",")):
            for router in options.routers.split(","):
                began = time.monotonic()
                shape, _ = fitted(task, base, copies.best(share), router, lambda done: None)
                index = index_section(rows, shape.blocks, rows.count + shape.copies, router)
                p = probabilities(router, shape.section, index, queries)
                sizes = shape.sizes()
                held_in = np.concatenate([shape.partition.home[:, None], shape.copy], 1)[asked.neighbors]
                what = f"{name}, soar {share}, {router} ({len(shape.section.pack()) / 1e6:.2f} MB)"
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
    for name, count in (("blocks", 1024), ("asked", ASKED), ("steps", trained.STEPS)):
        parser.add_argument(f"--{name}", type=int, default=count)
    options = parser.parse_args()
    trained.STEPS = options.steps
    for name in options.sets.split(","):
        with rows_of(options.data, name) as rows:
            print(f"\n{name}: {rows.count} rows, {options.blocks} blocks")
            measured(rows, read_queries(options.data / name / "queries.parquet", None), options)


if __name__ == "__main__":
    main()
