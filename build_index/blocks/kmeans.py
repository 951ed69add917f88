"""kmeans: balanced k-means with a penalty on overfull blocks; of many blocks, a row is compared with those near it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..ingest.rows import F32, Ints, Rows
from ..kernels import matmul
from ..neighbours.graph import Graph
from ..progress import SILENT, Progress
from .nearest import index_centres
from .partition import CHUNK_BYTES, Partition, centres_of, homes, homes_and_centres, means_of

FREE_ROUNDS = 10
DRAWN_ROWS, DRAWN_BYTES = 64, 128 << 20  # a block, of these rounds; and of all together, at most
BALANCED_ROUNDS = 9  # over all rows: of four, or of some over rows that are drawn, queries read 1 to 4% more
UNIT_ROWS = 4096
SHED_NEAR = 32  # blocks that a row may be given to
SHED_OVER = 1.8  # blocks over this many times the mean give rows away


def partition(rows: Rows, sample: Ints, blocks: int, seed: int, progress: Progress = SILENT) -> Partition:
    """Balanced k-means of the sample rows (sorted), then a home for every row.

    No block is over 1.8 times the mean, and none is empty.

    Ten free rounds over 64 rows a block, or fewer of many blocks, then nine over all rows, in which a block's penalty
    rises with the logarithm of its size over the mean, in units of the median gap from a row's best to its ninth best
    block.
    """
    if blocks == 1:
        home = np.zeros(rows.count, np.int32)
        return Partition(centres_of(rows, sample, home, np.zeros((1, rows.dimension), np.float32)), home)
    rng = np.random.default_rng([seed, 9])
    drawn = min(len(sample), max(blocks, min(DRAWN_ROWS * blocks, DRAWN_BYTES // (4 * rows.dimension))))
    x = rows.take(np.sort(rng.choice(sample, drawn, replace=False)))
    centres = x[rng.choice(drawn, blocks, replace=False)]
    for turn in range(FREE_ROUNDS):
        home = index_centres(centres).nearest(x)[0][:, 0]
        centres = _apart(x, home, means_of(x, home, centres), rng)
        progress(0.3 * (turn + 1) / FREE_ROUNDS)
    gap = index_centres(centres).nearest(x[:: -(-drawn // UNIT_ROWS)], min(9, blocks))[1]
    unit = float(np.median(gap[:, 0] - gap[:, -1]))
    penalty = np.zeros(blocks, np.float32)
    for turn in range(BALANCED_ROUNDS):
        part = progress.part(0.3 + 0.7 * turn / BALANCED_ROUNDS, 0.3 + 0.7 * (turn + 1) / BALANCED_ROUNDS)
        if turn == BALANCED_ROUNDS - 1:
            home = homes(rows, centres, penalty, part)
        else:
            home, centres = homes_and_centres(rows, sample, centres, penalty, part)
            penalty += _rise(np.bincount(home, minlength=blocks), rows.count / blocks, unit)
    shed(rows, home, centres, int(SHED_OVER * rows.count / blocks) + 1)
    fill(rows, sample, home, blocks)
    centres = centres_of(rows, sample, home, centres)
    progress(1.0)
    return Partition(centres, home)


def by_kmeans(rows: Rows, sample: Ints, blocks: int, graph: Graph | None, seed: int, progress: Progress) -> Partition:
    return partition(rows, sample, blocks, seed, progress)


def _apart(x: F32, home: npt.NDArray[np.int32], centres: F32, rng: np.random.Generator) -> F32:
    """Centres (B, d), those that are nearest to no row of x set on rows."""
    empty = np.flatnonzero(np.bincount(home, minlength=len(centres)) == 0)
    centres[empty] = x[rng.choice(len(x), len(empty), replace=False)]
    return centres


def _rise(size: Ints, mean: float, unit: float) -> F32:
    """f32 (B): what is added to the penalties of blocks of these sizes."""
    return (np.float32(0.25) * np.clip(np.log(np.maximum(size, 1) / mean), -1, 1) * unit).astype(np.float32)


def shed(rows: Rows, home: npt.NDArray[np.int32], centres: F32, limit: int) -> None:
    """Moves the rows that lose least out of blocks over the limit, to their next best one with room."""
    size = np.bincount(home, minlength=len(centres))
    over = np.flatnonzero(size > limit)
    if not len(over):
        return
    order = np.argsort(home, kind="stable")  # rows never move into blocks over the limit, so it stays true for those
    ends, index = np.cumsum(size), index_centres(centres)
    step = max(1, CHUNK_BYTES // (4 * rows.dimension))
    for b, end, count in zip(over, ends[over], size[over], strict=True):
        members, with_room = order[end - count : end], index.without(size >= limit)
        choices = np.empty((count, min(SHED_NEAR, len(centres))), np.int32)
        loss = np.empty(count, np.float32)
        for low in range(0, count, step):
            part = slice(low, low + step)
            x = rows.take(members[part])
            choices[part], closeness = with_room.nearest(x, choices.shape[1])
            choices[part][np.isinf(closeness)] = b
            loss[part] = matmul(x, centres[b : b + 1])[:, 0] - closeness[:, 0]  # but for what is the same for all
        for i in np.argsort(loss, kind="stable"):
            if size[b] <= limit:
                break
            to = next((int(t) for t in choices[i] if size[t] < limit), None)
            if to is not None:
                home[members[i]] = to
                size[to] += 1
                size[b] -= 1


def fill(rows: Rows, sample: Ints, home: npt.NDArray[np.int32], blocks: int) -> None:
    """Splits the largest block for each one without rows of the sample: no router could find it."""
    known = home[sample]
    size = np.bincount(known, minlength=blocks)
    for b in np.flatnonzero(size == 0):
        own = np.flatnonzero(known == size.argmax())
        x = rows.take(sample[own])
        apart = x - x.mean(0)
        along = apart @ apart[np.einsum("ij,ij->i", apart, apart).argmax()]
        moved = own[np.argsort(along, kind="stable")[len(own) // 2 :]]
        size[[known[own[0]], b]] += [-len(moved), len(moved)]
        known[moved] = b
    home[sample] = known
