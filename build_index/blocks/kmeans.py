"""kmeans: balanced k-means with a penalty on overfull blocks; from many blocks on by regions."""

from __future__ import annotations

import faiss
import numpy as np
import numpy.typing as npt

from ..ingest.rows import F32, Ints, Rows
from ..neighbours.graph import Graph
from ..progress import SILENT, Progress
from .partition import CHUNK_BYTES, Partition, closeness_of, homes, means_of, rows_at_a_time

FREE_ROUNDS = 10
BALANCED_ROUNDS = 8
ALL_ROUNDS = 3  # over all rows, in two levels
SHED_NEAR = 32  # blocks that a row may be given to
SHED_OVER = 1.8  # blocks over this many times the mean give rows away
TWO_LEVEL_BLOCKS = 4096  # from here on k-means goes by regions: its work grows with N sqrt(B), not N B


def partition(rows: Rows, sample: Ints, blocks: int, seed: int, progress: Progress = SILENT) -> Partition:
    """Balanced k-means of the sample rows (sorted), then a home for every row.

    No block is over 1.8 times the mean, and none is empty.

    Ten free rounds by faiss, then rounds in which a block's penalty rises with the logarithm of its size over the mean,
    in units of the median gap from a row's best to its ninth best block.
    """
    x = rows.take(sample)
    if blocks == 1:
        return Partition(x.mean(0, keepdims=True), np.zeros(rows.count, np.int32))
    centres, penalty, _ = _balance(x, blocks, seed, progress.part(0, BALANCED_ROUNDS / (BALANCED_ROUNDS + 1)))
    home = homes(rows, centres, penalty)
    shed(rows, home, centres, int(SHED_OVER * rows.count / blocks) + 1)
    fill(x, sample, home, blocks)
    progress(1.0)
    return Partition(means_of(x, home[sample], centres), home)


