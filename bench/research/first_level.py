"""First levels of the two-level router at many blocks: what k-means regions and codewords read and keep resident.

    python -m bench.research.first_level FOLDER [--blocks 10000,100000] [--factors 16,24,32] [--queries 500] [--golay]
        [--seed 0]

No index is built. The second level is modelled, the first is the builder's (two_level.by_centres,
two_level.by_codewords, int4) and a query's page is the one that the edge's router picks. Assumptions:

- Blocks: each has one sub-centroid, its centre: a row drawn by bench/scale.py's generator, in the place of a mean.
- Rows: 24 a block are drawn in the place of 244, and the 10 nearest of them to a query stand for its 100 nearest. They
  are exact, and the home of each is its nearest centre. Blocks are taken to be equal: a block read is 244 rows.
- Pages are those of two_level.tune at their largest: of rows drawn as queries, each tells its three nearest regions
  which 512 blocks it wants; and a block lies in the page of its own region.
- Blocks are read by one threshold on the probability, the largest at which the mean recall is 0.90 or 0.95, exact
  scores, no copies. Ranges and bridges are left out: GETs are 1 for the page and at most 6, whatever the first level.

A line: regions; resident bytes of what tells regions apart, and with the 16 bytes a page of the page table; share of
the neighbours whose block the page names; rows and blocks read for 0.90 and 0.95, "-" where pages leave out too
much; MB of page and blocks (codes of 80 bytes) for 0.95; KB of the page read, mean; pages that are in use, as
1 / sum of squared shares. "as few bytes": k-means regions in the bytes of the codewords above it. --golay: codewords of
the Golay code (23, 12, 7) by PCA and ITQ, and after contrastive training on queries and blocks that they want. FOLDER
takes the rows: 3 KB a block.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from bench.generated import CHUNK, DIMENSION, drawn, written
from build_index.hashing.codewords import Codewords, factor_centres, golay, signs, start_codewords, train_on_pairs
from build_index.ingest.rows import F32, Ints
from build_index.neighbours.exact import exact_neighbours
from build_index.routers import ecvh, two_level
from build_index.simulate.measure import block_bytes
from vantage.format import IndexSection, TwoLevelSection
from vantage.search.prepare import Prepared, prepare
from vantage.search.route.two_level import TwoLevelRouter

BLOCK_ROWS, DRAWN_ROWS, K = 244, 24, 10
CODE_BYTES, ID_BYTES = 80, 8.0
WANTED = 512  # blocks of a row as a query
SHARP = 15.0  # beta times the spread: of 6, 10, 15 and 25, a table of all of 4,096 blocks reads least with it
GOALS = (0.90, 0.95)
BATCH = 1024


@dataclass(frozen=True)
class Setting:
    """centres f32 (B, d). asked f32 (n, d): rows as queries; wanted i32, score f32 (n, 512): their best blocks.

    queries f32 (Q, d), home i32 (Q, K): the blocks of their neighbours. beta: of the blocks. unit: vectors are the
    generator's times this. seed: of regions.
    """

    centres: F32
    asked: F32
    wanted: npt.NDArray[np.int32]
    score: F32
    queries: F32
    prepared: list[Prepared]
    home: npt.NDArray[np.int32]
    spread: float
    seed: int

    @property
    def blocks(self) -> int:
        return len(self.centres)

    @property
    def beta(self) -> float:
        return SHARP / self.spread


def index_of(blocks: int, unit: float) -> IndexSection:
    return IndexSection("l2", DIMENSION, blocks, blocks, "i64", "u8", "lrsq", "two-level", unit, blocks)


def points(seed: int, count: int) -> npt.NDArray[np.uint8]:
    """u8 (count, 128): rows of the generator that no other seed gives."""
    return np.concatenate([drawn(seed + at, min(CHUNK, count - at * CHUNK)) for at in range(-(-count // CHUNK))])


def closeness(x: F32, centres: F32) -> F32:
    out: F32 = x @ centres.T - 0.5 * np.einsum("ij,ij->i", centres, centres)
    return out


def best(x: F32, centres: F32, count: int) -> tuple[npt.NDArray[np.int32], F32]:
    """(centres i32 (n, count), closeness f32 (n, count)) of the nearest ones."""
    squares, found = faiss.knn(x, centres, count)
    return found.astype(np.int32), (0.5 * (np.einsum("ij,ij->i", x, x)[:, None] - squares)).astype(np.float32)


def setting(folder: Path, blocks: int, queries: int, seed: int) -> Setting:
    """Everything but the first level; a query's neighbours by brute force over all rows."""
    rows = np.load(written(folder, blocks * DRAWN_ROWS), mmap_mode="r")
    raw = points(1 << 20, queries)
    unit = float(1 / np.linalg.norm(raw.astype(np.float32), axis=1).mean())
    centres, asked = (
        points(first, count).astype(np.float32) * np.float32(unit)
        for first, count in (
            (1 << 21, blocks),
            (1 << 22, max(two_level.REGION_QUERIES, two_level.QUERIES_PER_REGION * regions_of(blocks))),
        )
    )
    chunks = ((low, rows[low : low + CHUNK].astype(np.float32)) for low in range(0, len(rows), CHUNK))
    near = exact_neighbours(raw.astype(np.float32), chunks, K, "l2")
    neighbours = rows[near.ravel()].astype(np.float32) * np.float32(unit)
    home = best(neighbours, centres, 1)[0].reshape(near.shape)
    index = index_of(blocks, unit)
    asking = [prepare(v.tolist(), index) for v in raw]
    wanted, score = best(asked, centres, min(WANTED, blocks))
    spread = float(asked.var(0, dtype=np.float64).sum())
    vectors = np.array([q.vector for q in asking], np.float32)
    return Setting(centres, asked, wanted, score, vectors, asking, home, spread, seed)


