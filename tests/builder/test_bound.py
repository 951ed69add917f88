"""The Hamming-angle bound: against the binomial, on drawn directions, and calibrated on pairs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from build_index.hashing.bound import calibrated_limit, random_limit
from vantage.errors import InputError


@pytest.mark.parametrize(("bits", "delta"), [(1, 0.05), (23, 0.01), (64, 0.001), (256, 0.05)])
def test_the_limit_is_where_the_binomial_tail_is_delta(bits: int, delta: float) -> None:
    limit = random_limit(bits, delta)
    assert (np.diff(limit) > 0).all()
    assert limit[-1] == np.pi
    h = np.arange(bits)
    assert binom.cdf(h, bits, limit[:-1] / np.pi) == pytest.approx(np.full(bits, delta))


def test_random_directions_keep_to_it_at_every_angle() -> None:
    """Violations over the draw of directions, by the binomial itself: no angle has more than delta of them."""
    limit = random_limit(23, 0.01)
    for angle in np.linspace(0.01, np.pi, 60):
        assert binom.pmf(np.flatnonzero(limit < angle), 23, angle / np.pi).sum() <= 0.01 + 1e-12


def test_drawn_directions_differ_as_the_binomial_says() -> None:
    draw = np.random.default_rng(0)
    x, angle = draw.normal(size=(4000, 2, 8)), np.empty(4000)
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    angle = np.arccos(np.clip((x[:, 0] * x[:, 1]).sum(1), -1, 1))
    directions = draw.normal(size=(4000, 23, 8))
    bit = np.einsum("pmd,ped->pem", directions, x) > 0
    differing = (bit[:, 0] != bit[:, 1]).sum(1)
    assert (angle > random_limit(23, 0.05)[differing]).mean() < 0.05
    assert (angle > 0.7 * random_limit(23, 0.05)[differing]).mean() > 0.05


def test_a_calibrated_limit_holds_on_further_pairs_and_is_tighter() -> None:
    draw = np.random.default_rng(1)
    angle = draw.uniform(0, 1.5, 40_000)
    differing = draw.binomial(23, angle / np.pi)
    limit = calibrated_limit(differing[::2], angle[::2], 23, 0.02)
    assert (np.diff(limit) >= 0).all()
    assert 0.01 < (angle[1::2] > limit[differing[1::2]]).mean() <= 0.02
    assert limit[10] < random_limit(23, 0.02)[10]


def test_few_pairs_bound_nothing_and_bad_input_is_named() -> None:
    assert (calibrated_limit(np.array([3]), np.array([0.2]), 23, 0.01) == np.pi).all()
    for call in (lambda: random_limit(0, 0.1), lambda: random_limit(8, 1.0)):
        with pytest.raises(InputError, match="a bound of"):
            call()
    with pytest.raises(InputError, match="for 1 angles"):
        calibrated_limit(np.array([3, 4]), np.array([0.2]), 23, 0.01)
