"""Homes: every row has one, no block grows past 1.8 times the mean, and the same input gives the same blocks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from small import RowsOf, clustered

from build_index.blocks import PARTITIONS, kmeans
from build_index.blocks import nearest as nearest_module
from build_index.blocks import partition as partition_module
from build_index.blocks.graph_cut import graph_partition, votes
from build_index.blocks.kmeans import partition
from build_index.blocks.partition import Partition, centres_of, homes
from build_index.ingest.rows import Rows
from build_index.neighbours.graph import Graph
from build_index.progress import SILENT, Progress

Made = Callable[[int, int], np.ndarray]


def nearest(x: np.ndarray, k: int) -> Graph:
    """i32 (N, k): the exact neighbours."""
    apart = (x**2).sum(1)[:, None] + (x**2).sum(1) - 2 * x @ x.T
    np.fill_diagonal(apart, np.inf)
    return np.argsort(apart, axis=1, kind="stable")[:, :k].astype(np.int32)


def kept(graph: Graph, found: Partition) -> float:
    """The share of neighbours that lie in the row's own block."""
    return float((found.home[graph] == found.home[:, None]).mean())


def skewed(rows: int, dimension: int) -> np.ndarray:
    """f32 (rows, d): clouds whose sizes and widths differ a hundredfold."""
    draw = np.random.default_rng(3)
    weight = np.exp(draw.normal(0, 1.6, 20))
    cloud = draw.choice(20, rows, p=weight / weight.sum())
    centres, width = draw.normal(size=(20, dimension)) * 2, np.exp(draw.uniform(-4, 0.5, 20))
    return (centres[cloud] + draw.normal(size=(rows, dimension)) * width[cloud, None]).astype(np.float32)


def even(rows: int, dimension: int) -> np.ndarray:
    return np.random.default_rng(4).normal(size=(rows, dimension)).astype(np.float32)


def cut(rows: Rows, blocks: int, seed: int = 0, every: int = 1) -> Partition:
    return partition(rows, np.arange(0, rows.count, every), blocks, seed)


def sizes(found: Partition) -> np.ndarray:
    return np.bincount(found.home, minlength=found.blocks)


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
@pytest.mark.parametrize("blocks", [2, 8, 40])
@pytest.mark.parametrize("made", [even, skewed])
def test_blocks_are_balanced(rows_of: RowsOf, made: Made, blocks: int, metric: str) -> None:
    found = cut(rows_of(made(3000, 16), metric, scale=None), blocks)
    assert found.centres.shape == (blocks, 16) and found.centres.dtype == np.float32
    assert found.home.shape == (3000,) and found.home.min() >= 0 and found.home.max() < blocks
    assert sizes(found).max() < 2 * 3000 / blocks


def test_rows_outside_of_the_sample_have_homes_too(rows_of: RowsOf) -> None:
    found = cut(rows_of(skewed(3000, 16)), 16, every=4)
    assert sizes(found).sum() == 3000
    assert sizes(found).max() < 2 * 3000 / 16


