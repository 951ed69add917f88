"""Intervals of scores: as the reference, on every error and at the ends of the scale."""

import numpy as np
import pytest
import reference

import kern


@pytest.mark.parametrize("weight", [0.0, 0.3, 17.25, 1e6, 2e9])
@pytest.mark.parametrize("slack", [0.0, 0.5, 12345.678, 2.0**30])
def test_as_the_reference(weight: float, slack: float) -> None:
    rng = np.random.default_rng(7)
    ends = np.array([0, 1, -1, 2**30, -(2**30), 2**30 - 1, 1 - 2**30, 2**31 - 1, -(2**31)], np.int32)
    scores = np.concatenate([ends, rng.integers(-(2**24), 2**24, 300).astype(np.int32)])
    norms = rng.integers(0, 256, len(scores)).astype(np.uint8)
    lower, upper = np.empty_like(scores), np.empty_like(scores)
    assert kern.score_bounds(scores, norms, len(scores), weight, slack, lower, upper) == len(scores)
    want = reference.score_bounds(scores, norms, weight, slack)
    assert (lower == want[0]).all() and (upper == want[1]).all()
    assert (lower < scores)[scores > -(2**31)].all() and (upper > scores)[scores < 2**31 - 1].all()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((bytes(8), bytes(2), 3, 1, 1, bytearray(12), bytearray(12)), "scores has 8 bytes, needs 12"),
        ((bytes(8), bytes(1), 2, 1, 1, bytearray(8), bytearray(8)), "norms has 1 bytes, needs 2"),
        ((bytes(8), bytes(2), 2, -1, 1, bytearray(8), bytearray(8)), "must not be negative"),
        ((bytes(8), bytes(2), 2, 1, -1, bytearray(8), bytearray(8)), "must not be negative"),
        ((bytes(8), bytes(2), 2, 1, 1, bytearray(7), bytearray(8)), "lower has 7 bytes, needs 8"),
        ((bytes(8), bytes(2), 2, 1, 1, bytearray(8), bytearray(7)), "upper has 7 bytes, needs 8"),
    ],
)
def test_refused(args: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=f"score_bounds: .*{message}"):
        kern.score_bounds(*args)
