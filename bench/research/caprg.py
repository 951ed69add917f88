"""A graph of near rows as a plane of the index (CAPRG): what its edges could save, in a scan and as a second wave.

    python -m bench.research.caprg DATA [--sets wordnet,sift] [--rows N] [--blocks 1024] [--queries 500]
        [--router trained]
        [--k 10,100] [--radius 6]

DATA holds wordnet/ and sift/; --rows draws so many of them. SOAR copies of half the rows, codes as the default builds
have; all scores are the kernels', all reads the edge's planner's. A line reaches recall@k 0.95 off its own price curve
on the queries: so it compares ways, not promises. Whatever is learnt, is from rows held out for tuning.

The graph: of the 32 nearest rows of each row those whose codewords of 23 signs (PCA and ITQ) differ in at most --radius
bits; an edge to y is dropped where another of them, z, is surely nearer to both ends than they are to each other: "no z
with maxBoundAngle(x, z) and maxBoundAngle(y, z) under exactAngle(x, y)". Bounds are exact, or those of the codes: the
distance of the decoded rows and both error norms. At most 16 edges stay.

- inside what was read: a beam walks from the rows of the likeliest block, along edges within the blocks read; the rows
  scored, beside all that a scan scores.
- second wave: from the answers of a first wave, dearer than one wave by the factor named, blocks are judged again: by a
  regression of the neighbours missed there on the router's probability alone; and on how many rows of the block should
  reach the last answer's score; and on edges: of blocks (a table in the root: where the edges of a block's rows lead),
  or of rows (the plane: the four blocks of most of a row's neighbours, u16 each, whose bytes all reads pay; and as if
  they were free). The planner reads by that, so a query of which nothing is missed reads no more. Beside it, one wave
  of twelve ranges, and the second decision that the product has, at a lower price where the estimate is low.
"""

from __future__ import annotations

import argparse
import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.research.unwritten import Setting, planned, setting, told
from build_index.blocks.layout import Layout
from build_index.codecs.planes import Codec, encode
from build_index.hashing.codewords import golay, start_codewords
from build_index.ingest.queries import read_queries
from build_index.ingest.rows import F32, Ints, Rows
from build_index.neighbours.graph import Graph, neighbour_graph
from build_index.simulate import measure
from build_index.simulate.edge import P
from build_index.simulate.measure import Bools, Candidates, Reads, block_bytes, full_scan, plans, price_for
from build_index.tune.fit import probabilities_of
from build_index.tune.promises import Aim, ScannedQueries, estimate_recall, estimators, fit_logistic
from vantage.cost import LANES
from vantage.format import Promise
from vantage.search.estimate import ROWS_EPSILON, second_price

NEAR = 32  # rows that edges are chosen from
DEGREE = 16
WIDTH = 4  # blocks in the plane of a row
GOAL, ID_BYTES = 0.95, 8.0
STEPS = (1.5, 3.0)  # times the price of one wave, for the first of two
VOTERS = 10  # the best answers, whose edges count apart
BEAMS = (100, 250)
WALKED = 50  # queries
POOL_ROWS = 65536  # the most that a scan can keep
CHUNK = 1000  # rows whose edges are chosen at a time
SIGNS_ROWS = 30_000
F64 = npt.NDArray[np.float64]


def near_codewords(graph: Graph, word: npt.NDArray[np.uint32], radius: int) -> Graph:
    """The same without edges between rows whose codewords differ in more bits."""
    return np.where((graph >= 0) & (np.bitwise_count(word[:, None] ^ word[graph]) <= radius), graph, np.int32(-1))


def gated(x: F32, seen: F32, off: F32, graph: Graph, degree: int) -> Graph:
    """i32 (N, degree): edges that pass the angular gate, nearest first, -1 for none.

    x f32 (N, d): rows, on a sphere or not; seen: what codes say of them; off f32 (N): at most how far that is off.
    """
    out = np.full((len(x), degree), -1, np.int32)
    for low in range(0, len(x), CHUNK):
        near, own = graph[low : low + CHUNK], np.arange(low, min(low + CHUNK, len(x)))
        there = near >= 0
        exact = np.linalg.norm(x[near] - x[own][:, None], axis=2)
        points = seen[near]
        first = np.linalg.norm(points - seen[own][:, None], axis=2) + off[own][:, None] + off[near]
        square = np.einsum("ijk,ijk->ij", points, points)
        second = np.sqrt(np.maximum(square[:, :, None] + square[:, None] - 2 * points @ points.transpose(0, 2, 1), 0))
        second += off[near][:, :, None] + off[near][:, None]
        nearer = (first[:, :, None] < exact[:, None]) & (second < exact[:, None]) & there[:, :, None]  # z, then y
        nearer[:, np.arange(near.shape[1]), np.arange(near.shape[1])] = False
        passed = there & ~nearer.any(1)
        turn = np.argsort(~passed, axis=1, kind="stable")[:, :degree]
        out[low : low + CHUNK] = np.where(
            np.take_along_axis(passed, turn, 1), np.take_along_axis(near, turn, 1), np.int32(-1)
        )
    return out