def regions_of(blocks: int) -> int:
    return min(blocks, round(two_level.REGIONS * blocks**0.5))


def pages(s: Setting, regions: int, nearest: Callable[[F32, int], Ints]) -> list[Ints]:
    """Of each region: the blocks that its queries want most, and its own, rising."""
    most = min(round(two_level.PAGE_BLOCKS[-1] * s.blocks**0.5), two_level.PAGE_BLOCKS_MAX)
    p = np.exp(s.beta * (s.score - s.score.max(1, keepdims=True)))
    p /= p.sum(1, keepdims=True)
    wants = two_level.wants_of(nearest(s.asked, min(len(two_level.NEAR_REGIONS), regions)), s.wanted, p, regions)
    return two_level.name_blocks(wants, nearest(s.centres, 1)[:, 0], most)


def line(what: str, s: Setting, first: two_level.First | None) -> None:
    """Prints what a first level reads; None: a table of all blocks in memory."""
    if first is None:
        regions, tell, table, named = 1, 0, 0, [np.arange(s.blocks)]
        region = np.zeros(len(s.queries), np.int64)
    else:
        section, regions, nearest = first
        named, tell, table = pages(s, regions, nearest), len(section.pack()), 16 * regions
        nothing = [0] * regions
        whole = TwoLevelSection(section, 4, 1, 1.0, 1.0, nothing, nothing, nothing, nothing)
        router = TwoLevelRouter(whole, index_of(s.blocks, 1.0))
        region = np.array([router.pages(query)[0] for query in s.prepared])
    every, found = [], np.zeros(s.home.shape)
    for i, (q, r) in enumerate(zip(s.queries, region, strict=True)):
        page = named[r]
        p = np.exp(s.beta * ((near := closeness(q[None], s.centres[page])[0]) - near.max()))
        p /= p.sum()
        at = np.minimum(np.searchsorted(page, s.home[i]), len(page) - 1)
        found[i] = np.where(page[at] == s.home[i], p[at], -1)
        every.append(np.sort(p))
    falling, cells = np.sort(found, axis=None)[::-1], []
    for goal in GOALS:
        least = falling[int(np.ceil(goal * falling.size)) - 1]
        read = np.mean([len(p) - np.searchsorted(p, least) for p in every])
        cells += [f"{read * BLOCK_ROWS:8.0f} /{read:6.1f}" if least >= 0 else f"{'-':>16}"]
    page_bytes = TwoLevelSection.block_bytes(4, two_level.SUBS, DIMENSION) * np.array([len(page) for page in named])
    mean_page = 0.0 if first is None else float(page_bytes[region].mean())
    block = float(block_bytes(np.array([BLOCK_ROWS]), CODE_BYTES, ID_BYTES, DIMENSION)[0])
    mb = f"{(mean_page + read * block) / 1e6:7.2f}" if least >= 0 else f"{'-':>7}"
    used = 1 / np.square(np.bincount(region) / len(region)).sum()
    print(
        f"{what:36}{regions:7}{tell:9,}{tell + table:9,}{(found >= 0).mean():8.4f}{''.join(cells)}{mb}"
        f"{mean_page / 1e3:8.0f}{used:7.0f}",
        flush=True,
    )


