"""The order of blocks in the file: a permutation that brings together what is probed together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from build_index.blocks import order as layout
from build_index.blocks.order import co_probes, file_order


def planted(blocks: int, queries: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(p u32 (Q, B), the order that was planted): each query falls off from a place on a line of shuffled blocks."""
    draw = np.random.default_rng(seed)
    line = draw.permutation(blocks)
    at = draw.uniform(0, blocks, (queries, 1))
    p = np.empty((queries, blocks))
    p[:, line] = np.exp(-np.abs(np.arange(blocks) - at) / 2) + 0.001 * draw.random((queries, blocks))
    return (p / p.sum(1, keepdims=True) * 2**20).astype(np.uint32), line


def run_together(p: np.ndarray, order: np.ndarray) -> float:
    """Co-probes of neighbours in the file."""
    counts = co_probes(p)
    return float(counts[order[:-1], order[1:]].sum())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 1000))
def test_an_order_is_a_permutation(blocks: int, queries: int, seed: int) -> None:
    p = np.random.default_rng(seed).integers(0, 1 << 20, (queries, blocks)).astype(np.uint32)
    assert sorted(file_order(p).tolist()) == list(range(blocks))


@pytest.mark.parametrize("value", [0, 7])
def test_queries_that_say_nothing(value: int) -> None:
    p = np.full((5, 30), value, np.uint32)
    assert sorted(file_order(p).tolist()) == list(range(30))


def test_co_probes_count_queries() -> None:
    p = np.zeros((3, 6), np.uint32)
    p[0, [0, 1, 2, 3]] = 9
    p[1, [2, 3, 4, 5]] = 9
    p[2, [0, 1, 2, 3]] = 1
    counts = co_probes(p)
    assert counts.diagonal().tolist() == [2, 2, 3, 3, 1, 1]
    assert counts[0].tolist() == [2, 2, 2, 2, 0, 0]
    assert (counts == counts.T).all()
    assert (co_probes(p[:, :4]) == 3).all()  # all of so few are among the best


def test_neighbours_are_probed_together() -> None:
    p, line = planted(200, 2000)
    found, planted_best = run_together(p, file_order(p)), run_together(p, line)
    chance = run_together(p, np.random.default_rng(1).permutation(200))
    assert found > 0.97 * planted_best > 20 * chance


def test_above_the_exact_size_regions_are_ordered_first(monkeypatch: pytest.MonkeyPatch) -> None:
    p, line = planted(600, 4000)
    monkeypatch.setattr(layout, "EXACT_BLOCKS_MAX", 100)
    order = file_order(p)
    assert sorted(order.tolist()) == list(range(600))
    assert run_together(p, order) > 0.9 * run_together(p, line)


def test_an_order_is_deterministic() -> None:
    p, _ = planted(80, 300)
    assert (file_order(p) == file_order(p)).all()


def test_blocks_that_no_query_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than are ordered exactly: they form a region that nothing orders."""
    monkeypatch.setattr(layout, "EXACT_BLOCKS_MAX", 20)
    p = np.zeros((9, 600), np.uint32)
    p[:, :60] = np.random.default_rng(2).integers(1, 99, (9, 60))
    assert sorted(file_order(p).tolist()) == list(range(600))


def test_where_arpack_runs_dry_an_order_is_found_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """It did so in a build of 3,000,000 rows, deep in the regions, on blocks that few queries want."""

    def dry(*_: object, **__: object) -> None:
        raise layout.ArpackError(3)

    p, line = planted(600, 4000)
    monkeypatch.setattr(layout, "EXACT_BLOCKS_MAX", 100)
    monkeypatch.setattr(layout, "svds", dry)
    order = file_order(p)
    assert sorted(order.tolist()) == list(range(600))
    assert run_together(p, order) > 0.9 * run_together(p, line)
