"""Fits the tables of a quantizer to data, and draws directions without training, for the codecs that need either."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vantage.format import Rotation

from .planes import F32, F64, Quantizer, nearest, quantize
from .rotations.basis import Basis, integer_rows

FIT_ROUNDS = 12  # of nearest value and least squares; more move the error by less than a thousandth


def fit(quantizer: Quantizer, x: F32, rounds: int = FIT_ROUNDS) -> Quantizer:
    """The quantizer with its parts moved to where the squared error of rows x (n, w), in units, is least.

    Alternates the nearest value and least squares: Lloyd 1982 for one part, additive quantization (Babenko and
    Lempitsky, CVPR 2014) for several. A part's row that no x takes stays as it is.
    """
    for _ in range(rounds):
        sizes = [len(part) for part in quantizer.parts]
        starts, first = np.cumsum([0, *sizes[:-1]]), sum(sizes)
        columns = list((starts + nearest(quantizer, x)).T)
        if len(columns) == 1:
            count = np.bincount(columns[0], minlength=first).astype(np.float64)
            total = np.stack([np.bincount(columns[0], c, first) for c in x.T], 1)
            old = quantizer.parts[0]
            moved = np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], old)
        else:
            old = np.concatenate(quantizer.parts)
            normal = np.zeros((first, first))
            for a in columns:
                for b in columns:
                    normal += np.bincount(a * first + b, minlength=first * first).reshape(first, first)
            total = np.stack([sum(np.bincount(a, c, first) for a in columns) for c in x.T], 1)
            # A part may gain what another loses: the least change of all that fit as well.
            ridge = 1e-6 * len(x) / first
            moved = old + np.linalg.solve(normal + ridge * np.eye(first), total - normal @ old)
        quantizer = replace(quantizer, parts=tuple(np.split(moved, starts[1:])))
    return quantizer


def draw_rows(x: F32, count: int, seed: int) -> F64:
    """f64 (count, w): rows of x (n, w) to start from, without repeats where there are enough."""
    rng = np.random.default_rng(seed)
    picked = rng.choice(len(x), count, replace=len(x) < count)
    out: F64 = x[picked].astype(np.float64) * (1 + 1e-6 * rng.standard_normal((count, x.shape[1])))
    return out


def error(quantizers: list[Quantizer], unit: F32) -> F64:
    """f64 (axes,): mean squared error of the quantizers on rows (n, axes) in units."""
    out: F64 = ((unit - quantize(quantizers, unit)[1]).astype(np.float64) ** 2).mean(0)
    return out


def random_directions(count: int, dimension: int, seed: int) -> F64:
    """f64 (count, d): rows of random orthogonal matrices, as many as it takes, orthonormal within each."""
    rng = np.random.default_rng(seed)
    turns = []
    for _ in range(-(-count // dimension)):
        q, r = np.linalg.qr(rng.standard_normal((dimension, dimension)))
        turns.append((q * np.sign(np.diag(r))).T)
    return np.concatenate(turns)[:count]


def directions(count: int, dimension: int, seed: int, basis: Basis | None) -> tuple[F64, Rotation]:
    """(f64 (count, d) as stored, how): the first axes of a basis, which has d of them, or random ones without it."""
    if basis is not None:
        kept = np.arange(min(count, dimension))
        return basis.axes[kept], basis.stored(kept)
    stored, axes = integer_rows(random_directions(count, dimension, seed))
    return axes, stored
