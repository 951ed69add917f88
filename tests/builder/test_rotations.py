"""Rotations: what is stored is what the builder codes along, orthonormal, and compacts as far as each can."""

from __future__ import annotations

from array import array

import numpy as np
import pytest

from build_index.codecs import lrsq, rotations
from build_index.codecs.error_norms import decode
from build_index.codecs.planes import encode_blocks
from build_index.codecs.rotations import ROTATIONS, bor, butterfly, fit, hadamard, name_of
from build_index.codecs.rotations.basis import F64, nibbles
from build_index.codecs.rotations.butterfly import Layers
from vantage.format import TANGENT_ONE, ButterflyRotation, DenseRotation, NibbleRotation, Rotation
from vantage.search.rotate import rotated


def moment(dimension: int) -> F64:
    """(d, d): variances that fall with their rank, along axes turned at random."""
    turn = np.linalg.qr(np.random.default_rng(dimension).standard_normal((dimension, dimension)))[0]
    return (turn / np.arange(2, dimension + 2)) @ turn.T


@pytest.mark.parametrize("dimension", [1, 2, 3, 24, 97])
@pytest.mark.parametrize("name", ROTATIONS)
def test_the_edge_turns_as_the_builder_codes(name: str, dimension: int) -> None:
    basis = ROTATIONS[name](moment(dimension), 0)
    assert np.abs(basis.axes @ basis.axes.T - np.eye(dimension)).max() < (2e-2 if name in ("pca", "dense") else 1e-12)
    assert np.allclose(np.linalg.norm(basis.axes, axis=1), 1, atol=1e-6)
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


def test_bor_costs_a_fifth_of_the_bytes_and_a_tenth_of_the_multiplications() -> None:
    for dimension in (384, 768, 1536):
        rows = bor.count_of(dimension)
        layers = Layers(*np.zeros((2, rows, dimension // 2), np.int64))
        assert 4 * layers.tangents.size + 2 * dimension + 16 <= 0.2 * dimension**2
        assert 2 * layers.tangents.size + dimension <= 0.1 * dimension**2


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


def decaying(dimension: int, rank: int) -> F64:
    """(d, d): variances of embeddings along `rank` axes turned at random, and none along others."""
    turn = np.linalg.qr(np.random.default_rng(rank).standard_normal((dimension, dimension)))[0][:, :rank]
    return (turn / np.arange(2, rank + 2)) @ turn.T


def noise(dimension: int, rows: int) -> F64:
    """(d, d): the moment of so many rows that have no direction."""
    x = np.random.default_rng(3).standard_normal((rows, dimension))
    return x.T @ x / rows


def test_the_default_is_dense_where_that_pays_for_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    def stored(of: F64) -> Rotation:
        basis = fit(None, of, 0)
        return basis.stored(np.arange(basis.live))

    assert isinstance(stored(moment(16)), DenseRotation)
    assert isinstance(stored(decaying(300, 300)), DenseRotation)
    flat = stored(noise(300, 12_000))  # nothing is saved along any axes, so they take nothing
    assert isinstance(flat, ButterflyRotation) and flat.layers == 1
    monkeypatch.setattr(rotations, "BYTES_MAX", 300 * 100)
    half = stored(decaying(300, 300))
    assert isinstance(half, NibbleRotation) and len(half.pack()) < 300 * 300 / 2 + 5 * 300
    monkeypatch.setattr(rotations, "NIBBLES_MAX", 300 * 100)
    many = stored(decaying(300, 300))
    assert isinstance(many, ButterflyRotation) and many.layers == bor.count_of(300)
    few = stored(decaying(300, 40))
    assert isinstance(few, DenseRotation) and few.axes == 40
    monkeypatch.setattr(rotations, "DIMENSION_MAX", 299)
    assert isinstance(stored(decaying(300, 40)), ButterflyRotation)


@pytest.mark.parametrize("dimension", [2, 3, 24, 97])
def test_the_edge_turns_by_nibbles_as_the_builder_codes(dimension: int) -> None:
    basis = nibbles(ROTATIONS["pca"](moment(dimension), 0), moment(dimension))
    assert np.allclose(np.linalg.norm(basis.axes, axis=1), 1, atol=1e-6) and (np.diff(basis.deviation) <= 1e-12).all()
    kept = np.arange(basis.live)[::2]
    stored, vector = basis.stored(kept), np.random.default_rng(1).standard_normal(dimension).astype(np.float32)
    assert np.allclose(butterfly.axes_of(stored), basis.axes[kept], atol=1e-7)
    assert np.allclose(rotated(stored, array("f", vector.tolist())), basis.axes[kept] @ vector, atol=1e-5)


def test_nibbles_compact_nearly_as_far() -> None:
    """Coordinates along them, which are not products with them."""
    of = moment(128)
    plain = ROTATIONS["pca"](of, 0)
    each = (of.diagonal() ** 0.5, nibbles(plain, of).deviation, plain.deviation)
    none, half, whole = (float(np.log2(deviation).mean()) for deviation in each)
    assert whole < half < whole + 0.08 * (none - whole)


def test_a_default_has_the_name_of_what_was_taken() -> None:
    dense, butterfly = (ROTATIONS[name](moment(8), 0).stored(np.arange(8)) for name in ("pca", "bor"))
    assert (name_of("lrsq", dense), name_of("lrsq", butterfly), name_of("sign", dense)) == ("pca", "bor", None)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dimension", [1, 3, 40])
def test_rounded_axes_lose_nothing_of_a_row(dimension: int, bits: int) -> None:
    """Coordinates are those that the stored axes add up to the row by, though these are not quite orthogonal."""
    of = moment(dimension)
    basis = ROTATIONS["pca"](of, 0)
    codec = lrsq.train(of, of, dimension, None, basis if bits == 8 else nibbles(basis, of))
    x = np.random.default_rng(4).multivariate_normal(np.zeros(dimension), of, 500).astype(np.float32)
    products = x @ codec.axes.T
    coordinates = products if codec.inverse is None else products @ codec.inverse
    assert np.allclose(coordinates @ codec.axes, x, atol=1e-5)
    if dimension > 1:
        assert np.abs(products @ codec.axes - x).max() > 1e-3
    whole = encode_blocks(codec, x, [0, 500], np.zeros((1, dimension), np.float32), "dot")[0]
    f, _ = whole.factors()
    decoded = f[:, None] * (decode(codec.section, whole.codes) @ codec.axes)
    assert ((decoded - x) ** 2).sum() < 2e-4 * (x**2).sum()  # at 8 bits an axis
