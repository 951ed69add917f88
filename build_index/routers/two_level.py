"""two-level: a resident table of regions of queries, and a page each with the sub-centroids of the blocks they want.

two-level-ecvh: the same, with few directions and a codeword for each region in the place of the table. It loses in
rows, and is for when next to nothing may be resident (bench/research/first_level.py).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace

import faiss
import numpy as np
import numpy.typing as npt

from vantage.errors import InputError
from vantage.format import PAGE_BYTES_MAX, EcvhSection, LseSection, RouterSection, TwoLevelSection, pack_page
from vantage.search.prepare import Prepared

from ..blocks.layout import index_section
from ..hashing.codewords import factor_centres, signs
from ..ingest.rows import F32, Ints
from ..kernels import matmul
from ..progress import Progress
from ..simulate.edge import P, prepare_rows, probabilities
from . import ecvh, lse
from .packing import bits_of
from .training import Cost, TrainingSet

BEAMS = (1, 2, 3)  # pages that a query reads side by side, as candidates
SUBS = 4  # of a block: half the bytes of 8, for a tenth more bytes of blocks (bench/growth.py, resident tables)
EXTENT_BYTES = 12 + 3 * 24  # of a block in the directory of a page, in up to three renditions
REGIONS = 4  # times the root of the blocks
PAGE_BLOCKS = (4, 8, 16)  # times the root of the blocks, as candidates
PAGE_BLOCKS_MAX = 1024  # in a trial at 10^6 rows these left out 0.2% of the neighbours, 512 left out 0.4%
REGION_BETA = 9.0  # over the spread of the rows; the most probable region alone counts
REGION_QUERIES, QUERIES_PER_REGION = 8000, 16  # rows as queries, from which pages are made
NEAR_REGIONS = (1.0, 0.5, 0.25)  # what a query tells to its nearest regions: more queries for each
STEP_BYTES = 64 << 20  # of their probabilities at a time

# What is resident of regions, how many there are, and (x f32 (m, d), n) -> i64 (m, n): the n best of each x in order.
First = tuple[LseSection | EcvhSection, int, Callable[[F32, int], Ints]]


def fit(training: TrainingSet, cost: Cost, progress: Progress) -> TwoLevelSection:
    """Sub-centroids, beta and temperature as lse has them, on all blocks in one page; `tune` makes the regions."""

    def whole(section: RouterSection) -> float:
        assert isinstance(section, LseSection)
        return cost(_one_page(section))

    return _one_page(lse.fit(training, whole, progress, SUBS))


def reorder(section: TwoLevelSection, order: Ints) -> TwoLevelSection:
    """Block order[i] as number i; of a section of one page."""
    return _one_page(lse.reorder(_flat(section, len(order)), order))


def by_centres(vectors: F32, centres: F32, spread: float, seed: int) -> First:
    """A query's region is that of the nearest centre; f32 (R, d)."""
    near = faiss.IndexFlatL2(centres.shape[1])
    near.add(centres)
    table = _region_table(centres, spread, bits_of(centres.shape[1]))
    return table, len(centres), lambda x, n: near.search(x, n)[1]


def by_codewords(vectors: F32, centres: F32, spread: float, seed: int) -> First:
    """A query's region is that of the codeword which agrees best with it; `codewords.factor_centres` finds them.

    At 10^4 blocks they name more than centres in as many bytes, at 10^5 less (bench/research/first_level.py).
    """
    codewords = replace(factor_centres(vectors, centres, seed), beta=REGION_BETA / spread)
    agreement = faiss.IndexFlatIP(len(codewords.threshold))
    agreement.add(signs(codewords.generator, codewords.message))
    section = ecvh.section(codewords, bits_of(centres.shape[1]))
    return (
        section,
        agreement.ntotal,
        lambda x, n: agreement.search(matmul(x, codewords.directions) - codewords.threshold, n)[1],
    )


def tune(
    section: TwoLevelSection,
    training: TrainingSet,
    cost: Cost,
    first: Callable[[F32, F32, float, int], First] = by_centres,
) -> TwoLevelSection:
    """Regions by k-means of rows as queries, and pages of the blocks that those of a region want most, by cost.

    first(rows as queries f32 (n, d), centres f32 (R, d), spread, seed): what is resident of R regions or fewer. Every
    block lies in the page of the region nearest to its centre at least. Where no number of blocks a page reaches the
    recall, all have the same cost, and the largest pages stay. Raises InputError where a page would be too large.
    """
    blocks = training.blocks
    flat = _flat(section, blocks)
    regions = min(blocks, round(REGIONS * blocks**0.5))
    few = min(len(training.sample), max(REGION_QUERIES, QUERIES_PER_REGION * regions))
    rows = np.sort(np.random.default_rng([training.seed, 8]).choice(training.sample, few, replace=False))
    regions = min(regions, few)
    vectors = np.concatenate([_vectors(queries) for queries in _queries(training, rows)])
    kmeans = faiss.Kmeans(
        vectors.shape[1],
        regions,
        niter=15,
        seed=training.seed + 1,
        min_points_per_centroid=1,
        max_points_per_centroid=few,
    )
    kmeans.train(vectors)
    centres = np.array(kmeans.centroids, np.float32).reshape(regions, -1)
    resident, regions, nearest = first(vectors, centres, training.spread, training.seed)
    most = min(blocks, PAGE_BLOCKS_MAX)
    block, p, at = np.empty((len(vectors), most), np.int32), np.empty((len(vectors), most), np.float32), 0
    index = index_section(training.rows, blocks, training.rows.count, "lse")
    for queries in _queries(training, rows):
        every = probabilities("lse", flat, index, queries)
        best = most_probable(every, most)
        part = slice(at, at := at + len(queries))
        block[part], p[part] = best, np.take_along_axis(every, best, 1)
    wants = wants_of(nearest(vectors, min(len(NEAR_REGIONS), regions)), block, p, regions)
    home = nearest(np.ascontiguousarray(training.partition.centres, np.float32), 1)[:, 0]
    each = EXTENT_BYTES + TwoLevelSection.block_bytes(flat.bits, flat.subs, training.rows.dimension)
    room = PAGE_BYTES_MAX // each
    crowd = int(np.bincount(home).max())
    if crowd >= room:
        raise InputError(
            f"{crowd} blocks lie nearest to one region, a routing page takes {room - 1}",
            hint="the rows hardly differ: look for repeated ones, or choose another --router",
        )
    candidates = []
    for share in reversed(PAGE_BLOCKS):
        most = max(1, min(round(share * blocks**0.5), PAGE_BLOCKS_MAX, room - crowd))
        candidates.append(_page(flat, resident, name_blocks(wants, home, most)))
    pages = min(candidates, key=cost)
    return min((replace(pages, beam=beam) for beam in BEAMS if beam <= regions), key=cost)