def two_level(rows: Rows, sample: Ints, blocks: int, seed: int, progress: Progress = SILENT) -> Partition:
    """Balanced k-means into about sqrt(blocks) regions, then inside each of them: for 4,096 blocks and more.

    A region has blocks in proportion to its rows, with consecutive numbers. Work grows with N sqrt(blocks); rows are
    read in order, but for those of overfull blocks. Balance as in `partition`, but a row stays in its region.
    """
    regions = max(1, round(blocks**0.5))
    coarse = partition(rows, sample, regions, seed, progress.part(0, 0.4))
    x, tag = rows.take(sample), coarse.home[sample]
    rows_in, known_in = (np.bincount(home, minlength=regions) for home in (coarse.home, tag))
    fair = np.minimum(rows_in, np.maximum(1, known_in * rows.count // (2 * blocks)))  # fewer blocks than rows to train
    ends = np.cumsum(_shares(fair, blocks))
    starts = np.concatenate([[0], ends[:-1]])
    centres, penalty, unit = np.empty((blocks, rows.dimension), np.float32), *np.zeros((2, blocks), np.float32)
    for r, (low, high) in enumerate(zip(starts, ends, strict=True)):
        own = x[tag == r]
        if high - low == 1:
            centres[low] = own.mean(0)
        else:
            centres[low:high], penalty[low:high], unit[low:high] = _balance(own, int(high - low), seed)
        progress(0.4 + 0.4 * (r + 1) / regions)
    home = np.empty(rows.count, np.int32)
    for turn in range(ALL_ROUNDS):  # of few rows a block, penalties that balance the sample do not balance the others
        for at, chunk in rows.chunks(CHUNK_BYTES):
            where = coarse.home[at : at + len(chunk)]
            for r in np.unique(where):
                block, mine = slice(starts[r], ends[r]), np.flatnonzero(where == r)
                home[at + mine] = starts[r] + (closeness_of(chunk[mine], centres[block]) - penalty[block]).argmax(1)
            progress(0.8 + 0.15 * (turn + at / rows.count) / ALL_ROUNDS)
        penalty += _rise(np.bincount(home, minlength=blocks), rows.count / blocks, unit)
    region = np.repeat(np.arange(regions, dtype=np.int32), ends - starts)
    shed(rows, home, centres, int(SHED_OVER * rows.count / blocks) + 1, region)
    order = np.argsort(tag, kind="stable")
    for (low, high), mine in zip(
        zip(starts, ends, strict=True), np.split(order, np.cumsum(np.bincount(tag))[:-1]), strict=True
    ):
        fill(x[mine], sample[mine], home, high - low, low)
    progress(1.0)
    return Partition(means_of(x, home[sample], centres), home, region)


def by_kmeans(rows: Rows, sample: Ints, blocks: int, graph: Graph | None, seed: int, progress: Progress) -> Partition:
    return (partition if blocks < TWO_LEVEL_BLOCKS else two_level)(rows, sample, blocks, seed, progress)


def _balance(x: F32, blocks: int, seed: int, progress: Progress = SILENT) -> tuple[F32, F32, float]:
    """(centres f32 (blocks, d), penalty f32 (blocks), its unit) of balanced k-means of x; see `partition`."""
    kmeans = faiss.Kmeans(
        x.shape[1], blocks, niter=FREE_ROUNDS, seed=seed + 1, min_points_per_centroid=1,
        max_points_per_centroid=max(1, len(x) // blocks + 1),
    )  # fmt: skip
    kmeans.train(x)
    centres: F32 = np.array(kmeans.centroids, np.float32).reshape(blocks, -1)
    penalty, unit, mean = np.zeros(blocks, np.float32), 0.0, len(x) / blocks
    step = rows_at_a_time(blocks)
    for turn in range(BALANCED_ROUNDS):
        home = np.empty(len(x), np.int32)
        for low in range(0, len(x), step):
            near = closeness_of(x[low : low + step], centres)
            if not unit:
                best = -np.partition(-near, min(8, blocks - 1), axis=1)[:, : min(9, blocks)]
                unit = float(np.median(best.max(1) - best.min(1)))
            home[low : low + step] = (near - penalty).argmax(1)
        size = np.bincount(home, minlength=blocks)
        penalty += _rise(size, mean, unit)
        centres = means_of(x, home, centres)
        progress((turn + 1) / BALANCED_ROUNDS)
    return centres, penalty, unit


def _rise(size: Ints, mean: float, unit: float | F32) -> F32:
    """f32 (B): what is added to the penalties of blocks of these sizes."""
    return (np.float32(0.25) * np.clip(np.log(np.maximum(size, 1) / mean), -1, 1) * unit).astype(np.float32)


def shed(
    rows: Rows,
    home: npt.NDArray[np.int32],
    centres: F32,
    limit: int,
    region: npt.NDArray[np.int32] | None = None,
) -> None:
    """Moves the rows that lose least out of blocks over the limit, to their next best one with room, of the region."""
    size = np.bincount(home, minlength=len(centres))
    over = np.flatnonzero(size > limit)
    if not len(over):
        return
    order = np.argsort(home, kind="stable")  # rows never move into blocks over the limit, so it stays true for those
    ends = np.cumsum(size)
    for b, end, count in zip(over, ends[over], size[over], strict=True):
        members = order[end - count : end]
        low, high = (0, len(centres)) if region is None else np.searchsorted(region, [region[b], region[b] + 1])
        near, step = (
            min(SHED_NEAR, int(high - low)) if region is None else int(high - low),
            rows_at_a_time(int(high - low)),
        )
        full = size[low:high] >= limit
        loss, choices = np.empty(len(members), np.float32), np.empty((len(members), near), np.int64)
        for at in range(0, len(members), step):
            part = slice(at, at + step)
            closeness = closeness_of(rows.take(members[part]), centres[low:high])
            own = closeness[:, b - low].copy()
            closeness[:, full] = -np.inf
            choices[part] = low + np.argsort(-closeness, axis=1)[:, :near]
            loss[part] = own - closeness.max(1)
        for i in np.argsort(loss, kind="stable"):
            if size[b] <= limit:
                break
            to = next((int(t) for t in choices[i] if size[t] < limit and t != b), None)
            if to is not None:
                home[members[i]] = to
                size[to] += 1
                size[b] -= 1


def fill(x: F32, sample: Ints, home: npt.NDArray[np.int32], blocks: int, first: int = 0) -> None:
    """Splits the largest block for each one without rows of the sample x: no router could find it.

    The blocks are numbered from first on, and hold all of the sample.
    """
    for b in np.flatnonzero(np.bincount(home[sample] - first, minlength=blocks) == 0):
        own = np.flatnonzero(home[sample] - first == np.bincount(home[sample] - first).argmax())
        apart = x[own] - x[own].mean(0)
        along = apart @ apart[np.einsum("ij,ij->i", apart, apart).argmax()]
        home[sample[own[np.argsort(along, kind="stable")[len(own) // 2 :]]]] = first + b


def _shares(sizes: Ints, total: int) -> Ints:
    """Splits total in proportion to sizes (all 1 or more), each 1 or more, by largest remainder."""
    wish = sizes * total / sizes.sum()
    out: Ints = np.maximum(1, wish.astype(np.int64))
    while (left := total - int(out.sum())) != 0:
        step = 1 if left > 0 else -1
        lag = np.where((step > 0) | (out > 1), step * (wish - out), -np.inf)
        out[np.argsort(-lag, kind="stable")[: abs(left)]] += step
    return out
