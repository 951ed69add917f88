"""Encodes blocks by any codec: quantizers packed into nibbles, codes, the factors of a row, the planes of a block.

A codec is directions, and quantizers of one or several of them; the tables that quantizers decode by are exactly what
the scan kernel adds up, so what is encoded here is what the edge decodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vantage.format import FIELD, FINE_MAX, GROUP, SEGMENT, LrsqSection, Rotation, aligned

from .. import kernels
from .rotations.basis import integer_rows, inverse_of

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]

# Weight of the queries on an axis: they lean to the strong axes like the rows do; measured flat between 0 and 1.
QUERY_ALPHA = 0.5
# Squared error that 8-bit table entries may add to the code's own: at this share recall@100 loses about 0.001.
ROUNDING_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Quantizer:
    """Takes one or several axes together: a value is the sum of one row of each part, in units of the deviations.

    axes (w). parts: f64 (2^width, w) each, width 1 to 4; 8 bits at most where w is 1, else 4 bits each. weight (w): of
    the axes' squared errors where w > 1. Parts shared by several quantizers are stored once.
    """

    axes: tuple[int, ...]
    parts: tuple[F64, ...]
    weight: F64 | None = None

    @property
    def widths(self) -> list[int]:
        return [(len(part) - 1).bit_length() for part in self.parts]

    def decoded(self, values: U8) -> F32:
        """f32 (n, w): what rows of its parts (n, parts) add up to."""
        out: F32 = sum(part.astype(np.float32)[value] for part, value in zip(self.parts, values.T, strict=True))
        return out


def pack_fields(widths: Sequence[int]) -> list[list[int]]:
    """First fit, widest first: nibbles as lists of the numbers of fields with these widths."""
    nibbles: list[list[int]] = []
    open_by_room: dict[int, list[int]] = {1: [], 2: [], 3: []}
    for field in sorted(range(len(widths)), key=lambda i: (-widths[i], i)):
        width = widths[field]
        fit = next((r for r in range(width, 4) if open_by_room[r]), None)
        if fit is None:
            nibbles.append([field])
            room, at = 4 - width, len(nibbles) - 1
        else:
            at = open_by_room[fit].pop(0)
            nibbles[at].append(field)
            room = fit - width
        if room:
            open_by_room[room].append(at)
    return nibbles


def nibbles_of(fields: Sequence[int]) -> int:
    """How many nibbles `pack_fields` takes for so many fields of 0, 1, 2, 3 and 4 bits."""
    _, ones, twos, threes, fours = fields
    room = threes + 2 * (twos % 2)  # for fields of one bit
    return fours + threes + -(-twos // 2) + -(-max(0, ones - room) // 4)


@dataclass(frozen=True)
class Codec:
    """A trained codec. axes f32 (A, d), as rotation stores them; deviation f32 (A), the units of the quantizers.

    positions: of each part of each quantizer, its nibble and its shift there. scales: of a row before it is quantized;
    the one that leaves the smallest angle is taken. span f32 (rank, d): an orthonormal base of what the axes span,
    where they are not orthonormal themselves.
    """

    name: str
    axes: F32
    deviation: F32
    quantizers: list[Quantizer]
    positions: list[list[tuple[int, int]]]
    section: LrsqSection
    rotation: Rotation
    scales: tuple[float, ...] = (1.0,)
    span: F32 | None = None

    @property
    def code_bytes(self) -> int:
        return self.section.code_bytes

    @cached_property
    def inverse(self) -> F32 | None:
        """See inverse_of; None too where the axes are more than orthonormal ones up to rounding."""
        inverse = None if self.span is not None else inverse_of(self.axes.astype(np.float64))
        return None if inverse is None else inverse.astype(np.float32)


def assemble(
    name: str,
    axes: F64,
    deviation: F64,
    quantizers: list[Quantizer],
    code_bytes: int,
    weight: F64,
    error: float,
    *,
    rotation: Rotation | None = None,
    scales: tuple[float, ...] = (1.0,),
    span: F32 | None = None,
) -> Codec:
    """Quantizers packed into the nibbles of a code. Raises ValueError when they do not fit.

    Nibbles go by falling expected range, so that a segment of the scan shares one step. weight (A): deviation of the
    queries times the residuals' on each axis; error: squared error of a score by the code alone. rotation: how the
    axes are stored, as rows of integers without it.
    """
    if rotation is None:
        rotation, axes = integer_rows(axes)
    parts = [(q, p, width) for q, one in enumerate(quantizers) for p, width in enumerate(one.widths)]
    nibbles = pack_fields([width for _, _, width in parts])
    if len(nibbles) > 2 * code_bytes:
        raise ValueError(f"{len(nibbles)} nibbles do not fit {code_bytes} bytes")

    def reach(nibble: list[int]) -> float:
        ranges = (
            (quantizers[q].axes, np.ptp(quantizers[q].parts[p], axis=0)) for q, p, _ in map(parts.__getitem__, nibble)
        )
        return float(sum((deviation[list(on)] ** (1 + QUERY_ALPHA) * wide).sum() for on, wide in ranges))

    table: list[float] = []
    at: dict[bytes, int] = {}
    fields, starts = bytearray(), [0]
    positions: list[list[tuple[int, int]]] = [[(0, 0)] * len(q.parts) for q in quantizers]
    for nibble in sorted(nibbles, key=reach, reverse=True):
        shift = 0
        for q, p, width in map(parts.__getitem__, nibble):
            positions[q][p] = len(starts) - 1, shift
            for axis, column in zip(quantizers[q].axes, quantizers[q].parts[p].T, strict=True):
                if (key := column.tobytes()) not in at:
                    at[key] = len(table)
                    table += column.tolist()
                fields += FIELD.pack(axis, shift, width, at[key])
            shift += width
        starts.append(len(fields) // FIELD.size)
    starts += [starts[-1]] * (2 * code_bytes + 1 - len(starts))
    draft = LrsqSection(code_bytes, 0, deviation.astype(np.float32).tolist(), bytes(fields), starts, table)
    section = LrsqSection.unpack(memoryview(draft.pack()), len(deviation), "codec")  # in the types of a reader
    section = replace(section, fine=_fine_segments(section, weight, error))
    return Codec(
        name,
        np.ascontiguousarray(axes, np.float32),
        deviation.astype(np.float32),
        quantizers,
        positions,
        section,
        rotation,
        scales,
        span,
    )


def _fine_segments(section: LrsqSection, weight: F64, error: float) -> int:
    """Leading segments that need 16-bit tables, so that rounding adds at most ROUNDING_SHARE to the squared error.

    Simulated: Gaussian queries, weight (A) their deviation times the residuals' on each axis.
    """
    draws = np.random.default_rng(0).standard_normal((64, len(weight))) * weight
    level, value = np.asarray(section.levels, np.float64), np.arange(16)
    fields = list(FIELD.iter_unpack(section.fields))
    reach = np.zeros((64, -(-section.code_bytes // SEGMENT) * 2 * SEGMENT))
    for nibble in range(2 * section.code_bytes):
        sums = np.zeros((64, 16))
        for axis, shift, width, at in fields[section.starts[nibble] : section.starts[nibble + 1]]:
            sums += draws[:, axis, None] * level[at + (value >> shift & (1 << width) - 1)]
        reach[:, nibble] = np.ptp(sums, axis=1)
    widest = reach.reshape(64, -1, 2 * SEGMENT).max(2)
    unit = np.maximum(widest.max(1, keepdims=True), 1e-30) / 65280
    step = unit * 2.0 ** np.clip(np.ceil(np.log2(np.maximum(widest / (255 * unit), 1))), 0, 8)
    rounding = (step**2).mean(0) * 2 * SEGMENT / 12
    left = np.cumsum(rounding[::-1])[::-1]
    return min(FINE_MAX, int(np.count_nonzero(left > ROUNDING_SHARE * error)))


def section_over(codec: Codec, other: Codec) -> LrsqSection | None:
    """The section of a codec over the axes of another one, which has its own among them; None where it has not.

    Codes and scores are the same: axes that no field is of add nothing.
    """
    number = {axis.tobytes(): i for i, axis in enumerate(other.axes)}
    places = [number.get(axis.tobytes(), -1) for axis in codec.axes]
    if min(places) < 0:
        return None
    fields = bytearray()
    for axis, shift, width, at in FIELD.iter_unpack(codec.section.fields):
        fields += FIELD.pack(places[axis], shift, width, at)
    deviation = np.ones(len(other.axes), np.float32)
    deviation[places] = codec.deviation
    return replace(codec.section, fields=bytes(fields), deviation=deviation.tolist())


@dataclass(frozen=True)
class Encoded:
    """Rows of one block: factor ranges (f_lo, f_step, h_lo, h_step), codes u8 (n, code_bytes), f and h u8 (n)."""

    ranges: tuple[float, float, float, float]
    codes: U8
    f: U8
    h: U8

    def factors(self) -> tuple[F64, F64]:
        """f and h f64 (n) of the rows, decoded in f32 as the scan does it."""
        f_low, f_step, h_low, h_step = map(np.float32, self.ranges)
        f, h = f_low + f_step * self.f.astype(np.float32), h_low + h_step * self.h.astype(np.float32)
        return f.astype(np.float64), h.astype(np.float64)

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


def approximate(codec: Codec, residuals: F32) -> tuple[U8, F32, F32]:
    """Residuals (n, d) -> codes u8 (n, code_bytes), what they decode to f32 (n, A), and its factor f32 (n).

    The factor is unbiased over what the axes span (RaBitQ's rule, arXiv 2405.12497, on the part that the code keeps).
    """
    products = kernels.matmul(residuals, codec.axes)
    rotated = products if codec.inverse is None else kernels.matmul(products, codec.inverse.T)
    codes, decoded = encode(codec, rotated)
    own = np.einsum("ij,ij->i", products, decoded)
    kept = None if codec.span is None else kernels.matmul(residuals, codec.span)
    energy = np.einsum("ij,ij->i", products, rotated) if kept is None else np.einsum("ij,ij->i", kept, kept)
    return codes, decoded, np.where(own > 1e-12, energy / np.maximum(own, 1e-12), 0).astype(np.float32)


def fixed_part(residuals: F32, centres: F32, metric: str) -> F32:
    """f32 (n): what rows of these residuals (n, d) add to a score whatever the query, beside that of their centres."""
    out: F32 = np.einsum("ij,ij->i", residuals, residuals * np.float32(-0.5) if metric == "l2" else centres)
    return out


def encode_blocks(codec: Codec, x: F32, starts: list[int], centres: F32, metric: str) -> list[Encoded]:
    """Rows x (n, d) of consecutive blocks that start at starts (B + 1), around their stored centres (B, d).

    A score is <q, c> + bias + h + f <y, decoded>, y the rotated query; h takes up what f's rounding leaves.
    """
    block = np.repeat(np.arange(len(centres)), np.diff(starts))
    around = centres[block]
    r = x - around
    codes, decoded, f = approximate(codec, r)
    rotated_centres = kernels.matmul(centres, codec.axes)
    along = np.einsum("ij,ij->i", decoded, rotated_centres[block])
    fixed = fixed_part(r, around, metric)
    out = []
    for low, high in zip(starts, starts[1:], strict=False):
        part = slice(low, high)
        f_low, f_step, f_code, f_read = _to_bytes(f[part])
        h_low, h_step, h_code, _ = _to_bytes(fixed[part] - f_read * along[part])
        out.append(Encoded((f_low, f_step, h_low, h_step), codes[part], f_code, h_code))
    return out


def scale_to_unit(rotated: F32, deviation: F32) -> F32:
    """Rotated residuals (n, A) in units of the deviations (A), each row brought to a mean square of 1."""
    units = rotated / deviation
    rms = np.sqrt(np.mean(units**2, axis=1)) + np.float32(1e-12)
    out: F32 = units / rms[:, None]
    return out


def encode(codec: Codec, rotated: F32) -> tuple[U8, F32]:
    """rotated residuals f32 (n, A) -> codes u8 (n, code_bytes) and what they decode to, f32 (n, A), factor apart.

    The row's rms in units of the deviations scales the cuts only; the factor puts it back.
    """
    unit = scale_to_unit(rotated, codec.deviation)
    values, decoded = quantize(codec.quantizers, unit)
    decoded *= codec.deviation
    if len(codec.scales) > 1:
        values, decoded = _best_scale(codec, rotated, unit, values, decoded)
    codes = np.zeros((codec.code_bytes, len(rotated)), np.uint8)
    for value, (nibble, shift) in zip(values.T, (at for own in codec.positions for at in own), strict=True):
        codes[nibble // 2] |= value << (shift + 4 * (nibble % 2))
    return np.ascontiguousarray(codes.T), np.ascontiguousarray(decoded)


def _best_scale(codec: Codec, rotated: F32, unit: F32, values: U8, decoded: F32) -> tuple[U8, F32]:
    """Of all scales, the values of each row whose angle to the row is least."""

    def cosine(of: F32) -> F32:
        length = np.sqrt(np.einsum("ij,ij->i", of, of))
        out: F32 = np.einsum("ij,ij->i", rotated, of) / np.maximum(length, np.float32(1e-30))
        return out

    best = cosine(decoded)
    for scale in codec.scales:
        if scale == 1:
            continue
        trial, value = quantize(codec.quantizers, unit * np.float32(scale))
        value *= codec.deviation
        near = cosine(value)
        better = near > best
        best[better], values[better], decoded[better] = near[better], trial[better], value[better]
    return values, decoded


def quantize(quantizers: list[Quantizer], unit: F32) -> tuple[U8, F32]:
    """The nearest value of each quantizer to rows f32 (n, A) in units.

    (u8 (n, parts of all quantizers in turn), f32 (n, A) what they decode to), both as views of their transposes.
    """
    firsts = np.cumsum([0, *(len(q.parts) for q in quantizers)])
    columns = np.ascontiguousarray(unit.T)
    values, decoded = np.zeros((int(firsts[-1]), len(unit)), np.uint8), np.zeros_like(columns)
    alike: dict[int, list[int]] = {}  # scalar quantizers by their tables
    for q, one in enumerate(quantizers):
        if len(one.axes) == 1:
            alike.setdefault(id(one.parts), []).append(q)
        else:
            on = list(one.axes)
            choice = nearest(one, columns[on].T)
            values[firsts[q] : firsts[q + 1]] = choice.T
            decoded[on] = one.decoded(choice).T
    for same in alike.values():
        parts = quantizers[same[0]].parts
        book = np.zeros(1)
        for part in parts:  # all sums, the first part in the high bits
            book = np.add.outer(book, part[:, 0]).ravel()
        order = np.argsort(book, kind="stable")
        cuts, levels = ((book[order][1:] + book[order][:-1]) / 2).astype(np.float32), book[order].astype(np.float32)
        axes, cell = [quantizers[q].axes[0] for q in same], np.empty(len(unit), np.uint8)
        rows = [np.unravel_index(order, [len(part) for part in parts])[p].astype(np.uint8) for p in range(len(parts))]
        for q, axis in zip(same, axes, strict=True):
            kernels.scalar_encode(columns[axis], cuts, len(unit), len(cuts), cell)
            np.take(levels, cell, out=decoded[axis])
            for p, row in enumerate(rows):
                np.take(row, cell, out=values[firsts[q] + p])
    return values.T, decoded.T


def nearest(quantizer: Quantizer, x: F32) -> U8:
    """u8 (n, parts): rows of the parts, of 16 each, whose sum is near to x (n, w), by weighted squared distance.

    A beam search that keeps 16 sums (kernels.additive_encode), so it is exact for one part and for two. The fastest
    where x is a view of its transpose, as what is returned.
    """
    scale = np.ones(x.shape[1]) if quantizer.weight is None else np.sqrt(quantizer.weight)
    words = (np.concatenate(quantizer.parts) * scale).astype(np.float32)
    columns = np.multiply(x.T, scale.astype(np.float32)[:, None], order="C")
    out = np.empty((len(quantizer.parts), len(x)), np.uint8)
    kernels.additive_encode(columns, words, len(x), x.shape[1], len(quantizer.parts), out)
    return out.T
