"""How far stored rows lie from what their codes decode to: the error norms that exact answers are proven by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vantage.format import FIELD, ErrorNorms, LrsqSection, pack_norms

from .planes import Codec, Encoded

F64 = npt.NDArray[np.float64]
ROUNDING = 1e-9  # relative: more than float64 sums of 4,096 numbers may be off


@dataclass(frozen=True)
class Lengths:
    """Of one block: the end of its scan block, and its largest distance of a row from the centre, rounded up."""

    plane: bytes
    radius: float


def decode(section: LrsqSection, codes: npt.NDArray[np.uint8]) -> F64:
    """codes u8 (n, code_bytes) -> f64 (n, axes): what the scan adds up, in units of the rotation, factor apart."""
    nibbles = np.stack([codes & 15, codes >> 4], 2).reshape(len(codes), -1)
    levels, deviation = (np.asarray(column, np.float64) for column in (section.levels, section.deviation))
    out = np.zeros((len(codes), len(deviation)))
    fields = list(FIELD.iter_unpack(section.fields))
    for nibble in range(2 * section.code_bytes):
        for axis, shift, width, at in fields[section.starts[nibble] : section.starts[nibble + 1]]:
            bits = (nibbles[:, nibble] >> shift) & ((1 << width) - 1)
            out[:, axis] += levels[at + bits.astype(np.int64)] * deviation[axis]
    return out


def up(value: float) -> float:
    """The least f32 that is safely not below a float64."""
    return float(np.nextafter(np.float32(value * (1 + ROUNDING)), np.float32(np.inf))) if value else 0.0


@dataclass(frozen=True)
class Errors:
    """Of the rows of one block, f64 (n) each: length of what the code leaves of the full vector, what the score is off
    besides, what the axes add up to at most; and the distance from the centre.
    """

    left: F64
    fixed: F64
    spread: F64
    radius: F64


def errors(
    section: LrsqSection,
    axes: npt.NDArray[np.float32],
    encoded: list[Encoded],
    x: F64,
    centres: F64,
    biases: F64,
    metric: str,
) -> list[Errors]:
    """How far codes of consecutive blocks are from their vectors.

    x f64 (n, d): the full vectors as stored, in the scale of the index (cosine: of norm 1), block after block. axes f32
    (A, d) and centres f64 (B, d) as stored; biases f64 (B) of the centres.
    """
    zh = decode(section, np.concatenate([e.codes for e in encoded]))
    along = zh @ axes.astype(np.float64)
    lengths = np.abs(zh) @ np.linalg.norm(axes.astype(np.float64), axis=1)
    out, at = [], 0
    for e, centre, bias in zip(encoded, centres, biases, strict=True):
        part = slice(at, at + len(e.f))
        at += len(e.f)
        f, h = e.factors()
        r, decoded = x[part] - centre, f[:, None] * along[part]
        error = r - decoded
        if metric == "l2":
            fixed = -(decoded @ centre) - 0.5 * np.einsum("ij,ij->i", r, r) - h - (0.5 * centre @ centre + bias)
        else:
            fixed = error @ centre - h
        left, radius = np.linalg.norm(error, axis=1), np.linalg.norm(r, axis=1)
        out.append(Errors(left, np.abs(fixed), np.abs(f) * lengths[part], radius))
    return out


def error_norms(
    section: LrsqSection,
    axes: npt.NDArray[np.float32],
    encoded: list[Encoded],
    x: F64,
    centres: F64,
    biases: F64,
    metric: str,
) -> list[Lengths]:
    """The error norms of consecutive blocks, of `errors`; docs/exact.md says what they prove."""
    out = []
    for one in errors(section, axes, encoded, x, centres, biases, metric):
        norms = Norms(
            one.left * (1 + ROUNDING), up(one.left.max(initial=0) / 255), up(one.fixed.max(initial=0)),
            up(one.spread.max(initial=0)),
        )  # fmt: skip
        out.append(Lengths(norms.plane(), up(one.radius.max(initial=0))))
    return out


class Norms(NamedTuple):
    """Error norms of a block. left f64 (n): no error norm is longer, and none of these is longer than 255 steps; step,
    slack, spread: as ErrorNorms has them.
    """

    left: F64
    step: float
    slack: float
    spread: float

    @classmethod
    def of(cls, stored: ErrorNorms) -> Norms:
        """Those that a block has."""
        left = stored.step * np.frombuffer(stored.norms, np.uint8).astype(np.float64)
        return cls(left, stored.step, stored.slack, stored.spread)

    def some(self, which: npt.NDArray[np.integer]) -> Norms:
        """Some rows."""
        return self._replace(left=self.left[which])

    @classmethod
    def joined(cls, parts: Sequence[Norms]) -> Norms:
        """Those of all parts, one at least, in turn; where their steps are alike, bytes stay as they are."""
        left, *most = zip(*parts, strict=True)
        return cls(np.concatenate(left), *map(max, most))

    def moved(self, codec: Codec, before: Encoded, after: Encoded, centre: F64) -> Norms:
        """The same of rows whose factors have moved: a bit more than what that may add. centre f64 (d): as stored."""
        (f, h), (new_f, new_h) = before.factors(), after.factors()
        if np.array_equal(f, new_f) and np.array_equal(h, new_h):
            return self
        axes, zh = codec.axes.astype(np.float64), decode(codec.section, before.codes)
        along, apart = zh @ axes, np.abs(new_f - f)
        left = self.left + apart * np.linalg.norm(along, axis=1)
        left[apart > 0] *= 1 + ROUNDING
        fixed = apart * np.abs(along @ centre) + np.abs(new_h - h)
        spread = np.abs(new_f) * (np.abs(zh) @ np.linalg.norm(axes, axis=1))
        return Norms(
            left, max(self.step, up(left.max(initial=0) / 255)), up(self.slack + fixed.max(initial=0)),
            max(self.spread, up(spread.max(initial=0))),
        )  # fmt: skip

    def plane(self) -> bytes:
        """What the block ends with."""
        values = np.ceil(self.left / self.step).astype(np.int64) if self.step else np.zeros(len(self.left), np.int64)
        assert values.max(initial=0) <= 255
        return pack_norms(self.step, self.slack, self.spread, values.astype(np.uint8).tobytes())
