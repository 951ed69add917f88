"""Copies: the block of least SOAR loss, for the rows that gain most, never the home."""

from __future__ import annotations

import numpy as np
import pytest
from small import RowsOf

from build_index.partition import partition
from build_index.spill import LAMBDA, NEAR, Copies, soar


def losses(x: np.ndarray, centres: np.ndarray, home: np.ndarray) -> np.ndarray:
    """f64 (N, B): |r'|^2 + lambda <r', r / |r|>^2 of every row in every block; inf at home."""
    x, centres = x.astype(np.float64), centres.astype(np.float64)
    out = np.empty((len(x), len(centres)))
    for i, row in enumerate(x):
        r = row - centres[home[i]]
        unit = r / np.linalg.norm(r)
        for b, centre in enumerate(centres):
            other = row - centre
            out[i, b] = other @ other + LAMBDA * (other @ unit) ** 2
        out[i, home[i]] = np.inf
    return out


@pytest.mark.parametrize("blocks", [2, 9, 60])
def test_copies_go_where_the_loss_is_least(rows_of: RowsOf, blocks: int) -> None:
    x = np.random.default_rng(blocks).normal(size=(900, 12)).astype(np.float32)
    rows = rows_of(x)
    base = partition(rows, np.arange(900), blocks, 0)
    found, loss = soar(rows, base), losses(x, base.centres, base.home)
    if blocks - 1 > NEAR:  # only the nearest blocks are asked
        far = np.argsort(((x[:, None] - base.centres) ** 2).sum(2) + np.where(loss == np.inf, np.inf, 0), axis=1)
        np.put_along_axis(loss, far[:, NEAR:], np.inf, 1)
    each, best = np.arange(900), loss.min(1)
    assert np.allclose(loss[each, found.block], best, rtol=1e-4, atol=1e-4)
    assert (found.block == loss.argmin(1)).mean() > 0.99  # f32 may choose another of two equal ones
    length = ((x - base.centres[base.home]) ** 2).sum(1)
    assert np.allclose(found.worth, best / length, rtol=1e-3)
    assert (found.block != base.home).all()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 1.0])
def test_a_share_of_all_rows_is_copied(rows_of: RowsOf, share: float) -> None:
    x = np.random.default_rng(2).normal(size=(700, 6)).astype(np.float32)
    rows = rows_of(x)
    base = partition(rows, np.arange(700), 10, 0)
    found = soar(rows, base)
    copy = found.best(share)
    assert copy.dtype == np.int32 and (copy >= 0).sum() == round(share * 700)
    assert (copy[copy >= 0] == found.block[copy >= 0]).all()
    assert (copy != base.home).all()
    if 0 < share < 1:
        assert found.worth[copy >= 0].max() <= found.worth[copy < 0].min()


def test_a_row_at_its_centre_and_one_block(rows_of: RowsOf) -> None:
    x = np.concatenate([np.zeros((20, 3)), np.ones((20, 3)), np.full((20, 3), 5)]).astype(np.float32)
    rows = rows_of(x)
    found = soar(rows, partition(rows, np.arange(60), 3, 0))
    assert np.isfinite(found.worth).all() and (found.block >= 0).all()
    alone = soar(rows, partition(rows, np.arange(60), 1, 0))
    assert (alone.block == -1).all() and (alone.best(0.35) == -1).all()


def test_ties_go_to_the_lower_row() -> None:
    copies = Copies(np.arange(6, dtype=np.int32), np.array([2, 1, 1, 1, np.inf, 0], np.float32))
    assert copies.best(0.5).tolist() == [-1, 1, 2, -1, -1, 5]
    assert copies.best(1.0).tolist() == [0, 1, 2, 3, -1, 5]
