"""Blocks nearest to rows: all of them are compared where they are few, and those in the nearest groups where many."""

from __future__ import annotations

import numpy as np
import pytest
from small import clustered

from build_index.blocks import nearest as module
from build_index.blocks.nearest import index_centres


def closeness(x: np.ndarray, centres: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """f64 (n, B)."""
    x, centres = x.astype(np.float64), centres.astype(np.float64)
    return x @ centres.T - 0.5 * (centres**2).sum(1) - penalty


@pytest.mark.parametrize("count", [1, 5, 40])
def test_few_blocks_are_all_compared(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEP_BYTES", 4 * 40 * 64)  # so that there are pieces
    draw = np.random.default_rng(count)
    x, centres = draw.normal(size=(2, 300, 7)).astype(np.float32)
    centres, penalty = centres[:40], draw.random(40)
    ids, close = index_centres(centres, penalty.astype(np.float32)).nearest(x, count)
    every = closeness(x, centres, penalty)
    assert ids.dtype == np.int32 and ids.shape == close.shape == (300, count)
    assert (ids == np.argsort(-every, axis=1)[:, :count]).all()
    assert np.allclose(close, np.take_along_axis(every, ids, 1), atol=1e-4)


def test_of_many_blocks_those_of_the_nearest_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUPED_BLOCKS", 900)
    monkeypatch.setattr(module, "STEP_BYTES", 1 << 20)
    x = clustered(4000, 24, 1)
    x, centres = x[:2000], x[3000:]
    index, every = index_centres(centres), closeness(x, centres, np.zeros(1000))
    assert len(index.middles) > 50 and sorted(index.block) == list(range(1000))
    ids, close = index.nearest(x, 10)
    assert np.allclose(close, np.take_along_axis(every, ids, 1), rtol=1e-4, atol=1e-3)
    assert (np.diff(close, axis=1) <= 0).all()
    assert (np.diff(np.sort(ids, axis=1), axis=1) > 0).all()  # no block twice
    best = np.argsort(-every, axis=1)[:, :10]
    assert (ids[:, 0] == best[:, 0]).mean() > 0.97
    assert (ids[:, :, None] == best[:, None]).any(1).mean() > 0.9
    one, nearness = index.nearest(x)
    assert (one[:, 0] == ids[:, 0]).all() and (nearness == close[:, :1]).all()


@pytest.mark.parametrize("grouped", [1, 4000])
def test_blocks_may_be_left_out(grouped: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUPED_BLOCKS", grouped)
    x = clustered(900, 8, 2)
    index, left_out = index_centres(x[:300]), np.arange(300) % 3 > 0
    ids, close = index.without(left_out).nearest(x, 4)
    assert not left_out[ids[np.isfinite(close)]].any() and np.isfinite(close[:, 0]).all()
    assert np.isinf(index.without(np.ones(300, bool)).nearest(x, 4)[1]).all()


def test_groups_may_hold_fewer_blocks_than_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUPED_BLOCKS", 1)
    monkeypatch.setattr(module, "NEAR_GROUPS", 2)
    x = clustered(500, 8, 3)
    ids, close = index_centres(x[:400]).nearest(x, 200)
    there = np.isfinite(close)
    assert there.sum(1).min() >= 2 and there.sum(1).max() < 200
    for i in range(0, 500, 50):
        assert len(np.unique(ids[i, there[i]])) == there[i].sum()


def test_centres_that_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUPED_BLOCKS", 1)
    x = np.repeat(clustered(5, 8, 4), 40, axis=0)
    ids, close = index_centres(x).nearest(x, 3)
    assert (x[ids[:, 0]] == x).all() and np.isfinite(close[:, 0]).all()
