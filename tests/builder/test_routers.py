"""lse: sub-centroids, their quantized form, and the edge's probabilities against float64."""

from __future__ import annotations

import numpy as np
import pytest
from small import RowsOf, clustered

from build_index.blocks.kmeans import partition
from build_index.blocks.layout import index_section
from build_index.ingest.rows import Rows
from build_index.progress import SILENT
from build_index.routers import lse
from build_index.routers.lse import SUBS, SubCentroids, section, sub_centroids, sub_centroids_of
from build_index.routers.packing import pack_i4
from build_index.routers.training import TrainingSet
from build_index.simulate.edge import prepare_rows
from vantage import kernels
from vantage.format import LseSection, RouterSection, aligned
from vantage.search.route.lse import LseRouter

METRICS = ("cosine", "l2", "dot")
BLOCKS = 24


def unpack(table: memoryview, n: int, dimension: int, bits: int) -> np.ndarray:
    """f64 (n, d) of the stored integers; a row of 4 bits is groups of 16 bytes, 32 dimensions, low nibbles first."""
    raw = np.frombuffer(table, np.uint8).reshape(n, -1)
    if bits == 8:
        assert raw.shape[1] == aligned(dimension, 16)
        return raw.view(np.int8)[:, :dimension].astype(np.float64)
    assert raw.shape[1] == aligned(dimension, 32) // 2
    groups = raw.reshape(n, -1, 16)
    return np.concatenate([groups & 15, groups >> 4], 2).reshape(n, -1)[:, :dimension].astype(np.float64) - 8


