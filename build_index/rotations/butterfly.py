"""Layers of turns of disjoint pairs: applied to many vectors, and made a basis that stores 4 bytes a pair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vantage.format import TANGENT_ONE, ButterflyRotation, DenseRotation, Rotation

from .basis import F64, Basis, Ints, deviations


@dataclass(frozen=True)
class Layers:
    """pairs (L, P, 2), the lower coordinate first, disjoint within a layer; tangents (L, P) of the angles, times ONE.

    P = floor(d / 2): all coordinates are in a pair, but for one where d is odd. (x_i, x_j) becomes
    c (x_i + t x_j, x_j - t x_i), c = 1 / sqrt(1 + t t).
    """

    pairs: Ints
    tangents: Ints

    def turned(self, x: F64) -> F64:
        """x (d, n) -> the same turned, a new array."""
        out = x.copy()
        for pair, t in zip(self.pairs, self.tangents / TANGENT_ONE, strict=True):
            turn(out, pair, t)
        return out


def turn(x: npt.NDArray[np.floating], pair: Ints, tangent: F64) -> None:
    """Turns coordinates pair (P, 2) of x (d, n) in place by the angles of tangent (P)."""
    cosine = (1 / np.sqrt(1 + tangent**2))[:, None].astype(x.dtype)
    sine = (tangent[:, None] * cosine).astype(x.dtype)
    first, second = x[pair[:, 0]], x[pair[:, 1]]
    x[pair[:, 0]] = cosine * first + sine * second
    x[pair[:, 1]] = cosine * second - sine * first


def complete(pairs: Ints, dimension: int) -> Ints:
    """A layer (P, 2) that has these pairs (n, 2), and pairs whatever they leave."""
    left = np.setdiff1d(np.arange(dimension), pairs)
    return np.sort(np.concatenate([pairs, left[: len(left) // 2 * 2].reshape(-1, 2)]), axis=1)


def basis(layers: Layers, moment: F64) -> Basis:
    """The coordinates of the turned vector as axes of rows with this second moment."""
    d, count = len(moment), len(layers.pairs)
    axes = layers.turned(np.eye(d))
    found = deviations(axes, moment)
    order = np.argsort(-found, kind="stable")
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

    return Basis(axes[order], found[order], stored)


def axes_of(rotation: Rotation) -> F64:
    """f64 (axes, d): the axes of a rotation as read."""
    d = rotation.dimension
    if isinstance(rotation, DenseRotation):
        return np.frombuffer(rotation.rows, np.float16).reshape(rotation.axes, d).astype(np.float64)
    partners = np.asarray(rotation.partners).reshape(rotation.layers, -1)
    tangents = np.asarray(rotation.tangents, np.int64).reshape(partners.shape)
    turned = np.eye(d)
    for row, tangent in zip(partners.tolist(), tangents, strict=True):
        free, pairs, kept = [*range(d)], [], []
        for place, j in enumerate(row):
            if (i := free.pop(0)) != j:
                free.remove(j)
                pairs.append((i, j))
                kept.append(place)
        turn(turned, np.array(pairs, np.int64).reshape(-1, 2), tangent[kept] / TANGENT_ONE)
    out: F64 = turned[np.asarray(rotation.kept)]
    return out
