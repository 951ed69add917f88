"""Copies: up to two more blocks for the rows that gain most, by SOAR, closure, or the misses of training queries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from ..ingest.rows import F32, Ints, Rows
from ..neighbours.graph import Graph
from ..progress import SILENT, Progress
from .nearest import index_centres
from .partition import CHUNK_BYTES, Partition

I32 = npt.NDArray[np.int32]

LAMBDA = 1.5
NEAR = 24  # blocks weighed beside the home
KEPT = 4  # candidates kept a row
COPIES_MAX = 2
ROUNDS = 3
ROUND_SHARE = 0.17  # of all rows, copied before misses are counted again: three rounds make half a copy a row
STORAGE = 0.001  # what a copy costs where no query reads it, as the probability that one does
SLACK = 0.1  # losses within this share of the least are equal


@dataclass(frozen=True)
class Copies:
    """home i32 (N). The best blocks for a copy of each row, best first: near i32 (N, 4), -1 where there are fewer, and
    their loss f32 (N, 4), inf there. worth f32 (N, 2): the order in which the copies into the first two are made, least
    first.
    """

    home: I32
    near: I32
    loss: F32
    worth: F32

    @property
    def block(self) -> I32:
        """i32 (N, 2): where the row's first and second copy would lie, -1 for none."""
        return self.near[:, :COPIES_MAX]

    def order(self, most: int) -> F32:
        """f32 (N, most): worth of the row's first copies, inf for none; a second is never before its row's first."""
        worth = np.where(self.block[:, :most] >= 0, self.worth[:, :most], np.inf)
        return np.maximum.accumulate(worth, 1).astype(np.float32)

    def best(self, share: float) -> I32:
        """i32 (N, E), E = ceil(share), 0 to 2: blocks of share copies a row, -1 for none.

        The rows of least worth have copies, a row's second one after its first. There may be fewer than asked for.
        """
        block, worth = self.block[:, : ceil(share)], self.order(ceil(share)).ravel()
        count = min(round(share * len(block)), int(np.isfinite(worth).sum()))
        chosen = np.argsort(worth, kind="stable")[:count]
        out = np.full(block.size, -1, np.int32)
        out[chosen] = block.ravel()[chosen]
        return out.reshape(block.shape)

    def reordered(self, order: Ints) -> Copies:
        """The same with block order[i] as number i."""
        number = np.argsort(order).astype(np.int32)
        return replace(self, home=number[self.home], near=np.where(self.near >= 0, number[self.near], np.int32(-1)))


Shared = Any  # rows, centres f32 (B, d), their index, and what a rule adds
Piece = tuple[int, int, I32]  # low, high, homes of these rows
Chosen = tuple[I32, F32, F32]  # near, loss and worth of Copies


def none(rows: Rows, partition: Partition, progress: Progress = SILENT) -> Copies:
    """No copies."""
    loss = np.full((rows.count, KEPT), np.inf, np.float32)
    return Copies(partition.home, np.full((rows.count, KEPT), -1, np.int32), loss, loss[:, :COPIES_MAX].copy())


def soar(rows: Rows, partition: Partition, progress: Progress = SILENT) -> Copies:
    """For each row the blocks that minimise |r'|^2 + lambda <r', r/|r|>^2 (Sun et al., arXiv 2404.00774).

    Among the 24 nearest others; rows of the least loss over |r|^2 first.
    """
    return _by_cells(_soar, rows, partition, (), progress)


def _soar(shared: Shared, piece: Piece) -> Chosen:
    rows, centres = shared[:2]
    out = list[Chosen]()
    for x, home, ids, gap in _nearest(shared, piece):
        r = x - centres[home]
        length = np.maximum(np.linalg.norm(r, axis=1), 1e-9)
        unit = r / length[:, None]
        along = np.einsum("ij,ij->i", x, unit)[:, None] - _dots(unit, centres, ids)
        out.append(_chosen(ids, gap + LAMBDA * along**2, length**2))
    return _joined(out)


def closure(rows: Rows, partition: Partition, progress: Progress = SILENT) -> Copies:
    """For each row the nearest other blocks, but for those behind another one (SPANN: Chen et al., arXiv 2111.08566).

    A block is behind one that the row is in, or would be copied to before, if that one's rows are nearer to its centre
    than the row is, in the mean of squares. (In the paper centres are rows; means lie so near to each other that nearly
    all of them would be behind another.) Rows of the least ratio of squared distances, to block and home, first.
    """
    return _by_cells(_closure, rows, partition, (_spread(rows, partition),), progress)