def seen_by(rows: Rows, layout: Layout, codec: Codec) -> tuple[F32, F32]:
    """(rows (N, d) as their codes decode, how far each is off)."""
    seen, off = np.empty((rows.count, rows.dimension), np.float32), np.empty(rows.count, np.float32)
    for low, x in rows.chunks(16 << 20):
        part = slice(low, low + len(x))
        centre = layout.centres[layout.partition.home[part]]
        rotated = (x - centre) @ codec.axes.T
        decoded = encode(codec, rotated)[1]
        own = np.einsum("ij,ij->i", rotated, decoded)
        factor = np.einsum("ij,ij->i", rotated, rotated) / np.maximum(own, 1e-12)
        seen[part] = centre + (factor[:, None] * decoded) @ codec.axes
        off[part] = np.linalg.norm(x - seen[part], axis=1)
    return seen, off


def led_to(graph: Graph, home: npt.NDArray[np.int32], width: int) -> npt.NDArray[np.int32]:
    """i32 (N, width): the other blocks where most neighbours of a row lie, -1 for none."""
    out = np.full((len(home), width), -1, np.int32)
    block = np.where((graph >= 0) & (home[graph] != home[:, None]), home[graph], -1)
    for found, one in zip(out, block, strict=True):
        best = [b for b, _ in Counter(one[one >= 0].tolist()).most_common(width)]
        found[: len(best)] = best
    return out


def block_edges(graph: Graph, home: npt.NDArray[np.int32], blocks: int) -> F64:
    """(B, B): the share of edges of a block's rows that lead to each block."""
    out = np.zeros((blocks, blocks))
    row, column = np.nonzero(graph >= 0)
    np.add.at(out, (home[row], home[graph[row, column]]), 1)
    return out / np.maximum(out.sum(1, keepdims=True), 1)


@dataclass(frozen=True)
class Asked:
    """Queries with p u32 (Q, B), and what codes find for them."""

    p: P
    found: Candidates


@dataclass(frozen=True)
class Edges:
    """Where edges lead: of rows i32 (N, W + 1), their home first, and of blocks (B, B)."""

    rows: npt.NDArray[np.int32]
    blocks: F64


def votes(found: Candidates, read: Bools, led: npt.NDArray[np.int32], most: int) -> F64:
    """(Q, B): of the best `most` rows read, how many lead to a block."""
    out, answered = np.zeros(read.shape), found.answered(read, most)
    for i, chosen in enumerate(answered):
        blocks = led[found.row[i, chosen]]
        np.add.at(out[i], blocks[blocks >= 0], 1)
    return out


def reaching(of: Asked, read: Bools, sizes: Ints, k: int) -> F64:
    """(Q, B): rows of a block that should reach the last answer's score, as vantage.search.estimate.features has it."""
    found, answered = of.found, of.found.answered(read, k)
    score = found.score.astype(np.float64)
    own = np.take_along_axis(found.base, np.maximum(found.block, 0), 1)
    spread = np.sqrt(np.where(answered, (score - own) ** 2, 0).sum(1) / np.maximum(answered.sum(1), 1))
    last = np.where(answered, score, np.inf).min(1, keepdims=True)
    away = np.maximum(0, np.where(np.isfinite(last), last, 0) - found.base) / np.maximum(spread, 1e-9)[:, None]
    return sizes * np.exp(-0.5 * away**2)


# What blocks are judged by: (queries, read, rows of blocks, edges, k) -> features (Q, B) each.
Features = Callable[[Asked, Bools, Ints, Edges, int], list[F64]]


def by_router(of: Asked, read: Bools, sizes: Ints, edges: Edges, k: int) -> list[F64]:
    return [np.log(of.p / np.maximum(of.p.sum(1, keepdims=True), 1) + 1e-6)]


def by_scores(of: Asked, read: Bools, sizes: Ints, edges: Edges, k: int) -> list[F64]:
    return [*by_router(of, read, sizes, edges, k), np.log(reaching(of, read, sizes, k) + ROWS_EPSILON)]


