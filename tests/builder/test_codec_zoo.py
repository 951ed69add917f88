"""Every codec: what is encoded is what its tables decode to, factors are unbiased, shared nibbles pay."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from small import decode

from build_index.codecs import CODECS, ecvh, lrsq, sign
from build_index.codecs.fitting import draw_rows, fit, random_directions
from build_index.codecs.planes import Codec, Quantizer, encode, encode_blocks, nearest
from build_index.codecs.rabitq import grid
from vantage.format import AXES_MAX

DIMENSION = 24


@cache
def residuals(rows: int, seed: int) -> np.ndarray:
    """f32 (rows, d) of falling strength in directions turned at random."""
    rng = np.random.default_rng([11, seed])
    turn = np.linalg.qr(np.random.default_rng(10).standard_normal((DIMENSION, DIMENSION)))[0]
    out: np.ndarray = (rng.standard_normal((rows, DIMENSION)) * np.exp(-np.arange(DIMENSION) / 8) @ turn).astype(
        np.float32
    )
    return out


@cache
def trained(name: str, code_bytes: int) -> Codec:
    x = residuals(2000, 0).astype(np.float64)
    moment = x.T @ x / len(x)
    return CODECS[name](moment, moment, code_bytes, residuals(2000, 0))


def angles(codec: Codec) -> np.ndarray:
    """Cosine between unseen rows and what their codes decode to."""
    x = residuals(400, 1)
    back = encode(codec, x @ codec.axes.T)[1] @ codec.axes
    out: np.ndarray = (back * x).sum(1) / np.linalg.norm(back, axis=1) / np.linalg.norm(x, axis=1)
    return out


@pytest.mark.parametrize("code_bytes", [2, 3, 5, 12, 20, 40])
@pytest.mark.parametrize("name", CODECS)
def test_codes_decode_to_what_encode_said(name: str, code_bytes: int) -> None:
    codec = trained(name, code_bytes)
    assert codec.name == name and codec.code_bytes == code_bytes
    x = np.concatenate([residuals(100, 1), np.zeros((1, DIMENSION), np.float32)])
    codes, said = encode(codec, x @ codec.axes.T)
    assert codes.shape == (101, code_bytes)
    assert np.allclose(decode(codec.section, codes), said, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CODECS)
def test_longer_codes_are_nearer(name: str) -> None:
    near = [angles(trained(name, code_bytes)).mean() for code_bytes in (3, 12, 20)]
    assert near[0] < near[1] < near[2]
    assert near[2] > (0.9 if name in ("sign", "ecvh") else 0.99)


@pytest.mark.parametrize("code_bytes", [3, 6, 12])
def test_lrsq_is_the_nearest(code_bytes: int) -> None:
    found = {name: angles(trained(name, code_bytes)).mean() for name in CODECS}
    assert max(found, key=found.__getitem__) == "lrsq"


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("code_bytes", [3, 12])
def test_the_factor_is_unbiased_along_the_row(name: str, code_bytes: int) -> None:
    """A row asked for itself has its own square as the score, in what the axes span, more or fewer than dimensions."""
    codec = trained(name, code_bytes)
    x = residuals(300, 2)
    (block,) = encode_blocks(codec, x, [0, 300], np.zeros((1, DIMENSION), np.float32), "dot")
    rotated = x @ codec.axes.T
    f = block.ranges[0] + block.ranges[1] * block.f.astype(float)
    found = f * (decode(codec.section, block.codes) * rotated).sum(1)
    base = np.linalg.svd(codec.axes, full_matrices=False)[2]
    assert np.allclose(found, ((x @ base.T) ** 2).sum(1), rtol=0.03)


def test_sign_takes_directions_of_any_kind() -> None:
    """Trained ones, neither orthonormal nor as many as dimensions; never more than a rotation holds."""
    moment = np.eye(DIMENSION)
    given = np.random.default_rng(3).standard_normal((16, DIMENSION))
    codec = sign.train(moment, moment, 2, given=given)
    assert codec.span is not None and codec.span.shape == (16, DIMENSION)
    assert np.allclose(codec.axes, given, atol=0.004 * np.abs(given).max())  # as they are stored
    assert sign.train(moment, moment, 3).span is None
    wide = sign.train(moment, moment, 40)
    assert wide.axes.shape == (320, DIMENSION) and wide.span is not None and len(wide.span) == DIMENSION
    assert len(sign.train(np.eye(2), np.eye(2), AXES_MAX // 8 + 1).axes) == AXES_MAX


def test_random_directions_are_orthonormal_in_each_base() -> None:
    found = random_directions(60, DIMENSION, 0)
    for low in (0, 24, 48):
        part = found[low : low + 24]
        assert np.allclose(part @ part.T, np.eye(len(part)))
    assert not np.allclose(found[:24], found[24:48])


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_grid_is_uniform_and_linear_in_its_bits(bits: int) -> None:
    lost, parts = grid(bits)
    values = sum(np.meshgrid(*(part[:, 0] for part in parts), indexing="ij")).ravel()
    steps = np.diff(values)
    assert len(values) == 1 << bits and np.allclose(steps, steps[0]) and np.allclose(values, -values[::-1])
    # Max 1960, table II: the best uniform quantizers of a Gaussian.
    best = [0.3634, 0.1188, 0.03744, 0.01154, 0.003495, 0.001041, 0.0003035, 0.00008714][bits - 1]
    assert lost == pytest.approx(best, rel=0.02)


def test_points_in_common_beat_levels_of_each_axis() -> None:
    """Of Gaussians at 2 bits an axis: Lloyd and Max 0.1175, four tables for eight axes near 0.10."""
    rng = np.random.default_rng(4)
    x, unseen = (rng.standard_normal((n, 8)).astype(np.float32) for n in (4000, 2000))
    left, parts = x, []
    for i in range(4):
        one = fit(Quantizer(tuple(range(8)), (draw_rows(left, 16, i),)), left)
        parts += one.parts
        left = left - one.decoded(nearest(one, left))
    found = fit(Quantizer(tuple(range(8)), tuple(parts)), x)
    error = float(((unseen - found.decoded(nearest(found, unseen))) ** 2).mean())
    assert error < 0.105 < lrsq.levels(2).distortion


def test_groups_share_the_nibbles_fairly() -> None:
    deviation = np.exp(-np.arange(60) / 15)
    groups = lrsq._groups(deviation, np.arange(60), 22)
    assert sorted(size for _, size in groups) == [3, 3, 4, 4, 4, 4]
    taken = np.concatenate([on for on, _ in groups])
    assert len(set(taken.tolist())) == len(taken) and set(range(20)) <= set(taken.tolist())
    want = lrsq._rates(deviation[np.sort(taken)] ** 3, 88)
    assert want.sum() == pytest.approx(88) and want.min() >= lrsq.RATE_MIN
    for on, size in groups:
        assert want[on].sum() == pytest.approx(4 * size, abs=1)
    assert lrsq._groups(deviation, np.arange(60), 0) == []


def test_rows_alike_train_and_encode() -> None:
    """Residuals of nothing: every codec stays finite."""
    for name, train in CODECS.items():
        codec = train(np.zeros((4, 4)), np.eye(4), 3, np.zeros((5, 4), np.float32))
        (block,) = encode_blocks(codec, np.zeros((5, 4), np.float32), [0, 5], np.zeros((1, 4), np.float32), "l2")
        assert np.isfinite(block.ranges).all(), name


def test_trained_directions_lose_less_of_the_scores() -> None:
    """With fewer directions than dimensions, where random ones miss most of what queries ask for."""
    x = residuals(3000, 5)
    moment = (x.T @ x / len(x)).astype(np.float64)

    def lost(codec: Codec) -> float:
        decoded = encode(codec, x @ codec.axes.T)[1] @ codec.axes
        kept = x if codec.span is None else x @ codec.span.T
        f = np.einsum("ij,ij->i", kept, kept) / np.einsum("ij,ij->i", x, decoded)
        error = x - f[:, None] * decoded
        return float(np.einsum("ij,jk,ik->", error, moment, error))

    assert lost(ecvh.train(moment, moment, 1, x)) < 0.8 * lost(sign.train(moment, moment, 1))
