"""ecvh and bec-tree: blocks are codewords, or leaves of a tree of prefixes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..hashing.bec_tree import tree
from ..hashing.codewords import START_ROWS, code, prefix_codewords, start_codewords, train_codewords
from ..ingest.rows import Ints, Rows
from ..neighbours.graph import Graph
from ..progress import SILENT, Progress
from .partition import Partition, centres_of

LEAF_PENALTY = 0.3  # as bec_tree.PENALTY: the router knows prefixes alone, so rows follow them more


def buckets(rows: Rows, sample: Ints, blocks: int, graph: Graph, seed: int, progress: Progress = SILENT) -> Partition:
    """Buckets of a Golay code, or two, shortened to the power of two nearest to blocks, by trained directions.

    A row goes to the codeword that agrees best with it. Codewords that no row of the sample decodes to are left out,
    and there is no limit to the size of a block. Raises InputError for 1 block.
    """
    bits = round(np.log2(blocks))
    start = start_codewords(
        rows.take(sample[:: max(1, len(sample) // START_ROWS)]),
        code(bits),
        np.arange(1 << bits, dtype=np.uint32),
        seed,
    )
    codewords = train_codewords(rows, sample, graph, start, seed, progress.part(0, 0.9))
    used = np.unique(codewords.decoded(rows)[sample])
    codewords = replace(codewords, message=used.astype(np.uint32))
    home = codewords.decoded(rows)
    progress(1.0)
    return Partition(
        centres_of(rows, sample, home, np.zeros((len(used), rows.dimension), np.float32)),
        home,
        codewords=codewords,
    )


def leaves(rows: Rows, sample: Ints, blocks: int, graph: Graph, seed: int, progress: Progress = SILENT) -> Partition:
    """Leaves of a BEC-tree over the bits of trained vantage directions, each with rows of the sample; at most `blocks`.

    Raises InputError for 1 block.
    """
    codewords = prefix_codewords(rows, sample, blocks, graph, seed, progress.part(0, 0.8))
    bec_tree = tree(rows, codewords, blocks, sample, LEAF_PENALTY, progress.part(0.8, 1))
    home = bec_tree.home
    progress(1.0)
    return Partition(
        centres_of(rows, sample, home, np.zeros((bec_tree.leaves, rows.dimension), np.float32)),
        home,
        tree=bec_tree.prefixes(),
    )


def by_ecvh(rows: Rows, sample: Ints, blocks: int, graph: Graph | None, seed: int, progress: Progress) -> Partition:
    assert graph is not None
    return buckets(rows, sample, blocks, graph, seed, progress)


def by_bec_tree(rows: Rows, sample: Ints, blocks: int, graph: Graph | None, seed: int, progress: Progress) -> Partition:
    assert graph is not None
    return leaves(rows, sample, blocks, graph, seed, progress)