def by_block_edges(of: Asked, read: Bools, sizes: Ints, edges: Edges, k: int) -> list[F64]:
    """The home of a row is known from its number."""
    answered, homes = of.found.answered(read, k), votes(of.found, read, edges.rows[:, :1], k)
    held = np.zeros(read.shape)
    for i, chosen in enumerate(answered):
        np.add.at(held[i], of.found.block[i, chosen], 1)
    return [*by_scores(of, read, sizes, edges, k), np.log(held @ edges.blocks + 0.1), np.log(homes + 0.1)]


def by_row_edges(of: Asked, read: Bools, sizes: Ints, edges: Edges, k: int) -> list[F64]:
    led = [np.log(votes(of.found, read, edges.rows, most) + 0.1) for most in (k, VOTERS)]
    return [*by_block_edges(of, read, sizes, edges, k), *led]


def missed(of: Asked, read: Bools, layout: Layout, k: int) -> F64:
    """(Q, B): the share of a query's neighbours that no block read holds and this one does."""
    truth, out = of.found.truth.rows[:, :k], np.zeros(read.shape)
    lost = (truth >= 0) & ~layout.holds(truth, read)
    for column in (layout.partition.home[truth], *(copy[truth] for copy in layout.copy.T)):
        query, at = np.nonzero(lost & (column >= 0))
        np.add.at(out, (query, column[query, at]), 1 / k)
    return out


@dataclass(frozen=True)
class Judge:
    """A regression of what a block still holds."""

    features: Features
    weights: F64

    def __call__(self, of: Asked, read: Bools, sizes: Ints, edges: Edges, k: int) -> P:
        """u32 (Q, B) in 2^-20, 0 of blocks read."""
        x = self.features(of, read, sizes, edges, k)
        z = self.weights[0] + sum(w * f for w, f in zip(self.weights[1:], x, strict=True))
        return np.where(read, 0, np.rint(2**20 / (1 + np.exp(-np.clip(z, -30, 30))))).astype(np.uint32)


def taught(features: Features, of: Asked, read: Bools, layout: Layout, edges: Edges, k: int) -> Judge:
    """From tuning rows that have read these blocks."""
    x, y = features(of, read, layout.sizes(), edges, k), missed(of, read, layout, k)
    return Judge(features, fit_logistic(np.stack([f[~read] for f in x], 1), y[~read]))


def second_wave(of: Asked, first: Reads, p: P, sizes: Ints, k: int) -> tuple[Reads, float] | None:
    """Reads at the highest price that reach the goal with those of the first wave, and their recall."""

    def at(price: int) -> tuple[Reads, float]:
        later = plans(p, sizes, price, done=first.blocks)
        return later, float(of.found.recall(first.blocks | later.blocks, k).mean())

    price = price_for(lambda price: at(price)[1], GOAL)
    return None if price is None else at(price)


def decided(
    of: Asked, tune: ScannedQueries, prices: tuple[int, int], sizes: Ints, rows: Ints, step: float, k: int
) -> list[Reads] | None:
    """Both waves of the second decision: at a lower price where the estimate of a query is under the least threshold
    that reaches the goal. prices: of one wave, for the tuning rows and for the queries.
    """
    estimator = next(e for e in estimators(lambda _: tune, {k: Aim(1.0, prices[0])}, {k: []}) if e.k == k)
    dear = int(prices[1] * step)
    first = plans(of.p, sizes, dear)
    estimate = estimate_recall(estimator, ScannedQueries(of.found, of.p, sizes, rows), first.blocks, dear)
    later = {dear >> n: plans(of.p, sizes, dear >> n, done=first.blocks) for n in (1, 2, 3)}

    def at(threshold: float) -> tuple[Reads, float]:
        promise = Promise(GOAL, dear, 0, threshold, 0.0, 0.0, 0.0, 0.0)
        again = [second_price(promise, dear, e) for e in estimate.tolist()]
        none = np.zeros(len(rows), bool)
        blocks = np.stack([none if p is None else later[p].blocks[i] for i, p in enumerate(again)])
        ranges = [[] if p is None else later[p].ranges[i] for i, p in enumerate(again)]
        return Reads(blocks, ranges), float(of.found.recall(first.blocks | blocks, k).mean())

    low, high = 0.0, 1.0
    if at(high)[1] < GOAL:
        return None
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if at(middle)[1] >= GOAL else (middle, high)
    return [first, at(high)[0]]


