"""What copies and partitions save: rows and blocks read off the threshold curve, and the GETs and bytes of six ranges.

    python -m bench.research.copies DATA [--sets wordnet,sift] [--rows N] [--blocks 1024]

DATA holds wordnet/ and sift/ (Parquet with vectors and exact neighbours). About ten minutes on two cores; --rows draws
that many rows of each set.

A cell is rows read / blocks read, rows in percent of all, copies counted each time. A query reads the blocks whose
probability over their rows is above one threshold, the one that reaches the recall on the held-out queries: so the
table compares orders, not promises. Scores are exact. The router is lse, untrained; its beta and the temperature of
each column are tuned on base rows. GETs and MB are those of at most six ranges at recall@100 0.95, off the price curve
in the same way, with codes of 5 bits a dimension.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.common import MEMORY, rows_of
from build_index.blocks import PARTITIONS
from build_index.blocks.copies import Copies, closure, misses, soar, tie
from build_index.blocks.layout import index_section
from build_index.blocks.order import file_order
from build_index.blocks.partition import Partition
from build_index.ingest.queries import read_queries
from build_index.ingest.rows import Ints, Rows
from build_index.neighbours.exact import exact_neighbours
from build_index.neighbours.graph import Graph, neighbour_graph
from build_index.neighbours.truth import hold_out
from build_index.progress import SILENT
from build_index.routers.lse import BETAS, TEMPERATURES, reorder, section, sub_centroids
from build_index.routers.training import spread_of
from build_index.simulate.edge import P, prepare_rows, probabilities
from build_index.simulate.measure import block_bytes, plans, price_for
from vantage.format import LseSection
from vantage.search.prepare import Prepared, prepare

TARGETS = ((1, 0.90), (10, 0.95), (100, 0.95))  # k and recall of a column
TUNE = 500  # base rows
ORDER = 4000
ASKED = 20_000  # base rows that say what is missed
ID_BYTES = 8
HEAD = f"{'partition':9} {'copies':22} " + " ".join(f"{f'r@{k} {r:.2f}':>12}" for k, r in TARGETS) + "  GETs    MB"

I32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Data:
    """Rows, those of them that may train, and the questions: held-out queries, and base rows kept from training."""

    rows: Rows
    sample: Ints
    queries: list[Prepared]
    truth: I32
    tune: list[Prepared]
    tune_truth: I32
    graph: Graph  # (N, 100)


@contextmanager
def data(folder: Path, name: str, count: int | None) -> Iterator[Data]:
    """A set, or so many of its rows."""
    with rows_of(folder, name, count) as rows:
        asked = read_queries(folder / name / "queries.parquet", None)
        truth = asked.neighbors
        if truth is None or count is not None:
            scaled = rows.scaled(asked.vectors)
            truth = exact_neighbours(scaled, rows.chunks(32 << 20), 100, rows.metric)
        held = hold_out(rows.count, 0)
        tune = held.tuning[:TUNE]
        near = exact_neighbours(rows.take(tune), rows.chunks(32 << 20), 100, rows.metric, tune)
        graph = neighbour_graph(rows, np.arange(rows.count), 100, seed=0, memory_bytes=MEMORY)
        index = index_section(rows, 1, rows.count)
        queries = [prepare(v.tolist(), index) for v in asked.vectors]
        sample = np.setdiff1d(np.arange(rows.count), held.all)
        yield Data(rows, sample, queries, truth, prepare_rows(rows, tune), near, graph)


@dataclass(frozen=True)
class Routed:
    """A partition in file order with its router, and what that says of the questions, for each temperature."""

    data: Data
    part: Partition
    router: LseSection

    def p(self, queries: list[Prepared], temperature: float = TEMPERATURES[0]) -> P:
        """u32 (Q, B)."""
        index = index_section(self.data.rows, self.part.blocks, self.data.rows.count)
        return probabilities("lse", replace(self.router, temperature=temperature), index, queries)

    @cached_property
    def tune(self) -> list[P]:
        return [self.p(self.data.tune, t) for t in TEMPERATURES]

    @cached_property
    def held(self) -> list[P]:
        return [self.p(self.data.queries, t) for t in TEMPERATURES]

    @cached_property
    def asked(self) -> tuple[Ints, P]:
        """Rows of the sample as questions, and p of them."""
        drawn = np.random.default_rng([0, 5]).choice(self.data.sample, min(ASKED, len(self.data.sample)), replace=False)
        return drawn, self.p(prepare_rows(self.data.rows, drawn))

    def places(self, copy: I32, truth: I32) -> I32:
        """i32 (Q, k, 1 + E): the blocks that hold the neighbours, -1 for none."""
        return np.concatenate([self.part.home[:, None], copy], 1)[truth]

    def sizes(self, copy: I32) -> Ints:
        held = np.concatenate([self.part.home, copy[copy >= 0]])
        return np.bincount(held, minlength=self.part.blocks)


def routed(data: Data, part: Partition) -> Routed:
    """Fits lse on first assignments: the beta that reads least for the last target, then the order of the file."""
    table = sub_centroids(data.rows.take(data.sample), part.home[data.sample], part.blocks, 0)
    spread = spread_of(data.rows, data.sample)
    bits = 4 if data.rows.dimension >= 32 else 8
    routers = [Routed(data, part, section(table, data.rows.metric, beta / spread, 1.0, bits)) for beta in BETAS]
    none = np.empty((data.rows.count, 0), np.int32)
    k, recall = TARGETS[-1]

    def cost(r: Routed) -> float:
        return read(r.p(data.tune), r.sizes(none), r.places(none, data.tune_truth[:, :k]), recall)[0]

    best = min(routers, key=cost)
    drawn = np.random.default_rng([0, 4]).choice(data.sample, min(ORDER, len(data.sample)), replace=False)
    order = file_order(best.p(prepare_rows(data.rows, drawn)))
    return Routed(data, part.reordered(order), reorder(best.router, order))


def read(p: P, sizes: Ints, places: I32, recall: float) -> tuple[float, float, float]:
    """Of a query: (rows read, blocks read, threshold on p over rows), where places (Q, k, 1 + E) have this recall."""
    value = np.concatenate([p / np.maximum(sizes, 1), np.full((len(p), 1), -1.0)], 1)  # the last one is place -1
    best = value[np.arange(len(p))[:, None, None], places].max(2).ravel()
    allowed = int((1 - recall) * len(best))
    cut = float(np.partition(best, allowed)[allowed])
    reads = value[:, :-1] >= cut
    return float((reads @ sizes).mean()), float(reads.sum(1).mean()), cut


def threshold(r: Routed, copy: I32) -> float:
    """For `misses`: of p over rows by the mean, what the last target takes on base rows."""
    k, recall = TARGETS[-1]
    cut = read(r.tune[0], r.sizes(copy), r.places(copy, r.data.tune_truth[:, :k]), recall)[2]
    return cut * r.data.rows.count / r.part.blocks


def show(r: Routed, partition: str, name: str, copy: I32) -> None:
    """Prints a row of the table."""
    sizes, cells = r.sizes(copy), []
    for k, recall in TARGETS:
        tuned = [read(p, sizes, r.places(copy, r.data.tune_truth[:, :k]), recall)[0] for p in r.tune]
        found = read(r.held[int(np.argmin(tuned))], sizes, r.places(copy, r.data.truth[:, :k]), recall)
        cells.append(f"{found[0] / r.data.rows.count:6.2%}/{found[1]:<5.1f}")
    nbytes = block_bytes(sizes, r.data.rows.dimension * 5 // 8, ID_BYTES, r.data.rows.dimension)
    places = r.places(copy, r.data.truth)
    p, each = r.held[int(np.argmin(tuned))], np.arange(len(r.data.truth))[:, None, None]

    def found_at(price: int) -> float:
        reads = np.concatenate([plans(p, nbytes, price).blocks, np.zeros((len(p), 1), bool)], 1)
        return float(reads[each, places].any(2).mean())

    plan = plans(p, nbytes, price_for(found_at, TARGETS[-1][1]) or 0)
    print(f"{partition:9} {name:22} {' '.join(cells)} {plan.gets:5.2f} {plan.nbytes / 1e6:5.2f}", flush=True)


def tied(r: Routed, copies: Copies, slack: float) -> Copies:
    """The same with `tie`: blocks are numbered in file order, and read as often as the sample's rows say."""
    p = r.asked[1]
    size = r.sizes(copies.best(0.5))
    often = (p > threshold(r, copies.best(0.5)) * size * r.part.blocks / r.data.rows.count).mean(0)
    return tie(copies, np.arange(r.part.blocks), often, slack)


