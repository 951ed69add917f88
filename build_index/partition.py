"""Rows -> home blocks: k-means with a price on overfull blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from .rows import F32, Ints, Rows

CHUNK_BYTES = 16 << 20
FREE_ROUNDS = 10
PRICED_ROUNDS = 8
SHED_NEAR = 32  # blocks that a row may be given to
SHED_OVER = 1.8  # blocks over this many times the mean give rows away


@dataclass(frozen=True)
class Partition:
    """centres f32 (B, d): means of the sample's home rows. home i32 (N)."""

    centres: F32
    home: npt.NDArray[np.int32]

    @property
    def blocks(self) -> int:
        return len(self.centres)

    def reordered(self, order: Ints) -> Partition:
        """The same with block order[i] as number i."""
        number = np.empty(len(order), np.int32)
        number[order] = np.arange(len(order), dtype=np.int32)
        return Partition(self.centres[order], number[self.home])


def _closeness(x: F32, centres: F32) -> F32:
    """Larger is nearer: <x, c> - |c|^2 / 2."""
    out: F32 = x @ centres.T - 0.5 * np.einsum("ij,ij->i", centres, centres)
    return out


def _means(x: F32, home: npt.NDArray[np.int32], centres: F32) -> F32:
    """Means of the rows of each block; an empty block keeps its centre."""
    order = np.argsort(home, kind="stable")
    sizes = np.bincount(home, minlength=len(centres))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    filled = sizes > 0
    out = centres.copy()
    out[filled] = np.add.reduceat(x[order], starts[filled], axis=0) / sizes[filled, None]
    return out


def partition(
    rows: Rows, sample: Ints, blocks: int, seed: int, progress: Callable[[float], None] = lambda _: None
) -> Partition:
    """Balanced k-means of the sample rows (sorted), then a home for every row.

    No block is over 1.8 times the mean, and none is empty.

    Ten free rounds by faiss, then rounds in which a block's price rises with the logarithm of its size over the mean,
    in units of the median gap from a row's best to its ninth best block.
    """
    x = rows.take(sample)
    if blocks == 1:
        return Partition(x.mean(0, keepdims=True), np.zeros(rows.count, np.int32))
    kmeans = faiss.Kmeans(
        rows.dimension, blocks, niter=FREE_ROUNDS, seed=seed + 1, min_points_per_centroid=1,
        max_points_per_centroid=max(1, len(x) // blocks + 1),
    )  # fmt: skip
    kmeans.train(x)
    centres: F32 = np.array(kmeans.centroids, np.float32).reshape(blocks, -1)
    price, unit, mean = np.zeros(blocks, np.float32), 0.0, len(x) / blocks
    step = max(1, CHUNK_BYTES // (4 * blocks))
    for turn in range(PRICED_ROUNDS):
        home = np.empty(len(x), np.int32)
        for low in range(0, len(x), step):
            near = _closeness(x[low : low + step], centres)
            if not unit:
                best = -np.partition(-near, min(8, blocks - 1), axis=1)[:, : min(9, blocks)]
                unit = float(np.median(best.max(1) - best.min(1)))
            home[low : low + step] = (near - price).argmax(1)
        size = np.bincount(home, minlength=blocks)
        price += np.float32(0.25 * unit) * np.clip(np.log(np.maximum(size, 1) / mean), -1, 1).astype(np.float32)
        centres = _means(x, home, centres)
        progress((turn + 1) / (PRICED_ROUNDS + 1))
    home = np.empty(rows.count, np.int32)
    for low, chunk in rows.chunks(4 * rows.dimension * step):
        home[low : low + len(chunk)] = (_closeness(chunk, centres) - price).argmax(1)
    _shed(rows, home, centres, int(SHED_OVER * rows.count / blocks) + 1)
    _fill(x, sample, home, blocks)
    progress(1.0)
    return Partition(_means(x, home[sample], centres), home)


def _shed(rows: Rows, home: npt.NDArray[np.int32], centres: F32, limit: int) -> None:
    """Moves the rows that lose least out of blocks over the limit, to their next best block with room."""
    size = np.bincount(home, minlength=len(centres))
    step = max(1, CHUNK_BYTES // (4 * len(centres)))
    near = min(SHED_NEAR, len(centres))
    for b in np.flatnonzero(size > limit):
        members = np.flatnonzero(home == b)
        full = size >= limit
        loss, choices = np.empty(len(members), np.float32), np.empty((len(members), near), np.int32)
        for low in range(0, len(members), step):
            part = slice(low, low + step)
            closeness = _closeness(rows.take(members[part]), centres)
            own = closeness[:, b].copy()
            closeness[:, full] = -np.inf
            choices[part] = np.argsort(-closeness, axis=1)[:, :near]
            loss[part] = own - closeness.max(1)
        for i in np.argsort(loss, kind="stable"):
            if size[b] <= limit:
                break
            to = next((int(t) for t in choices[i] if size[t] < limit and t != b), None)
            if to is not None:
                home[members[i]] = to
                size[to] += 1
                size[b] -= 1


def _fill(x: F32, sample: Ints, home: npt.NDArray[np.int32], blocks: int) -> None:
    """Splits the largest block for each one without rows of the sample x: no router could find it."""
    for b in np.flatnonzero(np.bincount(home[sample], minlength=blocks) == 0):
        own = np.flatnonzero(home[sample] == np.bincount(home[sample]).argmax())
        apart = x[own] - x[own].mean(0)
        along = apart @ apart[np.einsum("ij,ij->i", apart, apart).argmax()]
        home[sample[own[np.argsort(along, kind="stable")[len(own) // 2 :]]]] = b
