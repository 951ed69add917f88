"""Rows -> home blocks: k-means with a price on overfull blocks; votes or a cut of the neighbour graph; two levels."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from .bec_tree import tree
from .graph import Graph
from .prefixes import Prefixes
from .rows import F32, Ints, Rows
from .words import START_ROWS, Words, code, prefix_words, started, trained

CHUNK_BYTES = 16 << 20
FREE_ROUNDS = 10
PRICED_ROUNDS = 8
ALL_ROUNDS = 3  # over all rows, in two levels
SHED_NEAR = 32  # blocks that a row may be given to
SHED_OVER = 1.8  # blocks over this many times the mean give rows away
VOTERS = 50  # nearest rows that have a vote
VOTE_ROWS = 4096  # at a time: VOTERS^2 comparisons each
EDGES = 50  # of a row in the graph that is cut
SLACK = 0.4  # a block of the cut over the mean
LEAF_PENALTY = 0.3  # as bec_tree.PENALTY: the router knows prefixes alone, so rows follow them more
TWO_LEVEL_BLOCKS = 4096  # from here on k-means goes by regions: its work grows with N sqrt(B), not N B


Progress = Callable[[float], None]


@dataclass(frozen=True)
class Partition:
    """centres f32 (B, d): means of the sample's home rows. home i32 (N).

    region i32 (B): the region of each block, or None. From two_level, blocks of a region have consecutive numbers.
    words: what gave each row its block, where they are buckets of a code; tree: the same, where they are leaves of one.
    """

    centres: F32
    home: npt.NDArray[np.int32]
    region: npt.NDArray[np.int32] | None = None
    words: Words | None = None
    tree: Prefixes | None = None

    @property
    def blocks(self) -> int:
        return len(self.centres)

    def reordered(self, order: Ints) -> Partition:
        """The same with block order[i] as number i."""
        number = np.empty(len(order), np.int32)
        number[order] = np.arange(len(order), dtype=np.int32)
        region, words, tree = self.region, self.words, self.tree
        return Partition(
            self.centres[order], number[self.home], None if region is None else region[order],
            None if words is None else words.reordered(order), None if tree is None else tree.reordered(order),
        )  # fmt: skip


def partition(rows: Rows, sample: Ints, blocks: int, seed: int, progress: Progress = lambda _: None) -> Partition:
    """Balanced k-means of the sample rows (sorted), then a home for every row.

    No block is over 1.8 times the mean, and none is empty.

    Ten free rounds by faiss, then rounds in which a block's price rises with the logarithm of its size over the mean,
    in units of the median gap from a row's best to its ninth best block.
    """
    x = rows.take(sample)
    if blocks == 1:
        return Partition(x.mean(0, keepdims=True), np.zeros(rows.count, np.int32))
    centres, price, _ = _balanced(x, blocks, seed, lambda done: progress(done * PRICED_ROUNDS / (PRICED_ROUNDS + 1)))
    home = homes(rows, centres, price)
    _shed(rows, home, centres, int(SHED_OVER * rows.count / blocks) + 1)
    _fill(x, sample, home, blocks)
    progress(1.0)
    return Partition(_means(x, home[sample], centres), home)


def homes(rows: Rows, centres: F32, price: F32 | float = 0.0) -> npt.NDArray[np.int32]:
    """i32 (N): the nearest of the centres (B, d), each as much further as its price (B)."""
    home = np.empty(rows.count, np.int32)
    for low, chunk in rows.chunks(4 * rows.dimension * _step(len(centres))):
        home[low : low + len(chunk)] = (_closeness(chunk, centres) - price).argmax(1)
    return home


def votes(
    rows: Rows, sample: Ints, part: Partition, graph: Graph, rounds: int = 2, progress: Progress = lambda _: None
) -> Partition:
    """Moves each row to the block that holds most of its 50 nearest sample rows, where there is room.

    graph i32 (N, k): neighbours of all rows, best first, -1 for none; those outside of the sample have no vote. All
    rows of a round are judged by the homes before it, and those with most to gain move first, into blocks of up to 1.8
    times the mean.
    """
    voter = np.zeros(rows.count, bool)
    voter[sample] = True
    home, limit = part.home.copy(), int(SHED_OVER * rows.count / part.blocks) + 1
    for turn in range(rounds):
        to, gain = _majority(graph, home, voter, home)
        wish = np.flatnonzero(gain > 0)
        wish = wish[np.lexsort((wish, -gain[wish], to[wish]))]
        first = np.searchsorted(to[wish], to[wish])  # where the rows that want the same block begin
        room = limit - np.bincount(home, minlength=part.blocks)
        moved = wish[np.arange(len(wish)) - first < room[to[wish]]]
        home[moved] = to[moved]
        progress((turn + 1) / rounds)
    x = rows.take(sample)
    _fill(x, sample, home, part.blocks)
    return Partition(_means(x, home[sample], part.centres), home)


def graph_partition(
    rows: Rows, sample: Ints, blocks: int, graph: Graph, seed: int, progress: Progress = lambda _: None
) -> Partition:
    """Cuts the graph of the sample's 50 nearest rows into blocks with few edges between.

    By KaMinPar (arXiv 2105.02022). graph as in `votes`. An edge that both rows have counts twice. Other rows go where
    most of their neighbours are, and no block is over 1.8 times the mean.
    """
    x = rows.take(sample)
    if blocks == 1:
        return Partition(x.mean(0, keepdims=True), np.zeros(rows.count, np.int32))
    number = np.full(rows.count + 1, -1, np.int64)  # one more, for neighbour -1
    number[sample] = np.arange(len(sample))
    ends = number[graph[sample, :EDGES]]
    edge = csr_matrix(
        (np.ones((ends >= 0).sum(), np.int32), (np.nonzero(ends >= 0)[0], ends[ends >= 0])), shape=2 * [len(sample)]
    )
    known = np.zeros(rows.count, np.int32)
    known[sample] = _cut(edge + edge.T, blocks, seed)
    progress(0.8)
    centres = _means(x, known[sample], np.zeros((blocks, rows.dimension), np.float32))
    voter = number[:-1] >= 0
    home = _majority(graph, known, voter, np.full(rows.count, -1, np.int32))[0]
    for low, chunk in rows.chunks(4 * rows.dimension * _step(blocks)):
        alone = np.flatnonzero(home[low : low + len(chunk)] < 0)
        home[low + alone] = _closeness(chunk[alone], centres).argmax(1)
    home[sample] = known[sample]
    _shed(rows, home, centres, int(SHED_OVER * rows.count / blocks) + 1)
    _fill(x, sample, home, blocks)
    progress(1.0)
    return Partition(_means(x, home[sample], centres), home)


def two_level(rows: Rows, sample: Ints, blocks: int, seed: int, progress: Progress = lambda _: None) -> Partition:
    """Balanced k-means into about sqrt(blocks) regions, then inside each of them: for 4,096 blocks and more.

    A region has blocks in proportion to its rows, with consecutive numbers. Work grows with N sqrt(blocks); rows are
    read in order, but for those of overfull blocks. Balance as in `partition`, but a row stays in its region.
    """
    regions = max(1, round(blocks**0.5))
    coarse = partition(rows, sample, regions, seed, lambda done: progress(0.4 * done))
    x, tag = rows.take(sample), coarse.home[sample]
    rows_in, known_in = (np.bincount(home, minlength=regions) for home in (coarse.home, tag))
    fair = np.minimum(rows_in, np.maximum(1, known_in * rows.count // (2 * blocks)))  # fewer blocks than rows to train
    ends = np.cumsum(_shares(fair, blocks))
    starts = np.concatenate([[0], ends[:-1]])
    centres, price, unit = np.empty((blocks, rows.dimension), np.float32), *np.zeros((2, blocks), np.float32)
    for r, (low, high) in enumerate(zip(starts, ends, strict=True)):
        own = x[tag == r]
        if high - low == 1:
            centres[low] = own.mean(0)
        else:
            centres[low:high], price[low:high], unit[low:high] = _balanced(own, int(high - low), seed)
        progress(0.4 + 0.4 * (r + 1) / regions)
    home = np.empty(rows.count, np.int32)
    for turn in range(ALL_ROUNDS):  # of few rows a block, prices that balance the sample do not balance the others
        for at, chunk in rows.chunks(CHUNK_BYTES):
            where = coarse.home[at : at + len(chunk)]
            for r in np.unique(where):
                block, mine = slice(starts[r], ends[r]), np.flatnonzero(where == r)
                home[at + mine] = starts[r] + (_closeness(chunk[mine], centres[block]) - price[block]).argmax(1)
            progress(0.8 + 0.15 * (turn + at / rows.count) / ALL_ROUNDS)
        price += _rise(np.bincount(home, minlength=blocks), rows.count / blocks, unit)
    region = np.repeat(np.arange(regions, dtype=np.int32), ends - starts)
    _shed(rows, home, centres, int(SHED_OVER * rows.count / blocks) + 1, region)
    order = np.argsort(tag, kind="stable")
    for (low, high), mine in zip(
        zip(starts, ends, strict=True), np.split(order, np.cumsum(np.bincount(tag))[:-1]), strict=True
    ):
        _fill(x[mine], sample[mine], home, high - low, low)
    progress(1.0)
    return Partition(_means(x, home[sample], centres), home, region)


def buckets(
    rows: Rows, sample: Ints, blocks: int, graph: Graph, seed: int, progress: Progress = lambda _: None
) -> Partition:
    """Buckets of a Golay code, or two, shortened to the largest power of two up to blocks, by trained directions.

    A row goes to the codeword that agrees best with it. Codewords that no row of the sample decodes to are left out, so
    there are fewer blocks than asked for, and no limit to their size. Raises InputError for 1 block.
    """
    bits = blocks.bit_length() - 1
    start = started(
        rows.take(sample[:: max(1, len(sample) // START_ROWS)]),
        code(bits),
        np.arange(1 << bits, dtype=np.uint32),
        seed,
    )
    words = trained(rows, sample, graph, start, seed, lambda done: progress(0.9 * done))
    used = np.unique(words.decoded(rows)[sample])
    words = replace(words, message=used.astype(np.uint32))
    home = words.decoded(rows)
    progress(1.0)
    return Partition(
        _means(rows.take(sample), home[sample], np.zeros((len(used), rows.dimension), np.float32)), home, words=words
    )


def leaves(
    rows: Rows, sample: Ints, blocks: int, graph: Graph, seed: int, progress: Progress = lambda _: None
) -> Partition:
    """Leaves of a BEC-tree over the bits of trained vantage directions, each with rows of the sample; at most `blocks`.

    Raises InputError for 1 block.
    """
    words = prefix_words(rows, sample, blocks, graph, seed, lambda done: progress(0.8 * done))
    made = tree(rows, words, blocks, sample, LEAF_PENALTY, lambda done: progress(0.8 + 0.2 * done))
    x, home = rows.take(sample), made.home
    progress(1.0)
    return Partition(
        _means(x, home[sample], np.zeros((made.leaves, rows.dimension), np.float32)), home, tree=made.prefixes()
    )


def _ecvh(rows: Rows, sample: Ints, blocks: int, graph: Graph | None, seed: int, progress: Progress) -> Partition:
    assert graph is not None
    return buckets(rows, sample, blocks, graph, seed, progress)


def _bec_tree(rows: Rows, sample: Ints, blocks: int, graph: Graph | None, seed: int, progress: Progress) -> Partition:
    assert graph is not None
    return leaves(rows, sample, blocks, graph, seed, progress)


def _kmeans(rows: Rows, sample: Ints, blocks: int, graph: Graph | None, seed: int, progress: Progress) -> Partition:
    return (partition if blocks < TWO_LEVEL_BLOCKS else two_level)(rows, sample, blocks, seed, progress)


def _votes(rows: Rows, sample: Ints, blocks: int, graph: Graph | None, seed: int, progress: Progress) -> Partition:
    assert graph is not None
    base = _kmeans(rows, sample, blocks, None, seed, lambda done: progress(0.9 * done))
    return votes(rows, sample, base, graph, progress=lambda done: progress(0.9 + 0.1 * done))


def _graph(rows: Rows, sample: Ints, blocks: int, graph: Graph | None, seed: int, progress: Progress) -> Partition:
    assert graph is not None
    return graph_partition(rows, sample, blocks, graph, seed, progress)


# By name: (rows, sample, blocks, graph, seed, progress). kmeans needs no graph, the others one of all rows, k = 50.
PARTITIONS: dict[str, Callable[[Rows, Ints, int, Graph | None, int, Progress], Partition]] = {
    "kmeans": _kmeans,
    "votes": _votes,
    "graph": _graph,
    "ecvh": _ecvh,
    "bec-tree": _bec_tree,
}


def _step(blocks: int) -> int:
    """Rows whose closeness to all blocks is found at a time."""
    return max(1, CHUNK_BYTES // (4 * blocks))


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


def _balanced(x: F32, blocks: int, seed: int, progress: Progress = lambda _: None) -> tuple[F32, F32, float]:
    """(centres f32 (blocks, d), price f32 (blocks), unit of the price) of balanced k-means of x; see `partition`."""
    kmeans = faiss.Kmeans(
        x.shape[1], blocks, niter=FREE_ROUNDS, seed=seed + 1, min_points_per_centroid=1,
        max_points_per_centroid=max(1, len(x) // blocks + 1),
    )  # fmt: skip
    kmeans.train(x)
    centres: F32 = np.array(kmeans.centroids, np.float32).reshape(blocks, -1)
    price, unit, mean = np.zeros(blocks, np.float32), 0.0, len(x) / blocks
    step = _step(blocks)
    for turn in range(PRICED_ROUNDS):
        home = np.empty(len(x), np.int32)
        for low in range(0, len(x), step):
            near = _closeness(x[low : low + step], centres)
            if not unit:
                best = -np.partition(-near, min(8, blocks - 1), axis=1)[:, : min(9, blocks)]
                unit = float(np.median(best.max(1) - best.min(1)))
            home[low : low + step] = (near - price).argmax(1)
        size = np.bincount(home, minlength=blocks)
        price += _rise(size, mean, unit)
        centres = _means(x, home, centres)
        progress((turn + 1) / PRICED_ROUNDS)
    return centres, price, unit


def _rise(size: Ints, mean: float, unit: float | F32) -> F32:
    """f32 (B): what is added to the prices of blocks of these sizes."""
    return (np.float32(0.25) * np.clip(np.log(np.maximum(size, 1) / mean), -1, 1) * unit).astype(np.float32)


def _shed(
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
        near, step = min(SHED_NEAR, int(high - low)) if region is None else int(high - low), _step(int(high - low))
        full = size[low:high] >= limit
        loss, choices = np.empty(len(members), np.float32), np.empty((len(members), near), np.int64)
        for at in range(0, len(members), step):
            part = slice(at, at + step)
            closeness = _closeness(rows.take(members[part]), centres[low:high])
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


def _fill(x: F32, sample: Ints, home: npt.NDArray[np.int32], blocks: int, first: int = 0) -> None:
    """Splits the largest block for each one without rows of the sample x: no router could find it.

    The blocks are numbered from first on, and hold all of the sample.
    """
    for b in np.flatnonzero(np.bincount(home[sample] - first, minlength=blocks) == 0):
        own = np.flatnonzero(home[sample] - first == np.bincount(home[sample] - first).argmax())
        apart = x[own] - x[own].mean(0)
        along = apart @ apart[np.einsum("ij,ij->i", apart, apart).argmax()]
        home[sample[own[np.argsort(along, kind="stable")[len(own) // 2 :]]]] = first + b


def _majority(
    graph: Graph, block: npt.NDArray[np.int32], voter: npt.NDArray[np.bool_], own: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Of each row: the block of most of its voters, own where none has more, and how many more it has; each i32 (N)."""
    to, gain = own.copy(), np.zeros(len(own), np.int32)
    for low in range(0, len(graph), VOTE_ROWS):
        near = graph[low : low + VOTE_ROWS, :VOTERS]
        vote = np.where((near >= 0) & voter[near], block[near], -1)
        count = (vote[:, :, None] == vote[:, None]).sum(2, dtype=np.int32)
        count[vote < 0] = 0
        mine = own[low : low + VOTE_ROWS]
        best = count.argmax(1)[:, None]
        more = np.take_along_axis(count, best, 1)[:, 0] - ((vote == mine[:, None]) & (vote >= 0)).sum(1)
        wins = np.flatnonzero(more > 0)
        to[low + wins] = np.take_along_axis(vote, best, 1)[wins, 0]
        gain[low + wins] = more[wins]
    return to, gain