def centres_of(s: Setting, regions: int) -> F32:
    """As two_level.tune makes them."""
    kmeans = faiss.Kmeans(
        DIMENSION, regions, niter=15, seed=s.seed + 1, min_points_per_centroid=1, max_points_per_centroid=len(s.asked)
    )
    kmeans.train(s.asked)
    return np.array(kmeans.centroids, np.float32).reshape(regions, -1)


def of_codewords(s: Setting, codewords: Codewords) -> two_level.First:
    """As two_level.by_codewords makes them, of codewords that are there."""
    codewords = replace(codewords, beta=two_level.REGION_BETA / s.spread)
    agreement = faiss.IndexFlatIP(len(codewords.threshold))
    agreement.add(signs(codewords.generator, codewords.message))
    return (
        ecvh.section(codewords),
        agreement.ntotal,
        lambda x, n: agreement.search(x @ codewords.directions.T - codewords.threshold, n)[1],
    )


def of_golay(s: Setting, train: bool) -> two_level.First:
    """Codewords of the Golay code that rows as queries decode to; the code is shortened to about as many."""
    bits = min(12, round(np.log2(regions_of(s.blocks))))
    mean, unit = s.asked.mean(0), np.float32(s.spread**0.5)
    codewords = start_codewords((s.asked - mean) / unit, golay(bits), np.arange(1 << bits, dtype=np.uint32), s.seed)

    def draw(rng: np.random.Generator) -> tuple[F32, F32]:
        """Queries, and for each the centre of a block by how much it wants it."""
        some = rng.choice(len(s.asked), BATCH, replace=False)
        p = np.exp(s.beta * (s.score[some] - s.score[some].max(1, keepdims=True))).cumsum(1)
        block = s.wanted[some, (p > p[:, -1:] * rng.random((BATCH, 1))).argmax(1)]
        return (s.asked[some] - mean) / unit, (s.centres[block] - mean) / unit

    if train:
        codewords = train_on_pairs(codewords, draw, s.seed)
    codewords = replace(
        codewords,
        directions=codewords.directions / unit,
        threshold=codewords.threshold + codewords.directions @ (mean / unit),
    )
    nearest: Any = of_codewords(s, codewords)[2]
    return of_codewords(s, replace(codewords, message=np.unique(nearest(s.asked, 1)[:, 0]).astype(np.uint32)))


def main() -> None:
    """Prints a table a number of blocks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--blocks", default="10000,100000")
    parser.add_argument("--factors", default="16,24,32")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--golay", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for blocks in (int(n) for n in options.blocks.split(",")):
        s = setting(options.folder, blocks, options.queries, options.seed)
        print(f"\n{blocks:,} blocks of {BLOCK_ROWS} rows, {len(s.asked):,} rows as queries, {len(s.queries)} queries")
        print(
            f"{'':36}{'regions':>7}{'bytes':>9}{'+ pages':>9}{'named':>8}"
            + "".join(f"rows / bl. {goal:.2f}".rjust(16) for goal in GOALS)
            + f"{'MB':>7}{'page KB':>8}{'used':>7}"
        )
        line("table of all blocks", s, None)
        centres = centres_of(s, regions_of(blocks))
        line("k-means regions", s, two_level.by_centres(s.asked, centres, s.spread, s.seed))
        for factors in (int(n) for n in options.factors.split(",")):
            first = of_codewords(s, factor_centres(s.asked, centres, s.seed, factors))
            line(f"codewords of {factors} signs", s, first)
            few = centres_of(s, max(1, len(first[0].pack()) // (8 + DIMENSION // 2)))
            line("  k-means regions, as few bytes", s, two_level.by_centres(s.asked, few, s.spread, s.seed))
        if options.golay:
            line("Golay codewords, PCA + ITQ", s, of_golay(s, train=False))
            line("Golay codewords, trained", s, of_golay(s, train=True))


if __name__ == "__main__":
    main()
