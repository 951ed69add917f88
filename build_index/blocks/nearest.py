"""Finds the blocks nearest to rows: by comparing with all of a few blocks, of many with those in the nearest groups."""

from __future__ import annotations

from dataclasses import dataclass, replace

import faiss
import numpy as np
import numpy.typing as npt

from ..ingest.rows import F32, Ints
from ..kernels import nearest, select_largest

I32 = npt.NDArray[np.int32]

GROUPED_BLOCKS = 2048  # from here on blocks are grouped: work grows with N sqrt(B), not N B
GROUPS = 2  # times the root of the blocks
NEAR_GROUPS = 16  # of a row: they hold its nearest block 99 times of 100, and 24 of its 25 nearest (WordNet, SIFT)
FEW_GROUPS = 8  # while centres still move: 95 times of 100 in half of the time (18,284 blocks of sentences)
GROUP_ROUNDS = 10
STEP_BYTES = 16 << 20  # of what is held for some rows at a time


@dataclass(frozen=True)
class CentreIndex:
    """B blocks in G groups. block i64 (B): their numbers, group by group, and in the same order centres f32 (B, d) and
    bias f32 (B): what is added to <x, c> for closeness. ends (G + 1): where groups begin. middles f32 (G, d): means of
    the centres of a group.
    """

    block: Ints
    centres: F32
    bias: F32
    ends: Ints
    middles: F32

    def without(self, left_out: npt.NDArray[np.bool_]) -> CentreIndex:
        """The same without these blocks, bool (B)."""
        return replace(self, bias=np.where(left_out[self.block], np.float32(-np.inf), self.bias))

    def nearest(self, x: F32, count: int = 1, groups: int | None = None) -> tuple[I32, F32]:
        """(blocks i32 (n, count), best first, closeness f32 (n, count)) of rows (n, d), of equal ones any.

        -inf where the nearest groups hold fewer. count: at most B. groups: how many are looked into; None: NEAR_GROUPS.
        """
        if len(self.middles) == 1:
            at, closeness = nearest(x, self.centres, self.bias, count)
            return self.block[at].astype(np.int32), closeness
        blocks, closeness = np.empty((len(x), count), np.int32), np.empty((len(x), count), np.float32)
        near = min(groups or NEAR_GROUPS, len(self.middles))
        step = max(1, STEP_BYTES // (12 * near * count))
        for low in range(0, len(x), step):
            some = slice(low, low + step)
            blocks[some], closeness[some] = self._in_groups(x[some], count, near)
        return blocks, closeness

    def _in_groups(self, x: F32, count: int, near: int) -> tuple[I32, F32]:
        group = nearest(x, self.middles, -0.5 * np.einsum("ij,ij->i", self.middles, self.middles), near)[0]
        order = np.argsort(group, axis=None, kind="stable")  # rows by group
        starts = np.searchsorted(group.ravel()[order], np.arange(len(self.middles) + 1))
        blocks = np.zeros((len(x) * near, count), np.int32)
        closeness = np.full((len(x) * near, count), -np.inf, np.float32)
        for g in range(len(self.middles)):
            mine, own = order[starts[g] : starts[g + 1]], slice(self.ends[g], self.ends[g + 1])
            most = min(count, own.stop - own.start)
            at, best = nearest(x.take(mine // near, 0), self.centres[own], self.bias[own], most)
            blocks[mine, :most], closeness[mine, :most] = self.block[own][at], best
        at, best = _largest(closeness.reshape(len(x), -1), count)
        return np.take_along_axis(blocks.reshape(len(x), -1), at.astype(np.int64), 1), best


def index_centres(centres: F32, penalty: F32 | float = 0.0) -> CentreIndex:
    """Blocks of these centres (B, d) by closeness <x, c> - |c|^2 / 2 - penalty (B): larger is nearer."""
    bias = (-0.5 * np.einsum("ij,ij->i", centres, centres) - penalty).astype(np.float32)
    if len(centres) < GROUPED_BLOCKS:
        return CentreIndex(np.arange(len(centres)), centres, bias, np.array([0, len(centres)]), centres[:1])
    kmeans = faiss.Kmeans(
        centres.shape[1], round(GROUPS * len(centres) ** 0.5), niter=GROUP_ROUNDS, seed=1, min_points_per_centroid=1,
        max_points_per_centroid=len(centres),
    )  # fmt: skip
    kmeans.train(centres)
    named, group = np.unique(kmeans.assign(centres)[1], return_inverse=True)
    order = np.argsort(group, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(group))])
    middles = np.array(kmeans.centroids, np.float32).reshape(-1, centres.shape[1])[named]
    return CentreIndex(order, centres[order], bias[order], ends, middles)


def _largest(closeness: F32, count: int) -> tuple[npt.NDArray[np.uint32], F32]:
    """The `count` largest of closeness (n, m), best first: (where they stand u32 (n, count), f32 too)."""
    at, best = np.empty((len(closeness), count), np.uint32), np.empty((len(closeness), count), np.float32)
    none = np.zeros(closeness.shape[1], np.float32)
    select_largest(closeness, none, len(closeness), len(none), count, at, best)
    return at, best