def show(what: str, waves: list[Reads] | None, base: float) -> float:
    """A line; returns the bytes."""
    if waves is None:
        print(f"{what:60}  does not reach the goal", flush=True)
        return 0.0
    nbytes = sum(wave.nbytes for wave in waves)
    twice = 100 * np.mean([bool(r) for r in waves[-1].ranges]) if len(waves) > 1 else 0.0
    saved = 100 * (1 - nbytes / base) if base else 0.0
    print(f"{what:60}{told([wave.ranges for wave in waves])}{twice:9.0f}{saved:9.1f}", flush=True)
    return nbytes


def extended(of: Setting, asked: dict[str, Asked], tune: Asked, graphs: dict[str, Graph], k: int) -> None:
    """Prints what second waves read."""
    layout, home = of.layout, of.layout.partition.home
    rows, plain = layout.sizes(), block_bytes(layout.sizes(), of.codec.code_bytes, ID_BYTES, of.rows.dimension)
    held = ScannedQueries(tune.found, tune.p, plain, rows)
    planes = {name: np.concatenate([home[:, None], led_to(graph, home, WIDTH)], 1) for name, graph in graphs.items()}
    blocks = block_edges(graphs["nearest"], home, layout.blocks)
    print(f"{'':60}   GETs       MB      ms     p99  twice %  saved %")
    for name, queries in asked.items():
        price = price_for(lambda at, q=queries: float(q.found.recall(plans(q.p, plain, at).blocks, k).mean()), GOAL)
        tuned = price_for(lambda at: float(tune.found.recall(plans(tune.p, plain, at).blocks, k).mean()), GOAL)
        if price is None or tuned is None:
            print("the codes do not reach the goal")
            return
        base = show(f"{name}, k = {k}: one wave", [plans(queries.p, plain, price)], 0.0)
        wide = planned(queries.p, plain, lambda read, q=queries: float(q.found.recall(read, k).mean()), GOAL, 2 * LANES)
        show("  of twelve ranges", None if wide is None else [wide], base)
        for step in STEPS:
            waves = decided(queries, held, (tuned, price), plain, rows, step, k)
            show(f"  {step} x, then by the second decision", waves, base)
        for step in STEPS:
            ways: list[tuple[str, Features, npt.NDArray[np.int32], int]] = [
                ("router", by_router, home[:, None], 0),
                ("router, scores", by_scores, home[:, None], 0),
                ("router, scores, edges of blocks", by_block_edges, home[:, None], 0),
            ]
            for graph, led in planes.items():
                ways.append((f"all and edges of rows, {graph}, free", by_row_edges, led, 0))
                ways.append((f"all and edges of rows, {graph}", by_row_edges, led, WIDTH))
            for what, features, led, width in ways:
                sizes, edges = plain + 2 * width * rows, Edges(led, blocks)
                learnt = plans(tune.p, sizes, int(tuned * step)).blocks
                judge = taught(features, tune, learnt, layout, edges, k)
                first = plans(queries.p, sizes, int(price * step))
                later = second_wave(queries, first, judge(queries, first.blocks, rows, edges, k), sizes, k)
                show(f"  {step} x, then by {what}", None if later is None else [first, later[0]], base)


def walk(at: npt.NDArray[np.int64], starts: Ints, graph: Graph, beam: int) -> tuple[int, list[int]]:
    """(rows scored, rows found best first) of a beam search; at (N): a row's place by score, -1 of a row not read."""
    scored = set(starts.tolist())
    frontier = [(int(at[row]), row) for row in scored]
    best = sorted((-place, row) for place, row in frontier)[-beam:]  # a heap: the worst first
    heapq.heapify(best)
    heapq.heapify(frontier)
    while frontier:
        place, row = heapq.heappop(frontier)
        if len(best) == beam and place > -best[0][0]:
            break
        for near in graph[row].tolist():
            if near < 0 or near in scored or at[near] < 0:
                continue
            scored.add(near)
            heapq.heappush(frontier, (int(at[near]), near))
            heapq.heappush(best, (-int(at[near]), near))
            if len(best) > beam:
                heapq.heappop(best)
    return len(scored), [row for _, row in sorted(best, reverse=True)]