def missed(r: Routed, copy: I32) -> Copies:
    drawn, p = r.asked
    return misses(r.data.rows, r.part, p, r.data.graph[drawn], threshold(r, copy), copy)


def compare(d: Data, blocks: int) -> None:
    """Prints the table of a set."""
    none = np.empty((d.rows.count, 0), np.int32)
    for partition in PARTITIONS:
        start = time.monotonic()
        part = PARTITIONS[partition](d.rows, d.sample, blocks, d.graph, 0, SILENT)
        seconds, r = time.monotonic() - start, routed(d, part)
        largest = np.bincount(r.part.home).max() * blocks / d.rows.count
        print(f"({partition}: {seconds:.0f} s, largest block {largest:.2f} of the mean)")
        copies = soar(d.rows, r.part)
        show(r, partition, "none", none)
        show(r, partition, "soar 0.5", copies.best(0.5))
        if partition != "kmeans":
            continue
        for share in (0.2, 1.0, 2.0):
            show(r, partition, f"soar {share}", copies.best(share))
        near = closure(d.rows, r.part)
        for share in (0.2, 0.5, 1.0, 2.0):
            show(r, partition, f"closure {share}", near.best(share))
        alone, half = missed(r, none), missed(r, copies.best(0.5))
        for share in (0.2, 0.5):
            show(r, partition, f"misses {share}", alone.best(share))
            show(r, partition, f"soar 0.5 + misses {share}", half.best(0.5 + share))
        for share in (0.5, 1.0):
            for slack in (0.1, 0.3):
                show(r, partition, f"soar {share}, tie {slack}", tied(r, copies, slack).best(share))


def main() -> None:
    """Prints a table a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="wordnet,sift")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--blocks", type=int, default=1024)
    options = parser.parse_args()
    for name in options.sets.split(","):
        start = time.monotonic()
        with data(options.data, name, options.rows) as d:
            print(f"\n{name}: {d.rows.count:,} rows, {options.blocks:,} blocks, {len(d.queries):,} held-out queries")
            print(HEAD)
            compare(d, options.blocks)
            print(f"({time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    main()
