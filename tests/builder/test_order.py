"""The order of blocks in the file: a permutation that brings together what is probed together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import RowsOf

from build_index.blocks import nearest
from build_index.blocks import order as layout
from build_index.blocks.order import co_probes, file_order, file_order_by_centres


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


def curve(at: np.ndarray) -> np.ndarray:
    """f32 (n, 8): points at (n) of a curve that winds through space, and comes back to no place."""
    turns = at[:, None] / 600 * np.pi * np.array([1, 2, 3, 5])
    return np.concatenate([np.cos(turns), np.sin(turns)], 1).astype(np.float32)


def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes 600 blocks many: regions of 50."""
    monkeypatch.setattr(layout, "EXACT_BLOCKS_MAX", 100)
    monkeypatch.setattr(layout, "REGION_BLOCKS", 50)


@pytest.mark.parametrize("grouped", [1, 1000])
def test_many_blocks_are_ordered_by_their_centres(
    rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch, grouped: int
) -> None:
    """Blocks along a curve: regions, and the blocks of each, follow it; also where blocks are compared by groups."""
    many(monkeypatch)
    monkeypatch.setattr(nearest, "GROUPED_BLOCKS", grouped)
    draw = np.random.default_rng(0)
    rows, line = rows_of(curve(draw.uniform(0, 600, 3000))), draw.permutation(600)
    order = file_order_by_centres(rows, np.arange(3000), curve(line), 0)
    assert sorted(order.tolist()) == list(range(600))
    step = np.abs(np.diff(line[order]))
    assert np.median(step) <= 2 and step.mean() < 8  # 200 by chance
    assert (file_order_by_centres(rows, np.arange(3000), curve(line), 0) == order).all()


def test_many_blocks_of_one_place(rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing tells them apart, nor what lies in the largest region."""
    many(monkeypatch)
    same = np.ones((600, 8), np.float32)
    rows = rows_of(same)
    assert sorted(file_order_by_centres(rows, np.arange(600), same, 0).tolist()) == list(range(600))
    same[:30] = curve(np.arange(30))
    assert sorted(file_order_by_centres(rows, np.arange(600), same, 0).tolist()) == list(range(600))


def test_an_order_is_deterministic() -> None:
    p, _ = planted(80, 300)
    assert (file_order(p) == file_order(p)).all()
