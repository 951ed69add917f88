"""Layers of turns of disjoint pairs: applied to many vectors, and made a basis that stores 4 bytes per pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vantage.format import TANGENT_ONE, ButterflyRotation, DenseRotation, NibbleRotation, Rotation

from .basis import F64, Basis, Ints, deviations

STEP_NUMBERS = 1 << 17


@dataclass(frozen=True)
class Layers:
    """pairs (L, P, 2), the lower coordinate first, disjoint within a layer; tangents (L, P) of the angles, times ONE.

    P = floor(d / 2): all coordinates are in a pair, but for one where d is odd. (x_i, x_j) becomes
    c (x_i + t x_j, x_j - t x_i), c = 1 / sqrt(1 + t t).
    """

    pairs: Ints
    tangents: Ints

    def turned(self, x: F64) -> F64:
        """x (d, n) -> the same turned, a new array: some columns through all layers, then the next."""
        out, step = np.empty_like(x), step_of(len(x))
        turns = [
            Turn.of(pair, t, len(x), x.dtype) for pair, t in zip(self.pairs, self.tangents / TANGENT_ONE, strict=True)
        ]
        for low in range(0, x.shape[1], step):
            part = np.ascontiguousarray(x[:, low : low + step])
            for one in turns:
                part = one.rows(part)
            out[:, low : low + step] = part
        return out


@dataclass(frozen=True)
class Turn:
    """One layer: coordinate i becomes cosine[i] times itself and sine[i] times its partner, all (d,)."""

    partner: Ints
    cosine: npt.NDArray[np.floating]
    sine: npt.NDArray[np.floating]

    @classmethod
    def of(cls, pair: Ints, tangent: F64, dimension: int, dtype: npt.DTypeLike) -> Turn:
        """Of pairs (P, 2) and tangents (P) of their angles, for numbers of a dtype."""
        partner, cosine, sine = np.arange(dimension), np.ones(dimension, dtype), np.zeros(dimension, dtype)
        first, second = pair[:, 0], pair[:, 1]
        partner[first], partner[second] = second, first
        cosine[first] = cosine[second] = 1 / np.sqrt(1 + tangent**2)
        sine[first] = tangent * cosine[first]
        sine[second] = -sine[first]
        return cls(partner, cosine, sine)

    def rows(self, x: npt.NDArray[Any], part: slice = slice(None)) -> npt.NDArray[Any]:
        """Rows `part` of x (d, n) turned, a new array."""
        out = x[self.partner[part]]
        out *= self.sine[part, None]
        out += self.cosine[part, None] * x[part]
        return out


def turn_twice(x: npt.NDArray[Any], turn: Turn) -> npt.NDArray[Any]:
    """x (d, d) turned along its rows, then along its columns, a new array."""
    out = np.empty_like(x)
    for low in range(0, len(x), step_of(len(x))):
        part = slice(low, low + step_of(len(x)))
        rows = turn.rows(x, part)
        other = rows.take(turn.partner, axis=1)
        other *= turn.sine
        rows *= turn.cosine
        np.add(rows, other, out=out[part])
    return out


def step_of(dimension: int) -> int:
    """Rows or columns of a (d, d) at a time, so that they stay in the processor's cache from one step to the next."""
    return max(1, STEP_NUMBERS // dimension)


def complete(pairs: Ints, dimension: int) -> Ints:
    """A layer (P, 2) that has these pairs (n, 2), and pairs whatever they leave."""
    left = np.setdiff1d(np.arange(dimension), pairs)
    return np.sort(np.concatenate([pairs, left[: len(left) // 2 * 2].reshape(-1, 2)]), axis=1)


def basis(layers: Layers, moment: F64) -> Basis:
    """The coordinates of the turned vector as axes of rows with this second moment."""
    d, count = len(moment), len(layers.pairs)
    axes = layers.turned(np.eye(d))
    deviation = deviations(axes, moment)
    order = np.argsort(-deviation, kind="stable")
    half = (d + 1) // 2
    partners, tangents = np.zeros((count, half), np.uint16), np.zeros((count, half), np.int16)
    for layer, (pair, t) in enumerate(zip(layers.pairs, layers.tangents, strict=True)):
        alone = np.setdiff1d(np.arange(d), pair)
        first, second = np.concatenate([pair[:, 0], alone]), np.concatenate([pair[:, 1], alone])
        by_first = np.argsort(first)
        partners[layer] = second[by_first]
        tangents[layer] = np.concatenate([t, np.zeros(len(alone), np.int64)])[by_first]

    def stored(kept: Ints) -> Rotation:
        axis = memoryview(order[kept].astype(np.uint16))
        return ButterflyRotation(d, count, axis, memoryview(partners.reshape(-1)), memoryview(tangents.reshape(-1)))

    return Basis(axes[order], deviation[order], stored)


def axes_of(rotation: Rotation) -> F64:
    """f64 (axes, d): the axes of a rotation as read."""
    d = rotation.dimension
    if isinstance(rotation, NibbleRotation):
        halves = [np.frombuffer(part, np.int8).reshape(rotation.axes, -1) for part in rotation.halves]
        return np.concatenate(halves, 1)[:, :d] * np.asarray(rotation.scale, np.float64)[:, None]
    if isinstance(rotation, DenseRotation):
        rows = np.frombuffer(rotation.rows, np.int8).reshape(rotation.axes, d)
        return rows * np.asarray(rotation.scale, np.float64)[:, None]
    partners = np.asarray(rotation.partners).reshape(rotation.layers, -1)
    tangents = np.asarray(rotation.tangents, np.int64).reshape(partners.shape)
    turned = np.eye(d)
    for row, tangent in zip(partners.tolist(), tangents, strict=True):
        free, pairs, kept = [*range(d)], [], []
        for number, j in enumerate(row):
            if (i := free.pop(0)) != j:
                free.remove(j)
                pairs.append((i, j))
                kept.append(number)
        pair = np.array(pairs, np.int64).reshape(-1, 2)
        turned = Turn.of(pair, tangent[kept] / TANGENT_ONE, d, turned.dtype).rows(turned)
    out: F64 = turned[np.asarray(rotation.kept)]
    return out
