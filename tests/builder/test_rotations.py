"""Rotations: what is stored is what the builder codes along, orthonormal, and compacts as far as each can."""

from __future__ import annotations

from array import array

import numpy as np
import pytest

from build_index.codecs import lrsq
from build_index.codecs.rotations import ROTATIONS, bor, butterfly, default, hadamard
from build_index.codecs.rotations.basis import F64
from build_index.codecs.rotations.butterfly import Layers
from vantage.format import TANGENT_ONE, ButterflyRotation
from vantage.search.rotate import rotated


def moment(dimension: int) -> F64:
    """(d, d): variances that fall with their rank, along axes turned at random."""
    turn = np.linalg.qr(np.random.default_rng(dimension).standard_normal((dimension, dimension)))[0]
    return (turn / np.arange(2, dimension + 2)) @ turn.T


@pytest.mark.parametrize("dimension", [1, 2, 3, 24, 97])
@pytest.mark.parametrize("name", ROTATIONS)
def test_the_edge_turns_as_the_builder_codes(name: str, dimension: int) -> None:
    basis = ROTATIONS[name](moment(dimension), 0)
    assert np.abs(basis.axes @ basis.axes.T - np.eye(dimension)).max() < (2e-3 if name in ("pca", "dense") else 1e-12)
    assert (np.diff(basis.deviation) <= 1e-12).all()
    kept = np.arange(dimension)[:: 2 if dimension > 2 else 1]
    vector = np.random.default_rng(1).standard_normal(dimension).astype(np.float32)
    found = np.asarray(rotated(basis.stored(kept), array("f", vector.tolist())))
    assert np.allclose(found, basis.axes[kept] @ vector, atol=1e-5)


def logs(name: str, of: F64) -> float:
    """Sum of the logarithms of the variances along the axes: the less, the more compact."""
    return float(np.log(ROTATIONS[name](of, 0).deviation ** 2).sum())


def test_bor_compacts_between_hadamard_and_pca() -> None:
    of = moment(256)
    low, high = logs("pca", of), logs("hadamard", of)
    assert low < logs("bor", of) < high - 0.3 * (high - low)


def test_enough_layers_are_the_principal_axes() -> None:
    of = moment(24)
    layers = bor.compact(of, 150)
    left = layers.turned(layers.turned(of).T)
    assert np.abs(left - np.diag(np.diag(left))).max() < 1e-3 * of.max()
    assert np.allclose(np.sort(np.diag(left)), np.linalg.eigvalsh(of), rtol=1e-2)


def test_bor_costs_a_twentieth() -> None:
    for dimension in (384, 768, 1536):
        rows = bor.count_of(dimension)
        layers = Layers(*np.zeros((2, rows, dimension // 2), np.int64))
        assert 4 * layers.tangents.size + 2 * dimension + 16 <= 0.0501 * 2 * dimension**2  # bytes
        assert 2 * layers.tangents.size + dimension <= 0.0501 * dimension**2  # multiplications


@pytest.mark.parametrize("dimension", [16, 48])
def test_hadamard_spreads_every_coordinate(dimension: int) -> None:
    axes = hadamard.layers(dimension, 3).turned(np.eye(dimension))
    if dimension == 16:
        assert np.allclose(np.abs(axes), 0.25)
    assert np.abs(axes).max() < 0.5


def test_pairs_are_the_strongest_first() -> None:
    strength = np.zeros((6, 6), np.float32)
    for i, j, s in ((0, 3, 9), (3, 5, 8), (1, 5, 7), (2, 4, 1), (0, 1, 6)):
        strength[i, j] = strength[j, i] = s
    assert sorted(map(tuple, np.sort(bor.match_pairs(strength), 1).tolist())) == [(0, 3), (1, 5), (2, 4)]


def one_at_a_time(strength: F64) -> list[tuple[int, int]]:
    """The strongest pair of those left, until none has any strength."""
    left, found = strength.copy(), []
    np.fill_diagonal(left, 0)
    while left.max(initial=0) > 0:
        i, j = np.unravel_index(left.argmax(), left.shape)
        found.append((int(min(i, j)), int(max(i, j))))
        left[[i, j]] = left[:, [i, j]] = 0
    return sorted(found)


@pytest.mark.parametrize("dimension", [1, 2, 9, 40])
@pytest.mark.parametrize("dead", [0, 1, 2])
def test_pairs_are_those_of_taking_one_at_a_time(dimension: int, dead: int) -> None:
    """Coordinates without strength, as constant dimensions are, are in no pair."""
    strength = np.random.default_rng([dimension, dead]).random((dimension, dimension))
    strength += strength.T
    strength[: dead * dimension // 3] = strength[:, : dead * dimension // 3] = 0
    wanted = one_at_a_time(strength)
    assert sorted(map(tuple, np.sort(bor.match_pairs(strength), 1).tolist())) == wanted


@pytest.mark.parametrize("numbers", [1, 40, 1 << 17])
def test_a_layer_turned_in_pieces_is_the_layer(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few numbers are turned at a time; the matrix of a layer is written out."""
    monkeypatch.setattr(butterfly, "STEP_NUMBERS", numbers)
    d, of = 9, moment(9)
    layers = bor.compact(of, 3)
    left = np.eye(d)
    for pairs, tangents in zip(layers.pairs, layers.tangents / TANGENT_ONE, strict=True):
        one = np.eye(d)
        for (i, j), t in zip(pairs, tangents, strict=True):
            one[[i, i, j, j], [i, j, i, j]] = np.array([1, t, -t, 1]) / np.sqrt(1 + t * t)
        left = one @ left
        turn = butterfly.Turn.of(pairs, tangents, d, np.float64)
        assert np.allclose(butterfly.turn_twice(of, turn), one @ of @ one.T, atol=1e-14)
    assert np.allclose(layers.turned(np.eye(d)), left, atol=1e-14)


def test_a_codec_keeps_the_axes_that_have_bits() -> None:
    of = moment(96)
    codec = lrsq.train(of, of, 12, None, bor.fit(of, 0))
    assert isinstance(codec.rotation, ButterflyRotation)
    assert codec.rotation.axes == len(codec.axes) == len(codec.deviation) < 96
    vector = np.random.default_rng(2).standard_normal(96).astype(np.float32)
    assert np.allclose(rotated(codec.rotation, array("f", vector.tolist())), codec.axes @ vector, atol=1e-5)


def test_the_default_is_dense_where_its_matrix_is_small() -> None:
    assert [default("lrsq", d) for d in (96, 1536, 2048, 2049, 4096)] == ["pca", "pca", "pca", "bor", "bor"]
    assert default("sign", 4096) is None
