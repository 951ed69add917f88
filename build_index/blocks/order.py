"""The order of blocks in the file: blocks that are probed together lie together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.sparse import csr_matrix, vstack
from scipy.sparse.linalg import ArpackError, svds
from scipy.spatial.distance import squareform

from ..ingest.rows import Ints

F64 = npt.NDArray[np.float64]

EXACT_BLOCKS_MAX = 2048  # optimal leaf order takes 4.5 s at 2,048 blocks and grows with the cube
REGION_BLOCKS = 512  # about as many blocks a region, above that
REGION_AXES = 16
TOP_SHARE = 0.02
TOP_MAX = 200


def _marks(p: npt.NDArray[np.uint32]) -> Any:
    """Sparse (Q, B): 1 where a block is among the best 2% of a query, p (Q, B).

    At most 200: of 16,384 blocks more are noise, and their pairs are what takes the time.
    """
    queries, blocks = p.shape
    top = min(TOP_MAX, max(4, int(TOP_SHARE * blocks)))
    if top >= blocks:
        return csr_matrix(np.ones(p.shape))
    best = np.concatenate([np.argpartition(-row.astype(np.int64), top)[:top] for row in p])
    marks = csr_matrix((np.ones(len(best)), (np.repeat(np.arange(queries), top), best)), shape=p.shape)
    if blocks > EXACT_BLOCKS_MAX:  # most are of probability 0 to most queries
        marks.data[p[np.repeat(np.arange(queries), top), best] == 0] = 0
        marks.eliminate_zeros()
    return marks


def co_probes(p: npt.NDArray[np.uint32]) -> F64:
    """(B, B): how many of the queries, p (Q, B), have both blocks among their best 2%."""
    return _counts(_marks(p))


def _counts(marks: Any) -> F64:
    counts: F64 = (marks.T @ marks).toarray()
    return counts


def file_order(p: npt.NDArray[np.uint32] | Iterable[npt.NDArray[np.uint32]]) -> Ints:
    """Order (B) of blocks: average linkage on normalised co-probe counts with optimal leaf order (Bar-Joseph 2001).

    p (Q, B), whole or in pieces of some queries each, so that all of it need not be held.

    Above 2,048 blocks, regions of about 512 blocks are ordered first, then the blocks within each, so that memory
    grows with B and not with its square. Regions are k-means on the leading singular vectors of the marks.
    """
    return _order(vstack([_marks(part) for part in ([p] if isinstance(p, np.ndarray) else p)]).tocsr())


def _order(marks: Any) -> Ints:
    blocks = marks.shape[1]
    if blocks <= EXACT_BLOCKS_MAX:
        return _leaves(_counts(marks))
    if not marks.nnz:  # no query probed any of them
        return np.arange(blocks)
    axes = min(REGION_AXES, min(marks.shape) - 1)
    try:
        coordinates = svds(marks, k=axes, v0=np.ones(min(marks.shape)), return_singular_vectors="vh")[2].T
    except ArpackError:  # its iteration runs dry where marks have few directions: blocks that hardly any query wants
        coordinates = _ranged(marks, axes)
    count = max(2, -(-blocks // min(REGION_BLOCKS, EXACT_BLOCKS_MAX)))
    kmeans = faiss.Kmeans(axes, count, niter=20, seed=1, min_points_per_centroid=1, max_points_per_centroid=blocks)
    x = np.ascontiguousarray(coordinates, np.float32)
    kmeans.train(x)
    region = kmeans.assign(x)[1]
    filled, region = np.unique(region, return_inverse=True)
    if len(filled) == 1:  # nothing tells the blocks apart
        return np.arange(blocks)
    member = csr_matrix((np.ones(blocks), (np.arange(blocks), region)), shape=(blocks, len(filled)))
    own = [np.flatnonzero(region == r) for r in _order(marks @ member)]
    return np.concatenate([blocks_of[_order(marks[:, blocks_of])] for blocks_of in own])


def _ranged(marks: Any, axes: int) -> F64:
    """(B, axes): about the leading right singular vectors, of any rank (Halko, Martinsson, Tropp, 2011)."""
    basis = np.random.default_rng(1).standard_normal((marks.shape[1], axes))
    for _ in range(6):
        basis = np.linalg.qr(marks.T @ (marks @ basis))[0]
    turn = np.linalg.svd(marks @ basis, full_matrices=False)[2]
    coordinates: F64 = basis @ turn.T
    return coordinates


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
