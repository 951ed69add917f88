"""Puts rows into blocks: partitions by name, copies of rows, and the order of blocks in the file.

A block (an inverted list in faiss, a posting list in SPANN) is what a query reads as a whole.

Not here: how a query finds blocks (`routers`), and how many there are to be (`tune`).
"""

from __future__ import annotations

from collections.abc import Callable

from ..ingest.rows import Ints, Rows
from ..neighbours.graph import Graph
from ..progress import Progress
from .by_codeword import by_bec_tree, by_ecvh
from .by_norm import by_kmeans_in_bands
from .graph_cut import by_graph_cut, by_votes
from .partition import Partition

# By name: (rows, sample, blocks, graph, seed, progress). kmeans needs no graph, the others one of all rows, k = 50.
PARTITIONS: dict[str, Callable[[Rows, Ints, int, Graph | None, int, Progress], Partition]] = {
    "kmeans": by_kmeans_in_bands,
    "votes": by_votes,
    "graph": by_graph_cut,
    "ecvh": by_ecvh,
    "bec-tree": by_bec_tree,
}
