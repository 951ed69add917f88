"""butterfly_plan, butterfly_turn: the reference's bits, a rotation in float32, and refusal of what is no pair."""

import make
import numpy as np
import pytest
import reference

import kern

F32 = np.float32


def planned(partners: np.ndarray, tangents: np.ndarray, dim: int) -> bytearray:
    layers = len(partners)
    plan = bytearray(4 * dim + 12 * layers * (dim // 2))
    assert kern.butterfly_plan(partners, tangents, layers, dim, plan) == layers * (dim // 2)
    return plan


def turned(vector: np.ndarray, plan: bytearray, layers: int, axes: np.ndarray) -> np.ndarray:
    out = np.zeros(len(axes), F32)
    assert kern.butterfly_turn(vector, plan, layers, len(vector), axes, len(axes), out) == len(axes)
    return out


@pytest.mark.parametrize(("dim", "layers"), [(1, 1), (2, 1), (3, 5), (16, 4), (97, 12), (384, 18)])
def test_bits_of_the_reference(dim, layers):
    rng = np.random.default_rng(dim)
    partners, tangents = make.butterfly(rng, dim, layers)
    plan = planned(partners, tangents, dim)
    vector = rng.standard_normal(dim).astype(F32)
    want = reference.butterfly_turn(vector, partners, tangents)
    axes = rng.permutation(dim).astype(np.uint16)
    assert (turned(vector, plan, layers, axes).view(np.uint32) == want[axes].view(np.uint32)).all()
    assert (turned(vector, plan, layers, axes[:1]) == want[axes[:1]]).all()


@pytest.mark.parametrize(("dim", "layers"), [(97, 20), (128, 200), (384, 40), (1536, 77)])
def test_the_turn_is_orthogonal(dim, layers):
    """The largest entry of R R' - I, R as it is applied in float32, for as many layers as are used and more."""
    partners, tangents = make.butterfly(np.random.default_rng(layers), dim, layers)
    plan, axes = planned(partners, tangents, dim), np.arange(dim, dtype=np.uint16)
    some = np.eye(dim, dtype=F32)[:: max(1, dim // 97)]
    columns = np.stack([turned(e, plan, layers, axes) for e in some]).astype(np.float64)
    assert np.abs(columns @ columns.T - np.eye(len(some))).max() < 1e-5


@pytest.mark.parametrize(
    ("partners", "tangents", "dim"),
    [
        ([[1, 1]], [[0, 0]], 4),  # 2 has a partner below it
        ([[1, 4]], [[0, 0]], 4),  # outside
        ([[2, 2]], [[0, 0]], 4),  # 2 is taken
        ([[0, 2]], [[0, 0]], 4),  # an even dim leaves none alone
        ([[1, 2]], [[0, 5]], 3),  # the one that stays is not turned
        ([[0, 1]], [[0, 0]], 3),  # two stay
        ([[1, 3]], [[0, 16385]], 4),
        ([[1, 3]], [[-16385, 0]], 4),
    ],
)
def test_what_is_no_pair_is_refused(partners, tangents, dim):
    with pytest.raises(ValueError, match="butterfly_plan: layer 0 turns"):
        planned(np.array(partners, np.uint16), np.array(tangents, np.int16), dim)


def test_what_is_outside_is_refused():
    partners, tangents = make.butterfly(np.random.default_rng(0), 16, 2)
    plan, vector = planned(partners, tangents, 16), np.ones(16, F32)
    with pytest.raises(ValueError, match="axis 16 of 16 dims"):
        turned(vector, plan, 2, np.array([3, 16], np.uint16))
    with pytest.raises(ValueError, match="plan is not of 16 dims"):
        turned(vector, bytearray(b"\xff" * len(plan)), 2, np.arange(3, dtype=np.uint16))
    with pytest.raises(ValueError, match="plan has"):
        turned(vector, plan[:-1], 2, np.arange(3, dtype=np.uint16))
