"""lrsq: residual -> rotation (principal axes) -> water-filled bits -> levels in nibbles -> an unbiased factor.

Strong axes have nibbles of their own: of 4 bits it is one field with a Lloyd table; of 5 to 8 bits a field of 16 levels
and a field of exactly linear low bits, fitted together, so that its value is still a sum of table entries. Weak axes
share: a group of axes has four nibbles, each a table of 16 points in all of them, and a row is the sum of four points.
At 2 bits an axis that halves the squared error's distance to what is possible (on Gaussians 0.117 -> 0.097, the limit
0.063), and an axis may have a fraction of a bit.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import cache
from math import erf, sqrt

import numpy as np
import numpy.typing as npt

from ..kernels import matmul
from .fitting import draw_rows, error, fit
from .planes import F32, F64, QUERY_ALPHA, Codec, Quantizer, assemble, nearest, nibbles_of, scale_to_unit
from .rotations import pca
from .rotations.basis import Basis, inverse_of

BITS_MAX = 8
SCALAR_BITS = 4  # an axis of so many is by itself: what points in common gain there costs the build too much
GROUP_NIBBLES = 4
RATE_MIN = 0.25  # bits that an axis must want to be in a group
FIT_ROWS = 8192  # that tables of groups are fitted to
FIT_NUMBERS = FIT_ROWS * 768  # of them: half the rows, for twice the groups of 1,536 dimensions, lose 1% of the error
COVERED = 1.5  # times the last level: of a Gaussian, no value of thousands is further out
STRETCHES = (1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)
START_ROUNDS, JOINT_ROUNDS = 6, 8
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
        before, top = (top, step), np.where(mass > 0, mean, top)
        if k > 1:
            step = float((w * b * (_GRID - top[t])).sum() / (w * b * b).sum())
        if step == before[1] and (top == before[0]).all():
            break  # all rounds after this one are the same
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
    return np.bincount(_hand_out(deviation, bits), minlength=len(deviation)).astype(np.int64)


def _hand_out(deviation: F64, bits: int) -> list[int]:
    """The axes that get a bit, in turn; of fewer bits they are the first ones."""
    distortion = [1.0, *(levels(b).distortion for b in range(1, BITS_MAX + 1))]
    weight = (deviation ** (2 * (1 + QUERY_ALPHA))).tolist()
    given, out = [0] * len(weight), list[int]()
    heap = [(-g * (1 - distortion[1]), j) for j, g in enumerate(weight)]
    heapq.heapify(heap)
    for _ in range(bits):
        if not heap:
            break
        _, j = heapq.heappop(heap)
        out.append(j)
        given[j] = b = given[j] + 1
        if b < BITS_MAX:
            heapq.heappush(heap, (-weight[j] * (distortion[b] - distortion[b + 1]), j))
    return out


def train(
    second_moment: F64, query_moment: F64, code_bytes: int, sample: F32 | None = None, basis: Basis | None = None
) -> Codec:
    """The codec of `code_bytes` bytes a row for residuals and queries with these second moments (d, d).

    sample f32 (n, d): residuals, which the tables of weak axes are fitted to; without it each axis has its own bits and
    the levels of the Gaussian. basis: axes to code along, the principal ones without it. Queries are taken to be like
    the rows.
    """
    basis = basis or pca.fit(second_moment, 0)
    axes, deviation = basis.axes[: basis.live], basis.deviation[: basis.live]
    given = _scalar_bits(deviation, 2 * code_bytes)
    groups: list[tuple[npt.NDArray[np.int64], int]] = []
    if sample is not None:
        given[given < SCALAR_BITS] = 0
        nibbles = nibbles_of(_widths(_count(given)))
        alone = given > 0
        given[alone] = _widen(deviation[alone], given[alone], nibbles)
        groups = _groups(deviation, np.flatnonzero(given == 0), 2 * code_bytes - nibbles)
    kept = np.sort(np.concatenate([np.flatnonzero(given), *(on for on, _ in groups)])).astype(np.int64)
    number = np.full(len(deviation), -1)
    number[kept] = np.arange(len(kept))
    axes, deviation, given = axes[kept], deviation[kept], given[kept]
    quantizers = [Quantizer((j,), levels(int(b)).parts) for j, b in enumerate(given) if b]
    distortion = np.array([_distortion(int(b)) for b in given])
    if sample is not None:
        some = sample[:: -(-len(sample) // min(FIT_ROWS, FIT_NUMBERS // sample.shape[1]))]
        along, inverse = matmul(some, axes.astype(np.float32)), inverse_of(axes)
        along = along if inverse is None else matmul(along, inverse.T.astype(np.float32))
        unit = scale_to_unit(along, deviation.astype(np.float32))
        quantizers = [_covering(q, unit) for q in quantizers]
        quantizers += [_joint(number[on], count, unit, deviation, i) for i, (on, count) in enumerate(groups)]
        distortion = error(quantizers, unit)
    spread = basis.along(query_moment)[kept]
    lost = float(np.einsum("ij,ji->", query_moment, second_moment)) - float(((spread * deviation) ** 2).sum())
    lost += float(((spread * deviation) ** 2 * distortion).sum())
    stored = basis.stored(kept)
    return assemble("lrsq", axes, deviation, quantizers, code_bytes, spread * deviation, lost, rotation=stored)


def _covering(quantizer: Quantizer, unit: F32) -> Quantizer:
    """The quantizer of one axis with its levels as far apart as rows (n, axes) in units want them.

    An axis that parts few rows from all others has tails that no Gaussian has: values beyond the last level would lose
    more than all other axes together, however many bits there are.
    """
    (axis,), values = quantizer.axes, unit[:, quantizer.axes]
    last = sum(float(part.max()) for part in quantizer.parts)
    if np.abs(values).max() <= COVERED * last:
        return quantizer
    bits = sum(len(part).bit_length() - 1 for part in quantizer.parts)
    tried = [Quantizer((0,), _stretch(bits, stretch)) for stretch in STRETCHES]
    best = min(range(len(tried)), key=lambda i: float(error([tried[i]], values)[0]))
    return Quantizer((axis,), tried[best].parts)


@cache
def _stretch(bits: int, stretch: float) -> tuple[F64, ...]:
    return tuple(part * stretch for part in levels(bits).parts)


def _scalar_bits(deviation: F64, nibbles: int) -> npt.NDArray[np.int64]:
    """Bits of each axis by itself, as many as pack into the nibbles."""
    turns = _hand_out(deviation, min(4 * nibbles, BITS_MAX * len(deviation)))
    given = np.bincount(turns, minlength=len(deviation))
    count = _count(given)
    for j in reversed(turns):
        if nibbles_of(_widths(count)) <= nibbles:
            break
        _move(count, int(given[j]), -1)
        given[j] -= 1
    return _widen(deviation, given, nibbles)


def _widen(deviation: F64, given: npt.NDArray[np.int64], nibbles: int) -> npt.NDArray[np.int64]:
    """The bits with what is left of the nibbles spent: the widest gain that still packs.

    Whether one more packs depends on an axis's bits alone, so only the best axis of each number of bits is tried.
    """
    given, count = given.copy(), _count(given)
    weight = (deviation ** (2 * (1 + QUERY_ALPHA))).tolist()
    gains = [list[tuple[float, int]]() for _ in range(BITS_MAX)]  # by bits: (-gain, -axis)

    def entered(j: int, b: int) -> None:
        if b < BITS_MAX:
            heapq.heappush(gains[b], (-weight[j] * (_distortion(b) - _distortion(b + 1)), -j))

    def more_packs(b: int) -> bool:
        moved = count.copy()
        _move(moved, b, 1)
        return nibbles_of(_widths(moved)) <= nibbles

    for j, b in enumerate(given.tolist()):
        entered(j, b)
    while packing := [b for b in range(BITS_MAX) if gains[b] and more_packs(b)]:
        b = min(packing, key=lambda b: gains[b][0])
        j = -heapq.heappop(gains[b])[1]
        _move(count, b, 1)
        given[j] += 1
        entered(j, b + 1)
    return given


def _groups(deviation: F64, left: npt.NDArray[np.int64], nibbles: int) -> list[tuple[npt.NDArray[np.int64], int]]:
    """(axes, nibbles) of groups that share the nibbles: of the axes left, those worth a share, strong and weak mixed.

    What an axis wants is its rate by reverse water-filling (Cover and Thomas, 10.3.3), a real number; each goes to the
    group with the most room, the greediest first.
    """
    if not nibbles or not len(left):
        return []
    want = _rates(deviation[left] ** (2 * (1 + QUERY_ALPHA)), 4 * nibbles)
    while (weak := want < min(RATE_MIN, want.max())).any():
        left = left[~weak]
        want = _rates(deviation[left] ** (2 * (1 + QUERY_ALPHA)), 4 * nibbles)
    count = -(-nibbles // GROUP_NIBBLES)
    sizes = [nibbles // count + (i < nibbles % count) for i in range(count)]
    room, members = [(-4.0 * size, i) for i, size in enumerate(sizes)], [list[int]() for _ in sizes]
    heapq.heapify(room)
    for j in np.argsort(-want, kind="stable"):
        most, i = heapq.heappop(room)
        members[i].append(int(left[j]))
        heapq.heappush(room, (most + want[j], i))
    return [(np.sort(on), size) for on, size in zip(members, sizes, strict=True) if on]


def _rates(variance: F64, bits: float) -> F64:
    """Bits of each axis, real numbers that add up to `bits`, with the same error on all axes that have any."""
    logs = np.log2(np.sort(variance)[::-1])
    levels_of = (np.cumsum(logs) - 2 * bits) / np.arange(1, len(logs) + 1)
    kept = np.flatnonzero(logs > levels_of)
    out: F64 = np.maximum(0.0, 0.5 * (np.log2(variance) - levels_of[kept[-1]]))
    return out


def _joint(axes: npt.NDArray[np.int64], count: int, unit: F32, deviation: F64, seed: int) -> Quantizer:
    """`count` nibbles for these axes together, fitted to rows (n, A) in units: one table on what the one before left,
    then all at once.
    """
    on, x = tuple(axes.tolist()), unit[:, axes]
    weight = deviation[axes] ** (2 * (1 + QUERY_ALPHA))
    weight /= weight.max()
    left, parts = x, list[F64]()
    for i in range(count):
        one = fit(Quantizer(on, (draw_rows(left, 16, GROUP_NIBBLES * seed + i),), weight), left, START_ROUNDS)
        parts += one.parts
        left = left - one.decoded(nearest(one, left))
    return fit(Quantizer(on, tuple(parts), weight), x, JOINT_ROUNDS)


def _count(given: npt.NDArray[np.int64]) -> list[int]:
    """How many axes have 0 to 8 bits."""
    return list(map(int, np.bincount(given, minlength=BITS_MAX + 1)))


def _move(count: list[int], bits: int, by: int) -> None:
    """Counts one axis of so many bits as having that many more."""
    count[bits] -= 1
    count[bits + by] += 1


def _widths(count: list[int]) -> list[int]:
    """How many fields have 0, 1, 2, 3 and 4 bits, of so many axes with 0 to 8: four bits, and the low ones beyond."""
    return [0, *(count[b] + count[b + 4] for b in range(1, 4)), sum(count[4:]) + count[8]]


def _distortion(bits: int) -> float:
    return 1.0 if bits == 0 else levels(bits).distortion
