"""The order of blocks in the file: blocks that are probed together lie together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

from .rows import Ints

F64 = npt.NDArray[np.float64]

EXACT_BLOCKS_MAX = 2048  # optimal leaf order takes 4.5 s at 2,048 blocks and grows with the cube
TOP_SHARE = 0.02


def co_probes(p: npt.NDArray[np.uint32]) -> F64:
    """(B, B): how many of the queries, p (Q, B), have both blocks among their best 2%."""
    blocks = p.shape[1]
    top = max(4, int(TOP_SHARE * blocks))
    if top >= blocks:
        return np.ones((blocks, blocks))
    mark = np.zeros(p.shape, np.float32)
    np.put_along_axis(mark, np.argpartition(-p.astype(np.int64), top, axis=1)[:, :top], 1.0, axis=1)
    return (mark.T @ mark).astype(np.float64)


def file_order(p: npt.NDArray[np.uint32]) -> Ints:
    """Order (B) of blocks: average linkage on normalised co-probe counts with optimal leaf order (Bar-Joseph 2001).

    Above 2,048 blocks, regions of blocks are ordered first, then the blocks within each.
    """
    counts = co_probes(p)
    blocks = len(counts)
    if blocks <= 2:
        return np.arange(blocks)
    if blocks <= EXACT_BLOCKS_MAX:
        return _leaves(counts)
    tree = linkage(squareform(_distance(counts), checks=False), "average")
    coarse = leaves_list(tree)
    regions = np.array_split(coarse, -(-blocks // 256))
    member = np.zeros((len(regions), blocks))
    for r, region in enumerate(regions):
        member[r, region] = 1
    order = _leaves(member @ counts @ member.T)
    return np.concatenate([regions[r][_leaves(counts[np.ix_(regions[r], regions[r])])] for r in order])


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
