"""lrsq: residual -> principal axes -> water-filled bits -> Lloyd levels in nibbles -> an unbiased factor.

The trained tables are exactly what the scan kernel adds up, so what is encoded here is what the edge decodes.
A code is 2 * code_bytes nibbles. A nibble holds one to four *fields*; a field is 1 to 4 bits of one axis and has a
table of levels. An axis of up to 4 bits is one field with a Lloyd table; one of 5 to 8 bits is a field of 16 levels
and a field of exactly linear low bits, fitted together, so that its value is still a sum of table entries.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import cache
from math import erf, sqrt

import numpy as np
import numpy.typing as npt

from .planes import F32, F64, QUERY_ALPHA, Codec, Quantizer, assembled, packed

BITS_MAX = 8
_GRID = np.linspace(-6.0, 6.0, 12001)


@dataclass(frozen=True)
class Levels:
    """A scalar quantizer of the unit Gaussian with `bits` bits: value = top[v >> low_bits] + low[v & mask].

    order: cell number -> stored value, cells by rising value. cuts: the 2^bits - 1 limits between cells. parts: top and
    low as a quantizer takes them.
    """

    bits: int
    low_bits: int
    top: F64
    low: F64
    order: npt.NDArray[np.int64]
    cuts: F64
    distortion: float
    parts: tuple[F64, ...]


def _weights() -> F64:
    edges = (_GRID[1:] + _GRID[:-1]) / 2
    cdf = np.array([0.0, *(0.5 * (1 + erf(e / sqrt(2))) for e in edges), 1.0])
    return np.diff(cdf)


@cache
def levels(bits: int) -> Levels:
    """The quantizer of `bits` bits (1..8): Lloyd-Max up to 4, above that 16 levels plus exactly linear low bits.

    Both fits alternate nearest level and conditional mean (Lloyd 1982) on a fine grid of the Gaussian; the linear step
    is least squares given the cells.
    """
    w = _weights()
    low_bits = max(0, bits - 4)
    count, k = 1 << (bits - low_bits), 1 << low_bits
    half = np.arange(k) - (k - 1) / 2
    spread = 3.0 - 1.6 * 0.6**bits
    top = np.linspace(-spread, spread, count) if count > 1 else np.zeros(1)
    step = (2 * spread / (count - 1)) / k if k > 1 else 0.0
    for _ in range(400 if bits <= 4 else 150):
        values = (top[:, None] + step * half).ravel()
        order = np.argsort(values, kind="stable")
        cuts = (values[order][1:] + values[order][:-1]) / 2
        cell = order[np.searchsorted(cuts, _GRID)]
        t, b = cell >> low_bits, half[cell & (k - 1)]
        mass = np.bincount(t, w, count)
        mean = np.bincount(t, w * (_GRID - step * b), count) / np.maximum(mass, 1e-300)
        top = np.where(mass > 0, mean, top)
        if k > 1:
            step = float((w * b * (_GRID - top[t])).sum() / (w * b * b).sum())
    values = (top[:, None] + step * half).ravel()
    order = np.argsort(values, kind="stable")
    cuts = (values[order][1:] + values[order][:-1]) / 2
    cell = order[np.searchsorted(cuts, _GRID)]
    distortion = float((w * (_GRID - values[cell]) ** 2).sum())
    low = (step * half).astype(np.float64)
    parts = (top[:, None], low[:, None]) if low_bits else (top[:, None],)
    return Levels(bits, low_bits, top, low, order, cuts, distortion, parts)


def water_fill(deviation: F64, bits: int) -> npt.NDArray[np.int64]:
    """Bits an axis (0..8) when `bits` are handed out one at a time to the axis that gains most score accuracy."""
    distortion = [1.0, *(levels(b).distortion for b in range(1, BITS_MAX + 1))]
    weight = deviation ** (2 * (1 + QUERY_ALPHA))
    given = np.zeros(len(weight), np.int64)
    heap = [(-g * (1 - distortion[1]), j) for j, g in enumerate(weight)]
    heapq.heapify(heap)
    for _ in range(bits):
        if not heap:
            break
        _, j = heapq.heappop(heap)
        given[j] += 1
        b = int(given[j])
        if b < BITS_MAX:
            heapq.heappush(heap, (-weight[j] * (distortion[b] - distortion[b + 1]), j))
    return given


def principal_axes(second_moment: F64) -> tuple[F64, F64]:
    """(axes (d, d) as rows by falling variance, deviation (d,)) of a second moment matrix; signs made unique."""
    variance, vectors = np.linalg.eigh(second_moment)
    order = np.argsort(-variance, kind="stable")
    axes = vectors[:, order].T
    sign = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    return axes * sign[:, None], np.sqrt(np.maximum(variance[order], 1e-12))


def train(second_moment: F64, query_moment: F64, code_bytes: int, sample: F32 | None = None) -> Codec:
    """The codec of `code_bytes` bytes a row for residuals and queries with these second moments (d, d).

    Gives the bits, packs them into nibbles, and widens what a nibble has left. Queries are taken to be like the rows.
    """
    axes, deviation = principal_axes(second_moment)
    axes = axes.astype(np.float16).astype(np.float64)
    nibble_count = 2 * code_bytes
    bits = min(4 * nibble_count, BITS_MAX * len(deviation))
    given = water_fill(deviation, bits)
    while len(packed(_widths(given))) > nibble_count:
        bits -= 1
        given = water_fill(deviation, bits)
    for _ in range(4 * nibble_count):  # spend what is left: the widest gain that still packs
        gain = [
            (deviation[j] ** (2 * (1 + QUERY_ALPHA)) * (_distortion(b) - _distortion(b + 1)), j)
            for j, b in enumerate(given)
            if b < BITS_MAX
        ]
        for _, j in heapq.nlargest(8, gain):
            given[j] += 1
            if len(packed(_widths(given))) <= nibble_count:
                break
            given[j] -= 1
        else:
            break
    kept = np.flatnonzero(given)
    axes, deviation, given = axes[kept], deviation[kept], given[kept]
    quantizers = [Quantizer((j,), levels(int(b)).parts) for j, b in enumerate(given)]
    spread = np.sqrt(np.einsum("ij,jk,ik->i", axes, query_moment, axes))
    lost = float(np.trace(query_moment @ second_moment)) - float(((spread * deviation) ** 2).sum())
    error = lost + sum(
        float((s * d) ** 2) * _distortion(int(b)) for s, d, b in zip(spread, deviation, given, strict=True)
    )
    return assembled("lrsq", axes, deviation, quantizers, code_bytes, spread * deviation, error)


def _widths(given: npt.NDArray[np.int64]) -> list[int]:
    """Of the fields of axes with these bits: four bits, and the low ones beyond."""
    return [width for b in given.tolist() if b for width in ([4, b - 4] if b > 4 else [b])]


def _distortion(bits: int) -> float:
    return 1.0 if bits == 0 else levels(bits).distortion
