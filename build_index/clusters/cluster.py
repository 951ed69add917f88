"""Clusters of rows as nodes of a BEC-tree: the tree over all rows, and what people want to see of a level of it."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vantage.errors import InputError

from ..blocks.graph_cut import VOTERS
from ..hashing.bec_tree import BecTree, tree
from ..hashing.codewords import prefix_codewords
from ..ingest.rows import Ints, Rows
from ..neighbours.graph import neighbour_graph
from ..progress import SILENT, Progress

LEAF_ROWS, LEAVES_MAX = 32, 1024  # rows a leaf, and most leaves
TYPICAL = 3  # rows that stand for a cluster, its medoid first
WIDEST = 40  # letters of a label
CHUNK_BYTES = 16 << 20


@dataclass(frozen=True)
class Cluster:
    """prefix: bits of the word, 0, 1 or - (not asked). typical: rows nearest to the medoid, which is the first."""

    number: int
    size: int
    prefix: str
    typical: list[int]


def tree_over(rows: Rows, seed: int, memory_bytes: int, progress: Progress = SILENT) -> BecTree:
    """A BEC-tree over all rows with leaves of about 32, 1,024 at most. Raises InputError for fewer than 2 rows."""
    if rows.count < 2:
        raise InputError(f"{rows.count} rows are no clusters", hint="give two or more")
    every = np.arange(rows.count)
    near = min(VOTERS, rows.count - 1)
    graph = neighbour_graph(
        rows, every, near, seed=seed, memory_bytes=memory_bytes, progress=progress.phase("neighbours")
    )
    leaves = min(max(2, rows.count // LEAF_ROWS), LEAVES_MAX)
    codewords = prefix_codewords(rows, every, leaves, graph, seed, progress.phase("directions"))
    return tree(rows, codewords, leaves, progress=progress.phase("tree"))


def clusters_of(
    bec_tree: BecTree, rows: Rows, level: int | None, k: int | None
) -> tuple[npt.NDArray[np.int32], list[Cluster]]:
    """(i32 (N) the cluster of each row, the clusters) of a level of a tree over all rows; BecTree tells level and k."""
    label, (medoid, point) = bec_tree.labels(level, k), bec_tree.medoids(level, k)
    prefix = bec_tree.clusters(level, k).prefix
    away = np.empty(rows.count, np.float32)
    for low, x in rows.chunks(CHUNK_BYTES):
        apart = x - point[label[low : low + len(x)]]
        away[low : low + len(x)] = np.einsum("ij,ij->i", apart, apart)
    away[medoid] = -1
    order = np.lexsort((away, label))
    starts = np.concatenate([[0], np.cumsum(np.bincount(label, minlength=len(medoid)))])
    return label, [
        Cluster(i, int(high - low), prefix[i], order[low : min(high, low + TYPICAL)].tolist())
        for i, (low, high) in enumerate(zip(starts, starts[1:], strict=False))
    ]


def names_of(rows: Rows, numbers: list[int]) -> list[str]:
    """What to call rows: their first text attribute, else their id."""
    at: Ints = np.array(numbers, np.int64)
    ids = rows.stored.ids(at)
    identifiers = [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in ids]
    records = [json.loads(record or b"[]") for record in rows.stored.attributes(at)]
    return [
        _short(next(filter(None, map(_text, record)), name)) for record, name in zip(records, identifiers, strict=True)
    ]


def _text(value: object) -> str:
    if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        return ", ".join(value)
    return value if isinstance(value, str) else ""


def _short(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"