def _cut(edge: csr_matrix, blocks: int, seed: int) -> npt.NDArray[np.int32]:
    """i32 (n): blocks of the rows of a symmetric graph with counts on its edges. KaMinPar reads files only."""
    import kaminpar

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "graph")
        with path.open("wb") as file:
            # ParHIP's binary form; bits of the first word: 2: rows without weights, 8: 32-bit row numbers.
            version, at = 2 + 8, 8 * (4 + edge.shape[0])
            for part in (
                np.array([version, edge.shape[0], edge.nnz], np.uint64),
                (at + 4 * edge.indptr.astype(np.int64)).astype(np.uint64),
                edge.indices.astype(np.uint32),
                edge.data.astype(np.int64),
            ):
                part.tofile(file)
        graph = kaminpar.load_graph(str(path), kaminpar.GraphFileFormat.PARHIP)
    kaminpar.reseed(seed)
    found = kaminpar.KaMinPar(1, kaminpar.default_context()).compute_partition(graph, blocks, SLACK)
    return np.array(found, np.int32)


def _shares(sizes: Ints, total: int) -> Ints:
    """Splits total in proportion to sizes (all 1 or more), each 1 or more, by largest remainder."""
    wish = sizes * total / sizes.sum()
    out: Ints = np.maximum(1, wish.astype(np.int64))
    while (left := total - int(out.sum())) != 0:
        step = 1 if left > 0 else -1
        lag = np.where((step > 0) | (out > 1), step * (wish - out), -np.inf)
        out[np.argsort(-lag, kind="stable")[: abs(left)]] += step
    return out
