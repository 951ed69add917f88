"""votes and graph: blocks by the neighbour graph, where neighbours vote or the graph is cut."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from ..ingest.rows import Ints, Rows
from ..neighbours.graph import Graph
from ..progress import SILENT, Progress
from .kmeans import SHED_OVER, by_kmeans, fill, shed
from .nearest import index_centres
from .partition import CHUNK_BYTES, Partition, centres_of

VOTERS = 50  # nearest rows that have a vote
VOTE_ROWS = 4096  # at a time: VOTERS^2 comparisons each
EDGES = 50  # of a row in the graph that is cut
SLACK = 0.4  # a block of the cut over the mean


def votes(
    rows: Rows, sample: Ints, part: Partition, graph: Graph, rounds: int = 2, progress: Progress = SILENT
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
    fill(rows, sample, home, part.blocks)
    return Partition(centres_of(rows, sample, home, part.centres), home)


def graph_partition(
    rows: Rows, sample: Ints, blocks: int, graph: Graph, seed: int, progress: Progress = SILENT
) -> Partition:
    """Cuts the graph of the sample's 50 nearest rows into blocks with few edges between.

    By KaMinPar (arXiv 2105.02022). graph as in `votes`. An edge that both rows have counts twice. Other rows go where
    most of their neighbours are, and no block is over 1.8 times the mean.
    """
    nothing = np.zeros((blocks, rows.dimension), np.float32)
    if blocks == 1:
        home = np.zeros(rows.count, np.int32)
        return Partition(centres_of(rows, sample, home, nothing), home)
    number = np.full(rows.count + 1, -1, np.int64)  # one more, for neighbour -1
    number[sample] = np.arange(len(sample))
    ends = number[graph[sample, :EDGES]]
    edge = csr_matrix(
        (np.ones((ends >= 0).sum(), np.int32), (np.nonzero(ends >= 0)[0], ends[ends >= 0])), shape=2 * [len(sample)]
    )
    known = np.zeros(rows.count, np.int32)
    known[sample] = _cut(edge + edge.T, blocks, seed)
    progress(0.8)
    centres = centres_of(rows, sample, known, nothing)
    voter = number[:-1] >= 0
    home = _majority(graph, known, voter, np.full(rows.count, -1, np.int32))[0]
    index = index_centres(centres)
    for low, chunk in rows.chunks(CHUNK_BYTES):
        alone = np.flatnonzero(home[low : low + len(chunk)] < 0)
        home[low + alone] = index.nearest(chunk[alone])[0][:, 0]
    home[sample] = known[sample]
    shed(rows, home, centres, int(SHED_OVER * rows.count / blocks) + 1)
    fill(rows, sample, home, blocks)
    progress(1.0)
    return Partition(centres_of(rows, sample, home, centres), home)


def by_votes(rows: Rows, sample: Ints, blocks: int, graph: Graph | None, seed: int, progress: Progress) -> Partition:
    assert graph is not None
    base = by_kmeans(rows, sample, blocks, None, seed, progress.part(0, 0.9))
    return votes(rows, sample, base, graph, progress=progress.part(0.9, 1))


def by_graph_cut(
    rows: Rows, sample: Ints, blocks: int, graph: Graph | None, seed: int, progress: Progress
) -> Partition:
    assert graph is not None
    return graph_partition(rows, sample, blocks, graph, seed, progress)


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
    blocks_of_rows = kaminpar.KaMinPar(1, kaminpar.default_context()).compute_partition(graph, blocks, SLACK)
    return np.array(blocks_of_rows, np.int32)