def mixture(scores: np.ndarray, weight: np.ndarray, subs: int, temperature: float) -> np.ndarray:
    """f64 (Q, B): softmax over blocks of temperature * log-sum-exp of scores f64 (Q, B * S) + weight."""
    logit = (scores + weight).reshape(len(scores), -1, subs)
    top = logit.max((1, 2), keepdims=True)
    with np.errstate(divide="ignore"):
        t = temperature * (top[:, :, 0] + np.log(np.exp(logit - top).sum(2)))
    e = np.exp(t - t.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def queries(rows: Rows, wanted: np.ndarray) -> np.ndarray:
    """f64 (Q, d): rows as queries; dot takes them at a norm of 1."""
    return np.array([q.vector for q in prepare_rows(rows, wanted)], np.float64)


def asked(rows: Rows, router: LseSection, blocks: int, wanted: np.ndarray) -> np.ndarray:
    """f64 (Q, B): what the edge makes of it."""
    route = LseRouter(router, index_section(rows, blocks, rows.count))
    return np.array([route.probabilities(q).p for q in prepare_rows(rows, wanted)]) / 2**20


@pytest.fixture(scope="module", params=METRICS)
def case(request: pytest.FixtureRequest, lasting_rows_of: RowsOf) -> tuple[Rows, SubCentroids]:
    draw = np.random.default_rng(7)
    centres = draw.normal(size=(30, 33))
    x = centres[draw.integers(30, size=1500)] + 0.5 * draw.normal(size=(1500, 33))
    rows = lasting_rows_of(x.astype(np.float32), request.param, scale=None)
    base = partition(rows, np.arange(1500), BLOCKS, 0)
    return rows, sub_centroids(rows.take(np.arange(1500)), base.home, BLOCKS, 0)


@pytest.mark.parametrize("bits", [4, 8])
def test_probabilities_are_those_of_the_stored_mixture(case: tuple[Rows, SubCentroids], bits: int) -> None:
    """Within 2e-3, against float64 over what is stored: int16 queries and f32 sums lose no more."""
    rows, subs = case
    wanted = np.arange(0, 1500, 15)
    router = section(subs, rows.metric, 20.0, 0.6, bits)
    n = BLOCKS * SUBS
    stored = unpack(router.table, n, 33, bits) * np.asarray(router.scale, np.float64)[:, None]
    scores = 20.0 * queries(rows, wanted) @ stored.T
    p = asked(rows, router, BLOCKS, wanted)
    assert np.abs(p - mixture(scores, np.asarray(router.weight, np.float64), SUBS, 0.6)).max() < 2e-3
    assert np.allclose(p.sum(1), 1, atol=BLOCKS / 2**20)


def test_eight_bits_are_nearly_the_sub_centroids(case: tuple[Rows, SubCentroids]) -> None:
    """Against the mixture in full precision, with each metric's own score: the mean that is taken off drops out."""
    rows, subs = case
    wanted = np.arange(0, 1500, 15)
    x, table = queries(rows, wanted), subs.table.reshape(-1, 33).astype(np.float64)
    score = x @ table.T - (0.5 * (table**2).sum(1) if rows.metric == "l2" else 0)
    with np.errstate(divide="ignore"):
        weight = np.log(subs.count.reshape(-1).astype(np.float64))
    true = mixture(20.0 * score, weight, SUBS, 0.6)
    p = asked(rows, section(subs, rows.metric, 20.0, 0.6, 8), BLOCKS, wanted)
    assert np.abs(p - true).max() < 0.05
    assert (p.argmax(1) == true.argmax(1)).mean() > 0.95
    rough = asked(rows, section(subs, rows.metric, 20.0, 0.6, 4), BLOCKS, wanted)
    assert np.abs(p - true).mean() < 0.3 * np.abs(rough - true).mean()


def test_blocks_are_found_by_their_rows(case: tuple[Rows, SubCentroids]) -> None:
    rows, subs = case
    wanted = np.arange(0, 1500, 15)
    home = partition(rows, np.arange(1500), BLOCKS, 0).home[wanted]
    p = asked(rows, section(subs, rows.metric, 20.0, 0.6, 4), BLOCKS, wanted)
    assert (p[np.arange(100), home] >= np.sort(p, 1)[:, -3]).mean() > 0.9  # among the best three


@pytest.mark.parametrize("dimension", [1, 15, 16, 31, 32, 33, 97])
def test_int4_packing(dimension: int) -> None:
    draw = np.random.default_rng(dimension)
    values = draw.integers(-8, 8, (5, dimension)).astype(np.int8)
    table = pack_i4(values)
    assert (unpack(memoryview(table), 5, dimension, 4) == values).all()
    query, out = np.zeros(aligned(dimension, 32), np.int16), np.zeros(5, np.int32)
    query[:dimension] = draw.integers(-2000, 2000, dimension)
    kernels.matvec_i4(query, table, 5, dimension, out)
    assert (out == values.astype(np.int64) @ query[:dimension]).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_weights(bits: int) -> None:
    """The logarithm of the count, the largest one 0; under l2 less beta |c|^2 / 2; -inf where there is none."""
    table = np.random.default_rng(1).normal(size=(3, 2, 5)).astype(np.float32)
    count = np.array([[4, 1], [2, 0], [0, 0]], np.float32)
    subs = SubCentroids(np.where(count[..., None] > 0, table, 0), count)
    plain = np.asarray(section(subs, "dot", 3.0, 0.5, bits).weight)
    assert plain.tolist() == pytest.approx([0, -np.log(4), -np.log(2), -np.inf, -np.inf, -np.inf])
    far = np.asarray(section(subs, "l2", 3.0, 0.5, bits).weight)
    half = 0.5 * (subs.table.reshape(-1, 5) ** 2).sum(1)
    wanted = (plain - 3.0 * half)[:3]
    assert far[:3].tolist() == pytest.approx((wanted - wanted.max()).tolist(), rel=1e-6, abs=1e-6)
    assert (far[3:] == -np.inf).all()


def test_sub_centroids_that_stay_resident() -> None:
    """Eight of a block up to 6 MiB, above that half as many, and so on, one at least."""
    counts = (12_288, 12_289, 24_576, 24_577, 49_153, 1 << 20)
    assert [lse.subs_of(128, blocks) for blocks in counts] == [8, 4, 4, 2, 1, 1]
    assert lse.table_bytes(128, 12_288, 8) == lse.TABLE_BYTES_MAX


@pytest.mark.parametrize("bits", [4, 8])
def test_one_block_and_equal_rows(rows_of: RowsOf, bits: int) -> None:
    """One sub-centroid is left when the mean is taken off: nothing, with a scale that is not 0."""
    rows = rows_of(np.ones((30, 3), np.float32), "cosine")
    subs = sub_centroids(rows.take(np.arange(30)), np.zeros(30, np.int32), 1, 0)
    router = section(subs, "cosine", 9.0, 0.3, bits)
    assert (np.asarray(router.scale) > 0).all()
    assert asked(rows, router, 1, np.array([0])).tolist() == [[1.0]]


def test_sub_centroids_of_a_sample_that_is_read_block_by_block(rows_of: RowsOf) -> None:
    rows, sample = rows_of(clustered(900, 12, 6)), np.arange(0, 900, 2)
    base, nothing = partition(rows, sample, 9, 0), np.empty(0, np.int64)
    training = TrainingSet(rows, sample, base, np.empty((900, 0), np.int32), nothing, nothing.reshape(0, 1), 4)
    (_, pieces), whole = (
        sub_centroids_of(training, [2, 3]),
        sub_centroids(rows.take(sample), base.home[sample], 9, 4, 3),
    )
    assert (pieces.table == whole.table).all() and (pieces.count == whole.count).all()


def test_sub_centroids_are_the_block_s_rows() -> None:
    draw = np.random.default_rng(5)
    x = draw.normal(size=(400, 6)).astype(np.float32)
    home = draw.choice(5, 400, p=[0.5, 0.3, 0.19, 0.01, 0]).astype(np.int32)
    subs = sub_centroids(x, home, 5, 0)
    assert (subs.table.shape, subs.count.shape) == ((5, SUBS, 6), (5, SUBS))
    for b in range(5):
        mine, live = x[home == b], subs.count[b] > 0
        assert subs.count[b].sum() == len(mine)
        if len(mine):  # the means weighted by counts are the block's mean
            assert np.allclose(subs.count[b] @ subs.table[b] / len(mine), mine.mean(0), atol=1e-4)
        assert live.sum() <= min(SUBS, len(mine))
    again, other = sub_centroids(x, home, 5, 0), sub_centroids(x, home, 5, 1)
    assert (again.table == subs.table).all()
    assert (other.table != subs.table).any()


@pytest.mark.parametrize(("sign", "subs"), [(1, 2), (-1, SUBS)])
def test_fewer_sub_centroids_where_they_cost_less(rows_of: RowsOf, sign: int, subs: int) -> None:
    """As many as are asked for where somebody says how many."""
    rows = rows_of(clustered(600, 33, 2), "cosine")
    sample, none = np.arange(600), np.empty((0, 1), np.int32)
    base = partition(rows, sample, BLOCKS, 0)
    training = TrainingSet(rows, sample, base, np.full((600, 0), -1, np.int32), np.empty(0, np.int64), none, 0)

    def cost(router: RouterSection) -> float:
        return sign * len(router.pack())

    assert lse.fit(training, cost, SILENT).subs == subs
    assert lse.fit(training, cost, SILENT, 4).subs == 4