@pytest.mark.parametrize("distinct", [1, 3, 40])
def test_no_block_is_empty(rows_of: RowsOf, distinct: int) -> None:
    """Not even of the sample's rows: a block without them has no sub-centroids, so no query would ever read it."""
    x = np.repeat(even(distinct, 4), -(-1200 // distinct), axis=0)[:1200]
    sample = np.arange(0, 1200, 3)
    found = partition(rows_of(x), sample, 24, 0)
    assert np.bincount(found.home[sample], minlength=24).min() > 0


def test_centres_are_means_of_the_sample(rows_of: RowsOf) -> None:
    x = skewed(2000, 8)
    found = cut(rows_of(x), 12, every=2)
    for b in range(12):
        mine = x[::2][found.home[::2] == b]
        if len(mine):
            assert np.allclose(found.centres[b], mine.mean(0), atol=1e-4)


def test_rows_that_lie_together_share_a_block(rows_of: RowsOf) -> None:
    """Distances to the own centre are far below those to a random one, so balance is not bought with nonsense."""
    x = skewed(3000, 16)
    found = cut(rows_of(x), 24)
    own = ((x - found.centres[found.home]) ** 2).sum(1).mean()
    other = ((x - found.centres[np.random.default_rng(0).permutation(found.home)]) ** 2).sum(1).mean()
    assert own < 0.3 * other


def test_the_same_seed_gives_the_same_blocks(rows_of: RowsOf) -> None:
    rows = rows_of(skewed(2000, 8))
    one, two, other = cut(rows, 16, 5), cut(rows, 16, 5), cut(rows, 16, 6)
    assert (one.home == two.home).all() and (one.centres == two.centres).all()
    assert (one.home != other.home).any()


def test_one_block(rows_of: RowsOf) -> None:
    x = even(50, 4)
    found = cut(rows_of(x), 1)
    assert (found.home == 0).all()
    assert np.allclose(found.centres, x.mean(0, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(("share", "blocks", "fits"), [(0.25, 128, True), (1.0, 16, True), (0.5, 128, False)])
def test_heavy_duplicates(rows_of: RowsOf, share: float, blocks: int, fits: bool) -> None:
    """Rows that are all the same spill over into the 32 blocks beside theirs; what these cannot take, stays together.

    This is the one exception to the balance: one block of such rows, and all others within the limit.
    """
    x = even(4000, 8)
    x[np.random.default_rng(1).random(4000) < share] = 1.0
    found = cut(rows_of(x), blocks)
    size = np.sort(sizes(found))
    assert size.sum() == 4000 and np.isfinite(found.centres).all()
    assert size[0] > 0
    assert size[-2] < 2 * 4000 / blocks
    assert (size[-1] < 2 * 4000 / blocks) == fits


def test_reordered(rows_of: RowsOf) -> None:
    found = cut(rows_of(even(500, 4)), 6)
    order = np.array([3, 1, 5, 0, 2, 4])
    moved = found.reordered(order)
    assert (moved.centres == found.centres[order]).all()
    assert (order[moved.home] == found.home).all()


@pytest.mark.parametrize("name", ["kmeans", "votes", "graph"])
@pytest.mark.parametrize("every", [1, 3])
def test_every_partition_keeps_the_promises(rows_of: RowsOf, name: str, every: int) -> None:
    """Caps, no empty block, means of the sample as centres, the same again, with rows that repeat too; one block."""
    x = skewed(1500, 8)
    x[:200] = x[0]
    rows, graph, sample, steps = rows_of(x), nearest(x, 50), np.arange(0, 1500, every), []
    found = PARTITIONS[name](rows, sample, 20, graph, 3, Progress(lambda _, share: steps.append(share)))
    assert found.home.shape == (1500,) and found.home.dtype == np.int32
    assert sizes(found).max() <= int(1.8 * 1500 / 20) + 1
    assert np.bincount(found.home[sample], minlength=20).min() > 0
    for b in range(20):
        mine = sample[found.home[sample] == b]
        assert np.allclose(found.centres[b], x[mine].mean(0), atol=1e-4)
    again = PARTITIONS[name](rows, sample, 20, graph, 3, SILENT)
    assert (again.home == found.home).all() and (again.centres == found.centres).all()
    assert steps == sorted(steps) and steps[-1] == 1.0
    assert (PARTITIONS[name](rows, sample, 1, graph, 0, SILENT).home == 0).all()


def test_votes_and_cuts_keep_neighbours_together(rows_of: RowsOf) -> None:
    x = clustered(4000, 12, 1)
    rows, graph, sample = rows_of(x), nearest(x, 50), np.arange(4000)
    base = partition(rows, sample, 40, 0)
    voted, cut_ = votes(rows, sample, base, graph), graph_partition(rows, sample, 40, graph, 0)
    assert kept(graph, voted) > kept(graph, base) + 0.03
    assert kept(graph, cut_) > kept(graph, base) + 0.03


@pytest.mark.parametrize("name", ["votes", "graph"])
def test_rows_outside_of_the_sample_have_no_say(rows_of: RowsOf, name: str) -> None:
    x = skewed(1200, 8)
    rows, sample, graph = rows_of(x), np.arange(0, 1200, 2), nearest(x, 50)
    other = np.where(graph % 2 == 1, 1, graph)
    one, two = (PARTITIONS[name](rows, sample, 8, g, 0, SILENT) for g in (graph, other))
    assert (one.home == two.home).all()


@pytest.mark.parametrize(("made", "count", "blocks"), [(even, 6000, 256), (skewed, 6000, 100), (skewed, 3000, 300)])
def test_blocks_in_groups(
    rows_of: RowsOf, made: Made, count: int, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row is compared with the blocks of its nearest groups: balance and all else is as where it sees every block."""
    x = made(count, 8)
    rows, sample, limit = rows_of(x), np.arange(0, count, 2), int(1.8 * count / blocks) + 1
    one = partition(rows, sample, blocks, 0)
    monkeypatch.setattr(nearest_module, "GROUPED_BLOCKS", 1)
    monkeypatch.setattr(nearest_module, "NEAR_GROUPS", 8)
    found = partition(rows, sample, blocks, 0)
    assert found.blocks == blocks and (found.home != one.home).any()
    assert np.bincount(found.home[sample], minlength=blocks).min() > 0
    assert sizes(found).max() <= limit and sizes(one).max() <= limit
    again = partition(rows, sample, blocks, 0)
    assert (again.home == found.home).all() and (again.centres == found.centres).all()
    apart = [((x - p.centres[p.home]) ** 2).sum() for p in (found, one)]
    assert apart[0] < 1.02 * apart[1]


def test_groups_of_blocks_of_rows_that_repeat(rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_module, "GROUPED_BLOCKS", 1)
    x = np.repeat(even(5, 4), 200, axis=0)
    found = partition(rows_of(x), np.arange(1000), 64, 0)
    assert np.isfinite(found.centres).all() and sizes(found).min() > 0


def test_rows_are_read_in_pieces(rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Means of a sample that is never held as a whole, and homes, do not depend on the pieces."""
    x = skewed(3000, 8)
    rows, sample = rows_of(x), np.arange(1500, 3000, 3)
    found = partition(rows, sample, 30, 0)
    home = homes(rows, found.centres)
    monkeypatch.setattr(partition_module, "CHUNK_BYTES", 4 * 8 * 77)
    assert (homes(rows, found.centres) == home).all()
    known = home[sample]
    expected = [x[sample][known == b].mean(0) if (known == b).any() else np.full(8, 7) for b in range(30)]
    assert np.allclose(centres_of(rows, sample, home, np.full((30, 8), 7, np.float32)), expected, atol=1e-4)


def test_few_rows_start_many_blocks(rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory holds no more than a row a block at first, the rounds over all rows make up for it."""
    x = even(4000, 8)
    rows, sample = rows_of(x), np.arange(0, 4000, 2)
    many = partition(rows, sample, 40, 0)
    monkeypatch.setattr(kmeans, "DRAWN_BYTES", 1)
    few = partition(rows, sample, 40, 0)
    apart = [((x - p.centres[p.home]) ** 2).sum() for p in (few, many)]
    assert apart[0] < 1.05 * apart[1] and sizes(few).max() <= int(1.8 * 4000 / 40) + 1
