"""Preparation of a query: scales, quantization, and everything that it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vantage.errors import InputError, LimitError
from vantage.format import IndexSection, aligned
from vantage.search.prepare import I16_NORM, SCORE_BITS, prepare


def section(metric: str, dimension: int, row_scale: float = 1.0) -> IndexSection:
    return IndexSection(metric, dimension, 100, 4, "i64", "f32", "lrsq", "lse", row_scale, 100)


def values(dimension: int, norm: float, seed: int = 0) -> list[float]:
    x = np.random.default_rng(seed).normal(size=dimension)
    return (x * (norm / np.linalg.norm(x))).tolist()


@pytest.mark.parametrize("dimension", [1, 3, 32, 97, 384, 1536])
@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
@pytest.mark.parametrize("norm", [1e-3, 1.0, 77.0])
def test_scales(dimension: int, metric: str, norm: float) -> None:
    scale = 0.5 if metric != "cosine" else 1.0
    sent = values(dimension, norm)
    q = prepare(sent, section(metric, dimension, scale))
    source = np.array(sent, np.float32)
    assert np.array_equal(q.source, source)
    length = np.linalg.norm(source.astype(np.float64))
    wanted = source * scale if metric == "l2" else source / length
    assert np.allclose(q.vector, wanted, rtol=1e-6)
    assert q.norm == pytest.approx({"cosine": 1.0, "dot": length, "l2": length * scale}[metric])
    assert len(q.i16) == aligned(dimension, 32)
    assert not any(q.i16[dimension:])
    quantized = np.array(q.i16[:dimension], np.float64)
    assert np.allclose(quantized * q.i16_scale, q.vector, atol=0.51 * q.i16_scale)
    assert np.linalg.norm(quantized) <= I16_NORM + math.sqrt(dimension)


@pytest.mark.parametrize("metric", ["l2", "dot"])
def test_a_zero_query_has_an_answer_but_under_cosine(metric: str) -> None:
    q = prepare([0.0] * 5, section(metric, 5))
    assert (list(q.vector), q.norm, not any(q.i16)) == ([0.0] * 5, 0.0, True)
    with pytest.raises(InputError, match="vector is zero; cosine has no answer") as caught:
        prepare([0.0] * 5, section("cosine", 5))
    assert caught.value.param == "vector"


@pytest.mark.parametrize("length", [0, 1, 7, 9, 1000])
def test_a_wrong_length_names_both(length: int) -> None:
    with pytest.raises(LimitError) as caught:
        prepare([1.0] * length, section("cosine", 8))
    assert (caught.value.value, caught.value.limit, caught.value.param) == (length, 8, "vector")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e39, -1e300])
@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
def test_numbers_that_are_not_finite_are_named(bad: float, metric: str) -> None:
    with pytest.raises(InputError, match=r"vector\[2\] is not finite as float32"):
        prepare([1.0, 2.0, bad, bad], section(metric, 4))


@pytest.mark.parametrize("bad", ["1", None, [1.0], {}, 10**400, b"1"])
def test_what_is_no_number_is_refused(bad: Any) -> None:
    with pytest.raises(InputError, match="vector holds something that is not a float32 number"):
        prepare([1.0, bad], section("l2", 2))


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
@pytest.mark.parametrize("size", [1e19, 3e38])
def test_a_norm_whose_square_is_no_float32_is_refused(metric: str, size: float) -> None:
    """Else a score would be infinite, which JSON cannot say."""
    with pytest.raises(LimitError, match="the norm of vector") as caught:
        prepare([size] * 3, section(metric, 3))
    assert caught.value.param == "vector"


def test_the_scaled_norm_counts_too() -> None:
    with pytest.raises(LimitError, match="the norm of vector"):
        prepare([1e10] * 3, section("l2", 3, row_scale=1e12))


@pytest.mark.parametrize("size", [1e-44, 1e-30, 1e-10, 1e10, 1e17])
def test_cosine_does_not_depend_on_the_length(size: float) -> None:
    usual, q = prepare([3.0, 4.0], section("cosine", 2)), prepare([3 * size, 4 * size], section("cosine", 2))
    assert np.allclose(q.vector, usual.vector, rtol=0.1 if size < 1e-40 else 1e-6)


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_the_unit_is_full_for_usual_queries(metric: str) -> None:
    assert prepare(values(16, 7.9), section(metric, 16)).unit == 2.0**SCORE_BITS


@given(st.floats(1e-3, 1e17), st.integers(1, 64), st.integers(0, 5))
def test_far_away_queries_scale(norm: float, dimension: int, seed: int) -> None:
    """An integer score stays below 2^30: under dot for rows of up to 32 times the mean norm, under l2 for any; the unit
    is a power of two, and no smaller than it must be.
    """
    q = prepare(values(dimension, norm, seed), section("l2", dimension))
    assert q.norm**2 / 2 * q.unit < 1 << 30
    assert math.frexp(q.unit)[0] == 0.5
    assert q.unit >= min(2.0**SCORE_BITS, 2.0**SCORE_BITS * 64 / q.norm**2)
