"""Divides blocks that have grown, in place: each in two by 2-means of its rows, which lie side by side in the file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..ingest.rows import F32, Ints, Rows
from .partition import Partition

ROUNDS = 8
TURNS = 3  # of the power method, to begin with the direction in which rows lie furthest apart
LEAST = 0.25  # of the rows of a block, in the smaller half

Bools = npt.NDArray[np.bool_]
Halves = Callable[[int, F32], Bools | None]


def divided(rows: Rows, partition: Partition, blocks: int, halves: Halves | None = None) -> tuple[Partition, Ints]:
    """(the partition with so many blocks, i64 (blocks): the old block that each is or is part of, rising).

    The largest are divided. The centres of halves are means of all their rows; those of other blocks stay.
    halves(block, its rows f32 (n, d), by rising number) -> bool (n): which rows are in the second half, some but not
    all; None: the block stays whole. By default 2-means. There may be fewer blocks than asked for.
    """
    parent, whole = np.arange(partition.blocks), np.zeros(partition.blocks, bool)
    while partition.blocks < blocks:
        size = np.where(whole, 0, np.bincount(partition.home, minlength=partition.blocks))
        largest = np.argsort(-size, kind="stable")[: blocks - partition.blocks]
        chosen = np.zeros(partition.blocks, bool)
        chosen[largest] = size[largest] > 1
        if not chosen.any():
            break

        def of(block: int, x: F32, own: Ints = parent) -> Bools | None:
            return two_means(x) if halves is None else halves(int(own[block]), x)

        partition, part, kept = _halved(rows, partition, chosen, of)
        parent, whole = parent[part], (whole | kept)[part]
    return partition, parent


def _halved(rows: Rows, partition: Partition, chosen: Bools, halves: Halves) -> tuple[Partition, Ints, Bools]:
    """(the partition with the chosen blocks in halves, the block that each was, which of the chosen stayed whole)."""
    order, ends = np.argsort(partition.home, kind="stable"), np.cumsum(np.bincount(partition.home))
    centres, second, kept = partition.centres, np.zeros(len(partition.home), bool), np.zeros(len(chosen), bool)
    middles = dict[int, F32]()
    for block in np.flatnonzero(chosen).tolist():
        members = order[ends[block - 1] if block else 0 : ends[block]]
        x = rows.take(members)
        over = halves(block, x)
        if over is None or over.all() or not over.any():
            kept[block] = True
            continue
        middle = np.stack([x[~over].mean(0), x[over].mean(0)])
        before, after = centres[max(0, block - 1)], centres[min(len(centres) - 1, block + 1)]
        if (middle[0] - middle[1]) @ (before - after) < 0:  # each half beside the block that is nearer to it
            over, middle = ~over, middle[::-1]
        second[members[over]], middles[block] = True, middle
    parts = np.repeat(np.arange(len(chosen)), np.where(chosen & ~kept, 2, 1))
    first = np.searchsorted(parts, np.arange(len(chosen)))
    out = centres[parts]
    for block, middle in middles.items():
        out[first[block] : first[block] + 2] = middle
    return Partition(out, (first[partition.home] + second).astype(np.int32)), parts, kept


def two_means(x: F32) -> Bools | None:
    """bool (n): the half of each row (n, d), a quarter of the rows at least in each; None where all are alike."""
    apart = x - x.mean(0)
    along = apart @ apart[np.einsum("ij,ij->i", apart, apart).argmax()]
    for _ in range(TURNS):
        along = apart @ (apart.T @ (along / max(float(np.linalg.norm(along)), 1e-30)))
    over = along > np.median(along)
    for _ in range(ROUNDS):
        if over.all() or not over.any():
            return None
        low, high = apart[~over].mean(0), apart[over].mean(0)
        along = apart @ (high - low) - 0.5 * (high @ high - low @ low)
        cut = float(np.clip(0.0, *np.quantile(along, [LEAST, 1 - LEAST])))
        if ((along > cut) == over).all():
            break
        over = along > cut
    return None if over.all() or not over.any() else over
