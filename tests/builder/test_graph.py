"""Neighbours: nearly all of the true ones, in order, whatever the metric, the type of the rows and the memory."""

from __future__ import annotations

import numpy as np
import pytest
from small import RowsOf, clustered

from build_index.blocks.kmeans import partition
from build_index.ingest.rows import Rows
from build_index.neighbours.graph import Graph, neighbour_graph
from build_index.neighbours.truth import truth_of
from build_index.progress import Progress

MEMORY = 1 << 30


def recall(found: Graph, true: Graph) -> float:
    return float(np.mean([len(np.intersect1d(f, t)) / len(t) for f, t in zip(found, true, strict=True)]))


def cost(rows: Rows, wanted: np.ndarray, found: Graph) -> np.ndarray:
    """f32 (n, k): what the order is by, least first."""
    q, x = rows.take(wanted), rows.take(found.ravel()).reshape(*found.shape, -1)
    return ((q[:, None] - x) ** 2).sum(2) if rows.metric == "l2" else -np.einsum("id,ikd->ik", q, x)


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.uint8, np.int8])
@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
def test_true_neighbours_are_found(rows_of: RowsOf, metric: str, kind: type) -> None:
    x = clustered(4000, 16, 2)
    if kind in (np.uint8, np.int8):
        x = np.clip(x * 15 + (128 if kind is np.uint8 else 0), np.iinfo(kind).min, np.iinfo(kind).max)
    rows = rows_of(x.astype(kind), metric, scale=None)
    wanted = np.random.default_rng(0).permutation(4000)[:500]
    steps: list[float] = []
    found = neighbour_graph(
        rows, wanted, 20, seed=0, memory_bytes=MEMORY, progress=Progress(lambda _, share: steps.append(share))
    )
    assert found.shape == (500, 20) and found.dtype == np.int32 and found.min() >= 0
    assert (found != wanted[:, None]).all()
    assert all(len(set(row)) == 20 for row in found.tolist())
    assert recall(found, truth_of(rows, wanted, 20).rows) > 0.9
    gap = np.diff(cost(rows, wanted, found), axis=1)
    assert gap.min() > -0.01 * np.abs(cost(rows, wanted, found)).max()  # in order, but for f16
    assert steps == sorted(steps) and steps[-1] == 1.0


def test_the_same_again_and_in_little_memory(rows_of: RowsOf) -> None:
    rows, wanted = rows_of(clustered(4000, 16, 3)), np.arange(0, 4000, 9)
    one, two = (neighbour_graph(rows, wanted, 10, seed=4, memory_bytes=MEMORY) for _ in range(2))
    assert (one == two).all()
    passes = neighbour_graph(rows, wanted, 10, seed=4, memory_bytes=4000 * 40 // 5 * 3)
    assert recall(passes, truth_of(rows, wanted, 10).rows) > 0.9
    assert (passes != one).any()


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
def test_neighbours_in_the_blocks_of_a_partition(rows_of: RowsOf, metric: str) -> None:
    rows, wanted = rows_of(clustered(4000, 16, 2), metric), np.arange(1, 4000, 8)
    blocks = partition(rows, np.arange(4000), 40, 0)
    steps: list[float] = []
    found = neighbour_graph(
        rows, wanted, 20, seed=0, memory_bytes=MEMORY, partition=blocks,
        progress=Progress(lambda _, share: steps.append(share)),
    )  # fmt: skip
    true = truth_of(rows, wanted, 20).rows
    assert recall(found, true) > 0.9
    assert (found != wanted[:, None]).all()
    gap = np.diff(cost(rows, wanted, found), axis=1)
    assert gap.min() > -1e-5 * np.abs(cost(rows, wanted, found)).max()
    assert steps == sorted(steps) and steps[-1] == 1.0
    assert neighbour_graph(rows, wanted[:0], 5, seed=0, memory_bytes=MEMORY, partition=blocks).shape == (0, 5)


def test_only_rows_that_are_allowed_answer(rows_of: RowsOf) -> None:
    rows, allowed = rows_of(clustered(2000, 8, 4)), np.arange(1, 2000, 3)
    found = neighbour_graph(rows, np.arange(300), 10, seed=0, memory_bytes=MEMORY, allowed=allowed)
    assert np.isin(found, allowed).all() and (found != np.arange(300)[:, None]).all()
    x = rows.take(np.arange(2000))
    apart = ((x[:300, None] - x) ** 2).sum(2)
    apart[:, np.setdiff1d(np.arange(2000), allowed)] = np.inf
    apart[np.arange(300), np.arange(300)] = np.inf
    assert recall(found, np.argsort(apart, 1)[:, :10].astype(np.int32)) > 0.9


def test_few_rows_and_rows_that_repeat(rows_of: RowsOf) -> None:
    rows = rows_of(np.ones((12, 4), np.float32))
    found = neighbour_graph(rows, np.arange(12), 20, seed=0, memory_bytes=MEMORY)
    assert (found[:, 11:] == -1).all()
    for i, row in enumerate(found[:, :11].tolist()):
        assert row == [j for j in range(12) if j != i]  # ties by the lower row
    assert neighbour_graph(rows, np.arange(0), 5, seed=0, memory_bytes=MEMORY).shape == (0, 5)
    none = neighbour_graph(rows, np.arange(3), 5, seed=0, memory_bytes=MEMORY, allowed=np.arange(0))
    assert (none == -1).all()
