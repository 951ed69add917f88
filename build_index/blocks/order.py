"""The order of blocks in the file: blocks that are probed together lie together."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.sparse import csc_matrix, csr_matrix
from scipy.spatial.distance import squareform

from ..ingest.rows import F32, Ints, Rows
from .nearest import index_centres
from .partition import CHUNK_BYTES, means_of

F64 = npt.NDArray[np.float64]

EXACT_BLOCKS_MAX = 2048  # optimal leaf order takes 4.5 s at 2,048 blocks and grows with the cube
REGION_BLOCKS = 512  # about as many blocks a region, above that
REGION_ROUNDS, REGION_CENTRES = 20, 256  # of k-means, over so many centres a region
TOP_SHARE = 0.02
NEAR = 48  # blocks above that, which a row is said to probe: of 24 an order read 3% more


def _marks(p: npt.NDArray[np.uint32]) -> Any:
    """Sparse (Q, B): 1 where a block is among the best 2% of a query, p (Q, B)."""
    top = max(4, int(TOP_SHARE * p.shape[1]))
    if top >= p.shape[1]:
        return csr_matrix(np.ones(p.shape))
    best = np.argpartition(-p.astype(np.int64), top, axis=1)[:, :top]
    return _marked(np.repeat(np.arange(len(p)), top), best.ravel(), p.shape)


def _marked(query: Ints, block: npt.NDArray[np.integer], shape: tuple[int, ...]) -> Any:
    """Sparse (Q, B): 1 where a query probes a block."""
    return csc_matrix((np.ones(len(block), np.float32), (query, block)), shape=shape)


def co_probes(p: npt.NDArray[np.uint32]) -> F64:
    """(B, B): how many of the queries, p (Q, B), have both blocks among their best 2%."""
    return _counts(_marks(p))


def _counts(marks: Any) -> F64:
    counts: F64 = (marks.T @ marks).toarray().astype(np.float64)
    return counts


def file_order(p: npt.NDArray[np.uint32]) -> Ints:
    """Order (B) of blocks: average linkage on normalised co-probe counts with optimal leaf order (Bar-Joseph 2001).

    p (Q, B): probabilities that a router gives to queries. Time grows with the cube of B: for up to 2,048 blocks.
    """
    return _leaves(co_probes(p))


def file_order_by_centres(rows: Rows, sample: Ints, centres: F32, seed: int) -> Ints:
    """Order (B) of more blocks, by no router: as many rows of the sample probe the 48 blocks nearest to each.

    centres f32 (B, d). Regions of about 512 blocks, by k-means of the centres, are ordered first by how often blocks of
    both are probed together, then the blocks in each, as `file_order` does. Work grows with B sqrt(B), memory with B.
    """
    count = min(len(sample), len(centres))
    drawn = np.sort(np.random.default_rng([seed, 4]).choice(sample, count, replace=False))
    index, step = index_centres(centres), max(1, CHUNK_BYTES // (4 * rows.dimension))
    query, block = [], []
    for low in range(0, count, step):
        near, closeness = index.nearest(rows.take(drawn[low : low + step]), NEAR)
        there = np.isfinite(closeness)
        query.append(low + np.nonzero(there)[0])
        block.append(near[there])
    return _order(_marked(np.concatenate(query), np.concatenate(block), (count, len(centres))), centres)


def _order(marks: Any, centres: F32) -> Ints:
    blocks = len(centres)
    if blocks <= EXACT_BLOCKS_MAX:
        return _leaves(_counts(marks))
    kmeans = faiss.Kmeans(
        centres.shape[1], -(-blocks // REGION_BLOCKS), niter=REGION_ROUNDS, seed=1, min_points_per_centroid=1,
        max_points_per_centroid=REGION_CENTRES,
    )  # fmt: skip
    kmeans.train(centres)
    filled, region = np.unique(kmeans.assign(centres)[1], return_inverse=True)
    if len(filled) == 1:  # nothing tells the blocks apart
        return np.arange(blocks)
    member = csr_matrix((np.ones(blocks, np.float32), (np.arange(blocks), region)), shape=(blocks, len(filled)))
    middles = means_of(centres, region.astype(np.int32), np.empty((len(filled), centres.shape[1]), np.float32))
    own = [np.flatnonzero(region == r) for r in _order((marks @ member).tocsc(), middles)]
    return np.concatenate([some[_order(marks[:, some], centres[some])] for some in own])


def _distance(counts: F64) -> F64:
    size = counts.diagonal() + 1
    distance: F64 = 1 / (counts / np.sqrt(size[:, None] * size) + 1e-3)
    np.fill_diagonal(distance, 0)
    return (distance + distance.T) / 2


def _leaves(counts: F64) -> Ints:
    if len(counts) <= 2:
        return np.arange(len(counts))
    flat = squareform(_distance(counts), checks=False)
    order: Ints = leaves_list(optimal_leaf_ordering(linkage(flat, "average"), flat)).astype(np.int64)
    return order
