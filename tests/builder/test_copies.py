"""Copies: never the home, never twice in a block, the rows that gain most first, by each rule as it is stated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from small import RowsOf, clustered

from build_index.blocks import copies as copies_module
from build_index.blocks import nearest as nearest_module
from build_index.blocks.copies import COPY_RULES, LAMBDA, NEAR, Copies, closure, misses, none, soar, tie
from build_index.blocks.kmeans import partition
from build_index.blocks.partition import Partition
from build_index.ingest.rows import Rows

Read = tuple[np.ndarray, np.ndarray]


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


def asked(rows: Rows, part: Partition, queries: int = 300, k: int = 8) -> Read:
    """(p u32 (n, B), near i32 (n, k)) of the first rows: blocks by distance of the centre, exact neighbours."""
    x = rows.take(np.arange(rows.count))
    apart = ((x[:queries, None] - x) ** 2).sum(2)
    np.fill_diagonal(apart, np.inf)
    score = -((x[:queries, None] - part.centres) ** 2).sum(2)
    p = np.exp(2 * (score - score.max(1, keepdims=True)))
    return (2**20 * p / p.sum(1, keepdims=True)).astype(np.uint32), np.argsort(apart, 1)[:, :k].astype(np.int32)


def copied(name: str, rows: Rows, part: Partition) -> Copies:
    more = (*asked(rows, part), 2**20 / part.blocks) if name == "misses" else ()
    return COPY_RULES[name](rows, part, *more)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("name", ["none", "soar", "closure", "misses"])
def test_every_rule_gives_places_that_make_sense(rows_of: RowsOf, name: str, share: float) -> None:
    rows = rows_of(clustered(700, 6, 2))
    part = partition(rows, np.arange(700), 14, 0)
    found = copied(name, rows, part)
    copy = found.best(share)
    assert copy.shape == (700, int(np.ceil(share))) and copy.dtype == np.int32
    assert copy.min(initial=-1) >= -1 and copy.max(initial=-1) < 14
    assert (copy != part.home[:, None]).all()
    made = (copy >= 0).sum(1)
    assert (np.sort(copy >= 0, 1)[:, ::-1] == (copy >= 0)).all()  # a second one only beside a first one
    assert copy.shape[1] < 2 or (copy[made == 2, 0] != copy[made == 2, 1]).all()
    there = np.isfinite(found.worth[:, : copy.shape[1]]).sum()
    assert made.sum() == min(round(share * 700), there)
    if name == "soar":
        assert there == 700 * copy.shape[1]
    if 0 < made.sum() < there and share <= 1:
        assert found.worth[:, 0][made == 1].max() <= found.worth[:, 0][made == 0].min()
    again = copied(name, rows, part)
    assert (again.near == found.near).all() and (again.worth == found.worth).all()


@pytest.mark.parametrize("blocks", [2, 9, 60])
def test_soar_goes_where_the_loss_is_least(rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch, blocks: int) -> None:
    monkeypatch.setattr(copies_module, "CHUNK_BYTES", 1 << 14)  # so that there are pieces
    x = np.random.default_rng(blocks).normal(size=(900, 12)).astype(np.float32)
    rows = rows_of(x)
    base = partition(rows, np.arange(900), blocks, 0)
    found, loss = soar(rows, base), losses(x, base.centres, base.home)
    if blocks - 1 > NEAR:  # only the nearest blocks are asked
        far = np.argsort(((x[:, None] - base.centres) ** 2).sum(2) + np.where(loss == np.inf, np.inf, 0), axis=1)
        np.put_along_axis(loss, far[:, NEAR:], np.inf, 1)
    kept = min(4, blocks - 1)
    best = np.sort(loss, 1)[:, :kept]
    assert np.allclose(found.loss[:, :kept], best, rtol=1e-4, atol=1e-4)
    assert (found.near[:, kept:] == -1).all()
    assert (found.block[:, 0] == loss.argmin(1)).mean() > 0.99  # f32 may choose another of two equal ones
    length = ((x - base.centres[base.home]) ** 2).sum(1)
    assert np.allclose(found.worth[:, 0], best[:, 0] / length, rtol=1e-3)


def test_closure_prunes_blocks_behind_others(rows_of: RowsOf) -> None:
    x = np.random.default_rng(8).normal(size=(400, 3)).astype(np.float32)
    rows = rows_of(x)
    part = partition(rows, np.arange(400), 20, 0)
    found, centres, pruned = closure(rows, part), part.centres.astype(np.float64), 0
    apart = ((x[:, None] - centres) ** 2).sum(2)
    between = np.stack([apart[part.home == b].mean(0) for b in range(20)])  # of a block's rows and a centre
    for i in range(400):
        taken = [int(part.home[i])]
        for c in np.argsort(apart[i]):
            if c != part.home[i] and all(apart[i, c] <= between[t, c] for t in taken):
                taken.append(int(c))
        assert found.near[i].tolist() == (taken[1:5] + [-1] * 4)[:4]
        pruned += len(taken) < 20
        if len(taken) > 1:
            assert np.isclose(found.worth[i, 0], apart[i, taken[1]] / apart[i, taken[0]], rtol=1e-3)
    assert pruned > 300


def test_misses_answers_what_queries_missed_at_the_least_cost() -> None:
    """Row 0 is missed by three queries: they all read block 1, as all others do; two of them alone read block 2."""
    part = Partition(np.zeros((4, 2), np.float32), np.array([0, 1, 2, 3], np.int32))
    p = np.zeros((12, 4), np.uint32)
    p[:, 1], p[:2, 2], p[6:, 3] = 1 << 18, 1 << 18, 1 << 18
    near = np.full((12, 2), -1, np.int32)
    near[:3, 0] = 0
    near[6, 0] = 3  # read, so not missed
    found = misses(_Four(), part, p, near, 1 << 15)  # type: ignore[arg-type]
    # 2 queries of 2 that read block 2, then what is left: 1 of 12 that read block 1.
    assert found.block.tolist() == [[2, 1], [-1, -1], [-1, -1], [-1, -1]]
    assert found.best(0.25)[:, 0].tolist() == [2, -1, -1, -1]
    assert found.best(2.0).tolist() == found.block.tolist()
    sparse = misses(_Four(), part, csr_matrix(p), near, 1 << 15)  # type: ignore[arg-type]
    assert (sparse.near == found.near).all()
    held = np.array([[1], [-1], [-1], [-1]], np.int32)  # with this copy nothing is missed
    assert misses(_Four(), part, p, near, 1 << 15, held).block.tolist() == [[1, -1]] + [[-1, -1]] * 3  # type: ignore[arg-type]


class _Four:
    """As much of Rows as misses asks for."""

    count = 4


def test_misses_raise_recall_at_the_same_blocks(rows_of: RowsOf) -> None:
    rows = rows_of(clustered(1500, 8, 5))
    part = partition(rows, np.arange(1500), 30, 0)
    p, near = asked(rows, part, 1500)
    base = soar(rows, part).best(0.2)
    cut = 2**20 / 30
    read = p > cut

    def recall(copy: np.ndarray) -> float:
        held = np.concatenate([part.home[:, None], copy], 1)[near]
        return float(((held >= 0) & read[np.arange(1500)[:, None, None], held]).any(2).mean())

    more = misses(rows, part, p, near, cut, base)
    assert (more.best(0.2)[:, 0][base[:, 0] >= 0] == base[:, 0][base[:, 0] >= 0]).all()
    assert recall(base) + 0.02 < recall(more.best(0.5))


@pytest.mark.parametrize("name", ["soar", "closure", "misses"])
def test_one_block_two_blocks_and_rows_that_repeat(rows_of: RowsOf, name: str) -> None:
    x = np.concatenate([np.zeros((20, 3)), np.ones((20, 3)), np.full((20, 3), 5)]).astype(np.float32)
    rows = rows_of(x)
    for blocks in (1, 2, 3, 30):
        part = partition(rows, np.arange(60), blocks, 0)
        found = copied(name, rows, part)
        assert not np.isnan(found.worth).any() and not np.isnan(found.loss).any()
        assert (found.block != part.home[:, None]).all()
        assert (found.best(2.0) >= 0).sum() <= 60 * min(2, blocks - 1)
        if name == "soar":
            assert (found.best(2.0) >= 0).sum() == 60 * min(2, blocks - 1)


def test_ties_go_to_the_lower_row_and_second_copies_wait() -> None:
    block = np.arange(12, dtype=np.int32).reshape(6, 2)
    near = np.concatenate([block, np.full((6, 2), -1, np.int32)], 1)
    worth = np.array([[2, 3], [1, 9], [1, 0], [1, 2], [np.inf, np.inf], [0, 1]], np.float32)
    copies = Copies(np.full(6, 20, np.int32), near, np.zeros((6, 4), np.float32), worth)
    assert copies.best(0.5)[:, 0].tolist() == [-1, 2, 4, -1, -1, 10]
    assert copies.best(1.0)[:, 0].tolist() == [0, 2, 4, 6, -1, 10]
    assert copies.best(1.01).tolist() == [[-1, -1], [2, -1], [4, 5], [6, -1], [-1, -1], [10, 11]]


def test_groups_narrow_the_blocks_weighed(rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many blocks only those of the nearest groups are weighed, and these hold the best one nearly always."""
    rows = rows_of(clustered(6000, 8, 3))
    part = partition(rows, np.arange(6000), 256, 0)
    every = soar(rows, part)
    monkeypatch.setattr(nearest_module, "GROUPED_BLOCKS", 1)
    monkeypatch.setattr(nearest_module, "NEAR_GROUPS", 8)
    found = soar(rows, part)
    assert 0.95 < (found.block[:, 0] == every.block[:, 0]).mean() < 1
    assert (found.loss >= every.loss * (1 - 1e-4) - 1e-6).all()


def test_tie_chooses_among_near_equals_only() -> None:
    near = np.array([[1, 2, 3, 4], [1, 2, 3, -1], [1, -1, -1, -1], [-1, -1, -1, -1]], np.int32)
    loss = np.array([[1, 1.05, 1.08, 1.2], [1, 1.2, 1.25, np.inf], [1, *[np.inf] * 3], [np.inf] * 4], np.float32)
    copies = Copies(np.zeros(4, np.int32), near, loss, loss[:, :2])
    place = np.array([0, 9, 5, 1, 2])
    found = tie(copies, place, np.ones(5))
    assert found.block.tolist() == [[3, 2], [1, 3], [1, -1], [-1, -1]]
    assert (found.worth == copies.worth).all()
    assert tie(copies, place, np.ones(5), slack=0.0).block.tolist() == copies.block.tolist()
    rare = tie(copies, np.array([0, 5, 5, 5, 5]), np.array([1, 0.5, 0.1, 0.5, 1]))
    assert rare.block[0].tolist() == [2, 1]
    assert (none(_Four(), Partition(np.zeros((1, 2), np.float32), np.zeros(4, np.int32))).block == -1).all()  # type: ignore[arg-type]
