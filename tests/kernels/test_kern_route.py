"""block_probabilities and plan_ranges against their references."""

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import kern

F32 = np.float32


def probabilities(dots, scales, weights, alpha, temperature):
    out = np.zeros(len(dots), np.uint32)
    scratch = np.zeros(dots.size, F32)
    assert kern.block_probabilities(dots, scales, weights, dots.shape[1], alpha, temperature, out, scratch) == len(dots)
    return out


@pytest.mark.parametrize("blocks", [1, 3, 97, 384])
@pytest.mark.parametrize("subs", [1, 2, 5, 8])
@pytest.mark.parametrize("size", [1.0, 100.0, 1e6])
def test_block_probabilities(blocks, subs, size):
    rng = np.random.default_rng(blocks * subs)
    dots = rng.integers(-(2**31), 2**31, (blocks, subs)).astype(np.int32)
    scales = (rng.random((blocks, subs)) * size / 2**31).astype(F32)
    weights = rng.standard_normal((blocks, subs)).astype(F32)
    weights[rng.random(weights.shape) < 0.2] = -np.inf
    weights[0, 0] = 0
    got = probabilities(dots, scales, weights, 0.7, 1.3)
    with np.errstate(invalid="ignore"):
        assert (got == reference.block_probabilities(dots, scales, weights, 0.7, 1.3)).all()
        logits, scratch = np.zeros(blocks, F32), np.zeros(dots.size, F32)
        assert kern.block_logits(dots, scales, weights, subs, 0.7, logits, scratch) == blocks
        assert (logits == reference.block_logits(dots, scales, weights, 0.7)).all()
    # and against the definition, in f64
    logit = weights + 0.7 * scales.astype(float) * dots
    peak = logit.max(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = np.where(np.isneginf(peak), -np.inf, peak + np.log(np.exp(logit - peak[:, None]).sum(1)))
    e = np.exp(1.3 * (inner - inner.max()))
    assert np.abs(got - e / e.sum() * 2**20).max() <= 0.51 + 1e-6 * size * 2**20


def test_exp_and_log_are_right():
    x = np.linspace(-86.9, 0, 100_000).astype(F32)
    assert (np.abs(reference.exp(x) - np.exp(x.astype(float))) <= np.spacing(np.exp(x))).all()
    x = np.linspace(1, 70_000, 100_000).astype(F32)
    assert (np.abs(reference.log(x) - np.log(x.astype(float))) <= np.spacing(np.log(x))).all()
    assert reference.exp(np.array([-np.inf, -1000, -87.1, 0], F32)).tolist() == [0, 0, 0, 1]
    assert reference.log(np.array([0, 1], F32)).tolist() == [-np.inf, 0]


def test_block_probabilities_extremes():
    one = np.ones((3, 1), np.int32), np.ones((3, 1), F32)
    assert probabilities(*one, np.array([[0], [-1000], [-np.inf]], F32), 1, 1).tolist() == [2**20, 0, 0]
    assert probabilities(*one, np.zeros((3, 1), F32), 1, 1).tolist() == [349525] * 3
    for weights, alpha, temperature, message in (
        ([-np.inf] * 3, 1, 1, "no block has a finite probability"),
        ([0, np.nan, 0], 1, 1, "block 1, sub-centroid 0 is not finite"),
        ([0, 0, np.inf], 1, 1, "block 2, sub-centroid 0 is not finite"),
        ([0, 3e38, 0], 3e38, 1, "block 1, sub-centroid 0 is not finite"),
        ([3e38, 0, 0], 1, 10, "no block has a finite probability"),
        ([0, 0, 0], 1, 0, "temperature is not above 0"),
        ([0, 0, 0], float("nan"), 1, "alpha is not a finite float32"),
    ):
        with pytest.raises(ValueError, match=message):
            probabilities(*one, np.array(weights, F32)[:, None], alpha, temperature)


def plan(p, nbytes, flags, price, ranges_max):
    out = np.zeros((ranges_max, 2), np.uint32)
    scratch = np.full(len(p) * (ranges_max + 1), 255, np.uint8)
    count = kern.plan_ranges(np.array(p, np.uint32), np.array(nbytes, np.uint32), np.array(flags, np.uint8), price,
                             ranges_max, out, scratch)  # fmt: skip
    return [(int(a), int(b)) for a, b in out[:count]]


block = st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from([0, 0, 0, 1, 2, 3]))


@settings(max_examples=150, deadline=None)
@given(st.lists(block, min_size=1, max_size=9), st.integers(0, 2), st.integers(1, 4))
def test_plan_ranges(blocks, price, ranges_max):
    p, nbytes, flags = (list(column) for column in zip(*blocks, strict=True))
    values = reference.plan_value(p, nbytes, flags, price << 24)
    assert plan(p, nbytes, flags, price << 24, ranges_max) == reference.plan_ranges(values, flags, ranges_max)


def test_plan_ranges_extremes():
    assert plan([1], [1], [0], 2**32 - 1, 1) == []
    assert plan([5] * 1000, [1] * 1000, [0] * 1000, 1, 64) == [(0, 1000)]
    assert plan([5] * 4, [0] * 4, [0, 0, 1, 0], 1, 64) == [(0, 2), (2, 4)]
    assert plan([5] * 6, [0] * 6, [1] * 6, 1, 64) == [(i, i + 1) for i in range(6)]
    assert plan([7, 0, 7, 0, 7], [0, 1, 0, 1, 0], [0] * 5, 2**24, 2) == [(0, 3), (4, 5)]  # of equals, ends early
    assert plan([2**31], [2**31], [2], 1, 1) == []
    for p, nbytes, price in (([2**32 - 1] * 20, [0] * 20, 1), ([0] * 2, [2**32 - 1] * 2, 2**32 - 1)):
        with pytest.raises(ValueError, match="reaches 2\\^60"):
            plan(p, nbytes, [0] * len(p), price, 1)
