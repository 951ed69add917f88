"""Rows in the order of a block as they come, by sub-centre and by Gray code: bytes that reading in part would save.

    python -m bench.research.block_order DATA [--sets wordnet,sift] [--rows N] [--rows-a-block 113,1000,4000]
        [--queries 300]
        [--router trained] [--exact-only]

DATA holds wordnet/ and sift/; --rows draws so many of them. SOAR copies of half the rows, router and codec as named;
all scores are the kernels'. What is read is planned by the edge's planner, at a price that reaches the recall on the
held-out queries themselves: so a line compares ways, not promises. Orders never change a recall, as the same rows are
read.

- one wave: whole codes of the blocks. No order matters to it.
- two waves: a short code (trained for its length, which flatters it) of the blocks, then the missing bytes of the best
  M rows, in groups of 16 as the kernel scans them, or row by row; ranges are cut at the widest gaps until there are as
  many as GETs, at multiples of 64 bytes. Length, M and price are those of the fewest bytes with six GETs and rows as
  they come.
- exact scores: one wave, then the full vectors of the best rows, as the product reads them, by home blocks.

Milliseconds are modelled as in vantage.search.plan: a mean, and the slowest hundredth.

Sub-centres are 16 a block by k-means, those near each other side by side; Gray codes those of the signs on the 16
leading axes of the code. "Shuffled" rows say what the order of the source is worth already.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering

from bench.common import rows_of
from bench.research.unwritten import ID_BYTES, K, Setting, planned, setting, told
from build_index.codecs import lrsq
from build_index.ingest.rows import F32, Ints
from build_index.simulate.edge import P
from build_index.simulate.measure import Candidates, Reads, block_bytes
from build_index.tune.codes import residuals_of, second_moments
from build_index.tune.fit import probabilities_of
from vantage.cost import LANES, Budget
from vantage.format import GROUP, aligned
from vantage.read.gather import plan_gather

SHORT_SHARES = (0.25, 0.5, 0.75)  # of the code's bytes, in the first of two waves
CHANCES = (125, 150, 200, 300, 400)  # rows whose codes the second wave completes
RERANKS = (125, 200)  # rows with exact scores
GETS = (6, 24, 42)  # of the second wave
SUB_CENTRES, SIGNS = 16, 16
UNITS = (GROUP, 1)  # rows of a refinement that are read together
GOAL, EXACT_GOAL = 0.95, 0.99
Order = Callable[[F32, F32], Ints]  # residuals (n, d) and their leading axes (n, SIGNS) -> the order of the rows


def as_they_come(residual: F32, leading: F32) -> Ints:
    """Home rows by rising number, then copies."""
    return np.arange(len(residual))


def shuffled(residual: F32, leading: F32) -> Ints:
    """No order at all."""
    return np.random.default_rng(len(residual)).permutation(len(residual))


def by_sub_centre(residual: F32, leading: F32) -> Ints:
    """The rows of a sub-centre together, those of near sub-centres side by side."""
    if len(residual) <= SUB_CENTRES:
        return np.arange(len(residual))
    kmeans = faiss.Kmeans(residual.shape[1], SUB_CENTRES, niter=10, seed=1, min_points_per_centroid=1)
    kmeans.train(residual)
    tree = linkage(kmeans.centroids, "average")
    turn = np.argsort(leaves_list(optimal_leaf_ordering(tree, kmeans.centroids)))
    return np.argsort(turn[kmeans.assign(residual)[1]], kind="stable")


def by_gray_code(residual: F32, leading: F32) -> Ints:
    """Words of signs in the order of the reflected Gray code, in which neighbours differ in one bit (Gray 1953)."""
    number = np.bitwise_xor.accumulate(leading > 0, axis=1)
    return np.lexsort(number.T[::-1])


ORDERS: dict[str, Order] = {
    "as they come": as_they_come,
    "shuffled": shuffled,
    "by sub-centre": by_sub_centre,
    "by Gray code": by_gray_code,
}


def spans(start: Ints, end: Ints, gets: int) -> list[int]:
    """Bytes of at most so many reads of what lies from start up to end (n), both rising: cut at the widest gaps."""
    gap = start[1:] - end[:-1]
    cuts = np.sort(np.argsort(-gap, kind="stable")[: gets - 1])
    cuts = cuts[gap[cuts] > 0]
    lows, highs = np.concatenate([[0], cuts + 1]), np.concatenate([cuts, [len(start) - 1]])
    return (end[highs] - start[lows]).tolist()


class Places:
    """Where each place lies under an order of the rows of each block."""

    def __init__(self, of: Setting, order: Order) -> None:
        rows, layout = of.rows, of.layout
        members, axes = layout.members(), of.codec.axes[:SIGNS].T
        home, key, at = np.bincount(layout.partition.home, minlength=layout.blocks), list[Ints](), list[Ints]()
        numbered = list[Ints]()
        for b, member in enumerate(members):
            residual = rows.take(member) - layout.centres[b]
            turn = order(residual, residual @ axes)
            key.append(b * rows.count + member)
            at.append(np.argsort(turn))
            numbered.append(member[turn[turn < home[b]]])
        self.count, self.sizes = rows.count, np.array([len(member) for member in members])
        keys, places = np.concatenate(key), np.concatenate(at)
        by_key = np.argsort(keys)
        self.keys, self.places = keys[by_key], places[by_key]
        self.number = np.argsort(np.concatenate(numbered))  # of each row, as storage numbers them

    def refining(self, found: list[tuple[Ints, Ints]], rest: int, unit: int, gets: int) -> list[list[int]]:
        """Bytes of the reads that complete places (blocks, rows) a query, `rest` bytes each, `unit` read together."""
        first, out = np.cumsum([0, *(aligned(aligned(int(n), GROUP) * rest) for n in self.sizes)]), []
        for block, row in found:
            place = self.places[np.searchsorted(self.keys, block.astype(np.int64) * self.count + row)]
            start = np.unique(first[block] + place // unit * unit * rest)
            out.append(spans(start // 64 * 64, -(-(start + unit * rest) // 64) * 64, gets))
        return out

    def vectors(self, row: Ints, nbytes: int) -> list[int]:
        """Bytes of the reads of full vectors, as the product plans them."""
        items = [("", int(n) * nbytes, nbytes) for n in self.number[row]]
        found = plan_gather(items, Budget().gets - LANES, Budget().bytes) if items else []
        return [span.size for span in found or []]


def refined_recall(short: Candidates, whole: Candidates, read: npt.NDArray[np.bool_], count: int) -> float:
    """Recall@K where the best `count` rows of the short code have scores of the whole one."""
    chosen = short.answered(read, count)
    among = np.stack([np.isin(w, s[c]) for w, s, c in zip(whole.row, short.row, chosen, strict=True)])
    return float(replace(whole, block=np.where(among, whole.block, -1)).recall(read, K).mean())


def nbytes_of(wave: list[list[int]]) -> float:
    return float(np.mean([sum(reads) for reads in wave]))


def compare(of: Setting, *, exact_only: bool) -> None:
    """Prints the lines of one number of blocks."""
    p, sizes = probabilities_of(of.rows, of.layout, of.queries), of.layout.sizes()
    whole, full = of.scanned(of.codec), block_bytes(sizes, of.codec.code_bytes, ID_BYTES, of.rows.dimension)
    one = planned(p, full, lambda read: float(whole.recall(read, K).mean()), GOAL)
    print(f"{'':54}   GETs       MB      ms     p99   saved %")
    if one is None:
        print("codes alone do not reach the goal")
        return
    print(f"{'one wave':54}{told([one.ranges])}", flush=True)
    every = {name: Places(of, order) for name, order in ORDERS.items()}
    if not exact_only:
        two_waves(of, p, whole, every)
    exact_scores(of, p, whole, full, every)


def two_waves(of: Setting, p: P, whole: Candidates, every: dict[str, Places]) -> None:
    """Lines of the short code first and what is missing of the best rows after."""
    rows, sizes, moments = of.rows, of.layout.sizes(), second_moments(of.rows, of.task.sample, of.layout)
    residuals = residuals_of(rows, of.task.sample, of.layout)

    best: tuple[float, int, int, Reads, list[tuple[Ints, Ints]]] | None = None
    for share in SHORT_SHARES:
        length = int(of.codec.code_bytes * share) // 4 * 4
        short = of.scanned(lrsq.train(*moments, length, residuals))
        for count in CHANCES:
            first = planned(
                p, block_bytes(sizes, length, ID_BYTES, of.rows.dimension),
                lambda read, short=short, count=count: refined_recall(short, whole, read, count), GOAL,
            )  # fmt: skip
            if first is None:
                continue
            chosen = short.answered(first.blocks, count)
            found = [(b[c], r[c]) for b, r, c in zip(short.block, short.row, chosen, strict=True)]
            later = every["as they come"].refining(found, of.codec.code_bytes - length, GROUP, LANES)
            total = first.nbytes + nbytes_of(later)
            if best is None or total < best[0]:
                best = total, length, count, first, found
    if best is None:
        print("two waves do not reach the goal")
        return
    _, length, count, first, found = best
    rest = of.codec.code_bytes - length
    print(f"two waves, {length} of {of.codec.code_bytes} bytes of all, the rest of {count} rows")
    for unit in UNITS:
        for gets in GETS:
            base = 0.0
            for name, way in every.items():
                later = way.refining(found, rest, unit, gets)
                total = first.nbytes + nbytes_of(later)
                base = base or total
                what = f"  {unit:2} rows together, {gets:2} GETs, {name}"
                print(f"{what:54}{told([first.ranges, later])}{100 * (1 - total / base):9.2f}", flush=True)
    print(f"  of these the first wave: {told([first.ranges])}")


def exact_scores(of: Setting, p: P, whole: Candidates, full: Ints, every: dict[str, Places]) -> None:
    """Lines of one wave and exact scores after."""
    vector_bytes = of.rows.dimension * (1 if of.rows.stored.kind == "u8" else 2)
    for rerank in RERANKS:
        first = planned(p, full, lambda read, rerank=rerank: float(whole.recall(read, K, rerank).mean()), EXACT_GOAL)
        if first is None:
            print(f"{rerank} exact scores do not reach {EXACT_GOAL}")
            continue
        chosen, base = whole.answered(first.blocks, rerank), 0.0
        print(f"recall {EXACT_GOAL} by {rerank} exact scores; the first wave: {told([first.ranges])}")
        for name, way in every.items():
            later = [way.vectors(row[c], vector_bytes) for row, c in zip(whole.row, chosen, strict=True)]
            total = first.nbytes + nbytes_of(later)
            base = base or total
            print(f"{'  ' + name:54}{told([first.ranges, later])}{100 * (1 - total / base):9.2f}", flush=True)


def main() -> None:
    """Prints a table a set and a number of rows a block."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="wordnet,sift")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--rows-a-block", default="113,1000,4000")
    parser.add_argument("--router", default="trained")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--exact-only", action="store_true", help="leave out two waves")
    options = parser.parse_args()
    for name in options.sets.split(","):
        for size in (int(n) for n in options.rows_a_block.split(",")):
            with rows_of(options.data, name, options.rows) as rows:
                blocks = max(2, round(rows.count / size))
            with setting(options.data, name, options.rows, blocks, options.router, options.queries) as of:
                print(f"\n{name}: {of.rows.count} rows in {blocks} blocks, {len(of.queries)} queries", flush=True)
                compare(of, exact_only=options.exact_only)


if __name__ == "__main__":
    main()