def _closure(shared: Shared, piece: Piece) -> Chosen:
    rows, centres, _, spread = shared
    out = list[Chosen]()
    for whole, homes, nearest, gaps in _nearest(shared, piece):
        step = max(1, CHUNK_BYTES // (4 * rows.dimension * (nearest.shape[1] + 1)))
        for low in range(0, len(whole), step):
            part = slice(low, low + step)
            x, home, near, gap = whole[part], homes[part], nearest[part], gaps[part]
            blocks = np.concatenate([home[:, None], near], 1)
            points = centres[blocks]
            square = np.einsum("ijk,ijk->ij", points, points)
            apart = square[:, :, None] + square[:, None] - 2 * points @ points.transpose(0, 2, 1)
            apart += spread[blocks][:, None]
            passed = np.zeros((len(home), near.shape[1] + 1), bool)
            passed[:, 0] = True
            for j in range(near.shape[1]):
                passed[:, j + 1] = ((gap[:, j, None] <= apart[:, j + 1]) | ~passed).all(1)
            own = np.maximum(((x - centres[home]) ** 2).sum(1), 1e-18)
            out.append(_chosen(near, np.where(passed[:, 1:], gap, np.inf), own))
    return _joined(out)


def misses(
    rows: Rows,
    partition: Partition,
    p: npt.NDArray[np.uint32] | csr_matrix,
    near: Graph,
    threshold: float,
    copy: I32 | None = None,
) -> Copies:
    """For each row the blocks where a copy answers most training queries that miss the row, for what it costs.

    p u32 (n, B), dense or sparse: probability of each block for n training queries; a query reads the blocks whose p is
    over threshold times their rows over the mean. near i32 (n, K): its neighbours, -1 for none. copy i32 (N, E): copies
    that are there already, and stay first.

    The benefit of a copy of row j in block c is how many of the queries read c and miss j, its cost how many read c,
    and a little for its storage. Copies for a sixth of the rows are made, blocks and misses found again, twice; then
    all the others. Only rows that some query misses have copies.
    """
    blocks, count = partition.blocks, rows.count
    copies, worth = np.full((count, COPIES_MAX), -1, np.int32), np.full((count, COPIES_MAX), np.inf, np.float32)
    if copy is not None:
        copies[:, : copy.shape[1]] = copy
        worth[copies >= 0] = 0
    total = 0
    for turn in range(ROUNDS):
        held = np.concatenate([partition.home[:, None], copies], 1)
        size = np.bincount(held[held >= 0], minlength=blocks)
        read = _read(p, threshold * size * blocks / count)
        missed = _find_misses(read, near, held)
        cost = np.asarray(read.mean(0)).ravel() + STORAGE
        block, gain = np.zeros(count, np.int32), np.zeros(count, np.float32)
        step = max(1, CHUNK_BYTES // (4 * blocks))
        for low in range(0, count, step):
            part = slice(low, low + step)
            value = (missed[part] @ read).toarray() / cost  # no query that misses a row reads where it is
            block[part] = value.argmax(1)
            gain[part] = value.max(1)
        gain[copies[:, -1] >= 0] = 0
        wish = np.argsort(-gain, kind="stable")[: int((gain > 0).sum())]
        if turn < ROUNDS - 1:
            wish = wish[: ceil(ROUND_SHARE * count)]
        slot = (copies[wish] >= 0).sum(1)
        copies[wish, slot] = block[wish]
        worth[wish, slot] = total + 1 + np.arange(len(wish))
        total += len(wish)
    empty = np.full((count, KEPT - COPIES_MAX), -1, np.int32)
    loss = np.concatenate([worth, np.full(empty.shape, np.inf, np.float32)], 1)
    return Copies(partition.home, np.concatenate([copies, empty], 1), loss, worth)


def tie(copies: Copies, position: Ints, reads: npt.NDArray[np.float64], slack: float = SLACK) -> Copies:
    """Chooses again among blocks whose loss is within slack of the one chosen: near the home in the file, rarely read.

    position (B): where a block lies in the file, 0 to B - 1. reads (B): the probability that it is read.
    bench/research/copies.py shows that this saves neither GETs nor bytes: what lies beside the home is missed with it.
    """
    near, loss = copies.near.copy(), copies.loss.copy()
    each = np.arange(len(near))
    score = np.abs(position[near] - position[copies.home][:, None]) * reads[near]
    for e in range(COPIES_MAX):
        fits = (near >= 0) & (loss <= (1 + slack) * loss[:, e : e + 1]) & (np.arange(KEPT) >= e)
        best = np.where(fits, score, np.inf).argmin(1)
        best = np.where(fits.any(1), best, e)
        for column in (near, loss, score):
            column[each, e], column[each, best] = column[each, best], column[each, e].copy()
    return replace(copies, near=near, loss=loss)


# By name. misses takes more: what training queries read, and what they look for.
COPY_RULES: dict[str, Callable[..., Copies]] = {"none": none, "soar": soar, "closure": closure, "misses": misses}


def _by_cells(
    choose: Callable[[Any, Any], Chosen], rows: Rows, partition: Partition, more: tuple[F32, ...], progress: Progress
) -> Copies:
    """What `choose` keeps of the rows of each cell."""
    if partition.blocks == 1:
        return none(rows, partition)
    shared = rows, partition.centres, index_centres(partition.centres), *more
    pieces = [(low, high, partition.home[low:high]) for low, high in rows.cells()]
    return Copies(partition.home, *_joined(list(rows.tasks.map(choose, shared, pieces, progress))))


def _joined(parts: list[Any]) -> Chosen:
    near, loss, worth = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return near, loss, worth


def _nearest(shared: Shared, piece: Piece) -> Iterator[tuple[F32, I32, I32, F32]]:
    """(x (n, d), home (n), ids (n, m) of the 24 nearest blocks but home, best first, squared distances (n, m)).

    Of the rows of a cell, in pieces. Infinite, and of any id, where the groups of blocks nearest to a row hold fewer.
    """
    rows, centres, index = shared[:3]
    low, high, home_of = piece
    count = min(NEAR + 1, len(centres))
    for first, x in rows.chunks(CHUNK_BYTES, (low, high)):
        own = home_of[first - low : first - low + len(x)]
        ids, closeness = index.nearest(x, count)
        home = ids == own[:, None]
        home[~home.any(1), -1] = True
        ids, closeness = (one[~home].reshape(len(x), -1) for one in (ids, closeness))
        yield x, own, ids, np.maximum(np.einsum("ij,ij->i", x, x)[:, None] - 2 * closeness, 0)


def _spread(rows: Rows, partition: Partition) -> F32:
    """f32 (B): mean squared distance of a block's rows to its centre."""
    total = np.zeros(partition.blocks)
    for low, x in rows.chunks(CHUNK_BYTES):
        home = partition.home[low : low + len(x)]
        total += np.bincount(home, ((x - partition.centres[home]) ** 2).sum(1), partition.blocks)
    out: F32 = (total / np.maximum(np.bincount(partition.home, minlength=partition.blocks), 1)).astype(np.float32)
    return out


def _dots(x: F32, centres: F32, ids: I32) -> F32:
    """(n, m): <x_i, c> of the blocks ids (n, m)."""
    out = np.empty(ids.shape, np.float32)
    step = max(1, CHUNK_BYTES // (4 * x.shape[1] * ids.shape[1]))
    for low in range(0, len(x), step):
        part = slice(low, low + step)
        out[part] = (centres[ids[part]] @ x[part, :, None])[:, :, 0]
    return out


def _chosen(ids: I32, loss: F32, own: F32) -> Chosen:
    """The best blocks of rows, by ids and loss (n, m), inf for none, m at least 1; worth is the loss over own (n)."""
    best = np.argsort(loss, axis=1, kind="stable")[:, :KEPT]
    least = np.take_along_axis(loss, best, 1)
    near, kept = np.full((len(ids), KEPT), -1, np.int32), np.full((len(ids), KEPT), np.inf, np.float32)
    near[:, : best.shape[1]] = np.where(np.isfinite(least), np.take_along_axis(ids, best, 1), -1)
    kept[:, : best.shape[1]] = least
    worth: F32 = kept[:, :COPIES_MAX] / own[:, None]
    return near, kept, worth


def _read(p: npt.NDArray[np.uint32] | csr_matrix, cut: npt.NDArray[np.float64]) -> Any:
    """Sparse f32 (n, B): 1 where p is over the cut (B)."""
    if isinstance(p, np.ndarray):
        return csr_matrix(p > cut, dtype=np.float32)
    read = p.astype(np.float32)
    read.data = (read.data > cut[read.indices]).astype(np.float32)
    read.eliminate_zeros()
    return read


def _find_misses(read: Any, near: Graph, held: I32) -> Any:
    """Sparse f32 (N, n): 1 where a query does not read any block that holds (N, E) its neighbour near (n, K)."""
    row, query = [], []
    step = max(1, CHUNK_BYTES // max(read.shape[1], near.size // len(near) * held.shape[1]))
    for low in range(0, len(near), step):
        some = near[low : low + step]
        reads = np.concatenate([read[low : low + step].toarray() > 0, np.zeros((len(some), 1), bool)], 1)
        where = held[np.maximum(some, 0)]  # -1 is the last column
        hit = reads[np.arange(len(some))[:, None, None], where].any(2) | (some < 0)
        i, j = np.nonzero(~hit)
        row.append(some[i, j])
        query.append(low + i)
    ends = np.concatenate(row), np.concatenate(query)
    return csr_matrix((np.ones(len(ends[0]), np.float32), ends), shape=(len(held), len(near)))