def inside(of: Setting, p: P, graphs: dict[str, Graph], k: int) -> None:
    """Prints what a walk scores of the rows read."""
    few = replace(of, queries=of.queries[:WALKED], truth=of.truth[:WALKED])
    p, usual = p[:WALKED], measure.KEPT
    measure.KEPT = min(int(of.layout.sizes().sum()), POOL_ROWS)  # a walk never gets to rows that far down
    try:
        found = few.scanned(of.codec)
    finally:
        measure.KEPT = usual
    sizes = block_bytes(of.layout.sizes(), of.codec.code_bytes, ID_BYTES, of.rows.dimension)
    reads = planned(p, sizes, lambda read: float(found.recall(read, k).mean()), GOAL)
    assert reads is not None
    scanned = found.recall(reads.blocks, k).mean()
    print(f"inside what one wave reads, {len(p)} queries; recall of the scan {scanned:.4f}")
    more = 100 * 4 * DEGREE * (reads.blocks * of.layout.sizes()).sum(1).mean() / reads.nbytes
    print(f"a plane of {DEGREE} edges of 4 bytes adds {more:.0f}% to the bytes")
    members = of.layout.members()
    all_rows = sum(len(np.unique(np.concatenate([members[b] for b in np.flatnonzero(read)]))) for read in reads.blocks)
    for name, graph in graphs.items():
        for beam in BEAMS:
            scored, hits = 0, 0.0
            for i, read in enumerate(reads.blocks):
                some = np.flatnonzero((found.block[i] >= 0) & read[found.block[i]])[::-1]
                at = np.full(of.rows.count, -1)
                at[found.row[i, some]] = some  # the best place of a row is written last
                likely = np.where(read, p[i], 0).argmax()
                starts = np.unique(found.row[i, found.block[i] == likely])
                count, rows = walk(at, starts, graph, beam)
                scored += count
                hits += float(np.isin(found.truth.rows[i, :k], rows[:k]).mean())
            what, share = f"{name}, beam {beam}", 100 * scored / all_rows
            print(f"  {what:40} recall {hits / len(p):.4f}, {share:5.1f}% of the rows", flush=True)


def compare(of: Setting, ood: list[npt.NDArray[np.generic]], radius: int, depths: list[int]) -> None:
    """Prints everything of one set."""
    rows, task = of.rows, of.task
    near = neighbour_graph(rows, np.arange(rows.count), NEAR, seed=0, memory_bytes=task.options.memory_bytes)
    x = rows.slice(0, rows.count)
    some = task.sample[:: max(1, len(task.sample) // SIGNS_ROWS)]
    signs = start_codewords(x[some], golay(), np.arange(2, dtype=np.uint32), 0)
    bits = x @ signs.directions.T > signs.threshold
    word = (bits * (1 << np.arange(bits.shape[1]))).sum(1).astype(np.uint32)
    close = near_codewords(near, word, radius)
    seen, off = seen_by(rows, of.layout, of.codec)
    certified = gated(x, seen, off, close, DEGREE)
    exact = gated(x, x, np.zeros(rows.count, np.float32), close, DEGREE)
    left = [(graph >= 0).sum(1).mean() for graph in (close, exact, certified)]
    apart = np.median(np.linalg.norm(x - x[near[:, 0]], axis=1))
    print(f"edges a row: of {NEAR} nearest, {left[0]:.1f} have a word within {radius} of 23 bits; of these {DEGREE} at")
    print(f"most, the gate leaves {left[1]:.1f} by exact angles and {left[2]:.1f} by bounds; medians: a code is")
    print(f"{np.median(off):.3f} off, the nearest row {apart:.3f} away", flush=True)
    del seen, x
    p = probabilities_of(rows, of.layout, of.queries)
    inside(of, p, {"nearest": near[:, :DEGREE], "gate": exact, "gate by bounds": certified}, max(depths))

    asked = {"held out": Asked(p, of.scanned(of.codec))}
    if ood:
        queries, truth = of.asked(ood)
        other = replace(of, queries=queries, truth=truth)
        asked["out of distr."] = Asked(probabilities_of(rows, of.layout, queries), other.scanned(of.codec))
    held = task.tune
    tune = Asked(
        probabilities_of(rows, of.layout, held.queries),
        full_scan(rows, of.layout, of.codec, held),
    )
    for k in depths:
        extended(of, asked, tune, {"nearest": near, "gate": exact}, k)


def main() -> None:
    """Prints a table a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="wordnet,sift")
    parser.add_argument("--router", default="trained")
    parser.add_argument("--k", default="10,100")
    for option, default in (("rows", None), ("blocks", 1024), ("queries", 500), ("radius", 6)):
        parser.add_argument(f"--{option}", type=int, default=default)
    options = parser.parse_args()
    for name in options.sets.split(","):
        with setting(options.data, name, options.rows, options.blocks, options.router, options.queries) as of:
            print(f"\n{name}: {of.rows.count} rows, {options.blocks} blocks, router {options.router}")
            path = options.data / name / "queries-ood.parquet"
            ood = list(read_queries(path, options.queries).vectors) if path.exists() else []
            compare(of, ood, options.radius, [int(k) for k in options.k.split(",")])


if __name__ == "__main__":
    main()
