"""lrsq: residual -> rotation (principal axes) -> water-filled bits -> Lloyd levels in nibbles -> an unbiased factor.

The trained tables are exactly what the scan kernel adds up, so what is encoded here is what the edge decodes.
A code is 2 * code_bytes nibbles. A nibble holds one to four *fields*; a field is 1 to 4 bits of one axis and has a
table of levels. An axis of up to 4 bits is one field with a Lloyd table; one of 5 to 8 bits is a field of 16 levels
and a field of exactly linear low bits, fitted together, so that its value is still a sum of table entries.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from functools import cache
from math import erf, sqrt

import numpy as np
import numpy.typing as npt

from vantage.format import FIELD, FINE_MAX, GROUP, SEGMENT, LrsqSection, Rotation, aligned

from ..rotations import pca
from ..rotations.basis import Basis

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]

BITS_MAX = 8
# Weight of the queries on an axis: they lean to the strong axes like the rows do; measured flat between 0 and 1.
QUERY_ALPHA = 0.5
# Squared error that 8-bit table entries may add to the code's own: at this share recall@100 loses about 0.001.
ROUNDING_SHARE = 0.1
_GRID = np.linspace(-6.0, 6.0, 12001)


@dataclass(frozen=True)
class Levels:
    """A scalar quantizer of the unit Gaussian with `bits` bits: value = top[v >> low_bits] + low[v & mask].

    order: cell number -> stored value, cells by rising value. cuts: the 2^bits - 1 limits between cells.
    """

    bits: int
    low_bits: int
    top: F64
    low: F64
    order: npt.NDArray[np.int64]
    cuts: F64
    distortion: float


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
    return Levels(bits, low_bits, top, (step * half).astype(np.float64), order, cuts, distortion)


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


def _pack(given: npt.NDArray[np.int64]) -> list[list[tuple[int, bool, int]]]:
    """First fit, widest first: nibbles as lists of (axis, low part?, width)."""
    parts: list[tuple[int, bool, int]] = []
    for axis, b in enumerate(given):
        if b > 4:
            parts += [(axis, False, 4), (axis, True, int(b) - 4)]
        elif b:
            parts.append((axis, False, int(b)))
    parts.sort(key=lambda p: (-p[2], p[0]))
    nibbles: list[list[tuple[int, bool, int]]] = []
    open_by_room: dict[int, list[int]] = {1: [], 2: [], 3: []}
    for part in parts:
        width = part[2]
        fit = next((r for r in range(width, 4) if open_by_room[r]), None)
        if fit is None:
            nibbles.append([part])
            room, at = 4 - width, len(nibbles) - 1
        else:
            at = open_by_room[fit].pop(0)
            nibbles[at].append(part)
            room = fit - width
        if room:
            open_by_room[room].append(at)
    return nibbles


@dataclass(frozen=True)
class Lrsq:
    """A trained codec. axes f32 (A, d), orthonormal rows as rotation stores them; deviation f32 (A,); bits (A,)."""

    axes: F32
    deviation: F32
    bits: npt.NDArray[np.int64]
    parts: list[tuple[int, bool]]  # of each field: its axis, and whether it holds the low bits
    section: LrsqSection
    rotation: Rotation

    @property
    def code_bytes(self) -> int:
        return self.section.code_bytes


def train(second_moment: F64, query_moment: F64, code_bytes: int, basis: Basis | None = None) -> Lrsq:
    """The codec of `code_bytes` bytes a row for residuals and queries with these second moments (d, d).

    basis: the axes to code along, the principal ones when not given.

    Gives the bits, packs them into nibbles, and widens what a nibble has left. Nibbles go by falling expected range, so
    that a segment of the scan shares one step. Queries are taken to be like the rows.
    """
    basis = basis or pca.fit(second_moment, 0)
    axes, deviation = basis.axes, basis.deviation
    nibble_count = 2 * code_bytes
    bits = min(4 * nibble_count, BITS_MAX * len(deviation))
    given = water_fill(deviation, bits)
    while len(_pack(given)) > nibble_count:
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
            if len(_pack(given)) <= nibble_count:
                break
            given[j] -= 1
        else:
            break
    kept = np.flatnonzero(given)
    rotation = basis.stored(kept)
    axes, deviation, given = axes[kept], deviation[kept], given[kept]
    parts, section = _layout(_pack(given), given, deviation, nibble_count)
    spread = np.sqrt(np.einsum("ij,jk,ik->i", axes, query_moment, axes))
    lost = float(np.trace(query_moment @ second_moment)) - float(((spread * deviation) ** 2).sum())
    error = lost + sum(
        float((s * d) ** 2) * _distortion(int(b)) for s, d, b in zip(spread, deviation, given, strict=True)
    )
    fine = _fine_segments(parts, section, given, spread * deviation, error)
    return Lrsq(
        axes.astype(np.float32), deviation.astype(np.float32), given, parts, replace(section, fine=fine), rotation
    )


def _fine_segments(
    parts: list[tuple[int, bool]], section: LrsqSection, given: npt.NDArray[np.int64], weight: F64, error: float
) -> int:
    """Leading segments that need 16-bit tables, so that rounding adds at most ROUNDING_SHARE to the squared error.

    Simulated: Gaussian queries, weight (A) their deviation times the residuals' on each axis.
    """
    draws = np.abs(np.random.default_rng(0).standard_normal((64, len(weight)))) * weight
    nibbles = 2 * section.code_bytes
    reach = np.zeros((64, -(-section.code_bytes // SEGMENT) * 2 * SEGMENT))
    for nibble in range(nibbles):
        for axis, low in parts[section.starts[nibble] : section.starts[nibble + 1]]:
            q = levels(int(given[axis]))
            reach[:, nibble] += draws[:, axis] * np.ptp(q.low if low else q.top)
    widest = reach.reshape(64, -1, 2 * SEGMENT).max(2)
    unit = np.maximum(widest.max(1, keepdims=True), 1e-30) / 65280
    step = unit * 2.0 ** np.clip(np.ceil(np.log2(np.maximum(widest / (255 * unit), 1))), 0, 8)
    rounding = (step**2).mean(0) * 2 * SEGMENT / 12
    left = np.cumsum(rounding[::-1])[::-1]
    return min(FINE_MAX, int(np.count_nonzero(left > ROUNDING_SHARE * error)))


def _distortion(bits: int) -> float:
    return 1.0 if bits == 0 else levels(bits).distortion


def _layout(
    nibbles: list[list[tuple[int, bool, int]]], given: npt.NDArray[np.int64], deviation: F64, count: int
) -> tuple[list[tuple[int, bool]], LrsqSection]:
    table: list[float] = []
    at: dict[tuple[int, bool], int] = {}
    for b in sorted({int(b) for b in given}):
        q = levels(b)
        for low, values in ((False, q.top), (True, q.low)):
            if low and not q.low_bits:
                continue
            at[b, low] = len(table)
            table += values.tolist()

    def reach(nibble: list[tuple[int, bool, int]]) -> float:
        return float(
            sum(
                deviation[a] ** (1 + QUERY_ALPHA)
                * np.ptp(levels(int(given[a])).low if low else levels(int(given[a])).top)
                for a, low, _ in nibble
            )
        )

    parts: list[tuple[int, bool]] = []
    fields, starts = bytearray(), [0]
    for nibble in sorted(nibbles, key=reach, reverse=True):
        shift = 0
        for axis, low, width in nibble:
            fields += FIELD.pack(axis, shift, width, at[int(given[axis]), low])
            parts.append((axis, low))
            shift += width
        starts.append(len(fields) // FIELD.size)
    starts += [starts[-1]] * (count + 1 - len(starts))
    section = LrsqSection(count // 2, 0, deviation.astype(np.float32).tolist(), bytes(fields), starts, table)
    return parts, LrsqSection.unpack(memoryview(section.pack()), len(deviation), "codec")  # in the types of a reader


@dataclass(frozen=True)
class Encoded:
    """Rows of one block: factor ranges (f_lo, f_step, h_lo, h_step), codes u8 (n, code_bytes), f and h u8 (n)."""

    ranges: tuple[float, float, float, float]
    codes: U8
    f: U8
    h: U8

    def planes(self) -> list[bytes]:
        """Codes in groups of 16 rows, code byte by code byte, then f and h; padded."""
        n, width = self.codes.shape
        padded = np.zeros((aligned(n, GROUP), width), np.uint8)
        padded[:n] = self.codes
        grouped = padded.reshape(-1, GROUP, width).transpose(0, 2, 1)
        pad = bytes(len(padded) - n)
        return [grouped.tobytes(), self.f.tobytes() + pad, self.h.tobytes() + pad]


def _to_bytes(values: F32) -> tuple[float, float, U8, F32]:
    """8-bit linear over the range of a block: (low, step, bytes, what they decode to in f32)."""
    low, high = np.float32(values.min()), np.float32(values.max())
    step = np.float32((high - low) / np.float32(255))
    code = np.rint((values - low) / step).clip(0, 255).astype(np.uint8) if step > 0 else np.zeros(len(values), np.uint8)
    return float(low), float(step), code, low + step * code.astype(np.float32)


def encode_blocks(codec: Lrsq, x: F32, starts: list[int], centres: F32, metric: str) -> list[Encoded]:
    """Rows x (n, d) of consecutive blocks that start at starts (B + 1), around their stored centres (B, d).

    A score is <q, c> + bias + h + f <y, decoded>, y the rotated query. f is unbiased over the kept axes (RaBitQ's rule,
    arXiv 2405.12497, on the part that the code keeps); h takes up what f's rounding leaves.
    """
    block = np.repeat(np.arange(len(centres)), np.diff(starts))
    r = x - centres[block]
    rotated = np.asarray(r @ codec.axes.T, np.float32)
    codes, decoded = encode(codec, rotated)
    own = np.einsum("ij,ij->i", rotated, decoded)
    energy = np.einsum("ij,ij->i", rotated, rotated)
    f = np.where(own > 1e-12, energy / np.maximum(own, 1e-12), 0).astype(np.float32)
    rotated_centres = centres @ codec.axes.T
    along = np.einsum("ij,ij->i", decoded, rotated_centres[block])
    fixed = -0.5 * np.einsum("ij,ij->i", r, r) if metric == "l2" else np.einsum("ij,ij->i", r, centres[block])
    out = []
    for low, high in zip(starts, starts[1:], strict=False):
        part = slice(low, high)
        f_low, f_step, f_code, f_read = _to_bytes(f[part])
        h_low, h_step, h_code, _ = _to_bytes(fixed[part] - f_read * along[part])
        out.append(Encoded((f_low, f_step, h_low, h_step), codes[part], f_code, h_code))
    return out


def encode(codec: Lrsq, rotated: F32) -> tuple[U8, F32]:
    """rotated residuals f32 (n, A) -> codes u8 (n, code_bytes) and what they decode to, f32 (n, A), factor apart.

    The row's rms in units of the deviations scales the cuts only; the factor puts it back.
    """
    n = len(rotated)
    rms = np.sqrt(np.mean((rotated / codec.deviation) ** 2, axis=1)) + np.float32(1e-12)
    scaled = rotated / (rms[:, None] * codec.deviation)
    value = np.zeros((n, len(codec.bits)), np.uint8)
    decoded = np.zeros_like(rotated)
    for b in np.unique(codec.bits):
        q = levels(int(b))
        columns = np.flatnonzero(codec.bits == b)
        cell = q.order[np.searchsorted(q.cuts.astype(np.float32), scaled[:, columns].ravel())].reshape(n, -1)
        value[:, columns] = cell
        reals = (q.top[:, None] + q.low).ravel().astype(np.float32)
        decoded[:, columns] = reals[cell] * codec.deviation[columns]
    codes = np.zeros((n, codec.code_bytes), np.uint8)
    section = codec.section
    for nibble in range(2 * codec.code_bytes):
        for i in range(section.starts[nibble], section.starts[nibble + 1]):
            axis, low = codec.parts[i]
            low_bits = levels(int(codec.bits[axis])).low_bits
            part = value[:, axis] & ((1 << low_bits) - 1) if low else value[:, axis] >> low_bits
            shift = FIELD.unpack_from(section.fields, FIELD.size * i)[1]
            codes[:, nibble // 2] |= part << (shift + 4 * (nibble % 2))
    return codes, decoded
