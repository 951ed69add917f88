"""Finds the nearest other rows to rows, for labels, votes and graph partitions, by inverted lists in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import faiss
import numpy as np
import numpy.typing as npt

from ..ingest.rows import F32, Ints, Rows
from ..kernels import matmul
from ..progress import SILENT, Progress
from .exact import exact_neighbours

if TYPE_CHECKING:
    from ..blocks.partition import Partition

Graph = npt.NDArray[np.int32]
Found = tuple[npt.NDArray[np.uint16], Graph, F32]  # queries of a batch, rows, and their scores

RECALL = 0.94  # of the true neighbours; votes and labels gain nothing from more
JUDGED = 256  # rows whose exact neighbours say how many lists are enough for that
LISTS = 1.5  # over the square root of the rows
TRAIN_ROWS = 64  # a list
ROUNDS = 10
CHUNK_BYTES = 16 << 20
HELD_SHARE = 0.3  # of the memory, for the rows searched at a time
BATCH = 8192  # rows that are looked for at a time
MANY_ROWS, MANY_BATCH = 1_000_000, 16_384  # so many at a time among more rows, of which each batch reads nearly all
FIRST_ROWS = 1500  # of the nearest lists, three at least, are all looked at, so that few of the others' are
FIRST_LISTS = 3
FEW_BYTES = 64 << 20  # where they are not in memory: of some rows of each list together, one of each at least
FEW_ROWS = 64  # of a list at most
HELD = 512  # rows found for each of them, of which the best are kept
STEP = 1024  # of them at a time, whose best are picked


def neighbour_graph(
    rows: Rows,
    queries: Ints,
    k: int,
    *,
    seed: int,
    memory_bytes: int,
    allowed: Ints | None = None,
    partition: Partition | None = None,
    progress: Progress = SILENT,
) -> Graph:
    """i32 (len(queries), k): source rows near the rows `queries`, best first, themselves left out, -1 for none.

    allowed: source rows that may be answers; None: all. About 0.94 of the true neighbours are found.

    Rows are held in inverted lists as f16, or as bytes where they are bytes. If they take over 0.3 of memory_bytes,
    they are searched in several passes. The answer and its 4 k bytes of scores a wanted row stand beside.

    partition: k-means of all rows, whose blocks are the lists: of many rows they are far finer than lists that would be
    made for this alone, so that a tenth of the rows is looked at. Rows then are read as they are wanted, by tasks, each
    of which holds four bytes a row; all may be answers.
    """
    assert allowed is None or partition is None
    given = rows, queries, k, seed, memory_bytes, allowed, partition
    return rows.tasks.once("neighbours", given, lambda: (_found(*given, progress),))[0]


def _found(
    rows: Rows,
    queries: Ints,
    k: int,
    seed: int,
    memory_bytes: int,
    allowed: Ints | None,
    partition: Partition | None,
    progress: Progress,
) -> Graph:
    if partition is not None and len(queries):
        return _in_blocks(rows, queries, k, seed, partition, progress)
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


@dataclass(frozen=True)
class Lists:
    """Inverted lists: centres f32 (L, d), what is added to <x, centre> for closeness f32 (L), and list by list, which
    begin at ends (L + 1), the numbers of rows (n) and the rows themselves (n, d): as f16 or as bytes, or where they are
    read from.

    squares: whether |x|^2 / 2 is subtracted from <q, x>.
    """

    centres: F32
    closeness: F32
    ends: Ints
    row: Ints | npt.NDArray[np.int32]
    held: npt.NDArray[np.generic] | Rows
    squares: bool

    def nearest(self, queries: F32, count: int) -> Ints:
        """i64 (n, count): the lists nearest to queries (n, d), best first."""
        out, step = np.empty((len(queries), count), np.int64), max(1, CHUNK_BYTES // (4 * len(self.centres)))
        for low in range(0, len(queries), step):
            far = -(matmul(queries[low : low + step], self.centres) + self.closeness)
            near = np.argpartition(far, count - 1, axis=1)[:, :count]
            order = np.argsort(np.take_along_axis(far, near, 1), axis=1, kind="stable")
            out[low : low + step] = np.take_along_axis(near, order, 1)
        return out

    def scores(self, queries: F32, number: int) -> F32:
        """f32 (n, rows): scores of the rows of a list for queries (n, d), larger is nearer."""
        own = slice(self.ends[number], self.ends[number + 1])
        x = (
            self.held.take(self.row[own].astype(np.int64))
            if isinstance(self.held, Rows)
            else self.held[own].astype(np.float32)
        )
        score = matmul(queries, x)
        if self.squares:
            score -= 0.5 * np.einsum("ij,ij->i", x, x)
        return score


def _search(rows: Rows, queries: Ints, part: Ints, seed: int, best: Graph, cost: F32, progress: Progress) -> None:
    """Merges the neighbours among the rows of one part into best and cost, both (len(wanted), k)."""
    take: Callable[[Ints], F32] = rows.stored.gather if _as_bytes(rows) else rows.take
    k = best.shape[1]
    lists = _lists(rows, take, part, seed)
    progress(0.1)
    probed = _probes(rows, take, queries, part, k, lists, seed)
    for low in range(0, len(queries), BATCH):
        chunk, at = queries[low : low + BATCH], slice(low, low + BATCH)
        near, far = _nearest(lists, lists, take(chunk), chunk, probed, k)
        near, far = np.concatenate([best[at], near], 1), np.concatenate([cost[at], far], 1)
        order = np.lexsort((near, far), axis=1)[:, :k]
        best[at], cost[at] = np.take_along_axis(near, order, 1), np.take_along_axis(far, order, 1)
        progress(0.1 + 0.9 * min(1.0, (low + BATCH) / len(queries)))


def _in_blocks(rows: Rows, queries: Ints, k: int, seed: int, partition: Partition, progress: Progress) -> Graph:
    """The same with the blocks of a partition as lists."""
    ends = np.concatenate([[0], np.cumsum(np.bincount(partition.home, minlength=partition.blocks))])
    row = np.argsort(partition.home, kind="stable").astype(np.int32)
    lists = Lists(partition.centres, _closeness(partition.centres, rows.metric), ends, row, rows, rows.metric == "l2")
    probed = _probes(rows, rows.take, queries, np.arange(rows.count), k, lists, seed)
    progress(0.1)
    step = BATCH if rows.count <= MANY_ROWS else MANY_BATCH
    batches = [queries[low : low + step] for low in range(0, len(queries), step)]
    shared = lists, _few_of(lists, rows, partition.blocks), probed, k
    found = rows.tasks.map(_batch, shared, batches, progress.part(0.1, 1), keep=False)
    return np.concatenate([near for (near,) in found])


def _few_of(lists: Lists, rows: Rows, blocks: int) -> Lists:
    """The same lists with some rows of each, spread over it, in memory."""
    most = min(FEW_ROWS, max(1, FEW_BYTES // (4 * rows.dimension * blocks)))
    size = np.diff(lists.ends)
    count = np.minimum(size, most)
    ends = np.concatenate([[0], np.cumsum(count)])
    turn = np.arange(ends[-1]) - np.repeat(ends[:-1], count)
    row = lists.row[np.repeat(lists.ends[:-1], count) + turn * np.repeat(size, count) // np.repeat(count, count)]
    return replace(lists, ends=ends, row=row, held=rows.take(row.astype(np.int64)))


def _batch(searched: tuple[Lists, Lists, int, int], queries: Ints) -> tuple[Graph]:
    lists, few, probed, k = searched
    assert isinstance(lists.held, Rows)
    return (_nearest(lists, few, lists.held.take(queries), queries, probed, k)[0],)


def _nearest(lists: Lists, few: Lists, x: F32, own: Ints, probed: int, k: int) -> tuple[Graph, F32]:
    """The k nearest rows in the nearest lists of queries x (n, d), which are rows own (n): (i32 (n, k), f32 costs).

    -1 and inf where there are fewer. What the k-th best of the first rows scores, in the same lists or few rows of
    them, is what others have to score; and where many do, what the k-th best of those scores.
    """
    probes, found, held = lists.nearest(x, probed), list[Found](), 0
    limit = _least(few, x, probes, k + 1)  # one more than k: a query finds itself
    for number, asking in _by_list(probes):
        row, score = lists.row[lists.ends[number] : lists.ends[number + 1]], lists.scores(x[asking], number)
        hit = np.flatnonzero(score >= limit[asking, None])
        query, place = np.divmod(hit, max(score.shape[1], 1))
        found.append((asking[query].astype(np.uint16), row[place].astype(np.int32), score.ravel()[hit]))
        held += len(hit)
        if held > max(HELD, 4 * k) * len(x):
            near, closeness = _best(found, len(x), k + 1, None)
            limit = np.maximum(limit, closeness[:, -1])
            query, place = np.nonzero(near >= 0)
            found = [(query.astype(np.uint16), near[query, place], closeness[query, place])]
            held = len(query)
    near, closeness = _best(found, len(x), k, own)
    return near, -closeness


def _least(lists: Lists, x: F32, probes: Ints, k: int) -> F32:
    """f32 (n): the k-th best score among the first rows of the nearest lists of queries x (n, d); -inf for fewer."""
    first = probes[:, : max(FIRST_LISTS, int(FIRST_ROWS / np.diff(lists.ends).mean()))]
    out, step = np.empty(len(x), np.float32), STEP
    for low in range(0, len(x), step):
        some, asked = x[low : low + step], first[low : low + step]
        width = int(np.diff(lists.ends)[asked].sum(1).max(initial=0))
        seen = np.full((len(some), max(k, width)), -np.inf, np.float32)
        filled = np.zeros(len(some), np.int64)
        for number, asking in _by_list(asked):
            score = lists.scores(some[asking], number)
            seen[asking[:, None], filled[asking, None] + np.arange(score.shape[1])] = score
            filled[asking] += score.shape[1]
        out[low : low + step] = np.partition(seen, seen.shape[1] - k, axis=1)[:, -k]
    return out


def _by_list(named: Ints) -> Iterator[tuple[int, Ints]]:
    """Each list that queries name (n, m), and those that do."""
    order = np.argsort(named, axis=None, kind="stable")
    numbers, starts = np.unique(named.ravel()[order], return_index=True)
    yield from zip(numbers.tolist(), np.split(order // named.shape[1], starts[1:]), strict=True)


def _best(found: list[Found], queries: int, k: int, own: Ints | None) -> tuple[Graph, F32]:
    """The k best rows of each query but its own: i32 (n, k) and f32 (n, k) their scores, -1 and -inf for none."""
    query, row, score = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(query, kind="stable")
    row, score, ends = row[order], score[order], np.searchsorted(query[order], np.arange(queries + 1))
    out, closeness = np.empty((queries, k), np.int32), np.empty((queries, k), np.float32)
    for low in range(0, queries, STEP):  # a line has room for what the query with the most has found
        some = slice(low, min(low + STEP, queries))
        each = np.diff(ends[some.start : some.stop + 1])
        rows = np.full((len(each), max(k, int(each.max()))), -1, np.int32)
        scores = np.full(rows.shape, -np.inf, np.float32)
        inside, mine = np.arange(rows.shape[1]) < each[:, None], slice(ends[some.start], ends[some.stop])
        rows[inside], scores[inside] = row[mine], score[mine]
        if own is not None:
            scores[rows == own[some, None]] = -np.inf
        if rows.shape[1] > k:
            best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            rows, scores = np.take_along_axis(rows, best, 1), np.take_along_axis(scores, best, 1)
        rows[np.isinf(scores)] = -1
        turn = np.lexsort((rows, -scores), axis=1)
        out[some], closeness[some] = np.take_along_axis(rows, turn, 1), np.take_along_axis(scores, turn, 1)
    return out, closeness


def _lists(rows: Rows, take: Callable[[Ints], F32], part: Ints, seed: int) -> Lists:
    """The rows of the part in lists, whose centres are found on some of them."""
    count, d = max(1, int(LISTS * len(part) ** 0.5)), rows.dimension
    kmeans = faiss.Kmeans(
        d, count, niter=ROUNDS, seed=seed + 1, min_points_per_centroid=1, max_points_per_centroid=TRAIN_ROWS
    )
    some = np.random.default_rng([seed, 6]).choice(len(part), min(len(part), TRAIN_ROWS * count), replace=False)
    kmeans.train(take(part[np.sort(some)]))
    centres = np.array(kmeans.centroids, np.float32).reshape(count, d)
    bias = -0.5 * np.einsum("ij,ij->i", centres, centres)
    step, home = max(1, CHUNK_BYTES // (4 * max(d, count))), np.empty(len(part), np.int64)
    for low in range(0, len(part), step):
        home[low : low + step] = (take(part[low : low + step]) @ centres.T + bias).argmax(1)
    order = np.argsort(home, kind="stable")
    place = np.empty(len(part), np.int64)
    place[order] = np.arange(len(part))
    kind = {"u8": np.uint8, "i8": np.int8}[rows.stored.kind] if _as_bytes(rows) else np.float16
    held = np.empty((len(part), d), kind)
    for low in range(0, len(part), step):
        held[place[low : low + step]] = take(part[low : low + step])
    ends = np.searchsorted(home[order], np.arange(count + 1))
    return Lists(centres, _closeness(centres, rows.metric), ends, part[order], held, rows.metric == "l2")


def _closeness(centres: F32, metric: str) -> F32:
    """What is added to <x, centre>: the longest rows are the nearest under inner products, so lists of them are."""
    squares: F32 = np.einsum("ij,ij->i", centres, centres)
    return np.zeros_like(squares) if metric == "dot" else -0.5 * squares


def _probes(rows: Rows, take: Callable[[Ints], F32], queries: Ints, part: Ints, k: int, lists: Lists, seed: int) -> int:
    """How many lists hold RECALL of the exact neighbours of some wanted rows."""
    some = np.sort(np.random.default_rng([seed, 7]).choice(queries, min(JUDGED, len(queries)), replace=False))
    x, step = take(some), max(1, CHUNK_BYTES // (4 * rows.dimension))
    at, place = np.full(rows.count, -1), np.empty(rows.count, np.int64)
    at[part], place[lists.row] = np.arange(len(part)), np.arange(len(part))
    chunks = ((low, take(part[low : low + step])) for low in range(0, len(part), step))
    true = exact_neighbours(x, chunks, min(k, len(part)), rows.metric, at[some])
    turn = np.argsort(-(x @ lists.centres.T + lists.closeness), axis=1, kind="stable")
    rank = np.empty_like(turn)
    np.put_along_axis(rank, turn, np.arange(len(lists.centres))[None], 1)
    of, known = np.nonzero(true >= 0)
    number = np.searchsorted(lists.ends, place[part[true[of, known]]], side="right") - 1
    return int(np.quantile(rank[of, number], RECALL, method="higher")) + 1 if len(of) else 1
