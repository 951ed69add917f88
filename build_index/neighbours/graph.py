"""Finds the nearest other rows to rows, for labels, votes and graph partitions, by inverted lists in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import faiss
import numpy as np
import numpy.typing as npt

from ..ingest.rows import F32, Ints, Rows
from ..progress import SILENT, Progress
from .exact import exact_neighbours

Graph = npt.NDArray[np.int32]

RECALL = 0.94  # of the true neighbours; votes and labels gain nothing from more
JUDGED = 256  # rows whose exact neighbours say how many lists are enough for that
LISTS = 1.5  # over the square root of the rows
TRAIN_ROWS = 64  # a list
ROUNDS = 10
CHUNK_BYTES = 16 << 20
HELD_SHARE = 0.3  # of the memory, for the rows searched at a time: faiss may take twice that while it adds them


def neighbour_graph(
    rows: Rows,
    queries: Ints,
    k: int,
    *,
    seed: int,
    memory_bytes: int,
    allowed: Ints | None = None,
    progress: Progress = SILENT,
) -> Graph:
    """i32 (len(wanted), k): source rows near the wanted rows, best first, themselves left out, -1 for none.

    allowed: source rows that may be answers; None: all. About 0.94 of the true neighbours are found.

    Rows are held in inverted lists as f16, or as bytes where they are bytes. If they take over 0.3 of memory_bytes,
    they are searched in several passes. The answer and its 4 k bytes of scores a wanted row stand beside.
    """
    given = rows, queries, k, seed, memory_bytes, allowed
    return rows.tasks.once("neighbours", given, lambda: (_found(*given, progress),))[0]


def _found(
    rows: Rows, queries: Ints, k: int, seed: int, memory_bytes: int, allowed: Ints | None, progress: Progress
) -> Graph:
    answers = np.arange(rows.count) if allowed is None else allowed
    best = np.full((len(queries), k), -1, np.int32)
    cost = np.full((len(queries), k), np.inf, np.float32)
    passes = max(1, -(-len(answers) * _row_bytes(rows) // int(HELD_SHARE * memory_bytes)))
    for i in range(passes):
        if len(answers[i::passes]) and len(queries):
            _search(rows, queries, answers[i::passes], seed, best, cost, progress.part(i / passes, (i + 1) / passes))
    progress(1.0)
    return best


def _as_bytes(rows: Rows) -> bool:
    """Whether rows are held as they are stored: dividing them by a scale does not change which are near."""
    return rows.stored.kind in ("u8", "i8") and rows.metric != "cosine"


def _row_bytes(rows: Rows) -> int:
    return 8 + rows.dimension * (1 if _as_bytes(rows) else 2)


def _search(rows: Rows, queries: Ints, part: Ints, seed: int, best: Graph, cost: F32, progress: Progress) -> None:
    """Merges the neighbours among the rows of one part into best and cost, both (len(wanted), k)."""
    take: Callable[[Ints], F32] = rows.stored.gather if _as_bytes(rows) else rows.take
    k, l2, step = best.shape[1], rows.metric == "l2", max(1, CHUNK_BYTES // (4 * rows.dimension))
    index = _lists(rows, take, part, seed)
    for low in range(0, len(part), step):
        index.add(take(part[low : low + step]))
        progress(0.1 * low / len(part))
    index.nprobe = _probes(rows, take, queries, part, k, index, seed)
    few = max(1, min(step, CHUNK_BYTES // (16 * (k + 1))))
    for low in range(0, len(queries), few):
        chunk, at = queries[low : low + few], slice(low, low + few)
        distances, ids = index.search(take(chunk), k + 1)
        row = np.where(ids >= 0, part[ids], -1).astype(np.int32)
        dear = np.where((ids < 0) | (row == chunk[:, None]), np.inf, distances if l2 else -distances).astype(np.float32)
        row[np.isinf(dear)] = -1
        if np.isfinite(cost[at, 0]).any():  # of parts before this one
            dear, row = np.concatenate([cost[at], dear], 1), np.concatenate([best[at], row], 1)
        near = np.lexsort((row, dear), axis=1)[:, :k]
        best[at], cost[at] = np.take_along_axis(row, near, 1), np.take_along_axis(dear, near, 1)
        progress(0.1 + 0.9 * low / len(queries))


def _lists(rows: Rows, take: Callable[[Ints], F32], part: Ints, seed: int) -> faiss.IndexIVFScalarQuantizer:
    """Empty inverted lists, their centres found on some rows of the part."""
    quantizer = faiss.ScalarQuantizer
    kinds = {"u8": quantizer.QT_8bit_direct, "i8": quantizer.QT_8bit_direct_signed}
    held = kinds[rows.stored.kind] if _as_bytes(rows) else quantizer.QT_fp16
    l2, d = rows.metric == "l2", rows.dimension
    flat = faiss.IndexFlatL2(d) if l2 else faiss.IndexFlatIP(d)
    metric = faiss.METRIC_L2 if l2 else faiss.METRIC_INNER_PRODUCT
    count = max(1, int(LISTS * len(part) ** 0.5))
    index = faiss.IndexIVFScalarQuantizer(flat, d, count, held, metric, False)
    index.cp.niter, index.cp.seed = ROUNDS, seed + 1
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, TRAIN_ROWS
    some = np.random.default_rng([seed, 6]).choice(len(part), min(len(part), TRAIN_ROWS * count), replace=False)
    index.train(take(part[np.sort(some)]))
    return index


def _probes(
    rows: Rows,
    take: Callable[[Ints], F32],
    queries: Ints,
    part: Ints,
    k: int,
    index: faiss.IndexIVFScalarQuantizer,
    seed: int,
) -> int:
    """How many lists hold RECALL of the exact neighbours of some wanted rows."""
    some = np.sort(np.random.default_rng([seed, 7]).choice(queries, min(JUDGED, len(queries)), replace=False))
    x, step = take(some), max(1, CHUNK_BYTES // (4 * rows.dimension))
    at = np.full(rows.count, -1)
    at[part] = np.arange(len(part))
    chunks = ((low, take(part[low : low + step])) for low in range(0, len(part), step))
    true = exact_neighbours(x, chunks, min(k, len(part)), rows.metric, at[some])
    turn = index.quantizer.search(x, index.nlist)[1]
    lists = index.quantizer.search(take(part[true[true >= 0]]), 1)[1]
    rank = np.argsort(turn, axis=1)[np.nonzero(true >= 0)[0], lists[:, 0]]
    return int(np.quantile(rank, RECALL, method="higher")) + 1 if len(rank) else 1
