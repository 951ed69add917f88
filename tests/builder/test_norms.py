"""Inner products over rows of varied norms: blocks in bands of norms, and routers that learn from unit queries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small import RowsOf, clustered

from build_index.blocks import PARTITIONS
from build_index.blocks.by_norm import BAND_ROWS, STEP, answer_norms, band_limits
from build_index.blocks.kmeans import by_kmeans
from build_index.blocks.partition import Partition
from build_index.ingest.rows import Rows
from build_index.neighbours.exact import exact_neighbours
from build_index.progress import SILENT
from build_index.routers import learn
from build_index.routers.training import TrainingSet, spread_of

ROWS, DIMENSION, BLOCKS = 4000, 24, 32


def rows_with_norms(rows_of: RowsOf, spread: float, rows: int = ROWS) -> Rows:
    """Directions in clusters, and lognormal norms."""
    x = clustered(rows, DIMENSION, 1)
    norms = np.exp(spread * np.random.default_rng(2).normal(size=(rows, 1)))
    made: Rows = rows_of((x / np.linalg.norm(x, axis=1, keepdims=True) * norms).astype(np.float32), "dot", scale=None)
    return made


def cut(rows: Rows, blocks: int = BLOCKS) -> Partition:
    sample = np.arange(0, rows.count, 2)
    return PARTITIONS["kmeans"](rows, sample, blocks, None, 0, SILENT)


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_rows_of_like_norms_have_the_blocks_of_kmeans(rows_of: RowsOf, spread: float) -> None:
    rows = rows_with_norms(rows_of, spread)
    banded, plain = cut(rows), by_kmeans(rows, np.arange(0, ROWS, 2), BLOCKS, None, 0, SILENT)
    assert np.array_equal(banded.home, plain.home) and np.array_equal(banded.centres, plain.centres)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_other_metrics_have_the_blocks_of_kmeans(rows_of: RowsOf, metric: str) -> None:
    x = rows_with_norms(rows_of, 0.8).slice(0, 1000)
    rows: Rows = rows_of(x, metric, scale=None)
    assert np.array_equal(cut(rows, 8).home, by_kmeans(rows, np.arange(0, 1000, 2), 8, None, 0, SILENT).home)


def rows_to_read(rows: Rows, partition: Partition) -> float:
    """The share of rows in blocks that hold one of the 20 answers of a query, mean of 60 queries."""
    x = rows.slice(0, rows.count)
    near = exact_neighbours(x[::67], iter([(0, x)]), 20, "dot")
    size = np.bincount(partition.home, minlength=partition.blocks)
    return float(np.mean([size[np.unique(partition.home[some])].sum() for some in near])) / rows.count


def test_varied_norms_have_blocks_in_bands_that_hold_the_answers_in_fewer_rows(rows_of: RowsOf) -> None:
    rows = rows_with_norms(rows_of, 0.8)
    banded = cut(rows)
    norms = np.linalg.norm(rows.slice(0, ROWS), axis=1)
    assert BLOCKS / 2 < banded.blocks <= BLOCKS + 1 and banded.centres.shape == (banded.blocks, DIMENSION)
    size = np.bincount(banded.home, minlength=banded.blocks)
    assert size.min() > 0
    longest = np.array([norms[banded.home == b].max() for b in range(banded.blocks)])
    shortest = np.array([norms[banded.home == b].min() for b in range(banded.blocks)])
    order = np.argsort(shortest)
    assert (longest[order][:-1] <= longest[order][1:] * STEP).all()  # bands do not lie inside each other
    assert size[order[-5:]].mean() < size[order[:5]].mean() / 2  # blocks of long rows are small
    plain = by_kmeans(rows, np.arange(0, ROWS, 2), BLOCKS, None, 0, SILENT)
    assert rows_to_read(rows, banded) < 0.6 * rows_to_read(rows, plain)


def test_answers_are_the_long_rows(rows_of: RowsOf) -> None:
    rows = rows_with_norms(rows_of, 0.8)
    norms = np.linalg.norm(rows.slice(0, ROWS), axis=1)
    found = answer_norms(rows, np.arange(0, ROWS, 2), norms, 0)
    x = rows.slice(0, ROWS)
    true = norms[exact_neighbours(x[::13], iter([(0, x)]), 100, "dot")]
    assert np.allclose(np.quantile(found, [0.1, 0.5, 0.9]), np.quantile(true, [0.1, 0.5, 0.9]), rtol=0.15)


def test_limits_of_bands() -> None:
    norms = np.exp(np.random.default_rng(0).normal(size=50_000)).astype(np.float32)
    known, answers = norms[::3], norms[norms > 4]
    limits = band_limits(norms, known, answers)
    assert len(limits) > 2 and limits[-1] > 4 > limits[-1] / STEP**2
    assert np.allclose(limits[:-1] / limits[1:], STEP, rtol=1e-5)
    each = np.bincount(np.searchsorted(-limits, -known, "right"))
    assert len(each) == len(limits) + 1 and each.min() >= BAND_ROWS


@pytest.mark.parametrize(
    ("norms", "why"),
    [
        (np.ones(5000), "all alike"),
        (np.zeros(5000), "all zero"),
        (np.r_[np.zeros(4990), np.ones(10)], "too few long ones for a band"),
        (np.r_[np.zeros(10), np.full(4990, 3)], "too few short ones for a band"),
    ],
)
def test_norms_that_make_one_band(norms: np.ndarray, why: str) -> None:
    norms = norms.astype(np.float32)
    assert len(band_limits(norms, norms[::2], norms[norms > 0][:100] if norms.any() else norms)) == 0, why


def test_a_few_rows_of_huge_norm_build_too(rows_of: RowsOf) -> None:
    x = rows_with_norms(rows_of, 0.8, 1500).slice(0, 1500)
    x[:3] *= 1000
    x[3:40] = 0
    for blocks in (1, 2, 16):
        banded = cut(rows_of(x, "dot", scale=None), blocks)
        assert np.isfinite(banded.centres).all() and np.bincount(banded.home, minlength=banded.blocks).min() > 0


def training_set(rows: Rows) -> TrainingSet:
    partition, queries = cut(rows, 8), np.arange(0, rows.count, 4)
    near = exact_neighbours(rows.take(queries), rows.chunks(1 << 20), 20, rows.metric, queries)
    none = np.full((rows.count, 0), -1, np.int32)
    return TrainingSet(rows, queries, partition, none, queries, near, 0)


@pytest.mark.parametrize(("metric", "unit"), [("dot", True), ("cosine", True), ("l2", False)])
def test_routers_learn_from_queries_as_the_reader_prepares_them(rows_of: RowsOf, metric: str, unit: bool) -> None:
    rows: Rows = rows_of(rows_with_norms(rows_of, 0.8, 800).slice(0, 800), metric, scale=None)
    seen: list[Any] = []

    def scores(now: dict[str, Any], q: Any) -> Any:
        import jax

        jax.debug.callback(lambda norms: seen.append(norms), (q**2).sum(1) ** 0.5)
        return q @ now["table"].T

    start = {"table": np.ones((8, DIMENSION), np.float32)}
    learn.train(start, {"table": 1e-3}, scores, training_set(rows), 2, 64, SILENT)
    norms = np.concatenate([np.asarray(n).reshape(-1) for n in seen])
    assert len(norms) and bool(np.allclose(norms, 1, atol=1e-5)) is unit


def test_noise_of_inner_products_is_that_of_directions(rows_of: RowsOf) -> None:
    same, varied = (learn.noise_of(training_set(rows_with_norms(rows_of, s, 800))) for s in (0.0, 0.8))
    assert same <= varied < 3 * same  # answers are further off in direction where norms count too


def test_long_rows_say_how_sharp_a_router_is(rows_of: RowsOf) -> None:
    same, varied = rows_with_norms(rows_of, 0.0), rows_with_norms(rows_of, 0.8)
    every = np.arange(ROWS)
    plain = float(same.slice(0, ROWS).var(0, dtype=np.float64).sum())
    assert spread_of(same, every) == pytest.approx(plain, rel=1e-3)
    assert spread_of(varied, every) > 4 * float(varied.slice(0, ROWS).var(0, dtype=np.float64).sum())