def most_probable(p: P, most: int) -> Ints:
    """i64 (n, most): of each row of p u32 (n, B) the blocks of the largest values, in any order."""
    low = p.shape[1] - most
    return np.argpartition(p, low, axis=1)[:, low:]


def wants_of(near: Ints, block: npt.NDArray[np.int32], p: F32, regions: int) -> list[Ints]:
    """Of each region the blocks that queries want of it, most first, as many as a page takes at most.

    near i64 (n, m): the regions of each query, m at most 3; block i32, p f32 (n, w): its most probable blocks. Memory
    grows with n w, not with regions times blocks.
    """
    order = np.argsort(near, axis=None, kind="stable")
    query = order // near.shape[1]
    share = np.array(NEAR_REGIONS, np.float32)[order % near.shape[1]]
    ends, out = np.cumsum(np.bincount(near.ravel(), minlength=regions)), []
    for low, high in zip([0, *ends[:-1]], ends, strict=True):
        blocks, inverse = np.unique(block[query[low:high]], return_inverse=True)
        mass = np.bincount(inverse.ravel(), (share[low:high, None] * p[query[low:high]]).ravel(), len(blocks))
        out.append(blocks[np.argsort(-mass, kind="stable")[: min(PAGE_BLOCKS_MAX, np.count_nonzero(mass))]])
    return out


def name_blocks(wants: list[Ints], home: Ints, most: int) -> list[Ints]:
    """Numbers of the blocks of each page, rising: the most wanted ones, and its own; one at least.

    home i64 (B): the region of each block.
    """
    order, ends = np.argsort(home, kind="stable"), np.cumsum(np.bincount(home, minlength=len(wants)))
    pages = [np.union1d(best[:most], own) for best, own in zip(wants, np.split(order, ends[:-1]), strict=True)]
    return [page if len(page) else np.zeros(1, np.int64) for page in pages]


def _queries(training: TrainingSet, rows: Ints) -> Iterator[list[Prepared]]:
    step = max(1, STEP_BYTES // (4 * training.blocks))
    for low in range(0, len(rows), step):
        yield prepare_rows(training.rows, rows[low : low + step])


def _vectors(queries: list[Prepared]) -> F32:
    return np.array([query.vector for query in queries], np.float32)


def _region_table(centres: F32, spread: float, bits: int) -> LseSection:
    """The nearest centre is the most probable region, whatever the metric."""
    beta = REGION_BETA / spread
    weight = -0.5 * beta * np.einsum("ij,ij->i", centres, centres)
    return lse.pack_section(centres, weight.astype(np.float32), 1, beta, 1.0, bits)


def _one_page(flat: LseSection) -> TwoLevelSection:
    """One region, and all blocks in its page."""
    blocks, padded = len(flat.scale) // flat.subs, len(flat.table) // len(flat.scale) * 8 // flat.bits
    return _page(flat, _region_table(np.zeros((1, padded), np.float32), 1.0, flat.bits), [np.arange(blocks)])


def _flat(section: TwoLevelSection, blocks: int) -> LseSection:
    """The table of a section of one page."""
    n, [page] = blocks * section.subs, section.pages
    ends = 8 + np.cumsum([4 * blocks, 4 * n, 4 * n])
    scale, weight = (np.frombuffer(page[a:b], np.float32) for a, b in zip(ends, ends[1:], strict=False))
    return LseSection(
        section.bits, section.subs, section.beta, section.temperature, memoryview(page)[ends[-1] :],
        memoryview(scale), memoryview(weight),
    )  # fmt: skip


def _page(flat: LseSection, regions: LseSection | EcvhSection, named: list[Ints]) -> TwoLevelSection:
    """Pages of these blocks, in this order of regions."""
    columns = [np.frombuffer(column, np.uint8) for column in (flat.scale, flat.weight, flat.table)]
    blocks = len(flat.scale) // flat.subs
    parts = [column.reshape(blocks, -1) for column in columns]
    pages = tuple(pack_page(page.tolist(), *(part[page].tobytes() for part in parts)) for page in named)
    sizes, nothing = array("I", map(len, pages)), array("I", bytes(4 * len(pages)))
    return TwoLevelSection(
        regions, flat.bits, flat.subs, flat.beta, flat.temperature, nothing, array("Q", bytes(8 * len(pages))), sizes,
        nothing, 1, pages,
    )  # fmt: skip
