"""Rows that lie in a subspace, or hardly differ: they build without a warning, keep the recall and cost less."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import cycle
from unittest.mock import patch

import numpy as np
import pytest
from small import RowsOf, clustered

from build_index.codecs import CODECS, ecvh, lrsq
from build_index.codecs.planes import encode
from build_index.codecs.rotations import ROTATIONS, pca
from build_index.codecs.rotations.basis import F64
from build_index.tune.choose import Choice, choose
from build_index.tune.contract import target_point
from build_index.tune.options import Options

METRICS = ("cosine", "l2", "dot")
ROWS = 420


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, 22])


def image(rank: int, dimension: int, rows: int = ROWS) -> np.ndarray:
    """f32 (rows, dimension): a linear image of `rank` numbers a row."""
    return (clustered(rows, rank, 1) @ draw().standard_normal((rank, dimension))).astype(np.float32)


def constant(value: float) -> np.ndarray:
    x = clustered(ROWS, 40, 1)
    x[:, 5:25] = value
    return x


SHAPES = {
    "a plane": lambda: image(2, 32),
    "a line": lambda: image(1, 24),
    "a tenth of the dimensions": lambda: image(16, 160),
    "fewer rows than dimensions": lambda: clustered(210, 230, 1),
    "fewer rows than dimensions, in a subspace": lambda: image(9, 230, 210),
    "constant dimensions": lambda: constant(0.5),
    "dimensions of zeros": lambda: constant(0.0),
    "repeated dimensions": lambda: np.repeat(clustered(ROWS, 12, 1), 4, axis=1),
    "dependent dimensions": lambda: np.concatenate([(x := clustered(ROWS, 20, 1)), x[:, :9] - 2 * x[:, 9:18]], 1),
    "one row": lambda: np.repeat(clustered(2, 16, 1)[:1], 300, axis=0),
    "two rows": lambda: clustered(2, 16, 1)[draw().integers(2, size=ROWS)],
    "a row and its opposite": lambda: clustered(2, 16, 1)[:1] * draw().choice([-1, 1], (ROWS, 1)).astype(np.float32),
    "one row, and a few others": lambda: np.concatenate([np.repeat(np.ones((1, 16)), ROWS, 0), clustered(12, 16, 1)]),
}


def chosen(rows_of: RowsOf, x: np.ndarray, metric: str) -> Choice:
    rows = rows_of(np.ascontiguousarray(x, np.float32), metric, None)
    return choose(rows, 8.0, Options(fast=True))


@pytest.mark.parametrize(("shape", "metric"), list(zip(SHAPES, cycle(METRICS), strict=False)))
def test_each_shape_builds_and_keeps_its_recall(shape: str, metric: str, rows_of: RowsOf) -> None:
    made = chosen(rows_of, SHAPES[shape](), metric)
    assert target_point(made.contract).recall >= 0.95
    assert np.isfinite(made.codec.deviation).all() and np.isfinite(made.layout.centres).all()


@pytest.mark.parametrize("metric", METRICS)
def test_a_subspace_costs_what_it_has(metric: str, rows_of: RowsOf) -> None:
    """A turn of 12 dimensions into 96 reads and codes hardly more than the 12, and far less than 96."""
    x = clustered(ROWS, 12, 4)
    turn = np.linalg.qr(draw().standard_normal((96, 12)))[0]
    with patch("build_index.tune.renditions.INLINE_BYTES", 0):  # so that there is something to read
        plain, turned, full = (chosen(rows_of, of, metric) for of in (x, x @ turn.T, clustered(ROWS, 96, 4)))
    assert len(turned.codec.axes) <= 12
    assert turned.codec.code_bytes <= 2 * plain.codec.code_bytes <= full.codec.code_bytes
    read = [target_point(made.contract).nbytes for made in (plain, turned, full)]
    assert read[1] < 1.3 * read[0] and read[1] < 0.7 * read[2]


def flat(rank: int, dimension: int) -> F64:
    """A second moment (d, d) of that rank, about: sums leave tiny eigenvalues, of either sign."""
    x = image(rank, dimension).astype(np.float64)
    return x.T @ x / len(x)


@pytest.mark.parametrize("rank", [0, 1, 3, 40])
@pytest.mark.parametrize("code_bytes", [4, 24, 60])
def test_axes_without_variance_have_no_bits(rank: int, code_bytes: int) -> None:
    """However many bits are left; what is coded decodes as closely as the bits of the others allow."""
    moment = flat(rank, 48) if rank else np.zeros((48, 48))
    x = image(rank, 48) if rank else np.zeros((50, 48), np.float32)
    codec = lrsq.train(moment, moment, code_bytes, x)
    if not rank:
        return
    assert len(codec.axes) <= rank
    rotated = x @ codec.axes.T
    _, decoded = encode(codec, rotated)
    along = np.einsum("ij,ij->i", rotated, decoded) / np.linalg.norm(rotated, axis=1) / np.linalg.norm(decoded, axis=1)
    if 2 * len(codec.axes) <= code_bytes:  # 8 bits each and more
        assert along.min() > 0.995
    assert along.mean() > (0.95 if 8 * code_bytes >= 3 * rank else 0.5)


@pytest.mark.parametrize("rank", [1, 5, 31, 32])
def test_the_principal_axes_know_how_many_are_live(rank: int) -> None:
    assert pca.fit(flat(rank, 32), 0).live == rank
    assert pca.fit(np.eye(32), 0).live == 32


@pytest.mark.parametrize("name", ROTATIONS)
@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_and_rotation_takes_a_subspace(name: str, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if codec == "ecvh":  # the steps are alike, and take seconds
        monkeypatch.setattr(ecvh, "STEPS", 2)
    for moment, x in ((flat(3, 24), image(3, 24)), (np.zeros((24, 24)), np.zeros((64, 24), np.float32))):
        made = CODECS[codec](moment, moment, 12, x, ROTATIONS[name](moment, 0))
        codes, decoded = encode(made, x @ made.axes.T)
        assert codes.shape == (len(x), 12) and np.isfinite(decoded).all()
